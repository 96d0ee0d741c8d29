"""Tables of words: one form for every list of things, printed as aligned columns, Markdown or HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hfmem.records import dataclass
from hfmem.render.lines import Line, Span, line, safe


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of cells under a head. Columns in `left` are aligned left, the others right; a cell's style word is in `styles`.

    `title` stands above, `notes` below. Columns that are empty in every row are left out. Cells under an empty head say more of the
    cell before them: a mark, a verdict. `emphasized` rows are bold.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})
    title: str = ""
    notes: tuple[str, ...] = ()
    styles: tuple[tuple[str, str], ...] = ()
    emphasized: frozenset[int] = frozenset()

    def used(self) -> list[int]:
        """Columns that say anything."""
        return [column for column in range(len(self.head)) if column == 0 or any(row[column] for row in self.rows)]


def grid_lines(grid: Grid, width: int | None = None) -> list[Line]:
    """Aligned columns, the first in bold, two blanks between them. Where they are wider than `width`, the first one's cells stand
    on lines of their own; where that is not enough, each row is a block."""
    used = grid.used()
    widths = {column: max(len(row[column]) for row in (grid.head, *grid.rows)) for column in used}
    lines = [line((grid.title, "bold"), hang=2), line("")] if grid.title else []
    wide = sum(widths.values()) + 2 * (len(used) - 1)
    if width is None or wide <= width:
        lines += _columns(grid, widths)
    elif wide - widths[0] <= width:
        lines += _columns_below(grid, widths)
    else:
        lines += [text for number in range(len(grid.rows)) for text in _block(grid, number)]
    return [*lines, *(line((note, "dim"), hang=_indent(note) + 2) for note in grid.notes)]


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _columns_below(grid: Grid, widths: Mapping[int, int]) -> Iterator[Line]:
    """Columns but the first, whose cells stand above the rows that they are of."""
    head, *rows = _columns(grid, {0: 0} | {column: width for column, width in widths.items() if column})
    for number, text in enumerate((head, *rows)):
        name = (grid.head, *grid.rows)[number][0]
        if name and (number < 2 or name != grid.rows[number - 2][0]):
            yield line((name, "bold"), hang=4)
        yield line(*text.spans[2:], hang=None)  # without the first cell and the nothing before it


def _columns(grid: Grid, widths: Mapping[int, int]) -> Iterator[Line]:
    styles = dict(grid.styles)
    for number, row in enumerate((grid.head, *grid.rows)):
        spans = []
        for place, (column, width) in enumerate(widths.items()):
            cell = row[column]
            last = place == len(widths) - 1 and column in grid.left
            text = cell if last else f"{cell:<{width}}" if column in grid.left else f"{cell:>{width}}"
            bold = column == 0 or number == 0 or number - 1 in grid.emphasized
            spans += [("  " if place else "", ""), (text, "bold" if bold else styles.get(cell, ""))]
        yield line(*spans, hang=None)


def _block(grid: Grid, number: int) -> Iterator[Line]:
    """One row as lines of head and cell, what has no head beside what stands before it."""
    row, styles = grid.rows[number], dict(grid.styles)
    heads = max(len(grid.head[column]) for column in grid.used() if column)
    spans: list[Span | str] = [(row[0], "bold")]
    for column in grid.used()[1:]:
        if not row[column]:
            continue
        if grid.head[column]:
            yield line(*spans, hang=4)
            spans = ["  ", (f"{grid.head[column]:<{heads}}  ", "dim")]
        elif not spans[-1][0].endswith("  "):
            spans.append("  ")
        spans.append((row[column], styles.get(row[column], "")))
    yield line(*spans, hang=4)


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
    return (
        safe(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").replace("\n", " ")
    )


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
