"""Reports for files and other programs: Markdown, CSV and one self-contained HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hfmem.render.grid import Grid, grid_html, grid_markdown, html_text
from hfmem.render.json import report_dict, to_dict
from hfmem.render.lines import safe
from hfmem.report import Report

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #8884; text-align: left; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.note { color: #888; margin: .2rem 0 }
svg { max-width: 100%; height: auto }
"""


def reports_text(kind: str, reports: Sequence[Report]) -> str:
    """Reports as `markdown`, `csv` (one row a model, every number of the JSON form under its dotted name) or `html`."""
    from hfmem.render.table import report_grid

    match kind:
        case "csv":
            return csv_text([report_dict(report) for report in reports])
        case "markdown":
            return "".join(f"{text}\n" for text in _between(grid_markdown(report_grid(report)) for report in reports))
        case _:
            title = ", ".join(report.model.id for report in reports)
            return page(title, [text for report in reports for text in grid_html(report_grid(report))])


def grid_text(kind: str, grid: Grid, rows: Sequence[Any], title: str = "") -> str:
    """A table as `markdown`, `csv` (of `rows`, dataclasses or mappings, nothing rounded) or `html`, whose page has a `title`."""
    match kind:
        case "csv":
            return csv_text([to_dict(row) for row in rows])
        case "markdown":
            return "".join(f"{text}\n" for text in grid_markdown(grid))
        case _:
            return page(title or grid.title, list(grid_html(grid)))


def _between(parts: Iterator[Iterator[str]]) -> Iterator[str]:
    for number, part in enumerate(parts):
        if number:
            yield ""
        yield from part


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated values with a head; nested names are joined by dots, lists of anything but scalars left out."""
    flat = [dict(_flat(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_cell(name) for name in names)
    writer.writerows([row.get(name, "") for name in names] for row in flat)
    return out.getvalue()


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _flat(item, f"{name}.")
        elif isinstance(item, (list, tuple)):
            if all(not isinstance(part, (Mapping, list, tuple)) for part in item):
                yield name, " ".join(_cell(part) for part in item)
        else:
            yield name, _cell(item)


def _cell(value: Any) -> str:
    """A scalar that steers no terminal; text that a spreadsheet would take for a formula is marked as text."""
    if value is None:
        return ""
    text = safe(str(value))
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def page(title: str, body: Sequence[str]) -> str:
    """One HTML file that needs nothing else: no script, no font, no request."""
    head = f'<meta charset="utf-8"><title>hfmem: {html_text(title)}</title><style>{_STYLE}</style>'
    lines = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{lines}\n</body></html>\n'
