"""An explanation as text or Markdown; the JSON form is its dataclasses as they are."""

from __future__ import annotations

from collections.abc import Iterator

from hfmem.plan.explain import Explanation
from hfmem.plan.steps import Section, Step
from hfmem.render.grid import Grid, grid_html, grid_markdown, html_text, markdown_cell
from hfmem.render.json import to_dict
from hfmem.render.lines import Line, line, safe
from hfmem.render.pages import csv_text, page
from hfmem.units import format_bytes


def _amount(value: int, unit: str) -> str:
    """The exact number, and its size in words people read where it is bytes."""
    match unit:
        case "bytes":
            return f"{value:,} bytes" + (f" = {format_bytes(value)}" if value >= 1 << 10 else "")
        case "bytes/token":
            return f"{value:,} bytes a token" + (f" = {format_bytes(value)}" if value >= 1 << 10 else "")
        case _:
            return f"{value:,} {unit}"


def _step_lines(step: Step, is_only: bool) -> Iterator[Line]:
    yield line(f"  {step.title}", hang=4)
    yield line((f"      {step.formula}", "dim"), hang=6)
    so_far = step.running is not None and step.running != step.result and not is_only
    running = f"   (so far {step.running:,})" if so_far else ""
    yield line(("    = ", "dim"), _amount(step.result, step.unit), (running, "dim"), hang=6)
    if step.note:
        yield line((f"      {step.note}", "dim"), hang=6)


def text_lines(explanation: Explanation) -> list[Line]:
    """A heading, then for each section its steps and its result. Long formulas are wrapped by whoever knows the width."""
    lines = [line((explanation.model, "bold"))]
    for section in explanation.sections:
        lines += [line(""), line((section.title, "bold"))]
        for step in section.steps:
            lines += _step_lines(step, len(section.steps) == 1)
        lines.append(line(("  → ", ""), (_amount(section.result, section.unit), "bold")))
    return lines


def markdown_lines(explanation: Explanation) -> Iterator[str]:
    """A heading for the model and one table a section."""
    yield f"## {markdown_cell(explanation.model)}"
    for section in explanation.sections:
        yield ""
        yield f"### {markdown_cell(section.title)}: {_amount(section.result, section.unit)}"
        yield ""
        yield from _table(section)


def _table(section: Section) -> Iterator[str]:
    return grid_markdown(_grid(section))


def _grid(section: Section, title: str = "") -> Grid:
    rows = tuple((s.title, s.formula, _amount(s.result, s.unit), s.note or "") for s in section.steps)
    return Grid(("step", "arithmetic", "result", ""), rows, left=frozenset({0, 1, 3}), title=title)


def explanation_text(kind: str, explanation: Explanation) -> str:
    """The whole as `markdown`, `csv` (a row a step, nothing rounded) or `html`."""
    sections = explanation.sections
    match kind:
        case "markdown":
            return "".join(f"{safe(text)}\n" for text in markdown_lines(explanation))
        case "csv":
            return csv_text([{"section": part.title, **to_dict(step)} for part in sections for step in part.steps])
        case _:
            grids = (_grid(part, f"{part.title}: {_amount(part.result, part.unit)}") for part in sections)
            head = f"<h1>{html_text(explanation.model)}</h1>"
            return page(explanation.model, [head, *(text for grid in grids for text in grid_html(grid))])
