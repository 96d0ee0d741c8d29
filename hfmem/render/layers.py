"""The table by layer: what each run of layers keeps, per token and at a context."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hfmem.memory import engines
from hfmem.memory.drafts import DRAFT, PREDICT
from hfmem.memory.layer_table import LayerRun
from hfmem.memory.serving import Serving
from hfmem.render.grid import Grid
from hfmem.render.json import to_dict, versioned
from hfmem.report import DraftInfo
from hfmem.units import format_bytes

if TYPE_CHECKING:
    from hfmem.api.estimates import LayerTable

_HEAD = ("layers", "kind", "shape", "window", "a token", "a sequence", "held", "all")


def layers_grid(table: LayerTable) -> Grid:
    """One row a run of layers; the last row is the total. Pipeline stages, and the host's layers, stand apart.

    Columns: bytes per token and layer, constant bytes per sequence and layer, tokens held, bytes of all the run's layers for all
    sequences, what the engine holds, and over several ranks what one of them holds.
    """
    engine = table.engine
    name = engine.engine if engine.engine != "ideal" else ""
    stages = list(dict.fromkeys(sorted((run.stage for run in table.runs), key=lambda at: (at is None, at))))
    apart = len(stages) > 1 or None in stages
    one = "a rank" if table.report.parallelism.num_ranks > 1 else ""
    rows: list[tuple[str, ...]] = []
    bold: list[int] = []
    for stage in stages:
        members = [run for run in table.runs if run.stage == stage]
        rows += [_row(run, bool(name), bool(one)) for run in members]
        left = 0 if stage is None else table.unused_bytes[stage]
        unused = _on_all_ranks(table, left)
        if left:
            rows.append(_sum_row("unused", "", format_bytes(unused) if name else "", format_bytes(left) if one else ""))
        if apart:
            bold.append(len(rows))
            held, on_rank = (sum(getattr(run, key) for run in members) for key in ("engine_bytes", "rank_bytes"))
            sums = format_bytes(held + unused), format_bytes(on_rank + left) if one else ""
            rows.append(_sum_row("host" if stage is None else table.report.stage_name(stage) or "device", "", *sums))
    whole = "" if apart or not one else format_bytes(engine.bytes_per_rank)
    total = format_bytes(sum(run.bytes for run in table.runs))
    rows.append(_sum_row("total", total, format_bytes(engine.bytes) if name else "", whole))
    # a tower's name stands in its row
    details = dict.fromkeys(f"{run.kind}: {run.detail}" for run in table.runs if run.detail and run.detail != run.stack)
    words = (*_layout_words(table), *_draft_words(table.draft, table.serving))
    return Grid(
        head=(*_HEAD, name, one),
        rows=tuple(rows),
        left=frozenset({0, 1, 2}),
        notes=tuple(f"  {text}" for text in (*details, *words)),
        emphasized=frozenset({*bold, len(rows) - 1}),
    )


def _sum_row(name: str, everywhere: str, engine: str, rank: str) -> tuple[str, ...]:
    return (name, *[""] * (len(_HEAD) - 2), everywhere, engine, rank)


def _on_all_ranks(table: LayerTable, unused: int) -> int:
    """What the ranks of a stage leave unused together, of all that is: on one of them `unused`."""
    whole = table.engine.bytes - sum(run.engine_bytes or 0 for run in table.runs)
    return whole * unused // sum(table.unused_bytes) if unused else 0


def _layout_words(table: LayerTable) -> tuple[str, ...]:
    """How many ranks there are, and which of them the estimate speaks of."""
    layout, told = table.report.parallelism, table.report.per_rank
    if layout.num_ranks == 1:
        return ()
    sizes = {"tp": layout.tp, "pp": layout.pp, "dp": layout.dp, "attn-dp": layout.attn_dp, "dcp": layout.dcp}
    words = ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
    where = table.report.stage_name(told.stage)
    most = f"; most loaded: {where}, with {format_bytes(told.weights_bytes)} of weights" if where else ""
    return (f"a rank: one of {layout.num_ranks} ({words}){most}",)


def layers_dict(table: LayerTable) -> dict[str, Any]:
    """The table for `--json`: rows, what a rank of each pipeline stage holds, and the report's own numbers beside them."""
    report, engine = table.report, table.engine
    stages = engine.stage_bytes or (engine.bytes_per_rank,)
    return versioned(
        {
            "model": {"id": report.model.id},
            "context": table.serving.context,
            "num_seqs": table.serving.num_seqs,
            "layers": [to_dict(run) for run in table.runs],
            "ranks": [
                {"stage": stage, "kv_cache_bytes": size, "unused_bytes": left}
                for stage, (size, left) in enumerate(zip(stages, table.unused_bytes, strict=True))
            ],
            "kv_cache": to_dict(report.kv_cache),
            "parallelism": to_dict(report.parallelism),
            "per_rank": to_dict(report.per_rank),
            "draft": to_dict(report.draft),
            "warnings": to_dict(report.warnings),
        }
    )


def _draft_words(draft: DraftInfo | None, serving: Serving) -> tuple[str, ...]:
    if draft is None:
        return ()
    place = f"in {serving.engine}'s pool" if engines.engine(serving.engine).DRAFTS_IN_POOL else "a cache of its own"
    own = draft.id == "mtp"
    name = f"{PREDICT}: the model's own prediction layers" if own else f"{DRAFT}: {draft.id}"
    size = draft.kv_cache_bytes  # pages of another size may leave less of them unused than the draft takes
    more = f"{format_bytes(abs(size))} {'less' if size < 0 else 'more'} with {'them' if own else 'it'}"
    return (f"{name}, {place}, {more}",)


def _row(run: LayerRun, engine: bool, rank: bool) -> tuple[str, ...]:
    shape = ""
    if run.num_kv_heads is not None:
        shape = f"{run.num_kv_heads} × {run.head_dim}"
        if run.v_head_dim != run.head_dim and not run.kind.startswith("latent"):
            shape += f" (V {run.v_head_dim})"
    return (
        span(run.layers) + ("" if run.stack == "decoder" else f" {run.stack}"),
        run.kind,
        shape,
        f"{run.window:,}" if run.window else "",
        format_bytes(run.bytes_per_token) if run.bytes_per_token else "",
        format_bytes(run.state_bytes) if run.state_bytes else "",
        f"{run.tokens:,}" if run.bytes_per_token else "",
        format_bytes(run.bytes) if run.bytes else "0",
        (format_bytes(run.engine_bytes) if run.engine_bytes else "0") if engine else "",
        (format_bytes(run.rank_bytes) if run.rank_bytes else "0") if rank else "",
    )


def span(layers: Sequence[int]) -> str:
    """Layer numbers as people write them: `0-31 (32)`, `5, 11 … 47 (8)`."""
    if len(layers) == 1:
        return str(layers[0])
    step = layers[1] - layers[0]
    if len(layers) == 2 and step > 1:
        return f"{layers[0]}, {layers[1]} (2)"
    if all(b - a == step for a, b in pairwise(layers)):
        if step == 1:
            return f"{layers[0]}-{layers[-1]} ({len(layers)})"
        return f"{layers[0]}, {layers[1]} … {layers[-1]} ({len(layers)})"
    return f"{layers[0]} … {layers[-1]} ({len(layers)})"
