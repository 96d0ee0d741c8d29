"""Several reports side by side: one row each."""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.render.grid import Grid
from hfmem.render.table import held_grade, held_weights
from hfmem.report import Report
from hfmem.units import GIB, format_count

_MARKS = {"exact": "=", "derived": "≈", "estimated": "~"}
_HEAD = ("", "parameters", "weights", "", "bits each", "KV cache", "tokens", "total", "engine")


def compare_grid(rows: Sequence[tuple[str, Report]]) -> Grid:
    """A row for each (label, report): parameters, weights as the engine loads them, bits per parameter as stored, cache and total;
    sizes in GiB.

    Lengths and engines have columns where they differ, and stand below the table where they do not.
    """
    caches = [report.kv_cache for _, report in rows]
    lengths, engines = ({f"{cache.context:,}" for cache in caches}, {cache.engine for cache in caches})
    sequences = "1 sequence" if caches[0].num_seqs == 1 else f"{caches[0].num_seqs:,} sequences"
    load = f"{sequences} of {'the length in its row' if len(lengths) > 1 else f'{caches[0].context:,} tokens'}"
    served = "" if len(engines) > 1 else f", {caches[0].engine}"
    return Grid(
        head=_HEAD,
        rows=tuple(_row(label, report, len(lengths) > 1, len(engines) > 1) for label, report in rows),
        left=frozenset({0, 3, 8}),
        notes=(
            f"GiB; {load}{served}; total: with activations and the engine's own memory",
            *(["weights: as they are loaded; bits each: as they are stored"] if _differ(rows) else []),
            "= exact  ≈ derived by rule",
        ),
    )


def _differ(rows: Sequence[tuple[str, Report]]) -> bool:
    """Whether an engine loads some of them in another format, or not all of them."""
    return any(held_weights(report) != report.weights.bytes for _, report in rows)


def _row(label: str, report: Report, with_length: bool, with_engine: bool) -> tuple[str, ...]:
    weights, total, cache = report.weights, report.parameters.total, report.kv_cache
    return (
        label,
        format_count(total),
        f"{held_weights(report) / GIB:,.2f}",
        _MARKS[held_grade(report)],
        f"{8 * weights.bytes / total:.2f}" if total else "",
        f"{cache.bytes / GIB:,.2f}",
        f"{cache.context:,}" if with_length else "",
        f"{report.total_bytes / GIB:,.2f}",
        cache.engine if with_engine else "",
    )
