"""The table by layer: what each run of layers keeps, per token and at a context."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hfmem.memory import engines
from hfmem.memory.drafts import DRAFT, PREDICT
from hfmem.memory.layer_table import LayerRun
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.render.grid import Grid
from hfmem.report import DraftInfo
from hfmem.units import format_bytes

_HEAD = ("layers", "kind", "shape", "window", "a token", "a sequence", "held", "all", "")


def layers_grid(
    runs: Sequence[LayerRun], serving: Serving, engine: CacheBytes | None, draft: DraftInfo | None = None
) -> Grid:
    """One row a run of layers; the last row is the total.

    Columns: bytes per token and layer, constant bytes per sequence and layer, tokens held, bytes of all the run's layers for all
    sequences, and what the engine holds where one was asked.
    """
    name = engine.engine if engine is not None and engine.engine != "ideal" else ""
    rows = [_row(run, serving, bool(name)) for run in runs]
    total = sum(run.bytes for run in runs)
    held = format_bytes(engine.bytes) if name and engine is not None else ""
    rows.append(("total", "", "", "", "", "", "", format_bytes(total), held))
    # a tower's name stands in its row
    details = dict.fromkeys(f"{run.kind}: {run.detail}" for run in runs if run.detail and run.detail != run.stack)
    return Grid(
        head=(*_HEAD[:-1], name),
        rows=tuple(rows),
        left=frozenset({0, 1, 2}),
        notes=tuple(f"  {text}" for text in (*details, *_draft_words(draft, serving))),
        emphasized=frozenset({len(rows) - 1}),
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


def _row(run: LayerRun, serving: Serving, engine: bool) -> tuple[str, ...]:
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
        ("0" if not run.engine_bytes else format_bytes(run.engine_bytes)) if engine else "",
    )


def span(layers: Sequence[int]) -> str:
    """Layer numbers as people write them: `0-31 (32)`, `5, 11 … 47 (8)`."""
    if len(layers) == 1:
        return str(layers[0])
    step = layers[1] - layers[0]
    if all(b - a == step for a, b in pairwise(layers)):
        if step == 1:
            return f"{layers[0]}-{layers[-1]} ({len(layers)})"
        return f"{layers[0]}, {layers[1]} … {layers[-1]} ({len(layers)})"
    return f"{layers[0]} … {layers[-1]} ({len(layers)})"
