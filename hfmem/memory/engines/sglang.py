"""SGLang's pools: one of tokens for layers that keep all, one for windowed layers, one of states.

Read from sgl-project/sglang, mid 2026: `srt/model_executor/pool_configurator.py` (bytes per token, the split between pools, the
windowed pool's worst case per request), `srt/mem_cache/kv_cache_configurator.py` (state slots), `srt/server_args.py` and
`srt/environ.py` (defaults: page of 1 token, windowed pool 0.8 of the full one, states 0.9 of the rest, fp32 states, eviction every
128 steps). Ranks shard as vLLM's do.
"""

from __future__ import annotations

from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import decoding_layers
from hfmem.memory.engines.vllm.states import state_bytes
from hfmem.memory.engines.vllm.support import check_heads, kv_heads_per_rank, pipeline_stages
from hfmem.memory.formats import KV_BITS, resolve_kv_dtype
from hfmem.memory.result import CacheBytes, LayerGroup, Pool, group_layers
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    RecurrentCache,
    RgLruState,
    RwkvState,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass
from hfmem.units import GIB

NAME: Final = "sglang"
VERSION: Final = "2026-07"

#: `--swa-full-tokens-ratio`, `--mamba-full-memory-ratio`, `--chunked-prefill-size` on Hopper, SGLANG_SWA_EVICTION_INTERVAL
_SWA_RATIO: Final = 0.8
_MAMBA_RATIO: Final = 0.9
_CHUNKED_PREFILL: Final = 8192
_EVICTION_INTERVAL: Final = 128
#: state slots a running request needs beside what the radix cache keeps (MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO)
_SLOTS_PER_REQUEST: Final = 3
#: page of sparse latent attention's kernels
_SPARSE_PAGE: Final = 64
_FP8_SCALE_GROUP: Final = 128
_FORMATS: Final = frozenset({"bf16", "fp16", "fp32", "fp8", "fp8_e5m2", "nvfp4"})


@dataclass(frozen=True, slots=True)
class _Layout:
    """Bytes per token and state of each kind of cache on one rank, and what the sequences need of each pool."""

    fmt: str
    page: int
    kinds: tuple[tuple[Cache, tuple[int, ...]], ...]
    tp: int
    arch: Architecture
    num_layers: int
    split: bool

    def token_bytes(self, kind: Cache) -> int:
        """Bytes one token takes in one layer on one rank; 0 for states and layers without a cache."""
        return _token_bytes(kind, self.fmt, self.tp)

    def state(self, kind: Cache) -> int:
        """Bytes of one state slot in one layer on one rank."""
        if isinstance(kind, RecurrentCache):
            return state_bytes(kind, self.arch, _dtype(self.arch), self.tp, "F32")
        return 0

    def windowed(self, kind: Cache) -> bool:
        """Whether the layer's tokens live in the windowed pool."""
        return self.split and isinstance(kind, SlidingAttention | ChunkedAttention)


def _dtype(arch: Architecture) -> str:
    """The dtype SGLang computes in: fp32 checkpoints run in half precision."""
    return "F16" if arch.dtype in ("F32", "F64") else arch.dtype


def _layout(arch: Architecture, serving: Serving) -> _Layout:
    check_heads(arch, serving.tp)
    fmt = resolve_kv_dtype(_dtype(arch), serving.kv_dtype, serving.declared_kv_dtype)
    if fmt not in _FORMATS:
        raise UnsupportedError(f"SGLang has no {fmt} cache")
    layers = tuple(layer for layer in decoding_layers(arch) if layer.stack == "decoder")
    kinds = tuple(group_layers(tuple(layer.caches for layer in layers)).items())
    for kind, _ in kinds:
        if isinstance(kind, CrossAttention | CompressedAttention | RgLruState | RwkvState):
            raise UnsupportedError(f"SGLang's cache of {arch.model_type} models is not known here")
    sparse = any(isinstance(kind, SparseLatentAttention) for kind, _ in kinds)
    page = serving.page_size or (_SPARSE_PAGE if sparse else 1)
    split = any(isinstance(kind, FullAttention) for kind, _ in kinds)
    return _Layout(fmt, page, kinds, serving.tp, arch, len(layers), split)


