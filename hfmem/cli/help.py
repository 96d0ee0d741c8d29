"""`hfmem --help`, what most people run first: what Typer would print, without waiting for Typer, and what Typer needs for it."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from hfmem.cli.plain import COMMANDS

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

#: the group's own options, two of which are Typer's
_ROOT_OPTIONS = (
    ("--version", "Print the version and exit."),
    ("--install-completion", "Install completion for the current shell."),
    ("--show-completion", "Show completion for the current shell, to copy it or customize the installation."),
    ("-h, --help", "Show this message and exit."),
)


def root_help(columns: int) -> str:
    """Help of the program for a terminal of so many columns."""
    width = max(min(columns, 100) - 2, 50)
    return "\n".join(
        [
            "Usage: hfmem [OPTIONS] COMMAND [ARGS]...",
            *_paragraphs(ROOT, width),
            *_rows("Options", _ROOT_OPTIONS, width),
            *_rows("Commands", tuple(COMMANDS.items()), width),
            "",
            "  Examples:",
            *(f"    {text}" for text in _EXAMPLES),
            "",
        ]
    )


def _paragraphs(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += ["", *(f"  {line}" for line in wrap(paragraph, width - 2))]
    return lines


def _rows(title: str, rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    lines = ["", f"{title}:"]
    first = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        wrapped = wrap(text, max(width - first - 2, 10))
        lines.append(f"  {name:<{first}}{wrapped[0]}")
        lines += [f"  {'':<{first}}{line}" for line in wrapped[1:]]
    return lines
