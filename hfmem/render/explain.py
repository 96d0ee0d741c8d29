"""An explanation as text or Markdown; the JSON form is its dataclasses as they are."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Final

from hfmem.plan.explain import Explanation
from hfmem.plan.steps import Section, Step
from hfmem.units import format_bytes

_MIN_WIDTH: Final = 40


def _amount(value: int, unit: str) -> str:
    """The exact number, and its size in words people read where it is bytes."""
    match unit:
        case "bytes":
            return f"{value:,} bytes" + (f" = {format_bytes(value)}" if value >= 1 << 10 else "")
        case "bytes/token":
            return f"{value:,} bytes a token" + (f" = {format_bytes(value)}" if value >= 1 << 10 else "")
        case _:
            return f"{value:,} {unit}"


def _step_lines(step: Step, width: int, is_only: bool) -> Iterator[str]:
    yield f"  {step.title}"
    yield from (f"      {line}" for line in wrap(step.formula, width - 6, break_long_words=False))
    result = f"    = {_amount(step.result, step.unit)}"
    if step.running is not None and step.running != step.result and not is_only:
        result += f"   (so far {step.running:,})"
    yield result
    if step.note:
        yield from (f"      {line}" for line in wrap(step.note, width - 6, break_long_words=False))


def text_lines(explanation: Explanation, width: int = 80) -> Iterator[str]:
    """Plain lines, wrapped to `width` columns where the words allow it; no markup, no control codes."""
    width = max(width, _MIN_WIDTH)
    yield explanation.model
    for section in explanation.sections:
        yield ""
        yield section.title
        for step in section.steps:
            yield from _step_lines(step, width, len(section.steps) == 1)
        yield f"  → {_amount(section.result, section.unit)}"


def markdown_lines(explanation: Explanation) -> Iterator[str]:
    """A heading for the model and one table a section."""
    yield f"## {_cell(explanation.model)}"
    for section in explanation.sections:
        yield ""
        yield f"### {_cell(section.title)}: {_amount(section.result, section.unit)}"
        yield ""
        yield from _table(section)


def _table(section: Section) -> Iterator[str]:
    yield "| step | arithmetic | result | |"
    yield "|---|---|---:|---|"
    for step in section.steps:
        note = _cell(step.note or "")
        yield f"| {_cell(step.title)} | {_cell(step.formula)} | {_amount(step.result, step.unit)} | {note} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
