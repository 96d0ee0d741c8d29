"""What each layer keeps: the layers in order, runs of equal ones merged, with bytes per token and bytes at a context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from math import ceil
from typing import Final, assert_never, assert_type

from hfmem.memory.cache import constant_bytes, decoding_layers, held_tokens, layer_bytes, source_tokens, token_bytes
from hfmem.memory.formats import resolve_kv_dtype
from hfmem.memory.held_layers import HeldLayers
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    CcaState,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    DeltaNetState,
    FullAttention,
    IndexedAttention,
    KimiDeltaState,
    LatentAttention,
    Layer,
    LinearAttentionState,
    Mamba1State,
    Mamba2State,
    MatrixMemoryState,
    NoCache,
    NoTokens,
    RgLruState,
    RwkvState,
    SharedCache,
    ShortConvState,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass, replace

#: of so many layers whose caches others use the numbers are said
_NAMED: Final = 4
_OTHERS: Final = "use the caches of several layers"


@dataclass(frozen=True, slots=True)
class LayerRun:
    """Layers of one kind and shape that follow one another.

    `kind` to `state_bytes` are the report's `layers[]`. `window` is in tokens (a chunk's size in chunked layers). Per layer and
    sequence: `state_bytes` is constant, `bytes_per_token` grows for `tokens` tokens at the context asked about. `bytes` is all of
    that over the run's layers and all sequences, as the model itself needs it, `engine_bytes` as an engine holds it on all ranks
    (None where it was not asked), `rank_bytes` on one rank of pipeline stage `stage`, or in the host's memory (None). `layers` are
    indices in execution order. A layer that keeps two things (attention beside a state, self beside cross attention) is in two
    runs.
    """

    kind: str
    count: int
    num_kv_heads: int | None
    head_dim: int | None
    v_head_dim: int | None
    window: int | None
    state_bytes: int
    stack: str
    detail: str
    layers: tuple[int, ...]
    bytes_per_token: int
    tokens: int
    bytes: int
    engine_bytes: int | None = None
    rank_bytes: int | None = None
    stage: int | None = 0


def kind_of(cache: Cache) -> str:
    """The report's word for a cache: full, sliding, chunked, latent, latent_sparse, recurrent, cross, shared or none."""
    match cache:
        case FullAttention() | IndexedAttention():
            return "full"
        case SlidingAttention():
            return "sliding"
        case ChunkedAttention():
            return "chunked"
        case LatentAttention():
            return "latent"
        case SparseLatentAttention():
            return "latent_sparse"
        case CompressedAttention(ratio=0):
            return "sliding"
        case CompressedAttention(index_head_dim=None):
            return "latent"
        case CompressedAttention():
            return "latent_sparse"
        case CrossAttention():
            return "cross"
        case SharedCache():
            return "shared"
        case NoCache():
            return "none"
        case (
            Mamba1State()
            | Mamba2State()
            | DeltaNetState()
            | LinearAttentionState()
            | KimiDeltaState()
            | ShortConvState()
            | RgLruState()
            | RwkvState()
            | CcaState()
            | MatrixMemoryState()
        ):
            return "recurrent"
        case _:
            assert_never(cache)


def _detail(cache: Cache) -> str:
    """What the report's columns do not say: the recurrent kind, the indexer, the latent's parts, an encoder's role."""
    match cache:
        case LatentAttention() | SparseLatentAttention():
            text = f"latent {cache.kv_lora_rank} + rope {cache.qk_rope_head_dim}"
            if isinstance(cache, SparseLatentAttention):
                text += f", indexer {cache.index_head_dim}" if cache.has_indexer else ", another layer's indexer"
            return text
        case NoCache(role=role):
            return role
        case SharedCache(source_layer=source):
            return f"uses layer {source}"
        case CrossAttention(source_tokens=None):
            return "as long as the encoder's input"
        case CrossAttention(source_tokens=tokens):
            return f"{tokens:,} encoder positions"
        case FullAttention() | SlidingAttention() | ChunkedAttention():
            return f"{cache.num_heads} heads"
        case IndexedAttention():
            return f"{cache.num_heads} heads, indexer {cache.index_head_dim}"
        case CompressedAttention(ratio=0):
            return f"{cache.num_heads} heads, one row for K and V"
        case CompressedAttention(ratio=ratio, index_head_dim=index):
            return f"one row for K and V, one for each {ratio} tokens before" + (f", indexer {index}" if index else "")
        case Mamba1State():
            return f"Mamba 1, {cache.intermediate_size} × {cache.state_size}"
        case Mamba2State():
            return f"Mamba 2, {cache.num_heads} × {cache.head_dim} × {cache.state_size}"
        case DeltaNetState():
            return f"gated delta net, {cache.num_v_heads} × {cache.head_k_dim} × {cache.head_v_dim}"
        case LinearAttentionState():
            return f"linear attention, {cache.num_heads} × {cache.head_dim} × {cache.head_dim}"
        case KimiDeltaState():
            return f"Kimi delta attention, {cache.num_heads} × {cache.head_k_dim} × {cache.head_v_dim}"
        case ShortConvState():
            return f"short convolution, {cache.hidden_size} × {cache.conv_kernel - 1}"
        case RgLruState():
            return f"recurrent unit, {cache.width}"
        case CcaState():
            return f"convolved attention, {cache.channels} × {cache.history} + {cache.delayed}"
        case MatrixMemoryState():
            return f"matrix memory, {cache.num_heads} × {cache.qk_head_dim} × {cache.v_head_dim}"
        case RwkvState():
            return f"RWKV, {cache.num_vectors} × {cache.hidden_size}"
        case _:
            assert_never(cache)


