"""A row's tensors on a device: one query batch and page table, and enough copies of the cache to go past L2.

The copies stand for the layers of a model: they share the page table and the lengths, as the layers of a step do, and each call
of a replay reads another one. Pages are shuffled. Values are random, never zeros: data decide power and, in caches, correctness.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from hfmem_kernels import _reference, _reference_rows, layout
from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.layout import LatentFormat

#: elements that are drawn at once, so that the fp32 numbers on the way take 256 MiB
CHUNK = 1 << 26
#: the standard normal numbers of a quantized cache stay below this
LARGEST = 8.0
#: a rotation is cold when what lies between two uses of a copy is at least this many times L2
COLD = 2
#: the most calls of one replay
MOST_SETS = 512


@dataclass(frozen=True, slots=True)
class CacheSet:
    """One layer's cache: views [pages, page_size, kv_heads, dim], or `latent` rows; scales as the ops take them."""

    k: torch.Tensor
    v: torch.Tensor
    k_scale: torch.Tensor | float | None = None
    v_scale: torch.Tensor | float | None = None
    latent: torch.Tensor | None = None


@dataclass(frozen=True)
class Inputs:
    """The tensors of a row. queries: [batch, q_len, heads, dim], one for each set."""

    row: Row
    sets: tuple[CacheSet, ...]
    queries: tuple[torch.Tensor, ...]
    page_table: torch.Tensor
    seq_lens: torch.Tensor
    sinks: torch.Tensor | None

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return self.page_table.device

    @property
    def batch(self) -> int:
        """Sequences."""
        return len(self.row.mix.lengths)

    @cached_property
    def dense(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """K and V of each set as [batch, kv_heads, visible tokens, dim], for peers that know no pages. Equal lengths only."""
        row = self.row
        (length,) = set(row.mix.lengths)
        window = row.shape.window
        start = max(0, length - row.q_len + 1 - window) if window else 0

        def gathered(cache: torch.Tensor) -> torch.Tensor:
            rows = [_reference.gather(cache, pages, start, length) for pages in self.page_table]
            return torch.stack(rows).transpose(1, 2).contiguous()

        return tuple((gathered(each.k), gathered(each.v)) for each in self.sets)


def num_sets(cache_bytes: int, l2_bytes: int, limit_bytes: int) -> int:
    """Copies of a cache for a cold rotation within `limit_bytes`; 0 if they do not fit.

    One is enough where the cache itself is 32 times L2: what is left of it in L2 is then under three percent.
    """
    wanted = min(MOST_SETS, 1 + -(-COLD * l2_bytes // max(cache_bytes, 1)))
    if wanted * cache_bytes <= limit_bytes:
        return wanted
    return 1 if cache_bytes <= limit_bytes and cache_bytes >= 32 * l2_bytes else 0


def build(
    row: Row,
    device: torch.device | str,
    sets: int = 1,
    empty: Sequence[CacheSet] = (),
    most_pages: int | None = None,
) -> Inputs:
    """Random inputs, the same for the same row.

    empty: caches that `allocate` made, instead of `sets` new ones. most_pages: share fewer pages among the sequences; a kernel is
    compiled for them as for the row's own, and everything else is the same.
    """
    where = torch.device(device)
    generator = torch.Generator(where).manual_seed(zlib.crc32(row.name.encode()))
    shape, total = row.shape, max(1, row.pages)
    table = _listed_slots(row, generator) if row.listed else _page_ids(row, generator)
    if most_pages is not None and most_pages < total:
        table %= most_pages * (row.page_size if row.listed else 1)
    dtype = getattr(torch, row.query_dtype)

    def query() -> torch.Tensor:
        size = (len(row.mix.lengths), row.q_len, shape.num_heads, shape.head_dim)
        return torch.randn(*size, generator=generator, device=where).to(dtype)

    sinks = torch.randn(shape.num_heads, generator=generator, device=where) if shape.sinks else None
    caches = empty or [allocate(row, where, most_pages) for _ in range(sets)]
    return Inputs(
        row=row,
        sets=tuple(fill(row, each, generator) for each in caches),
        queries=tuple(query() for _ in caches),
        page_table=table,
        seq_lens=torch.tensor(row.mix.lengths, dtype=torch.int32, device=where),
        sinks=sinks,
    )


def _page_ids(row: Row, generator: torch.Generator) -> torch.Tensor:
    """A page table [batch, most pages] in which the pages are shuffled."""
    device = generator.device
    order = torch.randperm(max(1, row.pages), generator=generator, device=device).to(torch.int32)
    width = max(1, *(layout.num_pages(length, row.page_size) for length in row.mix.lengths), 1)
    table = torch.zeros(len(row.mix.lengths), width, dtype=torch.int32, device=device)
    start = 0
    for index, length in enumerate(row.mix.lengths):
        first, count = row.first_page(length), row.pages_of(length)
        table[index, first : first + count] = order[start : start + count]
        start += count
    return table


def _listed_slots(row: Row, generator: torch.Generator) -> torch.Tensor:
    """Lists [batch, longest] of slots, each sequence's picked anywhere among the tokens that are kept of it, in shuffled pages."""
    device, size = generator.device, row.page_size
    order = torch.randperm(row.pages, generator=generator, device=device).view(len(row.mix.lengths), -1)
    table = torch.zeros(len(row.mix.lengths), max(1, *row.mix.lengths, 1), dtype=torch.int32, device=device)
    for index, length in enumerate(row.mix.lengths):
        picked = torch.randperm(row.kept, generator=generator, device=device)[:length]
        table[index, :length] = (order[index, picked // size] * size + picked % size).to(torch.int32)
    return table


def allocate(row: Row, device: torch.device | str, most_pages: int | None = None) -> CacheSet:
    """One layer's cache, empty: exactly the row's `cache_bytes`, and at least one page; or `most_pages` of it."""
    pages, s = max(1, min(row.pages, most_pages or row.pages)), row.shape
    if s.latent:
        rows = layout.allocate_latent(
            pages, row.page_size, *row.latent_columns, row.dtype, row.latent_format, torch.device(device)
        )
        if row.latent_format is not LatentFormat.PLAIN:
            return CacheSet(rows, rows, latent=rows)
        wide = rows[:, :, None, :]
        return CacheSet(wide, wide[..., : s.v_head_dim], latent=rows)
    cache = layout.allocate(row.spec, pages, device)
    return CacheSet(cache.k, cache.v, cache.k_scale, cache.v_scale)


def stored_bytes(each: CacheSet) -> int:
    """Bytes of the tensors that hold a cache, each once."""
    tensors = [t for t in (each.k, each.v, each.k_scale, each.v_scale, each.latent) if isinstance(t, torch.Tensor)]
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _top(dtype: torch.dtype) -> float:
    return 127.0 if dtype == torch.int8 else float(torch.finfo(dtype).max)


def _fill(cache: torch.Tensor, scale: torch.Tensor | float | None, generator: torch.Generator) -> None:
    """Normal numbers over `scale`, a chunk of pages at a time. cache [pages, …], scale a number or of cache's shape less dim."""
    step = max(1, CHUNK // max(1, cache[0].numel()))
    for start in range(0, cache.shape[0], step):
        part = cache[start : start + step]
        values = torch.randn(part.shape, generator=generator, device=cache.device)
        if isinstance(scale, torch.Tensor):
            values /= scale[start : start + step, ..., None] if scale.dim() == 3 else scale[:, None]
        elif scale is not None:
            values /= scale
        if cache.dtype == torch.int8:
            values = values.round_().clamp_(-127, 127)
        part.copy_(values.to(cache.dtype))


def fill(row: Row, each: CacheSet, generator: torch.Generator) -> CacheSet:
    """Random values in an allocated cache, and the scales they are to be multiplied by."""
    if row.latent_format is not LatentFormat.PLAIN:
        assert each.latent is not None
        _fill_packed(row, each.latent, generator)
        return each
    if each.latent is not None:
        scale = LARGEST / _top(each.latent.dtype) if row.scales == "tensor" else None
        _fill(each.latent, scale, generator)
        return replace(each, k_scale=scale, v_scale=scale)
    scales: list[torch.Tensor | float | None] = []
    for values, inline in ((each.k, each.k_scale), (each.v, each.v_scale)):
        made: torch.Tensor | float | None = None
        if row.scales == "tensor":
            made = LARGEST / _top(values.dtype)
        elif row.scales == "head":
            heads = torch.arange(1, values.shape[2] + 1, device=values.device, dtype=torch.float32)
            made = LARGEST / _top(values.dtype) * (1 + heads / values.shape[2])
        elif isinstance(inline, torch.Tensor):
            random = torch.rand(inline.shape, generator=generator, device=values.device)
            inline.copy_((1 + random) * (LARGEST / _top(values.dtype)))
            made = inline
        _fill(values, made, generator)
        scales.append(made)
    return replace(each, k_scale=scales[0], v_scale=scales[1])


def _fill_packed(row: Row, cache: torch.Tensor, generator: torch.Generator) -> None:
    """Rows that carry their scales: normal numbers, packed as the writer packs them."""
    rank, rope = row.latent_columns
    pages = max(1, CHUNK // (row.page_size * (rank + rope)))
    for start in range(0, cache.shape[0], pages):
        part = cache[start : start + pages]
        tokens = part.shape[0] * row.page_size
        latent = torch.randn(tokens, rank, generator=generator, device=cache.device)
        turned = torch.randn(tokens, rope, generator=generator, device=cache.device)
        slots = torch.arange(tokens, device=cache.device)
        _reference_rows.store_rows(part, slots, _reference_rows.pack(latent, turned, row.latent_format))
