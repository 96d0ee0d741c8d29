"""What one decode step's attention works on: a model's layers as the shapes and caches that a paged decode kernel is given.

`hfmem bench` allocates and runs by this plan; it says the same without a device. No torch here: integers only.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import assert_never, assert_type

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import constant_bytes, held_tokens, source_tokens, token_bytes
from hfmem.memory.formats import resolve_kv_dtype, vector_bytes
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    NoCache,
    NoTokens,
    RecurrentCache,
    SharedCache,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass, replace

#: tokens of a page where neither the caller nor the engine says otherwise
PAGE_SIZE = 16
#: the same of latent rows of which an indexer picks: FlashMLA's pages, vLLM's on Hopper
PICKED_PAGE_SIZE = 64
#: `AttentionShape.rows` of those in fp8: 512 e4m3, 4 fp32 scales and 64 bf16 (`memory/engines/vllm/layers.py`), and their bytes
PACKED_ROWS, PACKED_ROW_BYTES = "fp8_ds_mla", 656
#: what the names of the tensors have in common that hold a head's sink
_SINK = "sink"
#: `Beside.what` of what is no attention
STATES = "recurrent states"

#: caches that an op reads
Readable = (
    FullAttention
    | SlidingAttention
    | ChunkedAttention
    | IndexedAttention
    | LatentAttention
    | SparseLatentAttention
    | CrossAttention
)


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One kind of layer as an op sees it, on one tensor-parallel rank.

    `op` is `paged_decode` or `mla_decode`; for the latter `head_dim` is the whole row (latent and rotary part) and `v_head_dim`
    the latent. `kind`: full, window, chunk, picked, latent or cross. `count` layers have such a cache, and `readers` read one:
    those, and layers that share one. `tokens` are those a step reads of a sequence: all that the layer keeps, or as many as an
    indexer picks, in blocks of `block` tokens (0: no indexer). `pages` are what the kept ones occupy; `cache_bytes` are the pages
    of all sequences in one layer. `sinks`: one more logit for each query head. `rows`: the format of rows that carry their scales,
    "" for plain ones.
    """

    op: str
    kind: str
    count: int
    readers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None
    tokens: int
    block: int
    pages: int
    cache_bytes: int
    sinks: bool = False
    rows: str = ""


@dataclass(frozen=True, slots=True)
class Beside:
    """What no op here reads: index keys, compressed rows, recurrent states (read and written back).

    `bytes` are those a step moves on one rank, for all sequences and layers; None where the length is not known.
    """

    what: str
    layers: int
    bytes: int | None


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """The attention of one decode step: `num_seqs` sequences of `context` tokens, layer kind by layer kind."""

    kv_dtype: str
    context: int
    num_seqs: int
    page_size: int
    shapes: tuple[AttentionShape, ...]
    beside: tuple[Beside, ...]

    @property
    def cache_bytes(self) -> int:
        """Bytes of all caches that the ops read from, on one rank."""
        return sum(shape.count * shape.cache_bytes for shape in self.shapes)


