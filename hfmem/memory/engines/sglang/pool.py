"""How SGLang divides its memory between states, windowed layers and the others, and what its log prints of it.

Read from SGLang 0.5.23: `srt/model_executor/pool_configurator.py` (bytes a token, drafts), `srt/mem_cache/kv_cache_configurator.py`
(states first, pipeline stages), `srt/mem_cache/memory_pool.py` (a page of padding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.sglang import compressed, states, windows
from hfmem.memory.engines.sglang.layout import Layout, index_bytes, layout, pages
from hfmem.memory.engines.sglang.support import COUNTS_PREDICTIONS_OTHERWISE, slots_per_request
from hfmem.memory.result import Pool, count_in, memory_of_stages
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import ChunkedAttention, FullAttention, SlidingAttention, SparseLatentAttention
from hfmem.units import GIB

#: `--mamba-full-memory-ratio`
_MAMBA_RATIO: Final = 0.9


def pool(arch: Architecture, serving: Serving, memory_bytes_per_rank: int | Sequence[int]) -> Pool:
    """How SGLang divides a pool of that size (of each pipeline stage, or of all alike), and its log line.

    States get 0.9 parts to the cache's 1; the windowed pool has 0.8 of the full pool's tokens. Pipeline stages keep as many tokens
    as the one that can hold fewest. Concurrency is what runs out first, below 1 where not one sequence fits: the server starts all
    the same. The line counts a page of padding, as the buffers do. `--max-total-tokens` takes tokens of
    the full pool away, and those of the windowed one that go with them; states keep their part.

    Raises:
        UnsupportedError: the memory holds no pool, or SGLang refuses the layout.
    """
    if compressed.is_compressed(arch):
        return compressed.pool(arch, serving, memory_bytes_per_rank)
    plan = layout(arch, serving)
    stages = plan.stages(serving.pp)
    memory = memory_of_stages(memory_bytes_per_rank, len(stages))
    least, slots, slot = min(memory), None, states.largest_slot(plan, stages)
    if slot:
        share = serving.mamba_full_memory_ratio or _MAMBA_RATIO
        slots, verified = states.slots_of(least * share / (1 + share), slot, slots_per_request(arch, serving), serving)
        memory = [each - (slots + 1 + verified) * slot for each in memory]
    capped = windows.cap(plan, serving)
    cells = [_cell(plan, stage, windows.ratio(serving), capped) for stage in stages]
    tokens = min(
        (int((rest - fixed) // cell) for rest, (fixed, cell) in zip(memory, cells, strict=True) if cell),
        default=serving.max_total_tokens or serving.context,
    )
    tokens = windows.at_most(tokens, serving) // plan.page * plan.page
    if tokens <= 0 or slots == 0:
        raise UnsupportedError(f"{least / GIB:.2f} GiB hold no pool: SGLang asks to increase --mem-fraction-static")
    rows = pages(plan.rows(serving), plan.page)
    limits = [tokens / rows]
    if slots is not None:
        limits.append(float(slots // slots_per_request(arch, serving)))
    limits += windows.limits(plan, serving, tokens, rows)
    return Pool(
        memory_bytes_per_rank=least,
        page_size=plan.page,
        page_bytes=int(max(cell for _, cell in cells) * plan.page),
        num_pages=tokens // plan.page,
        capacity_tokens=tokens,
        max_concurrency=min(limits),
        log_lines=_log_lines(plan, tokens, serving.context),
    )


def _cell(plan: Layout, stage: range, swa_ratio: float, capped: int | None) -> tuple[int, float]:
    """Bytes of a stage taken first, for `capped` tokens of its windowed layers, and those of one token of the pool: without
    such a cap windowed layers count 0.8 of theirs (`swa_ratio`), or all where none is full."""
    full = windowed = 0
    for kind, indices in plan.kinds:
        size = plan.token_bytes(kind) * count_in(indices, stage)
        full, windowed = (full, windowed + size) if plan.windowed(kind) else (full + size, windowed)
    drafts, narrow = _drafts_cell(plan, stage, full)
    if capped is not None and full:
        return capped * (windowed + narrow), full + drafts
    return 0, full + drafts + (swa_ratio if full else 1) * (windowed + narrow)


def _drafts_cell(plan: Layout, stage: range, full: int) -> tuple[int, int]:
    """Bytes that SGLang reckons for the draft's row of a token in the full pool and in the windowed one.

    A draft of blocks has its own (`dflash_draft_cell_size_per_token`). Others have as many of the target's rows as layers, whatever
    these take (`DefaultPoolConfigurator`): windowed ones for a model's windowed layers, and for prediction layers as far as the
    target has such (`HybridSWAPoolConfigurator`). Nothing is reckoned for prediction layers that a config does not count under
    `num_nextn_predict_layers`, which is where the target's reading looks.
    """
    layers = sum(len(ids) for _, ids in plan.drafts)
    own = any(layer.stack == "predict" for layer in plan.arch.layers)
    if not layers or not full or (own and plan.arch.model_type in COUNTS_PREDICTIONS_OTHERWISE):
        return 0, 0
    if plan.arch.drafted is not None:
        return sum(plan.token_bytes(kind) * len(ids) for kind, ids in plan.drafts), 0
    windows = [(plan.token_bytes(kind), len(ids)) for kind, ids in plan.kinds if plan.windowed(kind)]
    if own:
        narrow = min(layers, sum(count for _, count in windows))
    else:
        narrow = sum(len(ids) for kind, ids in plan.drafts if plan.windowed(kind))
    layers -= narrow
    rows = {
        i for kind, ids in plan.kinds if plan.token_bytes(kind) and not plan.windowed(kind) for i in ids if i in stage
    }
    keys = [
        (index_bytes(kind), count_in(ids, stage)) for kind, ids in plan.kinds if isinstance(kind, SparseLatentAttention)
    ]
    # an indexer for each of the draft's layers, and latents like the target's
    latents = full - sum(size * count for size, count in keys)
    wide = latents * layers // len(rows) + max((size for size, _ in keys), default=0) * layers
    return wide, narrow * max((size for size, _ in windows), default=0)


def token_pool_bytes(
    arch: Architecture, serving: Serving, tokens: int, *, windowed: bool = False
) -> tuple[int, int, int]:
    """Bytes of keys, of values, and of latents in a rank's pool of that many tokens, a page of padding included.

    Args:
        windowed: the pool of windowed layers, not that of the others.

    Raises:
        UnsupportedError: SGLang refuses the layout.
    """
    return _token_pool(layout(arch, serving), tokens, windowed)


def splits_windows(arch: Architecture, serving: Serving) -> bool:
    """Whether windowed layers have a pool of their own.

    Raises:
        UnsupportedError: SGLang refuses the layout.
    """
    return layout(arch, serving).split


def state_slot_bytes(arch: Architecture, serving: Serving) -> int:
    """Bytes of one slot of states on a rank, in all layers.

    Raises:
        UnsupportedError: SGLang refuses the layout.
    """
    plan = layout(arch, serving)
    return sum(plan.state(kind) * len(indices) for kind, indices in plan.kinds)


def _token_pool(plan: Layout, tokens: int, windowed: bool = False) -> tuple[int, int, int]:
    padded = tokens + plan.page
    keys = values = latents = 0
    for kind, ids in plan.kinds:
        if plan.windowed(kind) != windowed:
            continue
        size = len(ids) * plan.token_bytes(kind)
        match kind:
            case FullAttention() | SlidingAttention() | ChunkedAttention():
                width, wide = plan.vector(kind.head_dim), plan.vector(kind.v_head_dim)
                keys += size * width // (width + wide)
                values += size * wide // (width + wide)
            case _:
                latents += size
    return padded * keys, padded * values, padded * latents


def _log_lines(plan: Layout, tokens: int, context: int) -> tuple[str, ...]:
    keys, values, latents = _token_pool(plan, tokens)
    sizes = f"K size: {keys / GIB:.2f} GB, V size: {values / GIB:.2f} GB"
    if latents:
        sizes = f"KV size: {latents / GIB:.2f} GB"
    return (
        f"KV Cache is allocated. #tokens: {tokens}, {sizes}",
        f"max_total_num_tokens={tokens}, context_len={context}",
    )
