"""What one decode step's attention works on: a model's layers as the shapes and caches that a paged decode kernel is given.

`hfmem bench` allocates and runs by this plan; it says the same without a device. No torch here: integers only.
"""

from __future__ import annotations

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import held_tokens, token_bytes
from hfmem.memory.formats import resolve_kv_dtype
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    FullAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass

#: tokens of a page where neither the caller nor the engine says otherwise
PAGE_SIZE = 16


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One kind of layer as an op sees it, on one tensor-parallel rank.

    `op` is `paged_decode` or `mla_decode`; for the latter `head_dim` is the whole row (latent and rotary part) and `v_head_dim`
    the latent. `tokens` are those a sequence reads, `pages` what they occupy; `cache_bytes` are the pages of all sequences in one
    layer.
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
    counted: dict[Cache, int] = {}
    skipped = 0
    for cache in arch.caches():
        if isinstance(
            cache, FullAttention | SlidingAttention | ChunkedAttention | LatentAttention | SparseLatentAttention
        ):
            counted[cache] = counted.get(cache, 0) + 1
        else:
            skipped += 1
    if not counted:
        raise UnsupportedError(f"{arch.model_type} has no attention cache for a decode kernel to read")
    shapes = tuple(_shape(cache, count, fmt, page, serving) for cache, count in counted.items())
    return BenchPlan(fmt, serving.context, serving.num_seqs, page, shapes, skipped)


def read_bytes(plan: BenchPlan) -> int:
    """Bytes of cache that one step reads on one rank: the visible tokens of every sequence, in every layer, each once."""
    return sum(
        shape.count * (shape.cache_bytes // (shape.pages * plan.page_size) * shape.tokens) for shape in plan.shapes
    )


def _shape(cache: Cache, count: int, fmt: str, page: int, serving: Serving) -> AttentionShape:
    assert isinstance(
        cache, FullAttention | SlidingAttention | ChunkedAttention | LatentAttention | SparseLatentAttention
    )
    if cache.num_heads % serving.tp:
        raise UnsupportedError(f"{cache.num_heads} attention heads do not divide by {serving.tp} ranks")
    heads = cache.num_heads // serving.tp
    tokens = held_tokens(cache, serving.context)
    pages = -(-tokens // page)
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
