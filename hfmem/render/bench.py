"""The plan of a benchmark, and what its run measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfmem.plan.bench import beside_bytes
from hfmem.render.grid import Grid, grid_lines
from hfmem.render.lines import Line, line
from hfmem.units import format_bytes

if TYPE_CHECKING:
    from hfmem.api.bench import BenchAnswer, Bound
    from hfmem.api.bench_run import Measurement
    from hfmem.plan.bench import BenchPlan
    from hfmem.plan.bench_shapes import AttentionShape

_HEAD = ("attention", "layers", "heads", "reads", "pages", "cache")


def render_bench(answer: BenchAnswer, width: int | None = None) -> list[Line]:
    """The layers' caches, then the bounds, or the times beside them; a table that fits in `width`."""
    plan = answer.plan
    sequences = "1 sequence" if plan.num_seqs == 1 else f"{plan.num_seqs:,} sequences"
    rank = f" · one rank of {answer.tp}" if answer.tp > 1 else ""
    lines = [
        line(
            (answer.model, "bold"),
            f" · {sequences} of {plan.context:,} tokens · {plan.kv_dtype} cache, pages of {plan.page_size:,}{rank}",
        ),
        line(""),
    ]
    if not plan.shapes:
        return lines + _beside_lines(plan) + _dry_lines(answer)
    head: tuple[str, ...] = _HEAD
    rows = [_row(shape, plan.num_seqs) for shape in plan.shapes]
    total: tuple[str, ...] = ("total", "", "", "", "", format_bytes(plan.cache_bytes))
    if answer.measured is not None:
        head, total = (*head, "a layer", "GB/s"), (*total, "", "")
        for number, kind in enumerate(answer.measured.kinds):
            rate = f"{kind.read_bytes / kind.layer_seconds / 1e9:,.0f}"
            rows[number] = (*rows[number], f"{kind.layer_seconds * 1e6:,.1f} µs", rate)
    grid = Grid(head, (*rows, total), emphasized=frozenset({len(rows)}))
    lines += grid_lines(grid, width)
    lines += _beside_lines(plan)
    return lines + (
        _dry_lines(answer) if answer.measured is None else [line(""), *_measured_lines(answer, answer.measured)]
    )


def _dry_lines(answer: BenchAnswer) -> list[Line]:
    """What a run would read, whether a kernel here can, and the bounds."""
    beside = beside_bytes(answer.plan, states=False)
    reads = f"{format_bytes(answer.read_bytes)} of cache"
    if not answer.plan.shapes:
        reads = f"{format_bytes(beside)} of cache, all of it left out"
    elif beside:
        reads += f", and {format_bytes(beside)} that is left out"
    lines = [line(""), line(f"  dry run: nothing was allocated. A step reads {reads}")]
    if answer.refused is not None:
        lines.append(line((f"! {answer.refused}: this could not be run", "yellow")))
    return lines + (_bound_lines(answer.bound, answer.weights_bytes_read) if answer.bound else [])


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _beside_lines(plan: BenchPlan) -> list[Line]:
    """What the ops leave out, with its bytes."""
    lines = []
    for each in plan.beside:
        size = "" if each.bytes is None else f", {format_bytes(each.bytes)} a step"
        lines.append(line((f"  left out: {each.what} ({_layers(each.layers)}{size})", "dim")))
    return lines


def _row(shape: AttentionShape, num_seqs: int) -> tuple[str, ...]:
    size = f"{shape.head_dim}"
    if shape.v_head_dim not in (0, shape.head_dim):
        size += f":{shape.v_head_dim}"
    what = "keys" if not shape.v_head_dim else "rows" if shape.merged else "tokens"
    return (
        shape.kind,
        str(shape.count) if shape.count == shape.readers else f"{shape.count} + {shape.readers - shape.count} shared",
        f"{shape.num_heads} / {shape.num_kv_heads} × {size}",
        f"{shape.tokens:,} {what}",
        f"{num_seqs * shape.pages:,}",
        format_bytes(shape.cache_bytes * shape.count),
    )


def _bound_lines(bound: Bound, weights_bytes: int) -> list[Line]:
    """At best: attention alone, and with the weights that a step reads."""
    alone = bound.attention_seconds
    both = alone + bound.weights_seconds + bound.states_seconds
    weights = f"{format_bytes(weights_bytes)} of weights" + (", and states" if bound.states_seconds else "")
    return [
        line(f"  at best on {bound.source} ({bound.bytes_per_second / 1e12:.2f} TB/s):"),
        line(f"    attention alone      {_milliseconds(alone)} a step, {_rate(bound.attention_tokens_per_second)}"),
        line(f"    weights + attention  {_milliseconds(both)} a step, {_rate(bound.tokens_per_second)} ({weights})"),
    ]


def _measured_lines(answer: BenchAnswer, measured: Measurement) -> list[Line]:
    """What was allocated, how fast it was read, and what that allows."""
    plan, step = answer.plan, measured.step_seconds
    assert answer.bound is not None
    off = measured.requested_bytes - plan.cache_bytes
    equal = (
        "as predicted, to the byte"
        if off == 0
        else f"{abs(off):,} bytes {'more' if off > 0 else 'less'} than predicted"
    )
    rounded = format_bytes(measured.allocated_bytes - measured.requested_bytes)
    rate = answer.read_bytes / step
    reached = f"{rate / 1e9:,.0f} GB/s, {rate / measured.read_bytes_per_second:.1%} of the ceiling"
    aside = beside_bytes(plan, states=False) + beside_bytes(plan, states=True)
    rest = answer.bound.weights_seconds + aside / measured.read_bytes_per_second
    weights = f"{format_bytes(answer.weights_bytes_read)} of weights"
    weights += " and what is left out, at the ceiling" if aside else " read at the ceiling"
    lines = [
        line(
            f"  {measured.device}: reads {measured.read_bytes_per_second / 1e12:.2f} TB/s at most, measured in this run"
        ),
        line(f"  allocated      {format_bytes(measured.requested_bytes)}, {equal}"),
        line(f"                 the allocator takes {rounded} more in rounding"),
        line(f"  attention      {_milliseconds(step)} a step ± {measured.step_spread:.1%}, ", (reached, "bold")),
        line(f"  so at most     {_rate(plan.num_seqs / step)} by attention alone"),
        line(f"                 {_rate(plan.num_seqs / (step + rest))} with {weights}"),
    ]
    if plan.cache_bytes < 4 * measured.l2_bytes:
        text = f"! the caches are hardly larger than L2 ({format_bytes(measured.l2_bytes)}): part of them stays in it"
        lines.append(line((text, "yellow")))
    return lines


def _milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.1f} ms" if value >= 100 else f"{value:.3g} ms"


def _rate(value: float) -> str:
    return f"{value:,.0f} tokens/s" if value >= 100 else f"{value:.3g} tokens/s"
