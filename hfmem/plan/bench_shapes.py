"""What an op of a decode step reads: the caches of one layer as shapes, pages and bytes. No torch here: integers only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, assert_never

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import held_tokens, source_tokens
from hfmem.memory.formats import vector_bytes
from hfmem.memory.serving import Serving
from hfmem.model.layers import (
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass

#: caches of tokens, each read by one op
Plain = (
    FullAttention
    | SlidingAttention
    | ChunkedAttention
    | IndexedAttention
    | LatentAttention
    | SparseLatentAttention
    | CrossAttention
)
#: caches that ops read
Readable = Plain | CompressedAttention

#: `AttentionShape.rows` of rows that carry their scales → bytes of one, and what a page of them is a multiple of: latents of 512 +
#: 64 columns (DeepSeek V3.2), rows of 512 (V4); as `memory/engines/vllm/layers.py` and `compressed.py` say
V4_ROWS: Final = "fp8_ds_mla_v4"
PACKED_ROWS: Final[dict[str, tuple[int, int]]] = {"fp8_ds_mla": (656, 1), V4_ROWS: (584, 576)}
#: index keys in e4m3, an fp32 scale for each 128 elements, behind all keys of a page
INDEX_ROWS: Final = "fp8_index"
_INDEX_GROUP, _SCALE_BYTES = 128, 4
#: tokens of a page of DeepSeek V4's window (vLLM)
_WINDOW_PAGE: Final = 64


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One kind of cache as an op sees it, on one tensor-parallel rank.

    `op` is `paged_decode`, `mla_decode` or `index_logits`; for latents `head_dim` is the whole row (latent and rotary part) and
    `v_head_dim` the latent; index keys have no values. `kind`: full, window, chunk, picked, latent, cross; of compressed attention
    window rows and "1 of N" (one row for N tokens); index keys. `count` layers have such a cache, and `readers` read one: those,
    and layers that share one. `tokens` (rows, where they are compressed) are those that a step reads of a sequence: all that the
    layer keeps, or as many as an indexer picks. `block`: they are read by lists, of blocks of so many tokens; 0: in order. `pages`
    of `page_size` tokens are what a sequence's kept ones occupy, `token_bytes` what one takes in all heads; `cache_bytes` are the
    pages of all sequences in one layer. `sinks`: one more logit for each query head. `rows`: the format of rows that carry their
    scales, "" for plain ones. `merged`: under one softmax with the window rows of the layer that reads them.
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
    page_size: int
    pages: int
    token_bytes: int
    cache_bytes: int
    sinks: bool = False
    rows: str = ""
    merged: bool = False


def shapes_of(cache: Readable, sinks: bool, fmt: str, page: int, serving: Serving) -> Iterator[AttentionShape]:
    """What the attention of a layer with this cache reads, counted as one layer's own. Nothing where nobody says how much.

    Raises:
        UnsupportedError: heads that the ranks do not divide.
    """
    if isinstance(cache, CompressedAttention):
        yield from _compressed(cache, sinks, fmt, page, serving)
    elif _tokens(cache, serving):
        yield _shape(cache, sinks, fmt, page, serving)


def index_shape(
    heads: int, dim: int, rows: int, fmt: str, page: int, compressed: bool, serving: Serving
) -> AttentionShape:
    """An indexer's keys, all `rows` of a sequence, against `heads` queries; whole on every rank.

    In the cache's dtype of 16 bits, else as engines keep them: in e4m3 with an fp32 scale, whatever format the cache has, and pages
    of whole 16 bytes. Beside `compressed` rows that carry their scales their pages are multiples of the same bytes.
    """
    packed = fmt not in ("bf16", "fp16")
    size = dim + -(-dim // _INDEX_GROUP) * _SCALE_BYTES if packed else vector_bytes(fmt, dim)
    unit = 1 if not packed else PACKED_ROWS[V4_ROWS][1] if compressed and fmt == "fp8" else 16
    pages, total = _pages(rows, page, size, unit, serving.num_seqs)
    return AttentionShape(
        "index_logits", "index keys", 1, 1, heads, 1, dim, 0, None, rows, 0, page, pages, size, total,
        rows=INDEX_ROWS if packed else "",
    )  # fmt: skip


def compressed_rows(cache: CompressedAttention, context: int) -> int:
    """Rows that stand for `ratio` tokens each."""
    return context // cache.ratio if cache.ratio else 0


def row_page(page: int, ratio: int) -> int:
    """Rows of a page that stands for `page` tokens."""
    return max(1, page // ratio)


def _tokens(cache: Plain, serving: Serving) -> int:
    """Tokens of a sequence that a step reads; 0 where nobody says how many."""
    match cache:
        case CrossAttention():
            return source_tokens(cache, serving.source_tokens)
        case SparseLatentAttention():
            return min(serving.context, cache.index_topk)
        case IndexedAttention():
            return min(serving.context, cache.index_topk or 0)
        case _:
            return held_tokens(cache, serving.context)


def _kind(cache: Plain) -> tuple[str, int | None, int]:
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


def _heads(cache: Readable, tp: int) -> int:
    if cache.num_heads % tp:
        raise UnsupportedError(f"{cache.num_heads} attention heads do not divide by {tp} ranks")
    return cache.num_heads // tp


def _pages(kept: int, page: int, row: int, unit: int, num_seqs: int) -> tuple[int, int]:
    """Pages of a sequence, and the bytes of all sequences'; a page takes whole `unit` bytes."""
    pages = -(-kept // page)
    return pages, num_seqs * pages * (-(-page * row // unit) * unit)


def _compressed(
    cache: CompressedAttention, sinks: bool, fmt: str, page: int, serving: Serving
) -> Iterator[AttentionShape]:
    """The last tokens' rows, and those that stand for several tokens each; both are read by lists, and values are whole rows."""
    heads, dim = _heads(cache, serving.tp), cache.head_dim
    name = V4_ROWS if fmt == "fp8" and dim == 512 else ""
    row, unit = PACKED_ROWS[name] if name else (vector_bytes(fmt, dim), 1)
    if window := min(serving.context, cache.window):
        size = min(page, _WINDOW_PAGE)
        pages, total = _pages(window, size, row, unit, serving.num_seqs)
        yield AttentionShape(
            "mla_decode", "window rows", 1, 1, heads, 1, dim, dim, None, window, 1, size, pages, row, total, sinks, name
        )
    if kept := compressed_rows(cache, serving.context):
        size, read = row_page(page, cache.ratio), min(kept, cache.index_topk or kept)
        pages, total = _pages(kept, size, row, unit, serving.num_seqs)
        yield AttentionShape(
            "mla_decode", f"1 of {cache.ratio}", 1, 1, heads, 1, dim, dim, None, read, 1, size, pages, row, total, False, name,
            merged=True,
        )  # fmt: skip


def _shape(cache: Plain, sinks: bool, fmt: str, page: int, serving: Serving) -> AttentionShape:
    heads, rows, unit = _heads(cache, serving.tp), "", 1
    if isinstance(cache, LatentAttention | SparseLatentAttention):
        op, kv_heads, dim, v_dim = "mla_decode", 1, cache.kv_lora_rank + cache.qk_rope_head_dim, cache.kv_lora_rank
        # an indexer's keys are another op's
        row = vector_bytes(fmt, cache.kv_lora_rank) + vector_bytes(fmt, cache.qk_rope_head_dim)
        if isinstance(cache, SparseLatentAttention) and fmt == "fp8" and (dim, v_dim) == (576, 512):
            rows = "fp8_ds_mla"
            row, unit = PACKED_ROWS[rows]
    else:
        more, fewer = max(cache.num_kv_heads, serving.tp), min(cache.num_kv_heads, serving.tp)
        if more % fewer:
            raise UnsupportedError(
                f"{cache.num_kv_heads} KV heads do not divide by {serving.tp} ranks, nor the ranks by them"
            )
        op, kv_heads, dim = "paged_decode", max(1, cache.num_kv_heads // serving.tp), cache.head_dim
        v_dim = cache.head_dim if isinstance(cache, CrossAttention) else cache.v_head_dim
        row = kv_heads * (vector_bytes(fmt, dim) + vector_bytes(fmt, v_dim))
    tokens, (kind, window, block) = _tokens(cache, serving), _kind(cache)
    kept = tokens if isinstance(cache, CrossAttention) else held_tokens(cache, serving.context)
    pages, size = _pages(kept, page, row, unit, serving.num_seqs)
    return AttentionShape(
        op, kind, 1, 1, heads, kv_heads, dim, v_dim, window, tokens, block, page, pages, row, size, sinks, rows
    )
