"""Caches whose pages lie far apart, in sparse files: memory only where the pages are."""

from __future__ import annotations

import mmap
from pathlib import Path

import torch


def spread(cache: torch.Tensor, stride: int, path: Path) -> torch.Tensor:
    """The pages of `cache` [pages, …], whole as they lie, `stride` elements apart."""
    pages, size = cache.shape[0], cache.stride(0)
    total = (stride * (pages - 1) + size) * cache.element_size()
    with path.open("w+b") as file:
        file.truncate(total)
        flat = torch.frombuffer(mmap.mmap(file.fileno(), total), dtype=cache.dtype)
    flat.as_strided((pages, size), (stride, 1)).copy_(
        cache.as_strided((pages, size), (size, 1), cache.storage_offset())
    )
    return flat.as_strided(cache.shape, (stride, *cache.stride()[1:]))
