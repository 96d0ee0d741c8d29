"""Layouts side by side, and the speed of light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfmem.render.grid import Grid
from hfmem.render.lines import Line, line
from hfmem.report import Report
from hfmem.units import GIB

if TYPE_CHECKING:
    from hfmem.api.planning import Layout
    from hfmem.plan.roofline import Roofline

_MARKS = {"exact": "", "derived": "≈", "estimated": "~"}
_STYLES = (("fits", "green"), ("tight", "yellow"))
_HEAD = ("", "layout", "usable", "free", "seqs", "context", "tok/s", "")


def plan_grid(report: Report, layouts: Sequence[Layout], most: int | None = None) -> Grid:
    """A row for each layout; `most` leaves the rest out and says so."""
    cache = report.kv_cache
    sequences = "1 sequence" if cache.num_seqs == 1 else f"{cache.num_seqs:,} sequences"
    shown = list(layouts[:most])
    more = [f"  and {len(layouts) - len(shown)} more (--all)"] if len(shown) < len(layouts) else []
    return Grid(
        head=_HEAD,
        rows=tuple(_row(layout) for layout in shown),
        left=frozenset({0, 1, 7}),
        title=f"{report.model.id} · {sequences} of {cache.context:,} tokens · {cache.engine}, {cache.dtype} cache",
        notes=(
            *more,
            "GiB of one device (≈ by a rule, ~ the maker's capacity); seqs: the most of that length;",
            "context: the longest for as many sequences; tok/s: an upper bound, by bytes over bandwidth",
            *(f"! {warning.message}" for warning in report.warnings),
        ),
        styles=_STYLES,
    )


def _row(layout: Layout) -> tuple[str, ...]:
    sizes = " × ".join(f"{name} {size}" for name, size in (("tp", layout.tp), ("pp", layout.pp)) if size > 1)
    nodes = f", {layout.num_nodes} nodes" if layout.num_nodes > 1 else ""
    best = layout.tokens_per_second_at_best
    return (
        f"{layout.num_devices} × {layout.device}",
        (sizes or "one device") + nodes,
        f"{_MARKS[layout.memory_grade]}{layout.usable_bytes_per_device / GIB:,.1f}",
        f"{layout.headroom_bytes / GIB:,.1f}",
        "any" if layout.max_num_seqs is None else f"{layout.max_num_seqs:,}",
        "any" if layout.max_context is None else short_count(layout.max_context),
        "–" if best is None else f"{_digits(best)}",
        layout.verdict,
    )


def short_count(tokens: int) -> str:
    """Tokens in three digits, rounded down: `128 k` of 1024, `1.2 M`."""
    for size, name in ((1 << 20, "M"), (1 << 10, "k")):
        if tokens >= size:
            whole = tokens * 10 // size
            return f"{whole // 10} {name}" if whole >= 100 or whole % 10 == 0 else f"{whole / 10:.1f} {name}"
    return f"{tokens:,}"


def speed_lines(roofline: Roofline) -> list[Line]:
    """The upper bounds on a report's speed."""
    text = (
        f"  at best {_digits(roofline.tokens_per_second_per_sequence)} tokens/s a sequence, "
        f"{_digits(roofline.tokens_per_second)} in all (by {roofline.decode_bound})"
    )
    if roofline.prefill_seconds is not None:
        text += f" · prefill {_digits(roofline.prefill_seconds)} s a prompt (by {roofline.prefill_bound})"
    lines = [line((text + ": upper bounds", "dim"), hang=4)]
    if roofline.measured_tokens_per_second is not None:
        reached = f"  {_digits(roofline.measured_tokens_per_second)} tokens/s in all with what decode kernels reach on this device"
        lines.append(line((f"{reached} ({roofline.measured_source})", "dim"), hang=4))
    return lines


def _digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
