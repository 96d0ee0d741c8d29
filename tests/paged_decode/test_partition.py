"""The device-side partition of the work, on its own: every tile has one owner, shares differ by one tile at most."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import triton
import triton.language as tl

from hfmem_kernels._kernels_common import share_owner, share_start, slot_of, tiles_before


@triton.jit
def _scan(
    seq_lens, cu_q, out, batch, limit, q_len, window, capacity,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, HAS_WINDOW: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    first, before, total = tiles_before(
        seq_lens, cu_q, batch, limit, q_len, window, capacity, BLOCK_B, BLOCK_N, HAS_WINDOW, VARLEN
    )
    tl.store(out, first)
    tl.store(out + 1, before)
    tl.store(out + 2, total)


@triton.jit
def _owners(out, starts, units, quotient, remainder, programs):
    for unit in range(units):
        tl.store(out + unit, share_owner(unit, quotient, remainder))
    for program in range(programs + 1):
        tl.store(starts + program, share_start(program, quotient, remainder))


@triton.jit
def _slots(out, pieces, first, base, stride):
    for piece in range(pieces):
        tl.store(out + piece, slot_of(piece, first, base, stride))


LENGTHS = [70, 0, 33, 1, 0, 0, 128, 5, 16, 17, -3]


def tiles(length: int, q_len: int, window: int, capacity: int) -> int:
    """By the definition: 16-token tiles from the first visible token on, at least one."""
    last = min(max(length, 0), capacity)
    first = max(0, last - q_len + 1 - window) if window else 0
    return max(1, -(-(last - first) // 16))


@pytest.mark.parametrize("block", [4, 16])
@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize("varlen", [False, True])
def test_scan_in_chunks(block: int, window: int, varlen: bool, device: str) -> None:
    """A batch of several chunks is scanned as one list; 100 is what the page table holds."""
    counts = [1, 0, 3, 1, 2, 1, 4, 1, 2, 1, 1] if varlen else [2] * len(LENGTHS)
    seq_lens = torch.tensor(LENGTHS, dtype=torch.int32, device=device)
    cu_q = torch.tensor([0, *counts], device=device).cumsum(0).to(torch.int32)
    sizes = [tiles(n, q, window, 100) for n, q in zip(LENGTHS, counts, strict=True)]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    for limit in range(ends[-1]):
        out = torch.zeros(3, dtype=torch.int32, device=device)
        _scan[(1,)](seq_lens, cu_q, out, len(LENGTHS), limit, 2, window, 100, block, 16, window > 0, varlen)
        passed = sum(end <= limit for end in ends)
        assert out.tolist() == [passed, sum(sizes[:passed]), ends[-1]]


@pytest.mark.parametrize(("units", "programs"), [(1, 1), (7, 3), (12, 4), (13, 4), (100, 33), (5, 5)])
def test_every_unit_has_one_owner(units: int, programs: int, device: str) -> None:
    out = torch.zeros(units, dtype=torch.int32, device=device)
    starts = torch.zeros(programs + 1, dtype=torch.int32, device=device)
    _owners[(1,)](out, starts, units, units // programs, units % programs, programs)
    edges = starts.tolist()
    assert edges[0] == 0 and edges[-1] == units
    shares = [b - a for a, b in pairwise(edges)]
    assert max(shares) - min(shares) <= 1 and min(shares) >= 1
    assert out.tolist() == [p for p, share in enumerate(shares) for _ in range(share)]


def test_slots_of_equal_shares_never_meet(device: str) -> None:
    """Items that begin and end inside programs: each program's two slots are used by one piece each at most."""
    sizes, programs = [5, 1, 9, 2, 14, 3, 3], 8
    total = sum(sizes)
    quotient, remainder = divmod(total, programs)
    starts = [p * quotient + min(p, remainder) for p in range(programs + 1)]
    used: list[int] = []
    begin = 0
    for size in sizes:
        first = max(p for p in range(programs) if starts[p] <= begin)
        last = max(p for p in range(programs) if starts[p] <= begin + size - 1)
        pieces = last - first + 1
        out = torch.zeros(pieces, dtype=torch.int32, device=device)
        _slots[(1,)](out, pieces, 2 * first + int(starts[first] < begin), 2 * first, 2)
        if pieces > 1:
            used += out.tolist()
            assert [s // 2 for s in out.tolist()] == list(range(first, last + 1)), "each piece in its program's slots"
        begin += size
    assert len(used) == len(set(used)) and max(used) < 2 * programs