def _shape(cache: Cache) -> tuple[int | None, int | None, int | None, int | None]:
    """KV heads, head_dim, v_head_dim and window; a latent row counts as one head whose values are its compressed part."""
    match cache:
        case FullAttention() | IndexedAttention():
            return cache.num_kv_heads, cache.head_dim, cache.v_head_dim, None
        case CompressedAttention():
            return 1, cache.head_dim, cache.head_dim, cache.window
        case SlidingAttention(window=size) | ChunkedAttention(chunk=size):
            return cache.num_kv_heads, cache.head_dim, cache.v_head_dim, size
        case LatentAttention() | SparseLatentAttention():
            return 1, cache.kv_lora_rank + cache.qk_rope_head_dim, cache.kv_lora_rank, None
        case CrossAttention():
            return cache.num_kv_heads, cache.head_dim, cache.head_dim, None
        case _:
            assert_type(cache, NoTokens)
            return None, None, None, None


def layer_runs(arch: Architecture, serving: Serving, engine: CacheBytes | None = None) -> tuple[LayerRun, ...]:
    """The layers in execution order, runs of one kind and shape merged. With `engine`, also what that engine holds for each run, by
    pipeline stage."""
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, serving.declared_kv_dtype)
    held = HeldLayers(arch, engine) if engine else None
    layers = decoding_layers(arch)
    runs: list[LayerRun] = []
    start = 0
    while start < len(layers):
        first = layers[start]
        kinds = [_merge_key(cache) for cache in first.caches]
        end = start
        while (
            end < len(layers)
            and layers[end].stack == first.stack
            and (layers[end] is layers[end - 1] or [_merge_key(cache) for cache in layers[end].caches] == kinds)
            and (held is None or held.stages[end] == held.stages[start])
        ):
            end += 1
        on_rank = None if held is None else held.of_run(range(start, end))
        for place, cache in enumerate(first.caches):
            heads, head_dim, v_head_dim, window = _shape(cache)
            count = end - start
            one = layer_bytes(cache, serving.context, fmt, arch.dtype, serving.source_tokens)
            runs.append(
                LayerRun(
                    kind=kind_of(cache),
                    count=count,
                    num_kv_heads=heads,
                    head_dim=head_dim,
                    v_head_dim=v_head_dim,
                    window=window,
                    state_bytes=constant_bytes(cache, fmt, arch.dtype, serving.source_tokens),
                    stack=first.stack,
                    detail=_shares(layers[start:end]) if isinstance(cache, SharedCache) else _detail(cache),
                    layers=tuple(range(start, end)),
                    bytes_per_token=token_bytes(cache, fmt),
                    tokens=source_tokens(cache, serving.source_tokens)
                    if isinstance(cache, CrossAttention)
                    else held_tokens(cache, serving.context),
                    bytes=count * serving.num_seqs * one,
                    engine_bytes=None if held is None or on_rank is None else int(on_rank[place] * held.copies),
                    rank_bytes=None if on_rank is None else on_rank[place],
                    stage=0 if held is None else held.stages[start],
                )
            )
        start = end
    return tuple(runs) if engine is None or engine.stage_layers else _even(runs, engine)


def _even(runs: Sequence[LayerRun], engine: CacheBytes) -> tuple[LayerRun, ...]:
    """Runs of a cache that the ranks share evenly: their parts of a rank's bytes, rounded so that they add up."""
    share = Fraction(engine.bytes_per_rank, engine.bytes) if engine.bytes else Fraction(0)
    ends = [ceil(share * size) for size in accumulate((run.engine_bytes or 0 for run in runs), initial=0)]
    return tuple(replace(run, rank_bytes=b - a) for run, (a, b) in zip(runs, pairwise(ends), strict=True))


def unused_bytes(runs: Iterable[LayerRun], engine: CacheBytes) -> tuple[int, ...]:
    """Of a rank of each pipeline stage, what pages take beyond layers: vLLM's groups share blocks as wide as the widest."""
    held = [0] * max(len(engine.stage_bytes), 1)
    for run in runs:
        if run.stage is not None:
            held[run.stage] += run.rank_bytes or 0
    return tuple(whole - part for whole, part in zip(engine.stage_bytes or (engine.bytes_per_rank,), held, strict=True))


def _shares(layers: Iterable[Layer]) -> str:
    """Whose caches these layers use; a few are named."""
    sources = sorted(
        {cache.source_layer for layer in layers for cache in layer.caches if isinstance(cache, SharedCache)}
    )
    if len(sources) == 1:
        return _detail(SharedCache(sources[0]))
    return f"use layers {', '.join(map(str, sources))}" if len(sources) <= _NAMED else _OTHERS


def _merge_key(cache: Cache) -> Cache:
    """Layers that share different layers' caches are one kind."""
    return SharedCache(0) if isinstance(cache, SharedCache) else cache


def merged(runs: Iterable[LayerRun]) -> tuple[LayerRun, ...]:
    """All layers of one kind and shape (on one stage) as one row, in order of first appearance: the short table for interleaved
    models."""
    found: dict[tuple[object, ...], LayerRun] = {}
    for run in runs:
        detail = "" if run.kind == "shared" else run.detail
        key = (
            run.stage,
            run.kind,
            run.stack,
            run.num_kv_heads,
            run.head_dim,
            run.v_head_dim,
            run.window,
            run.state_bytes,
            detail,
        )
        if (before := found.get(key)) is None:
            found[key] = run
            continue
        found[key] = replace(
            before,
            count=before.count + run.count,
            detail=before.detail if before.detail == run.detail else _OTHERS,
            layers=before.layers + run.layers,
            bytes=before.bytes + run.bytes,
            engine_bytes=_sum(before.engine_bytes, run.engine_bytes),
            rank_bytes=_sum(before.rank_bytes, run.rank_bytes),
        )
    return tuple(found.values())


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second
