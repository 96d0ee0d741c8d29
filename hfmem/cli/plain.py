"""A command line read without a library, where it says nothing that needs one.

Importing Typer takes longer than a whole estimate, so words that are plainly right are read here, by the same signatures that the
Typer commands are made of. Anything else (a flag that is not known, a word too many, `-vh`, a value that starts with a hyphen,
completion) is left to Typer, whose answer is then the only one; a test holds the two readings together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hfmem.cli.params import Option, Parameter, parameters

#: every command by the module that has it, loaded when asked for, and what `hfmem --help` says of it, on one line
COMMANDS = {
    "estimate": "Weights, KV cache and total (the default).",
    "fit": "Does it fit, and what would make it fit.",
    "plan": "The smallest layouts that serve a load.",
    "compare": "Models, formats, lengths, engines side by side.",
    "layers": "What each layer keeps.",
    "explain": "The arithmetic, step by step.",
    "files": "What a download takes, and what is redundant.",
    "devices": "Devices that --gpu knows.",
    "bench": "A decode step's attention on this GPU.",
    "verify": "An engine's log against the prediction.",
    "cache": "Stored facts, listed or cleared (--clear).",
}
DEFAULT = "estimate"
HELP = ("--help", "-h")
#: options of the program itself; every other first word is a command, a model or an option of `estimate`
GROUP_OPTIONS = (*HELP, "--version", "--install-completion", "--show-completion")
#: set by a shell that asks Typer for completions
_COMPLETION = "_HFMEM_COMPLETE"


def load(name: str) -> Any:
    """The function of a command."""
    from importlib import import_module

    return getattr(import_module(f"hfmem.cli.{name}"), name)


def read(
    words: Sequence[str], environment: Mapping[str, str] = os.environ
) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """The command that `words` call and the arguments that it takes; None where Typer has to say it."""
    if _COMPLETION in environment or not words or words[0] in GROUP_OPTIONS:
        return None
    if words[0] in COMMANDS:
        command, words = load(words[0]), words[1:]
    else:
        command = load(DEFAULT)
    known = parameters(command)
    found = _options(known, words)
    if found is None:
        return None
    free = found.pop("", [])
    for parameter in known:
        if not isinstance(parameter.info, Option):
            if parameter.multiple:
                found[parameter.name], free = free, []
            elif free:
                found[parameter.name] = free.pop(0)
    if free or any(parameter.required and not found.get(parameter.name) for parameter in known):
        return None
    return command, {p.name: found.get(p.name, [] if p.multiple else p.default) for p in known}


def help_wanted(words: Sequence[str], environment: Mapping[str, str] = os.environ) -> str | None:
    """The command whose help `words` ask for, "" for that of the program; None where they ask for none, or Typer must be asked."""
    if _COMPLETION in environment or not words:
        return None
    if words[0] == "help":
        return words[1] if len(words) > 1 and words[1] in COMMANDS else ""
    if words[0] in HELP:
        return ""
    if words[0] in GROUP_OPTIONS or not any(word in HELP for word in words):
        return None
    return words[0] if words[0] in COMMANDS else DEFAULT


def _options(known: Sequence[Parameter], words: Sequence[str]) -> dict[str, Any] | None:
    """What `words` say by parameter, the words that belong to no option under ""; None for anything that is not plainly right."""
    options = {
        flag: parameter for parameter in known if isinstance(parameter.info, Option) for flag in parameter.info.names
    }
    found: dict[str, Any] = {"": []}
    rest = iter(words)
    for word in rest:
        if not word or word == "--":
            return None
        if word[0] != "-" or word == "-":
            found[""].append(word)
            continue
        flag, equals, value = word.partition("=")
        parameter = options.get(flag)
        if parameter is None or (equals and (parameter.is_flag or not flag.startswith("--"))):
            return None
        if parameter.is_flag:
            found[parameter.name] = True
            continue
        if not equals:
            value = next(rest, "")
        if not value or value.startswith("-"):
            return None
        if parameter.multiple:
            found.setdefault(parameter.name, []).append(value)
        else:
            found[parameter.name] = value
    return found
