"""What each layer keeps: the layers in order, runs of equal ones merged, with bytes per token and bytes at a context."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never, assert_type

from hfmem.memory.cache import constant_bytes, decoding_layers, held_tokens, layer_bytes, source_tokens, token_bytes
from hfmem.memory.formats import resolve_kv_dtype
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
    that over the run's layers and all sequences, as the model itself needs it, `engine_bytes` as an engine holds it (None where it
    was not asked). `layers` are indices in execution order. A layer that keeps two things (attention beside a state, self beside
    cross attention) is in two runs.
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
    """The layers in execution order, runs of one kind and shape merged. With `engine`, also what that engine holds for each run."""
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, serving.declared_kv_dtype)
    held = _held_by_layer(engine) if engine else {}
    layers = decoding_layers(arch)
    runs: list[LayerRun] = []
    start = decoders = 0
    while start < len(layers):
        first = layers[start]
        kinds = [_merge_key(cache) for cache in first.caches]
        end = start
        while (
            end < len(layers)
            and layers[end].stack == first.stack
            and (layers[end] is layers[end - 1] or [_merge_key(cache) for cache in layers[end].caches] == kinds)
        ):
            end += 1
        for cache in first.caches:
            heads, head_dim, v_head_dim, window = _shape(cache)
            count = end - start
            of_engine = None
            if engine is not None:
                same = [
                    held.get(c) or _instead(engine, c, first.stack, decoders + index - start)
                    for index in range(start, end)
                    for c in layers[index].caches
                    if _merge_key(c) == _merge_key(cache)
                ]
                of_engine = round(sum(same) * serving.num_seqs)
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
                    bytes=count
                    * serving.num_seqs
                    * layer_bytes(cache, serving.context, fmt, arch.dtype, serving.source_tokens),
                    engine_bytes=of_engine,
                )
            )
        decoders += end - start if first.stack == "decoder" else 0
        start = end
    return tuple(runs)


def _held_by_layer(engine: CacheBytes) -> dict[Cache, float]:
    """Bytes of one sequence in a layer of each kind. A draft beside its target may have layers of the same kind as that has."""
    sizes: dict[Cache, int] = {}
    counts: dict[Cache, int] = {}
    for group in engine.layer_groups:
        sizes[group.cache] = sizes.get(group.cache, 0) + group.bytes
        counts[group.cache] = counts.get(group.cache, 0) + group.count
    return {cache: size / counts[cache] for cache, size in sizes.items()}


def _instead(engine: CacheBytes, cache: Cache, stack: str, decoder: int) -> float:
    """Bytes of one sequence in a windowed decoder layer that the engine holds as one of another kind: SGLang, with one pool."""
    if stack != "decoder" or not isinstance(cache, SlidingAttention | ChunkedAttention):
        return 0
    return sum(group.bytes / group.count for group in engine.layer_groups if decoder in group.layers)


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
    """All layers of one kind and shape as one row, in order of first appearance: the short table for interleaved models."""
    found: dict[tuple[object, ...], LayerRun] = {}
    for run in runs:
        detail = "" if run.kind == "shared" else run.detail
        key = (run.kind, run.stack, run.num_kv_heads, run.head_dim, run.v_head_dim, run.window, run.state_bytes, detail)
        if (before := found.get(key)) is None:
            found[key] = run
            continue
        engine = None
        if before.engine_bytes is not None and run.engine_bytes is not None:
            engine = before.engine_bytes + run.engine_bytes
        found[key] = replace(
            before,
            count=before.count + run.count,
            detail=before.detail if before.detail == run.detail else _OTHERS,
            layers=before.layers + run.layers,
            bytes=before.bytes + run.bytes,
            engine_bytes=engine,
        )
    return tuple(found.values())
