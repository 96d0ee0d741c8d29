"""The two readings of a command line agree: what `plain` reads without Typer is what Typer reads, and Typer's help is ours."""

from __future__ import annotations

import io
import os
import random
import re
import subprocess
import sys
from contextlib import redirect_stdout
from typing import Any

import pytest
from repository import ROOT
from typer.main import get_command

from hfmem.cli.help import command_help, root_help
from hfmem.cli.params import Option, Parameter, parameters
from hfmem.cli.plain import COMMANDS, DEFAULT, help_wanted, load, read
from hfmem.cli.typed import app

WORDS = ("org/name", "./x", "Qwen/Qwen3-8B@main", "fit", "a b", "é", "-", "8k", "x=y")
VALUES = ("8k", "1", "", "-1", "--json", "-", "-v", "a=b", "org/name", " ", "é", "fit", "--", "--help")
ODD = (
    "--help",
    "-h",
    "--",
    "",
    "-vh",
    "-vv",
    "-x",
    "--no-such",
    "--ct",
    "--json=1",
    "--version",
    "-v=1",
    "---",
    "--=",
    "-1",
)


def _group() -> Any:
    """Typer's commands, each of which answers its name and what it was called with."""
    group: Any = get_command(app)
    for name, command in group.commands.items():
        command.callback = lambda _name=name, **given: (_name, given)
    return group


GROUP = _group()


def by_typer(words: list[str]) -> tuple[str, dict[str, Any]] | str | None:
    """Command and arguments; the text printed where it prints instead; None where it refuses."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            result = GROUP(args=list(words), prog_name="hfmem", standalone_mode=False)
    except Exception as error:
        assert any(base.__name__ == "ClickException" for base in type(error).__mro__), words
        return None
    return result if isinstance(result, tuple) else printed.getvalue()


def by_hand(words: list[str]) -> tuple[str, dict[str, Any]] | None:
    """The same by `plain`; None where it leaves the words to Typer."""
    call = read(words, {})
    return None if call is None else (call[0].__name__, call[1])


def lists_of(name: str, seed: int, number: int) -> list[list[str]]:
    """Argument lists of a command: mostly right, some not."""
    chance = random.Random(f"{name} {seed}")
    known = parameters(load(name))
    options = [parameter for parameter in known if isinstance(parameter.info, Option)]
    places = len(known) - len(options)
    found = []
    for _ in range(number):
        parts = [[chance.choice(WORDS)] for _ in range(chance.choice((0, 1, 1, places, places, places + 1)))]
        parts += [[option.info.names[0], "7"] for option in options if option.required and chance.random() < 0.9]
        for _ in range(chance.randrange(4)):
            parts.append(_option(chance, chance.choice(options)))
        if chance.random() < 0.2:
            parts.append([chance.choice(ODD)])
        chance.shuffle(parts)
        found.append(
            [*([] if name == DEFAULT and chance.random() < 0.5 else [name]), *(w for part in parts for w in part)]
        )
    return found


def _option(chance: random.Random, parameter: Parameter) -> list[str]:
    flag = chance.choice(parameter.info.names)
    if parameter.is_flag:
        return [flag]
    value = chance.choice(VALUES if chance.random() < 0.3 else WORDS)
    return [f"{flag}={value}"] if chance.random() < 0.3 else [flag, value]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_read_without_typer_is_what_typer_reads(name: str) -> None:
    answered = 0
    for words in lists_of(name, 1, 250):
        ours = by_hand(words)
        if ours is not None:
            answered += 1
            assert ours == by_typer(words), words
    assert answered > 75  # most that Typer takes are plain


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_read_under_every_name(name: str) -> None:
    known = parameters(load(name))
    start = [name]
    for parameter in known:
        if parameter.required:
            start += [parameter.info.names[0], "h100"] if isinstance(parameter.info, Option) else ["a/b"]
    for parameter in known:
        for flag in parameter.info.names if isinstance(parameter.info, Option) else ():
            for words in ([*start, flag], [*start, flag, "7"], [*start, f"{flag}=7"], [*start, flag, "7", flag, "8"]):
                ours = by_hand(words)
                assert ours is None or ours == by_typer(words), words
            right = [*start, flag] if parameter.is_flag else [*start, flag, "7"]
            assert by_hand(right) is not None and by_typer(right) is not None, right


@pytest.mark.parametrize("columns", [1, 40, 80, 300])
def test_typer_prints_our_help(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert root_help(columns) == by_typer(["--help"])
    assert command_help("fit", columns) == by_typer(["fit", "--help"])
    assert command_help(DEFAULT, columns) == by_typer(["org/name", "-vh"])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_says_every_option_once(name: str) -> None:
    text = command_help(name, 80)
    assert max(map(len, text.split("\n"))) < 80
    said = re.findall(r"(?<![\w-])--?[a-z][\w-]*(?=[ ,.]|$)", text.partition("\n\n")[2], re.MULTILINE)
    for parameter in parameters(load(name)):
        for word in (
            parameter.info.names if isinstance(parameter.info, Option) else [parameter.info.metavar.strip("[]")]
        ):
            assert said.count(word) >= 1 or word in text.split(), word
    assert "[default: None]" not in text and "list[" not in text


def test_the_help_of_the_program_fits_a_screen() -> None:
    assert len(root_help(80).splitlines()) <= 24 and max(map(len, root_help(80).splitlines())) <= 80
    assert all(f"  {name} " in root_help(80) for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("--help", ""),
        ("-h", ""),
        ("help", ""),
        ("help nonsense", ""),
        ("--help x", ""),
        ("help fit", "fit"),
        ("fit --help", "fit"),
        ("fit x --gpu h100 -h", "fit"),
        ("x --help", DEFAULT),
        ("--json --help", DEFAULT),
        ("", None),
        ("x", None),
        ("fit", None),
        ("./help", None),
        ("x help", None),
        ("--version", None),
    ],
)
def test_who_gets_which_help(words: str, command: str | None) -> None:
    assert help_wanted(words.split(), {}) == command
    assert help_wanted(words.split(), {"_HFMEM_COMPLETE": "complete_zsh"}) is None
    assert read(["x"], {"_HFMEM_COMPLETE": "complete_zsh"}) is None


def test_the_commands_are_typers() -> None:
    assert tuple(GROUP.commands) == tuple(COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["--show-completion"],
        ["--install-completion"],
        ["estimate"],
        ["x", "--no-such"],
        ["x", "--ctx"],
        ["--", "x"],
    ],
)
def test_what_is_left_to_typer(words: list[str]) -> None:
    assert read(words, {}) is None


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fit x --max-mod", ["--max-model-len"]),
        ("fit x --engine s", ["sglang"]),
        ("compare x --engine ideal,vl", ["ideal,vllm"]),  # the last of a list
        ("fit x --gpu mi35", ["mi350x", "mi355x"]),
        ("plan x --gpu h200", ["h200-sxm-141gb", "h200-nvl-141gb"]),
        ("x --emit d", ["docker"]),
        ("layers x --format m", ["markdown"]),
        ("explain meta-llama/Meta-Llama-3-8B", ["meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"]),
    ],
)
def test_completion_is_typers(typed: str, offered: list[str]) -> None:
    words = f"hfmem {typed}"
    environment = {
        **os.environ,
        "_HFMEM_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    command = [sys.executable, "-m", "hfmem"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert (done.stdout.split(), done.stderr) == (offered, "")
