"""What PyTorch's caching allocator takes for tensors that stay: bytes in blocks, and bytes in segments asked of the driver.

Engines log the former (`torch.cuda.max_memory_allocated`) and, from vLLM 0.26 on, pay for the latter (`cudaMemGetInfo`). Read from
PyTorch 2.13, `c10/cuda/CUDACachingAllocator.cpp` and `c10/core/AllocatorConfig.h`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Final

from hfmem.records import dataclass
from hfmem.units import MIB

#: sizes are rounded up to this
_MIN_BLOCK: Final = 512
#: up to this size a tensor lies in the small pool, whose segments are `_SMALL_SEGMENT`
_SMALL: Final = MIB
_SMALL_SEGMENT: Final = 2 * MIB
#: below this a tensor of the large pool takes part of a segment of `_LARGE_SEGMENT`; from it on, one of its own, rounded up
_OWN_SEGMENT: Final = 10 * MIB
_LARGE_SEGMENT: Final = 20 * MIB
_ROUND: Final = 2 * MIB


@dataclass(frozen=True, slots=True)
class Allocated:
    """`block_bytes` is what the allocator counts as allocated, `segment_bytes` what it holds of the device."""

    block_bytes: int
    segment_bytes: int


def allocate(sizes: Iterable[int], max_split: int | None = None) -> Allocated:
    """Tensors of `sizes` bytes allocated in turn and none of them freed.

    A block that would leave at most 1 MiB of a large segment takes all of it, and counts as a whole.

    Args:
        max_split: `max_split_size_mb` in bytes: larger blocks are never divided.
    """
    free: tuple[list[int], list[int]] = ([], [])
    blocks = segments = 0
    for wanted in sizes:
        if wanted <= 0:
            continue
        size = -(-wanted // _MIN_BLOCK) * _MIN_BLOCK
        small = size <= _SMALL
        pool = free[0 if small else 1]
        block = _best_fit(pool, size, None if small else max_split)
        if block is None:
            block = _segment(size)
            segments += block
        rest = block - size
        if rest >= _MIN_BLOCK if small else rest > _SMALL and (max_split is None or size < max_split):
            insort(pool, rest)
            block = size
        blocks += block
    return Allocated(blocks, segments)


def _segment(size: int) -> int:
    if size <= _SMALL:
        return _SMALL_SEGMENT
    if size < _OWN_SEGMENT:
        return _LARGE_SEGMENT
    return -(-size // _ROUND) * _ROUND


def _best_fit(pool: list[int], size: int, max_split: int | None) -> int | None:
    """The smallest free block that holds `size`, taken from `pool` (ascending)."""
    place = bisect_left(pool, size)
    if place == len(pool):
        return None
    found = pool[place]
    if max_split is not None and (
        (size < max_split <= found) or (size >= max_split and found >= size + _LARGE_SEGMENT)
    ):
        return None
    del pool[place]
    return found
