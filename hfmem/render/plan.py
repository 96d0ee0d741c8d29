"""Layouts side by side, and the speed of light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfmem.render.lines import Line, line
from hfmem.report import Report
from hfmem.units import GIB

if TYPE_CHECKING:
    from hfmem.plan.roofline import Roofline
    from hfmem.planning import Layout

_MARKS = {"exact": "", "derived": "≈", "estimated": "~"}
_STYLES = {"fits": "green", "tight": "yellow"}
_HEAD = ("", "layout", "usable each", "free", "sequences", "tokens/s at best", "")


def render_plan(report: Report, layouts: Sequence[Layout], most: int | None = None) -> list[Line]:
    """A row for each layout; `most` leaves the rest out and says so."""
    cache = report.kv_cache
    sequences = "1 sequence" if cache.num_seqs == 1 else f"{cache.num_seqs:,} sequences"
    lines = [
        line(
            (report.model.id, "bold"),
            f" · {sequences} of {cache.context:,} tokens · {cache.engine}, {cache.dtype} cache",
        ),
        line(""),
    ]
    shown = list(layouts[:most])
    table = [_HEAD, *(_row(layout) for layout in shown)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEAD))]
    for number, row in enumerate(table):
        first, *middle = (
            f"{cell:<{width}}" if column in (0, 1) else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row[:-1], widths[:-1], strict=True))
        )
        style = "bold" if number == 0 else ""
        lines.append(
            line(
                "  ",
                (first, "bold"),
                ("  " + "  ".join(middle), style),
                "  ",
                (row[-1], _STYLES.get(row[-1], "")),
                hang=None,
            )
        )
    if len(shown) < len(layouts):
        lines.append(line((f"  and {len(layouts) - len(shown)} more (--all)", "dim")))
    lines.append(
        line(
            (
                "GiB of one device; ≈ and ~: memory by a rule, or the maker's capacity; sequences: the most of that length; "
                "tokens/s: an upper bound, by bytes over bandwidth",
                "dim",
            )
        )
    )
    return lines


def _row(layout: Layout) -> tuple[str, ...]:
    sizes = " × ".join(f"{name} {size}" for name, size in (("tp", layout.tp), ("pp", layout.pp)) if size > 1)
    best = layout.tokens_per_second_at_best
    return (
        f"{layout.num_devices} × {layout.device}",
        sizes or "one device",
        f"{_MARKS[layout.memory_grade]}{layout.usable_bytes_per_device / GIB:,.1f}",
        f"{layout.headroom_bytes / GIB:,.1f}",
        "any" if layout.max_num_seqs is None else f"{layout.max_num_seqs:,}",
        "–" if best is None else f"{_digits(best)}",
        layout.verdict,
    )


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