def bench_plan(arch: Architecture, serving: Serving) -> BenchPlan:
    """The plan for `serving` (its context, sequences, KV dtype, page size, source tokens and `tp`).

    KV heads are replicated where there are more ranks than heads; a latent row is whole on every rank. Latent rows of which an
    indexer picks lie as the engines' kernel for Hopper reads them: in pages of 64, and in fp8 each with its scales.

    Raises:
        UnsupportedError: heads that `tp` does not divide, or a model without an attention cache.
    """
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, serving.declared_kv_dtype)
    picked = any(isinstance(cache, SparseLatentAttention) for cache, _, _ in _attended(arch))
    page = serving.page_size or (PICKED_PAGE_SIZE if picked else PAGE_SIZE)
    counts: dict[tuple[Readable, bool], list[int]] = {}  # → layers with such a cache, layers that read one
    beside: dict[str, tuple[int, Fraction | None]] = {}
    for cache, sinks, own in _attended(arch):
        for what, size in _beside(cache, fmt, arch.dtype, serving):
            layers, total = beside.get(what, (0, Fraction(0)))
            beside[what] = (layers + 1, None if size is None or total is None else total + size)
        if isinstance(cache, Readable) and _tokens(cache, serving):
            found = counts.setdefault((_read(cache), sinks), [0, 0])
            found[0] += own
            found[1] += 1
    if not counts and not set(beside) - {STATES}:
        raise UnsupportedError(f"{arch.model_type} has no attention cache for a decode kernel to read")
    shapes = tuple(
        _shape(cache, sinks, found[0], found[1], fmt, page, serving) for (cache, sinks), found in counts.items()
    )
    told = tuple(
        Beside(what, layers, None if size is None else -(-serving.num_seqs * size.numerator // size.denominator))
        for what, (layers, size) in beside.items()
    )
    return BenchPlan(fmt, serving.context, serving.num_seqs, page, shapes, told)


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
    """Bytes of cache that the ops read in one step on one rank: the visible tokens of every sequence, once for every layer."""
    return sum(
        shape.readers * (shape.cache_bytes // (shape.pages * plan.page_size) * shape.tokens) for shape in plan.shapes
    )


def beside_bytes(plan: BenchPlan, *, states: bool) -> int:
    """Bytes that a step moves beside the ops: of attention, or of recurrent states. What is not known counts as none."""
    return sum(each.bytes or 0 for each in plan.beside if (each.what == STATES) == states)


def _attended(arch: Architecture) -> Iterator[tuple[Cache, bool, bool]]:
    """What each layer of plain decoding looks at, whether its heads have sinks, and whether the cache is its own."""
    with_sinks = sink_layers(arch)
    for index, layer in enumerate(arch.layers):
        if layer.stack == "mtp":
            continue
        for cache in layer.caches:
            if isinstance(cache, SharedCache):
                shared = (_shared(each) for each in arch.layers[cache.source_layer].caches)
                yield from ((each, index in with_sinks, False) for each in shared if each is not None)
            elif not isinstance(cache, NoCache):
                yield cache, index in with_sinks, True


def _shared(cache: Cache) -> Cache | None:
    """What a layer reads of a cache that it shares: not its states, and of compressed attention the rows, not the window."""
    match cache:
        case CompressedAttention():
            return replace(cache, window=0, index_head_dim=None)
        case SparseLatentAttention():
            return replace(cache, has_indexer=False)
        case (
            FullAttention()
            | SlidingAttention()
            | ChunkedAttention()
            | IndexedAttention()
            | LatentAttention()
            | CrossAttention()
        ):
            return cache
        case _:
            assert_type(cache, NoTokens)
            return None


def _beside(kind: Cache, fmt: str, dtype: str, serving: Serving) -> Iterator[tuple[str, Fraction | None]]:
    """What one sequence's step moves in a layer that looks at `kind`, and no op reads. Rows and keys are whole on every rank."""
    context = serving.context
    match kind:
        case CrossAttention():
            if not _tokens(kind, serving):
                yield "cross attention of unknown length", None
        case IndexedAttention() | SparseLatentAttention():
            if isinstance(kind, IndexedAttention) and kind.index_topk is None:
                yield "rows that an indexer picks, nobody says how many", None
            if isinstance(kind, IndexedAttention) or kind.has_indexer:
                yield "index keys", Fraction(context * vector_bytes(fmt, kind.index_head_dim))
        case CompressedAttention(ratio=ratio, window=window):
            rows = context // ratio if ratio else 0
            if ratio and kind.index_head_dim:
                yield "index keys", Fraction(rows * vector_bytes(fmt, kind.index_head_dim))
            picked = rows if kind.index_topk is None else min(rows, kind.index_topk)
            yield "compressed attention", Fraction((min(context, window) + picked) * token_bytes(kind, fmt))
        case FullAttention() | SlidingAttention() | ChunkedAttention() | LatentAttention() | SharedCache() | NoCache():
            return
        case _:
            assert_type(kind, RecurrentCache)
            yield STATES, Fraction(2 * constant_bytes(kind, fmt, dtype), serving.tp)


def _tokens(kind: Readable, serving: Serving) -> int:
    """Tokens of a sequence that a step reads; 0 where nobody says how many."""
    match kind:
        case CrossAttention():
            return source_tokens(kind, serving.source_tokens)
        case SparseLatentAttention():
            return min(serving.context, kind.index_topk)
        case IndexedAttention():
            return min(serving.context, kind.index_topk or 0)
        case _:
            return held_tokens(kind, serving.context)


def _read(kind: Readable) -> Readable:
    """Layers that reuse another layer's choice of tokens read as those that make it."""
    return replace(kind, has_indexer=True) if isinstance(kind, SparseLatentAttention) else kind


def _kind(cache: Readable) -> tuple[str, int | None, int]:
    """A cache's `kind`, `window` and `block`."""
    match cache:
        case FullAttention():
            return "full", None, 0
        case SlidingAttention(window=window):
            return "window", window, 0
        case ChunkedAttention():
            return "chunk", None, 0
        case IndexedAttention(index_block=block):
            return "picked", None, block
        case LatentAttention():
            return "latent", None, 0
        case SparseLatentAttention():
            return "latent", None, 1
        case CrossAttention():
            return "cross", None, 0
        case _:
            assert_never(cache)


def _shape(
    cache: Readable, sinks: bool, count: int, readers: int, fmt: str, page: int, serving: Serving
) -> AttentionShape:
    if cache.num_heads % serving.tp:
        raise UnsupportedError(f"{cache.num_heads} attention heads do not divide by {serving.tp} ranks")
    if not isinstance(cache, LatentAttention | SparseLatentAttention):
        more, fewer = max(cache.num_kv_heads, serving.tp), min(cache.num_kv_heads, serving.tp)
        if more % fewer:
            raise UnsupportedError(
                f"{cache.num_kv_heads} KV heads do not divide by {serving.tp} ranks, nor the ranks by them"
            )
    heads, tokens = cache.num_heads // serving.tp, _tokens(cache, serving)
    kind, window, block = _kind(cache)
    kept = tokens if isinstance(cache, CrossAttention) else held_tokens(cache, serving.context)
    pages = -(-kept // page)
    rows = ""
    if isinstance(cache, LatentAttention | SparseLatentAttention):
        op, kv_heads, dim, v_dim = "mla_decode", 1, cache.kv_lora_rank + cache.qk_rope_head_dim, cache.kv_lora_rank
        # an indexer's keys are another kernel's
        row = vector_bytes(fmt, cache.kv_lora_rank) + vector_bytes(fmt, cache.qk_rope_head_dim)
        if isinstance(cache, SparseLatentAttention) and fmt == "fp8" and (dim, v_dim) == (576, 512):
            rows, row = PACKED_ROWS, PACKED_ROW_BYTES
    else:
        op, kv_heads, dim = "paged_decode", max(1, cache.num_kv_heads // serving.tp), cache.head_dim
        v_dim = cache.head_dim if isinstance(cache, CrossAttention) else cache.v_head_dim
        row = kv_heads * (vector_bytes(fmt, dim) + vector_bytes(fmt, v_dim))
    size = serving.num_seqs * pages * page * row
    return AttentionShape(
        op, kind, count, readers, heads, kv_heads, dim, v_dim, window, tokens, block, pages, size, sinks, rows
    )
