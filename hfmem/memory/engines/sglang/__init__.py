"""SGLang's pools: one of tokens for layers that keep all, one for windowed layers, one of states.

Read from SGLang 0.5.23: `srt/model_executor/pool_configurator.py` (the split between pools, the windowed pool's worst case per
request), `srt/mem_cache/kv_cache_configurator.py` (state slots, pipeline stages), `srt/arg_groups/fields/schedule.py` and
`srt/environ.py` (defaults: windowed pool 0.8 of the full one, states 0.9 of the rest, eviction every 128 steps).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.sglang.layout import Layout, index_bytes, layout
from hfmem.memory.engines.sglang.support import COUNTS_PREDICTIONS_OTHERWISE, slots_per_request
from hfmem.memory.result import CacheBytes, LayerGroup, Pool, count_in, memory_of_stages
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CrossAttention,
    FullAttention,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.units import GIB

NAME: Final = "sglang"
VERSION: Final = "0.5.23"
VENDORS: Final = frozenset({"nvidia", "amd"})
RUNTIME: Final = "server"
WEIGHT_FORMATS: Final = (("bf16", 16), ("fp8", 8), ("int4", 4))
CACHE_FORMATS: Final = ("fp8",)
OWN_CLASSES: Final = True
HALVES_FP32: Final = True
DRAFTS_IN_POOL: Final = True
#: compute capability less than which it refuses (`load_model_utils.py`)
OLDEST: Final = 75

#: `--swa-full-tokens-ratio`, `--mamba-full-memory-ratio`, `--chunked-prefill-size` on Hopper, SGLANG_SWA_EVICTION_INTERVAL
_SWA_RATIO: Final = 0.8
_MAMBA_RATIO: Final = 0.9
_CHUNKED_PREFILL: Final = 8192
_EVICTION_INTERVAL: Final = 128
#: `--max-running-requests` where a draft is served and nobody says
_DRAFTING_REQUESTS: Final = 48


def cache(arch: Architecture, serving: Serving) -> CacheBytes:
    """What `num_seqs` running sequences of `context` tokens occupy in the pools at worst, on all ranks.

    Raises:
        UnsupportedError: a model, format or layout SGLang does not have.
    """
    plan = layout(arch, serving)
    seqs = serving.num_seqs_per_replica
    stages = plan.stages(serving.pp)
    slots, ahead = slots_per_request(arch, serving), serving.speculative_tokens
    on_stage = [0] * len(stages)
    alone = 0
    groups = []
    for kind, indices in (*plan.kinds, *plan.drafts):
        per_token, state = plan.token_bytes(kind), plan.state(kind)
        # states of the tokens that are verified together stand beside those of the sequences, in as many slots and one more
        size = _held(plan, kind, serving, seqs) * per_token + (slots * seqs + 1 + ahead * (seqs + 1)) * state
        for stage, layers in enumerate(stages):
            on_stage[stage] += count_in(indices, layers) * size
        one = _held(plan, kind, serving, 1)
        copies = len(indices) * serving.attn_tp
        whole = copies * (one * per_token + (slots + ahead) * state)
        alone += whole
        groups.append(
            LayerGroup(kind, indices, per_token * serving.attn_tp, one if per_token else 0, whole, copies * state)
        )
    per_replica = serving.tp * sum(on_stage)
    return CacheBytes(
        engine=NAME,
        kv_dtype=plan.fmt,
        bytes=per_replica * serving.dp,
        bytes_per_rank=max(on_stage),
        bytes_per_seq=alone,
        state_bytes_per_seq=sum(group.state_bytes for group in groups),
        layer_groups=tuple(groups),
        page_size=plan.page,
        stage_bytes=tuple(on_stage),
    )


def _held(plan: Layout, kind: Cache, serving: Serving, num_seqs: int) -> int:
    """Rows that the sequences hold in a layer at worst. An encoder's output takes rows in every layer."""
    whole = num_seqs * _pages(_rows(plan, serving), plan.page)
    if not plan.windowed(kind):
        return whole
    chunk = min(serving.max_num_batched_tokens or _CHUNKED_PREFILL, serving.context)
    return min(
        whole,
        _pages(num_seqs * _per_request(plan, kind, serving.speculative_tokens) + 2 * chunk + plan.page, plan.page),
    )


