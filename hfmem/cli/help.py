"""What `hfmem --help` and `hfmem COMMAND --help` print, without waiting for Typer, which prints the same where it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from hfmem.cli.params import SECTIONS, Option, Parameter, parameters
from hfmem.cli.plain import COMMANDS, HELP, load

ROOT = (
    "Exactly how much memory a Hugging Face model needs to be served, before a byte of weights is downloaded. "
    "A model called like a command is reached as ./name or hf://org/name."
)
_EXAMPLES = (
    "hfmem meta-llama/Meta-Llama-3-8B --ctx 128k",
    "hfmem Qwen/Qwen2.5-7B mistralai/Mistral-7B-v0.1 --ctx 32k --batch 8 --json",
    "hfmem fit ./my-checkout --gpu 2xh100 --kv-dtype fp8",
)
_ROOT_OPTIONS = "--version, -h, --help, --install-completion, --show-completion"
#: a flag that takes more columns than this has its text on the next line
_FLAG_COLUMNS = 24


def root_help(columns: int) -> str:
    """Help of the program for a terminal of so many columns; at 80 it fits a screen of 25 lines."""
    width = _width(columns)
    return "\n".join(
        [
            "Usage: hfmem MODEL... | COMMAND ...   (options: hfmem help COMMAND)",
            "",
            *_paragraph(ROOT, width),
            "",
            "Examples:",
            *(f"  {text}" for text in _EXAMPLES),
            "",
            "Commands:",
            *_rows(tuple(COMMANDS.items()), max(map(len, COMMANDS)), width),
            *wrap(f"Options: {_ROOT_OPTIONS}", width, subsequent_indent="  ", break_on_hyphens=False),
            "",
        ]
    )


def command_help(name: str, columns: int) -> str:
    """Help of a command: what it does, its arguments, and its options by subject."""
    width = _width(columns)
    command = load(name)
    known = parameters(command)
    lines = [f"Usage: hfmem {name} {''.join(_usage(p) for p in known)}[OPTIONS]"]
    for paragraph in (command.__doc__ or "").split("\n\n"):
        lines += ["", *_paragraph(" ".join(paragraph.split()), width)]
    words = [(p.info.metavar.strip("[]"), p.info.help) for p in known if not isinstance(p.info, Option)]
    if words:
        lines += ["", *_rows(words, _FLAG_COLUMNS, width)]
    for section in SECTIONS:
        options = [_row(p) for p in known if isinstance(p.info, Option) and p.info.section == section]
        if section == SECTIONS[-1]:
            options.append((", ".join(reversed(HELP)), "Show this message and exit."))
        if options:
            lines += ["", f"{section}:", *_rows(options, _FLAG_COLUMNS, width)]
    return "\n".join([*lines, ""])


def _usage(parameter: Parameter) -> str:
    """An argument as the usage line has it: `MODEL `, `MODEL... `, `[SEARCH]... `; nothing for an option."""
    if isinstance(parameter.info, Option):
        return ""
    return f"{parameter.info.metavar}{'...' if parameter.multiple else ''} "


def _row(parameter: Parameter) -> tuple[str, str]:
    """An option's first name with what it takes, and its text with its default and its other names."""
    option: Option = parameter.info
    first = 1 if option.names[0].startswith("--") or len(option.names) == 1 else 2
    label = ", ".join(option.names[:first]) + (f" {option.metavar}" if option.metavar else "")
    text = option.help
    if isinstance(parameter.default, str):
        text = f"{text.removesuffix('.')} [default: {parameter.default}]."
    if option.names[first:]:
        text += f" Also {', '.join(option.names[first:])}."
    return label, text


def _width(columns: int) -> int:
    return max(min(columns, 100) - 1, 40)


def _paragraph(text: str, width: int) -> list[str]:
    return [f"  {line}" for line in wrap(text, width - 2, break_on_hyphens=False)]


def _rows(rows: Sequence[tuple[str, str]], most: int, width: int) -> list[str]:
    """Names in one column of at most so many characters, what they mean in the other."""
    lines = []
    room = min(most, max(len(name) for name, _ in rows))
    for name, text in rows:
        wrapped = wrap(text, max(width - room - 4, 10), break_on_hyphens=False)
        if len(name) > room:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:<{room}}  {wrapped.pop(0)}")
        lines += [f"  {'':<{room}}  {line}" for line in wrapped]
    return lines
