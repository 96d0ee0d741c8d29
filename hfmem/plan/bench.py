"""What one decode step's attention works on: a model's layers as the shapes and caches that a paged decode kernel is given.

`hfmem bench` allocates and runs by this plan; it says the same without a device. No torch here: integers only.
"""

from __future__ import annotations

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import held_tokens, token_bytes
from hfmem.memory.formats import resolve_kv_dtype
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    FullAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass, replace

#: tokens of a page where neither the caller nor the engine says otherwise
PAGE_SIZE = 16
#: what the names of the tensors have in common that hold a head's sink
_SINK = "sink"


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One kind of layer as an op sees it, on one tensor-parallel rank.

    `op` is `paged_decode` or `mla_decode`; for the latter `head_dim` is the whole row (latent and rotary part) and `v_head_dim`
    the latent. `tokens` are those a step reads of a sequence: all that the layer keeps, or, where an indexer picks them, at most
    `index_topk`. `pages` are what the kept ones occupy; `cache_bytes` are the pages of all sequences in one layer. `sinks`: one
    more logit for each query head.
    """

    op: str
    count: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None
    tokens: int
    pages: int
    cache_bytes: int
    sinks: bool = False


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """The attention of one decode step: `num_seqs` sequences of `context` tokens, layer kind by layer kind.

    `skipped` counts layers without an attention cache (recurrent, cross, shared): a decode kernel has no part in them.
    """

    kv_dtype: str
    context: int
    num_seqs: int
    page_size: int
    shapes: tuple[AttentionShape, ...]
    skipped: int

    @property
    def cache_bytes(self) -> int:
        """Bytes of all caches that the step reads from, on one rank."""
        return sum(shape.count * shape.cache_bytes for shape in self.shapes)


def bench_plan(arch: Architecture, serving: Serving) -> BenchPlan:
    """The plan for `serving` (its context, sequences, KV dtype, page size and `tp`).

    KV heads are replicated where there are more ranks than heads; a latent row is whole on every rank.

    Raises:
        UnsupportedError: query heads that `tp` does not divide, or a model without an attention cache.
    """
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, serving.declared_kv_dtype)
    page = serving.page_size or PAGE_SIZE
    counted: dict[tuple[Cache, bool], int] = {}
    skipped = 0
    with_sinks = sink_layers(arch)
    for index, layer in enumerate(arch.layers):
        for cache in layer.caches:
            if isinstance(
                cache, FullAttention | SlidingAttention | ChunkedAttention | LatentAttention | SparseLatentAttention
            ):
                kind = _read(cache), index in with_sinks
                counted[kind] = counted.get(kind, 0) + 1
            else:
                skipped += 1
    if not counted:
        raise UnsupportedError(f"{arch.model_type} has no attention cache for a decode kernel to read")
    shapes = tuple(
        replace(_shape(cache, count, fmt, page, serving), sinks=sinks) for (cache, sinks), count in counted.items()
    )
    return BenchPlan(fmt, serving.context, serving.num_seqs, page, shapes, skipped)


def sink_layers(arch: Architecture) -> frozenset[int]:
    """The layers of the main stack whose query heads have a sink: those with such a tensor (`sinks`, `attention_sink_bias`)."""
    found: set[int] = set()
    for spec in arch.tensors:
        if (
            spec.component is Component.ATTENTION
            and spec.layer_axis is not None
            and _SINK in spec.pattern.split(".")[-1]
        ):
            for box in spec.boxes:
                found.update(box[spec.layer_axis])
    return frozenset(found)


def read_bytes(plan: BenchPlan) -> int:
    """Bytes of cache that one step reads on one rank: the visible tokens of every sequence, in every layer, each once."""
    return sum(
        shape.count * (shape.cache_bytes // (shape.pages * plan.page_size) * shape.tokens) for shape in plan.shapes
    )


def _read(cache: Cache) -> Cache:
    """Layers that reuse another layer's choice of tokens read as those that make it."""
    return replace(cache, has_indexer=True) if isinstance(cache, SparseLatentAttention) else cache


def _shape(cache: Cache, count: int, fmt: str, page: int, serving: Serving) -> AttentionShape:
    assert isinstance(
        cache, FullAttention | SlidingAttention | ChunkedAttention | LatentAttention | SparseLatentAttention
    )
    if cache.num_heads % serving.tp:
        raise UnsupportedError(f"{cache.num_heads} attention heads do not divide by {serving.tp} ranks")
    heads = cache.num_heads // serving.tp
    tokens = held_tokens(cache, serving.context)
    pages = -(-tokens // page)
    if isinstance(cache, SparseLatentAttention):
        tokens = min(tokens, cache.index_topk)
    if isinstance(cache, LatentAttention | SparseLatentAttention):
        row = cache.kv_lora_rank + cache.qk_rope_head_dim
        latent = LatentAttention(
            cache.num_heads, cache.kv_lora_rank, cache.qk_rope_head_dim, cache.qk_nope_head_dim, cache.v_head_dim
        )
        size = serving.num_seqs * pages * page * token_bytes(latent, fmt)  # an indexer's keys are another kernel's
        return AttentionShape("mla_decode", count, heads, 1, row, cache.kv_lora_rank, None, tokens, pages, size)
    kv_heads = max(1, cache.num_kv_heads // serving.tp)
    window = cache.window if isinstance(cache, SlidingAttention) else None
    size = serving.num_seqs * pages * page * token_bytes(cache, fmt) * kv_heads // cache.num_kv_heads
    return AttentionShape(
        "paged_decode", count, heads, kv_heads, cache.head_dim, cache.v_head_dim, window, tokens, pages, size
    )