def _rows(plan: Layout, serving: Serving) -> int:
    """Rows of one sequence: its tokens, and an encoder's output where cross attention caches it in the pool (not Whisper's)."""
    if plan.arch.model_type == "whisper" or not any(isinstance(kind, CrossAttention) for kind, _ in plan.kinds):
        return serving.context
    return serving.context + (serving.source_tokens or 0)


def _per_request(plan: Layout, kind: Cache, ahead: int) -> int:
    """Rows of the windowed pool that a running request holds: its window, what is not evicted yet, a page, and one more or what two
    steps of a draft allocate (`compute_swa_request_cap`)."""
    held = _window(kind) + _EVICTION_INTERVAL * max(ahead, 1) + plan.page
    return held + (2 * ahead or plan.page)


def _window(kind: Cache) -> int:
    match kind:
        case SlidingAttention(window=size) | ChunkedAttention(chunk=size):
            return size
        case _:
            raise AssertionError(f"{kind} has no window")


def _pages(tokens: int, page: int) -> int:
    return -(-tokens // page) * page


def pool(arch: Architecture, serving: Serving, memory_bytes_per_rank: int | Sequence[int]) -> Pool:
    """How SGLang divides a pool of that size (of each pipeline stage, or of all alike), and its log line.

    States get 0.9 parts to the cache's 1; the windowed pool has 0.8 of the full pool's tokens. Pipeline stages keep as many tokens
    as the one that can hold fewest. Concurrency is what runs out first, below 1 where not one sequence fits: the server starts all
    the same. The line counts a page of padding, as the buffers do.

    Raises:
        UnsupportedError: the memory holds no pool, or SGLang refuses the layout.
    """
    plan = layout(arch, serving)
    stages = plan.stages(serving.pp)
    memory = memory_of_stages(memory_bytes_per_rank, len(stages))
    least, slots, slot = min(memory), None, _largest_slot(plan, stages)
    if slot:
        share = serving.mamba_full_memory_ratio or _MAMBA_RATIO
        slots, verified = _state_slots(least * share / (1 + share), slot, slots_per_request(arch, serving), serving)
        memory = [each - (slots + 1 + verified) * slot for each in memory]
    capped = _window_cap(plan, serving)
    cells = [_cell(plan, stage, _swa_ratio(serving), capped) for stage in stages]
    tokens = min(
        (int((rest - fixed) // cell) for rest, (fixed, cell) in zip(memory, cells, strict=True) if cell),
        default=serving.context,
    )
    tokens = tokens // plan.page * plan.page
    if tokens <= 0 or slots == 0:
        raise UnsupportedError(f"{least / GIB:.2f} GiB hold no pool: SGLang asks to increase --mem-fraction-static")
    rows = _pages(_rows(plan, serving), plan.page)
    limits = [tokens / rows]
    if slots is not None:
        limits.append(float(slots // slots_per_request(arch, serving)))
    limits += _window_limits(plan, serving, tokens, rows)
    return Pool(
        memory_bytes_per_rank=least,
        page_size=plan.page,
        page_bytes=int(max(cell for _, cell in cells) * plan.page),
        num_pages=tokens // plan.page,
        capacity_tokens=tokens,
        max_concurrency=min(limits),
        log_lines=_log_lines(plan, tokens, serving.context),
    )


def _state_slots(budget: float, slot: int, each: int, serving: Serving) -> tuple[int, int]:
    """How many slots of states a budget of bytes holds, beside one for padding, and how many of those that tokens of a draft take
    while they are verified: one a token of as many requests as run, and of one more (`_handle_max_mamba_cache`). With the radix
    cache off and the requests told, it is one for each of these, whatever the budget.

    Args:
        slot: bytes of one. each: slots that a running request takes.
    """
    ahead = serving.speculative_tokens
    told = _running(serving)
    if told is not None:
        return told, ahead and ahead * (told + 1)
    if not ahead:
        return max(int(budget - slot) // slot, 0), 0
    slots = max(int((budget - slot * (1 + ahead)) // (slot * (1 + ahead / each))), 0)
    running = max((serving.max_num_seqs or _DRAFTING_REQUESTS) // serving.attn_dp, 1)
    return slots, ahead * (min(running, slots // each) + 1)


def _largest_slot(plan: Layout, stages: tuple[range, ...]) -> int:
    """Bytes of a state slot on the stage with most of the layers that keep one: every stage reserves as much."""
    kept = [(state, indices) for kind, indices in plan.kinds if (state := plan.state(kind))]
    total, all_layers = (
        sum(state * len(ids) for state, ids in kept),
        sorted({index for _, ids in kept for index in ids}),
    )
    most = max(count_in(all_layers, stage) for stage in stages)
    return int(total * (most / len(all_layers))) if all_layers else 0


def _swa_ratio(serving: Serving) -> float:
    return serving.swa_full_tokens_ratio or _SWA_RATIO


def _running(serving: Serving) -> int | None:
    """Requests that a group of ranks runs at once, where that is told and sizes the pools: with the radix cache off."""
    if serving.enable_prefix_caching is not False or serving.max_num_seqs is None:
        return None
    return max(serving.max_num_seqs // serving.attn_dp, 1)


def _window_cap(plan: Layout, serving: Serving) -> int | None:
    """Tokens of the windowed pool where the worst case of the requests sizes it, not the ratio (`SWARequestCapPoolConfigurator`):
    two prefill chunks and a page beside what they hold. None: the ratio does, or no layer has a window or none is full."""
    running = _running(serving)
    windows = [kind for kind, _ in plan.kinds if plan.windowed(kind)]
    if running is None or not windows or not _some_full(plan):
        return None
    held = max(_per_request(plan, kind, serving.speculative_tokens) for kind in windows)
    chunk = serving.max_num_batched_tokens or _CHUNKED_PREFILL
    return _pages(running * held + 2 * chunk + plan.page, plan.page)


def _some_full(plan: Layout) -> bool:
    return any(plan.token_bytes(kind) and not plan.windowed(kind) for kind, _ in plan.kinds)


def _cell(plan: Layout, stage: range, swa_ratio: float, capped: int | None) -> tuple[int, float]:
    """Bytes of a stage taken first, for `capped` tokens of its windowed layers, and those of one token of the pool: without
    such a cap windowed layers count 0.8 of theirs (`swa_ratio`), or all where none is full."""
    full = windowed = 0
    for kind, indices in plan.kinds:
        size = plan.token_bytes(kind) * count_in(indices, stage)
        full, windowed = (full, windowed + size) if plan.windowed(kind) else (full + size, windowed)
    drafts = _drafts_cell(plan, stage, full)
    if capped is not None and full:
        return capped * windowed, full + drafts
    return 0, full + (swa_ratio if full else 1) * windowed + drafts


def _drafts_cell(plan: Layout, stage: range, full: int) -> int:
    """Bytes that SGLang reckons for the draft's row of a token: as many of the target's rows as the draft has layers, whatever
    these take (`DefaultPoolConfigurator`). None for prediction layers that a config does not
    count under `num_nextn_predict_layers`, which is where the target's reading looks."""
    layers = sum(len(ids) for _, ids in plan.drafts)
    own = any(layer.stack == "predict" for layer in plan.arch.layers)
    if not layers or not full or (own and plan.arch.model_type in COUNTS_PREDICTIONS_OTHERWISE):
        return 0
    rows = {
        i for kind, ids in plan.kinds if plan.token_bytes(kind) and not plan.windowed(kind) for i in ids if i in stage
    }
    keys = [
        (index_bytes(kind), count_in(ids, stage)) for kind, ids in plan.kinds if isinstance(kind, SparseLatentAttention)
    ]
    # an indexer for each of the draft's layers, and latents like the target's
    latents = full - sum(size * count for size, count in keys)
    return latents * layers // len(rows) + max((size for size, _ in keys), default=0) * layers


def _window_limits(plan: Layout, serving: Serving, tokens: int, rows: int) -> list[float]:
    """Sequences that the windowed pool holds: at their whole length, or once windows are evicted, with two prefill chunks beside.

    Raises:
        UnsupportedError: the pool admits no request (`validate_swa_pool_size`).
    """
    limits: list[float] = []
    some_full = _some_full(plan)
    by_ratio = int(tokens * (_swa_ratio(serving) if some_full else 1)) // plan.page * plan.page
    held = _window_cap(plan, serving) or by_ratio
    for kind, _ in plan.kinds:
        if not plan.windowed(kind):
            continue
        window = _window(kind)
        if some_full and window + plan.page >= held:
            raise UnsupportedError(
                f"SWA pool ({held} tokens) cannot hold even one request: the prefill admission floor is "
                f"sliding_window_size ({window}) + page_size ({plan.page})"
            )
        chunk = min(serving.max_num_batched_tokens or _CHUNKED_PREFILL, serving.context)
        evicted = (held - 2 * chunk - plan.page) / _per_request(plan, kind, serving.speculative_tokens)
        limits.append(max(held / rows, evicted))
    return limits


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
