"""A command line read without a library, where it says nothing that needs one.

Importing Typer takes longer than a whole estimate, so words that are plainly right are read here, by the same signatures that the
Typer commands are made of. Anything else (a flag that is not known, a word too many, `-vh`, a value that starts with a hyphen,
completion) is left to Typer, whose answer is then the only one; a test holds the two readings together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hfmem.cli.params import Option, Parameter, parameters

#: every command by the module that has it; loaded when asked for
COMMANDS = ("estimate", "fit", "plan", "compare", "layers", "explain", "files", "devices", "bench", "verify", "cache")
DEFAULT = "estimate"
HELP = ("--help", "-h")
#: set by a shell that asks Typer for completions
_COMPLETION = "_HFMEM_COMPLETE"


class Call:
    """A command and the arguments that its function takes; `wants_help` when `--help` was among the words."""

    __slots__ = ("arguments", "name", "wants_help")

    def __init__(self, name: str, arguments: dict[str, Any], wants_help: bool) -> None:
        self.name, self.arguments, self.wants_help = name, arguments, wants_help


def load(name: str) -> Any:
    """The function of a command."""
    from importlib import import_module

    return getattr(import_module(f"hfmem.cli.{name}"), name)


def read(words: Sequence[str], environment: Mapping[str, str] = os.environ) -> Call | None:
    """What `words` ask for; None where Typer has to say it."""
    if (
        _COMPLETION in environment
        or not words
        or words[0] in ("--version", "--install-completion", "--show-completion")
    ):
        return None
    if words[0] in HELP:
        return Call("", {}, True) if len(words) == 1 else None
    name, rest = (words[0], words[1:]) if words[0] in COMMANDS else (DEFAULT, words)
    return read_command(name, parameters(load(name)), rest)


def read_command(name: str, known: Sequence[Parameter], words: Sequence[str]) -> Call | None:
    """`words` after a command's name by its parameters; None for anything that is not plainly right."""
    options = {
        flag: parameter for parameter in known if isinstance(parameter.info, Option) for flag in parameter.info.names
    }
    places = [parameter for parameter in known if not isinstance(parameter.info, Option)]
    found: dict[str, Any] = {}
    free: list[str] = []
    wants_help = False
    rest = iter(words)
    for word in rest:
        if not word or word == "--":
            return None
        if word[0] != "-" or word == "-":
            free.append(word)
            continue
        if word in HELP:
            wants_help = True
            continue
        flag, equals, value = word.partition("=")
        parameter = options.get(flag)
        if parameter is None or (equals and not flag.startswith("--")):
            return None
        if parameter.is_flag:
            if equals:
                return None
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
    if wants_help:
        return Call(name, {}, True)
    for parameter in places:
        if parameter.multiple:
            found[parameter.name], free = free, []
        elif free:
            found[parameter.name] = free.pop(0)
    if free or any(parameter.required and not found.get(parameter.name) for parameter in known):
        return None
    return Call(name, {p.name: found.get(p.name, [] if p.multiple else p.default) for p in known}, False)
