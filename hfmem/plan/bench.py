"""What one decode step's attention works on: a model's layers as the shapes and caches that a paged decode kernel is given.

`hfmem bench` allocates and runs by this plan; it says the same without a device. No torch here: integers only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import assert_type

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import constant_bytes, source_tokens
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
from hfmem.plan.bench_shapes import AttentionShape, Readable, compressed_rows, index_shape, row_page, shapes_of
from hfmem.records import dataclass, replace

#: tokens of a page where neither the caller nor the engine says otherwise
PAGE_SIZE = 16
#: the same of latent rows of which an indexer picks: FlashMLA's pages, vLLM's on Hopper
PICKED_PAGE_SIZE = 64
#: the same of compressed attention, vLLM's blocks: a page of rows stands for so many tokens, those of the window are smaller
COMPRESSED_PAGE_SIZE = 256
#: what the names of the tensors have in common that hold a head's sink
_SINK = "sink"
#: the tensor of an indexer that has a row for each of its heads
_INDEX_HEADS = "indexer.weights_proj.weight"
#: `Beside.what` of what is no attention
STATES = "recurrent states"


@dataclass(frozen=True, slots=True)
class Beside:
    """What no op here reads: keys of an indexer of blocks, or whose heads nobody tells; recurrent states (read and written back).

    `bytes` are those a step moves on one rank, for all sequences and layers; None where the length is not known.
    """

    what: str
    layers: int
    bytes: int | None


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """The attention of one decode step: `num_seqs` sequences of `context` tokens, kind of cache by kind of cache."""

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

    @property
    def layers(self) -> int:
        """Layers whose attention the ops run: merged rows and index keys are parts of such."""
        return sum(shape.readers for shape in self.shapes if shape.op != "index_logits" and not shape.merged)


def bench_plan(arch: Architecture, serving: Serving) -> BenchPlan:
    """The plan for `serving` (its context, sequences, KV dtype, page size, source tokens and `tp`).

    KV heads are replicated where there are more ranks than heads; a latent row is whole on every rank. Latent rows of which an
    indexer picks, and compressed ones, lie as the engines' kernel for Hopper reads them, in fp8 each with its scales.

    Raises:
        UnsupportedError: heads that `tp` does not divide, or a model without an attention cache.
    """
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, serving.declared_kv_dtype)
    attended = list(_attended(arch))
    page = serving.page_size or _page_size([cache for cache, _, _ in attended])
    heads, sinks = index_heads(arch), sink_layers(arch)
    counts: dict[AttentionShape, list[int]] = {}  # → layers with such a cache, layers that read one
    beside: dict[str, tuple[int, Fraction | None]] = {}
    for cache, layer, own in attended:
        for shape in _shapes(cache, layer in sinks, heads.get(layer), fmt, page, serving):
            found = counts.setdefault(shape, [0, 0])
            found[0] += own
            found[1] += 1
        for what, size in _beside(cache, layer in heads, fmt, arch.dtype, serving):
            layers, total = beside.get(what, (0, Fraction(0)))
            beside[what] = (layers + 1, None if size is None or total is None else total + size)
    if not counts and not set(beside) - {STATES}:
        raise UnsupportedError(f"{arch.model_type} has no attention cache for a decode kernel to read")
    shapes = tuple(replace(shape, count=own, readers=readers) for shape, (own, readers) in counts.items())
    told = tuple(
        Beside(what, layers, None if size is None else -(-serving.num_seqs * size.numerator // size.denominator))
        for what, (layers, size) in beside.items()
    )
    return BenchPlan(fmt, serving.context, serving.num_seqs, page, shapes, told)


def _page_size(caches: list[Cache]) -> int:
    if any(isinstance(cache, CompressedAttention) for cache in caches):
        return COMPRESSED_PAGE_SIZE
    return PICKED_PAGE_SIZE if any(isinstance(cache, SparseLatentAttention) for cache in caches) else PAGE_SIZE


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


def index_heads(arch: Architecture) -> Mapping[int, int]:
    """Layers of the main stack with an indexer → the heads of its queries: the rows of the projection that weighs them."""
    return {
        layer: spec.shape[0]
        for spec in arch.tensors
        if spec.component is Component.ATTENTION and spec.layer_axis is not None and spec.pattern.endswith(_INDEX_HEADS)
        for box in spec.boxes
        for layer in box[spec.layer_axis]
    }


def read_bytes(plan: BenchPlan) -> int:
    """Bytes of cache that the ops read in one step on one rank: the visible tokens of every sequence, once for every layer."""
    return plan.num_seqs * sum(shape.readers * shape.token_bytes * shape.tokens for shape in plan.shapes)


def beside_bytes(plan: BenchPlan, *, states: bool) -> int:
    """Bytes that a step moves beside the ops: of attention, or of recurrent states. What is not known counts as none."""
    return sum(each.bytes or 0 for each in plan.beside if (each.what == STATES) == states)


def _attended(arch: Architecture) -> Iterator[tuple[Cache, int, bool]]:
    """What each layer of plain decoding looks at, the layer's number, and whether the cache is its own."""
    for index, layer in enumerate(arch.layers):
        if layer.stack == "mtp":
            continue
        for cache in layer.caches:
            if isinstance(cache, SharedCache):
                shared = (_shared(each) for each in arch.layers[cache.source_layer].caches)
                yield from ((each, index, False) for each in shared if each is not None)
            elif not isinstance(cache, NoCache):
                yield cache, index, True


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


def _shapes(
    cache: Cache, sinks: bool, heads: int | None, fmt: str, page: int, serving: Serving
) -> Iterator[AttentionShape]:
    """What ops read in a layer that looks at `cache`; `heads`: of its indexer, if it has one."""
    count, dim, size = _keys(cache, serving.context, page)
    if heads and count:
        yield index_shape(heads, dim, count, fmt, size, isinstance(cache, CompressedAttention), serving)
    if isinstance(cache, Readable):
        yield from shapes_of(cache, sinks, fmt, page, serving)


def _keys(cache: Cache, context: int, page: int) -> tuple[int, int, int]:
    """Index keys of a sequence that a query is compared with one by one (0: none), the elements of each, how many are a page."""
    match cache:
        case SparseLatentAttention(has_indexer=True, index_head_dim=dim):
            return context, dim, page
        case CompressedAttention(index_head_dim=int(dim), ratio=ratio) if ratio:
            return compressed_rows(cache, context), dim, row_page(page, ratio)
        case _:
            return 0, 0, page


def _beside(
    kind: Cache, heads_known: bool, fmt: str, dtype: str, serving: Serving
) -> Iterator[tuple[str, Fraction | None]]:
    """What one sequence's step moves in a layer that looks at `kind`, and no op reads. Keys are whole on every rank."""
    context = serving.context
    match kind:
        case CrossAttention():
            if not source_tokens(kind, serving.source_tokens):
                yield "cross attention of unknown length", None
        case IndexedAttention():
            if kind.index_topk is None:
                yield "rows that an indexer picks, nobody says how many", None
            yield "index keys", Fraction(context * vector_bytes(fmt, kind.index_head_dim))
        case SparseLatentAttention() | CompressedAttention():
            count, dim, _ = _keys(kind, context, 1)
            if count and not heads_known:
                yield "index keys", Fraction(count * vector_bytes(fmt, dim))
        case FullAttention() | SlidingAttention() | ChunkedAttention() | LatentAttention() | SharedCache() | NoCache():
            return
        case _:
            assert_type(kind, RecurrentCache)
            yield STATES, Fraction(2 * constant_bytes(kind, fmt, dtype), serving.tp)