def _vector(fmt: str, size: int) -> int:
    if fmt == "nvfp4":
        return size // 2 + size // 16
    return size * KV_BITS[fmt] // 8


def _token_bytes(kind: Cache, fmt: str, tp: int) -> int:
    match kind:
        case FullAttention() | SlidingAttention() | ChunkedAttention():
            heads = kv_heads_per_rank(kind.num_kv_heads, tp)
            return heads * (_vector(fmt, kind.head_dim) + _vector(fmt, kind.v_head_dim))
        case IndexedAttention():
            heads = kv_heads_per_rank(kind.num_kv_heads, tp)
            return heads * (_vector(fmt, kind.head_dim) + _vector(fmt, kind.v_head_dim)) + 2 * kind.index_head_dim
        case LatentAttention():
            return _vector(fmt, kind.kv_lora_rank + kind.qk_rope_head_dim)
        case SparseLatentAttention(kv_lora_rank=rank, qk_rope_head_dim=rope, index_head_dim=index):
            # the pool is sized as if every layer had an indexer
            key = index + index // _FP8_SCALE_GROUP * 4
            if fmt == "fp8":  # packed: fp8 row, fp32 scales, bf16 rotary part
                return rank + rank // _FP8_SCALE_GROUP * 4 + rope * 2 + key
            return _vector(fmt, rank + rope) + key
        case _:
            return 0


def _windowed_tokens(layout: _Layout, kind: Cache, context: int, num_seqs: int, chunk: int) -> int:
    """Tokens of a windowed layer at worst: per request its window, what is not evicted yet and two pages, and two prefill chunks.

    Never more than all tokens.
    """
    whole = num_seqs * _pages(context, layout.page)
    match kind:
        case SlidingAttention(window=size) | ChunkedAttention(chunk=size):
            per_request = size + _EVICTION_INTERVAL + 2 * layout.page
            return min(whole, _pages(num_seqs * per_request + 2 * chunk + layout.page, layout.page))
        case _:
            return whole


