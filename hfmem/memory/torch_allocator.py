"""What PyTorch's caching allocator takes for tensors that stay: bytes in blocks, and bytes in segments asked of the driver.

Engines log the former (`torch.cuda.max_memory_allocated`) and, from vLLM 0.26 on, pay for the latter (`cudaMemGetInfo`). Read from
PyTorch 2.13, `c10/cuda/CUDACachingAllocator.cpp` and `c10/core/AllocatorConfig.h`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
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
    return allocate_runs([(tuple(sizes), 1)], max_split)


def allocate_runs(runs: Iterable[tuple[Sequence[int], int]], max_split: int | None = None) -> Allocated:
    """As `allocate` for runs of tensors, each run so many times over (layers that are alike).

    The time grows with the tensors of a run and hardly with how often it is repeated: see `_Pool.grown`.
    """
    state = _Allocator(max_split)
    for sizes, times in runs:
        state.repeat([-(-wanted // _MIN_BLOCK) * _MIN_BLOCK for wanted in sizes if wanted > 0], times)
    return Allocated(state.blocks, state.segments)


class _Pool:
    """Free blocks by size. `marked` is how many there were of each at the last mark, `lowest` how few there have been since."""

    def __init__(self) -> None:
        self.sizes: list[int] = []  # ascending
        self.counts: dict[int, int] = {}
        self.mark()

    def mark(self) -> None:
        self.marked, self.lowest = dict(self.counts), dict(self.counts)

    def add(self, size: int, count: int = 1) -> None:
        if size not in self.counts:
            insort(self.sizes, size)
            self.lowest.setdefault(size, 0)
        self.counts[size] = self.counts.get(size, 0) + count

    def take(self, size: int, max_split: int | None) -> int | None:
        """The smallest free block that holds `size`."""
        place = bisect_left(self.sizes, size)
        if place == len(self.sizes):
            return None
        found = self.sizes[place]
        if max_split is not None and (
            (size < max_split <= found) or (size >= max_split and found >= size + _LARGE_SEGMENT)
        ):
            return None
        self.counts[found] -= 1
        self.lowest[found] = min(self.lowest[found], self.counts[found])
        if not self.counts[found]:
            del self.counts[found], self.sizes[place]
        return found

    def grown(self, least: int) -> dict[int, int] | None:
        """How many more blocks there are of each size than at the mark, if everything since would go the same way again.

        What is taken depends only on which sizes there are. So sizes may grow in number that were there all the time, or that are
        too small for any request (below `least`); all others must be as many as before.
        """
        if any(size not in self.counts for size in self.marked):
            return None
        more = {size: count - self.marked.get(size, 0) for size, count in self.counts.items()}
        if any(n < 0 or (n and size >= least and not self.lowest[size]) for size, n in more.items()):
            return None
        return more


class _Allocator:
    """The allocator while tensors are allocated: free blocks of both pools, and bytes taken so far."""

    def __init__(self, max_split: int | None) -> None:
        self.max_split, self.blocks, self.segments = max_split, 0, 0
        self.small, self.large = _Pool(), _Pool()

    def repeat(self, sizes: Sequence[int], times: int) -> None:
        """Allocates `sizes` (whole smallest blocks), `times` over."""
        mark, at = 0, (self.blocks, self.segments)
        self.small.mark()
        self.large.mark()
        done, least = 0, min(sizes, default=0)
        skipped = not sizes
        while done < times and sizes:
            for size in sizes:
                self.put(size)
            done += 1
            if skipped:
                continue
            more = self.small.grown(least), self.large.grown(least)
            if more[0] is not None and more[1] is not None:
                period = done - mark
                rounds = (times - done) // period
                self.blocks += rounds * (self.blocks - at[0])
                self.segments += rounds * (self.segments - at[1])
                for pool, grown in zip((self.small, self.large), more, strict=True):
                    for size, count in (grown or {}).items():
                        pool.counts[size] += rounds * count
                done += rounds * period
                skipped = True  # what is left is less than a period
            elif done >= 2 * mark + 1:  # look for longer periods, from here on
                mark, at = done, (self.blocks, self.segments)
                self.small.mark()
                self.large.mark()

    def put(self, size: int) -> None:
        """Allocates one tensor."""
        small = size <= _SMALL
        pool, split = (self.small, None) if small else (self.large, self.max_split)
        block = pool.take(size, split)
        if block is None:
            block = _segment(size)
            self.segments += block
        rest = block - size
        if rest >= _MIN_BLOCK if small else rest > _SMALL and (split is None or size < split):
            pool.add(rest)
            block = size
        self.blocks += block


def _segment(size: int) -> int:
    if size <= _SMALL:
        return _SMALL_SEGMENT
    if size < _OWN_SEGMENT:
        return _LARGE_SEGMENT
    return -(-size // _ROUND) * _ROUND
