"""Tables of words: one form for every list of things, printed as aligned columns, Markdown or HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hfmem.records import dataclass
from hfmem.render.lines import Line, line, safe


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of cells under a head. Columns in `left` are aligned left, the others right; a cell's style word is in `styles`.

    `title` stands above, `notes` below. Columns that are empty in every row are left out.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})
    title: str = ""
    notes: tuple[str, ...] = ()
    styles: tuple[tuple[str, str], ...] = ()

    def used(self) -> list[int]:
        """Columns that say anything."""
        return [column for column in range(len(self.head)) if column == 0 or any(row[column] for row in self.rows)]


def grid_lines(grid: Grid, indent: str = "") -> list[Line]:
    """Aligned columns, the first in bold, two blanks between them; lines are not wrapped."""
    used, styles = grid.used(), dict(grid.styles)
    widths = {column: max(len(row[column]) for row in (grid.head, *grid.rows)) for column in used}
    lines = [line((grid.title, "bold"), hang=2), line("")] if grid.title else []
    for number, row in enumerate((grid.head, *grid.rows)):
        spans = [(indent, "")] if indent else []
        for place, column in enumerate(used):
            cell, width = row[column], widths[column]
            last = place == len(used) - 1 and column in grid.left
            text = cell if last else f"{cell:<{width}}" if column in grid.left else f"{cell:>{width}}"
            style = "bold" if column == 0 or number == 0 else styles.get(cell, "")
            spans += [("  " if place else "", ""), (text, style)]
        lines.append(line(*spans, hang=None))
    return [*lines, *(line((note, "dim")) for note in grid.notes)]


def grid_markdown(grid: Grid) -> Iterator[str]:
    """A pipe table with its title as a heading."""
    used = grid.used()
    if grid.title:
        yield f"## {markdown_cell(grid.title)}"
        yield ""
    yield _pipes(grid.head[column] for column in used)
    yield _pipes(":---" if column in grid.left else "---:" for column in used)
    yield from (_pipes(row[column] for column in used) for row in grid.rows)
    if grid.notes:
        yield ""
        yield from (markdown_cell(note) for note in grid.notes)


def _pipes(cells: Iterator[str] | Sequence[str]) -> str:
    return "| " + " | ".join(markdown_cell(cell) for cell in cells) + " |"


def markdown_cell(text: str) -> str:
    """Text that means itself in a Markdown table, and steers no terminal."""
    return safe(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def grid_html(grid: Grid) -> Iterator[str]:
    """A table element; every string is escaped."""
    used = grid.used()
    if grid.title:
        yield f"<h2>{html_text(grid.title)}</h2>"
    yield "<table>"
    yield "<thead><tr>" + "".join(f"<th>{html_text(grid.head[column])}</th>" for column in used) + "</tr></thead>"
    yield "<tbody>"
    for row in grid.rows:
        cells = (
            f"<td{'' if column in grid.left else ' class=number'}>{html_text(row[column])}</td>" for column in used
        )
        yield "<tr>" + "".join(cells) + "</tr>"
    yield "</tbody></table>"
    yield from (f"<p class=note>{html_text(note)}</p>" for note in grid.notes)


def html_text(text: str) -> str:
    """Text that means itself in HTML."""
    from html import escape  # and with it the names of two thousand characters

    return escape(safe(text))
