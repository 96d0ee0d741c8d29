"""Several reports side by side: one row each."""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.render.lines import Line, line
from hfmem.report import Report
from hfmem.units import GIB, format_count

_MARKS = {"exact": "=", "derived": "≈", "estimated": "~"}


def render_compare(rows: Sequence[tuple[str, Report]]) -> list[Line]:
    """A row for each (label, report): parameters, weights, cache, total and bits per parameter; sizes in GiB."""
    table = [("", "parameters", "weights", "", "bits each", "KV cache", "total")]
    for label, report in rows:
        weights, total = report.weights, report.parameters.total
        table.append(
            (
                label,
                format_count(total),
                f"{weights.bytes / GIB:,.2f}",
                _MARKS[weights.grade],
                f"{8 * weights.bytes / total:.2f}" if total else "",
                f"{report.kv_cache.bytes / GIB:,.2f}",
                f"{report.total_bytes / GIB:,.2f}",
            )
        )
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for number, row in enumerate(table):
        first, *rest = (
            f"{cell:<{width}}" if column in (0, 3) else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(line((first, "bold"), ("  " + "  ".join(rest), "bold" if number == 0 else ""), hang=None))
    cache = rows[0][1].kv_cache
    tokens = f"{cache.context:,} tokens × {cache.num_seqs:,} {'sequence' if cache.num_seqs == 1 else 'sequences'}"
    return [*lines, line((f"GiB; {tokens}, {cache.engine}; = exact  ≈ derived by rule", "dim"))]