def _pages(tokens: int, page: int) -> int:
    return -(-tokens // page) * page


def cache(arch: Architecture, serving: Serving) -> CacheBytes:
    """What `num_seqs` running sequences of `context` tokens occupy in the pools at worst, on all ranks.

    Raises:
        UnsupportedError: a model, format or layout SGLang does not have.
    """
    layout = _layout(arch, serving)
    seqs = serving.num_seqs_per_replica
    chunk = serving.max_num_batched_tokens or _CHUNKED_PREFILL
    stages = pipeline_stages(layout.num_layers, serving.pp) if serving.pp > 1 else (range(layout.num_layers),)
    on_stage = [0] * len(stages)
    alone = 0
    groups = []
    for kind, indices in layout.kinds:
        per_token, state = layout.token_bytes(kind), layout.state(kind)

        def held(num_seqs: int, kind: Cache = kind) -> int:
            if layout.windowed(kind):
                return _windowed_tokens(layout, kind, serving.context, num_seqs, chunk)
            return num_seqs * _pages(serving.context, layout.page)

        tokens = held(seqs) if per_token else 0
        size = tokens * per_token + (_SLOTS_PER_REQUEST * seqs + 1) * state
        for stage, layers in enumerate(stages):
            on_stage[stage] += sum(index in layers for index in indices) * size
        one = held(1) * per_token + _SLOTS_PER_REQUEST * state
        alone += len(indices) * serving.tp * one
        copies = len(indices) * serving.tp
        groups.append(
            LayerGroup(kind, indices, per_token * serving.tp, held(1) if per_token else 0, copies * one, copies * state)
        )
    per_replica = serving.tp * sum(on_stage)
    return CacheBytes(
        engine=NAME,
        kv_dtype=layout.fmt,
        bytes=per_replica * serving.dp,
        bytes_per_rank=max(on_stage),
        bytes_per_seq=alone,
        state_bytes_per_seq=sum(group.state_bytes for group in groups),
        layer_groups=tuple(groups),
        page_size=layout.page,
    )


def pool(arch: Architecture, serving: Serving, memory_bytes_per_rank: int) -> Pool:
    """How SGLang divides a pool of that size, and its log line.

    States get 0.9 parts to the cache's 1; the windowed pool has 0.8 of the full pool's tokens. Concurrency is what runs out
    first. The line counts a page of padding, as the buffers do.

    Raises:
        UnsupportedError: the memory holds not one request, or SGLang refuses the layout.
    """
    layout = _layout(arch, serving)
    kinds = _heaviest_stage(layout, serving.pp)
    full = sum(len(ids) * layout.token_bytes(k) for k, ids in kinds if not layout.windowed(k))
    windowed = sum(len(ids) * layout.token_bytes(k) for k, ids in kinds if layout.windowed(k))
    slot = sum(len(ids) * layout.state(k) for k, ids in kinds)
    rest, slots = memory_bytes_per_rank, None
    if slot:
        slots = max(int(memory_bytes_per_rank * _MAMBA_RATIO / (1 + _MAMBA_RATIO) - slot) // slot, 0)
        rest -= (slots + 1) * slot
    cell = full + _SWA_RATIO * windowed
    tokens = int(rest // cell) // layout.page * layout.page if cell else serving.context
    limits = [tokens / _pages(serving.context, layout.page)]
    if slots is not None:
        limits.append(float(slots // _SLOTS_PER_REQUEST))
    window_tokens = int(tokens * _SWA_RATIO) // layout.page * layout.page
    for kind, _ in layout.kinds:
        if layout.windowed(kind):
            chunk = serving.max_num_batched_tokens or _CHUNKED_PREFILL
            limits.append(
                window_tokens / _windowed_tokens(layout, kind, serving.context, 1, min(chunk, serving.context))
            )
    if min(limits) < 1:
        raise UnsupportedError(
            f"{memory_bytes_per_rank / GIB:.2f} GiB hold not one sequence of {serving.context} tokens in SGLang's pools"
        )
    return Pool(
        memory_bytes_per_rank=memory_bytes_per_rank,
        page_size=layout.page,
        page_bytes=int(cell * layout.page),
        num_pages=tokens // layout.page,
        capacity_tokens=tokens,
        max_concurrency=min(limits),
        log_lines=_log_lines(layout, tokens, serving.context),
    )


def _heaviest_stage(layout: _Layout, pp: int) -> tuple[tuple[Cache, tuple[int, ...]], ...]:
    """Caches and layers of the pipeline stage that takes most per token and slot: it bounds every stage's pool."""
    if pp == 1:
        return layout.kinds
    held = [
        tuple((kind, tuple(index for index in indices if index in stage)) for kind, indices in layout.kinds)
        for stage in pipeline_stages(layout.num_layers, pp)
    ]
    return max(held, key=lambda kinds: sum(len(ids) * (layout.token_bytes(k) + layout.state(k)) for k, ids in kinds))


def token_pool_bytes(arch: Architecture, serving: Serving, tokens: int) -> tuple[int, int, int]:
    """Bytes of keys, of values, and of latents in a rank's pool of that many tokens, a page of padding included.

    Raises:
        UnsupportedError: SGLang refuses the layout.
    """
    return _token_pool(_layout(arch, serving), tokens)


def _token_pool(layout: _Layout, tokens: int) -> tuple[int, int, int]:
    padded = tokens + layout.page
    keys = values = latents = 0
    for kind, ids in layout.kinds:
        if layout.windowed(kind):
            continue
        match kind:
            case FullAttention() | SlidingAttention() | ChunkedAttention():
                heads = kv_heads_per_rank(kind.num_kv_heads, layout.tp)
                keys += len(ids) * heads * _vector(layout.fmt, kind.head_dim)
                values += len(ids) * heads * _vector(layout.fmt, kind.v_head_dim)
            case _:
                latents += len(ids) * layout.token_bytes(kind)
    return padded * keys, padded * values, padded * latents


def _log_lines(layout: _Layout, tokens: int, context: int) -> tuple[str, ...]:
    keys, values, latents = _token_pool(layout, tokens)
    sizes = f"K size: {keys / GIB:.2f} GB, V size: {values / GIB:.2f} GB"
    if latents:
        sizes = f"KV size: {latents / GIB:.2f} GB"
    return (
        f"KV Cache is allocated. #tokens: {tokens}, {sizes}",
        f"max_total_num_tokens={tokens}, context_len={context}",
    )
