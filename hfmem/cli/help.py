"""`hfmem --help` and `hfmem COMMAND --help`, printed from the signatures: what Typer's own help says, without waiting for Typer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hfmem.cli.params import Option, Parameter, parameters

ROOT = """Exactly how much memory a Hugging Face model needs to be served, before a byte of weights is downloaded.

`hfmem MODEL...` estimates; its options: `hfmem estimate --help`. A model called like a command is reached as ./name or
hf://org/name.
"""
_EXAMPLES = (
    "hfmem meta-llama/Meta-Llama-3-8B --ctx 128k",
    "hfmem Qwen/Qwen2.5-7B-Instruct mistralai/Mistral-7B-v0.1 --ctx 32k --batch 8 --json",
    "hfmem fit ./my-checkout --gpu 2xh100 --kv-dtype fp8",
)
#: for Typer: `\b` keeps its lines apart
EPILOG = "\n".join(["\b", "Examples:", *(f"  {text}" for text in _EXAMPLES)])

#: commands and what `hfmem --help` says of each, on one line
SUMMARIES = {
    "estimate": "Weights, KV cache and total (the default).",
    "fit": "Does it fit, and what would make it fit.",
    "plan": "The smallest layouts that serve a load.",
    "compare": "Models and formats side by side.",
    "layers": "What each layer keeps.",
    "explain": "The arithmetic, step by step.",
    "files": "What a download takes, and what is redundant.",
    "devices": "Devices that --gpu knows.",
    "bench": "A decode step's attention on this GPU.",
    "verify": "An engine's log against the prediction.",
    "cache": "Stored facts: list, clear.",
}
#: the group's own options, two of which are Typer's
_ROOT_OPTIONS = (
    ("--version", "Print the version and exit."),
    ("--install-completion", "Install completion for the current shell."),
    ("--show-completion", "Show completion for the current shell, to copy it or customize the installation."),
)
_HELP_ROW = ("-h, --help", "Show this message and exit.")
#: columns of the names at most; a longer one has a line of its own
_NAMES = 30


def root_help(columns: int) -> str:
    """Help of the program for a terminal of so many columns."""
    width = _width(columns)
    return "\n".join(
        [
            "Usage: hfmem [OPTIONS] COMMAND [ARGS]...",
            *_paragraphs(ROOT, width),
            *_rows("Options", [*_ROOT_OPTIONS, _HELP_ROW], width),
            *_rows("Commands", list(SUMMARIES.items()), width),
            "",
            "  Examples:",
            *(f"    {text}" for text in _EXAMPLES),
            "",
        ]
    )


def command_help(command: Callable[..., Any], columns: int) -> str:
    """Help of one command for a terminal of so many columns."""
    width = _width(columns)
    known = parameters(command)
    places = [parameter for parameter in known if not isinstance(parameter.info, Option)]
    words = [f"{p.info.metavar}{'...' if p.multiple else ''}" for p in places]
    lines = [
        " ".join(["Usage: hfmem", command.__name__, "[OPTIONS]", *words]),
        *_paragraphs(command.__doc__ or "", width),
    ]
    if places:
        lines += _rows("Arguments", [(p.info.metavar, _described(p)) for p in places], width)
    options = [(_named(p.info), _described(p)) for p in known if isinstance(p.info, Option)]
    return "\n".join([*lines, *_rows("Options", [*options, _HELP_ROW], width), ""])


def _width(columns: int) -> int:
    return max(min(columns, 100) - 2, 50)


def _named(option: Option) -> str:
    names = ", ".join(sorted(option.names, key=lambda name: name.startswith("--")))
    return f"{names} {option.metavar}" if option.metavar else names


def _described(parameter: Parameter) -> str:
    notes = ""
    if parameter.required:
        notes = "  [required]"
    elif isinstance(parameter.info, Option) and isinstance(parameter.default, str):
        notes = f"  [default: {parameter.default}]"
    text: str = parameter.info.help
    return text + notes


def _paragraphs(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += ["", *(f"  {line}" for line in _wrapped(paragraph, width - 2))]
    return lines


def _rows(title: str, rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    lines = ["", f"{title}:"]
    first = min(max(len(name) for name, _ in rows), _NAMES) + 2
    for name, text in rows:
        wrapped = _wrapped(text, max(width - first - 2, 10))
        if len(name) > first - 2:
            lines.append(f"  {name}")
            name = ""
        lines.append(f"  {name:<{first}}{wrapped[0]}")
        lines += [f"  {'':<{first}}{line}" for line in wrapped[1:]]
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines
