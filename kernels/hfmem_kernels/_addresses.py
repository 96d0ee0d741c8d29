"""How the kernel addresses a cache: element formats, strides in units that keep it aligned, scales, pages."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hfmem_kernels.layout import SPLIT_ROW_BYTES, SPLIT_SCALE_BYTES

#: how a cache element is decoded; the numbers are those of `_kernels_common`
PLAIN, E4M3, E5M2, INT8 = range(4)
_FORMATS = {torch.float8_e4m3fn: E4M3, torch.float8_e5m2: E5M2, torch.int8: INT8}


def cache_format(cache: torch.Tensor) -> int:
    """The element format of a cache tensor."""
    return _FORMATS.get(cache.dtype, PLAIN)


def _byte_view(cache: torch.Tensor) -> torch.Tensor:
    return cache.view(torch.uint8) if cache_format(cache) != PLAIN else cache


def pairs_possible(*caches: torch.Tensor) -> bool:
    """Whether 8-bit caches can be read as uint16: adjacent columns, and every row at an even address."""
    return all(
        c.stride(-1) == 1
        and c.shape[-1] % 2 == 0
        and c.data_ptr() % 2 == 0
        and all(s % 2 == 0 for s in c.stride()[:-1])
        for c in caches
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """A cache as the kernel addresses it: `base` 16-byte aligned where possible, strides and offset in units of elements."""

    base: torch.Tensor
    page: int
    token: int
    head: int
    dim: int
    offset: int
    unit: int


def rows_of(cache: torch.Tensor, pairs: bool) -> Rows:
    """Strides of [page, token, head, dim] for the kernel; `pairs`: in uint16.

    Rows that begin inside others (V behind K, or behind a scale) are addressed from the last 16-byte boundary before them: the
    compiler knows the alignment of a pointer only if it is 16.
    """
    view = _byte_view(cache)
    page, token, head, dim = view.stride()
    if pairs:
        view = view.view(torch.uint16)
        page, token, head = page // 2, token // 2, head // 2
    size = view.element_size()
    beyond = view.data_ptr() % 16 // size
    if beyond > view.storage_offset() or view.device.type == "meta":
        beyond = 0
    unit = 16 // size
    while unit > 1 and any(x % unit for x in (page, token, head, beyond)):
        unit //= 2
    base = view.as_strided((1,), (1,), view.storage_offset() - beyond) if beyond else view
    return Rows(base, page // unit, token // unit, head // unit, dim, beyond // unit, unit)


def data_rows(cache: torch.Tensor) -> torch.Tensor:
    """uint8 rows [pages, page, 1, bytes] as they lie: of 584 bytes 576 of each token, and behind those of a page its scales."""
    if cache.shape[-1] != SPLIT_ROW_BYTES:
        return cache
    row = SPLIT_ROW_BYTES - SPLIT_SCALE_BYTES
    return cache.as_strided((*cache.shape[:3], row), (cache.stride(0), row, row, 1), cache.storage_offset())


def extent(cache: torch.Tensor, rows: Rows) -> int:
    """Units from the first row of a cache to past its last; below 2^31 the kernel's row offsets fit 32 bits."""
    pages, tokens, heads, _ = cache.shape
    return (pages - 1) * rows.page + (tokens - 1) * rows.token + (heads - 1) * rows.head + rows.offset + 1


def pages_a_tile(page_size: int, block_n: int, window: int) -> int:
    """How many pages a tile may touch: 1, 2, or 0 for more. Without a window the first tile begins where the first page does."""
    if page_size < block_n:
        return 0
    return 1 if page_size % block_n == 0 and not window else 2


def scale_mode(k_scale: torch.Tensor | None) -> int:
    """0: none, 1: one a tensor or a head, 2: one a token and head."""
    if k_scale is None:
        return 0
    return 2 if k_scale.dim() == 3 else 1


def scale_strides(scale: torch.Tensor | None) -> list[int]:
    """Strides [page, token, head] of scales, zero where they do not vary."""
    if scale is None:
        return [0, 0, 0]
    if scale.dim() == 3:
        return list(scale.stride())
    return [0, 0, 0 if scale.numel() == 1 else scale.stride(0)]


def scale_extent(scale: torch.Tensor | None) -> int:
    """Elements from the first scale of tokens to past the last; below 2^31 their offsets fit 32 bits. 1 for other scales."""
    if scale is None or scale.dim() != 3:
        return 1
    return sum((n - 1) * stride for n, stride in zip(scale.shape, scale.stride(), strict=True)) + 1
