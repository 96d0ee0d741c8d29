"""The device-side partition of the work, on its own: every tile has one owner, pieces are numbered, slots are never shared."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfmem_kernels._kernels_common import key_range, num_tiles, query_span
from hfmem_kernels._kernels_schedule import (
    first_unit,
    piece_at,
    pieces_of,
    share_owner,
    share_start,
    slot_of,
    units_before,
)


@triton.jit
def _scan(
    seq_lens, cu_q, out, batch, limit, cost, q_len, window, capacity,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, HAS_WINDOW: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    first, before, total = units_before(
        seq_lens, cu_q, batch, limit, cost, q_len, window, capacity, BLOCK_B, BLOCK_N, HAS_WINDOW, VARLEN
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


#: pieces that a program of `_walk` can note down, and the numbers of each
MOST, FIELDS = 64, 7


@triton.jit
def _walk(
    seq_lens, cu_q, out, counts, batch, heads, q_len, window, capacity,
    BLOCK_B: tl.constexpr, ONE_SCAN: tl.constexpr, BLOCK_N: tl.constexpr, HAS_WINDOW: tl.constexpr,
    VARLEN: tl.constexpr, MIN_TILES: tl.constexpr, MAX_PIECES: tl.constexpr, SNAP: tl.constexpr, PIECE_COST: tl.constexpr,
    FAN: tl.constexpr,
):  # fmt: skip
    """The loop of the decode kernel, noting its pieces instead of working on them."""
    program = tl.program_id(0)
    quotient, remainder, cost, unit, unit_stop, b, item_unit = first_unit(
        program, tl.num_programs(0), seq_lens, cu_q, batch, heads, q_len, window, capacity, BLOCK_B, ONE_SCAN, BLOCK_N,
        HAS_WINDOW, VARLEN, MIN_TILES, MAX_PIECES, PIECE_COST, FAN,
    )  # fmt: skip
    noted = 0
    while unit < unit_stop:
        _, count = query_span(cu_q, b, q_len, True, VARLEN)
        lo, hi = key_range(tl.load(seq_lens + b), count, window, capacity, HAS_WINDOW)
        tiles = num_tiles(lo, hi, BLOCK_N)
        lane, start, tile, tile_stop = piece_at(unit, unit_stop, item_unit, tiles, cost, SNAP)
        if tile < tile_stop:
            first, num_pieces = pieces_of(start, tiles, quotient, remainder, SNAP)
            index = tl.where(tile == 0, 0, program - first)
            rest_base = 2 * first
            row = out + (program * 64 + noted) * 7
            tl.store(row, b)
            tl.store(row + 1, lane)
            tl.store(row + 2, tile)
            tl.store(row + 3, tile_stop)
            tl.store(row + 4, index)
            tl.store(row + 5, num_pieces)
            tl.store(row + 6, rest_base + slot_of(index, 1, 2))
            noted += 1
        unit = start + tiles
        if unit == item_unit + (tiles + cost) * heads:
            item_unit = unit
            b += 1
    tl.store(counts + program, noted)


LENGTHS = [70, 0, 33, 1, 0, 0, 128, 5, 16, 17, -3]


def tiles(length: int, q_len: int, window: int, capacity: int) -> int:
    """By the definition: 16-token tiles from the first visible token on, at least one."""
    last = min(max(length, 0), capacity)
    first = max(0, last - q_len + 1 - window) if window else 0
    return max(1, -(-(last - first) // 16))


@pytest.mark.parametrize("block", [4, 16])
@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize("varlen", [False, True])
@pytest.mark.parametrize("cost", [0, 3])
def test_scan_in_chunks(block: int, window: int, varlen: bool, cost: int, device: str) -> None:
    """A batch of several chunks is scanned as one list; 100 is what the page table holds."""
    counts = [1, 0, 3, 1, 2, 1, 4, 1, 2, 1, 1] if varlen else [2] * len(LENGTHS)
    seq_lens = torch.tensor(LENGTHS, dtype=torch.int32, device=device)
    cu_q = torch.tensor([0, *counts], device=device).cumsum(0).to(torch.int32)
    sizes = [cost + tiles(n, q, window, 100) for n, q in zip(LENGTHS, counts, strict=True)]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    for limit in range(ends[-1]):
        out = torch.zeros(3, dtype=torch.int32, device=device)
        _scan[(1,)](seq_lens, cu_q, out, len(LENGTHS), limit, cost, 2, window, 100, block, 16, window > 0, varlen)
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


def walk(
    lengths: list[int], heads: int, programs: int, window: int, min_tiles: int, snap: int, max_pieces: int, block: int,
    device: str, cost: int = 0, fan: int = 64, capacity: int = 100,
) -> list[list[tuple[int, ...]]]:  # fmt: skip
    """What each program works on: (sequence, lane, first tile, stop, number, pieces, slot)."""
    seq_lens = torch.tensor(lengths, dtype=torch.int32, device=device)
    counts = torch.zeros(programs, dtype=torch.int32, device=device)
    out = torch.full((programs, MOST, FIELDS), -1, dtype=torch.int32, device=device)
    _walk[(programs,)](
        seq_lens, seq_lens, out, counts, len(lengths), heads, 1, window, capacity, block, len(lengths) <= block, 16, window > 0,
        False, min_tiles, max_pieces, snap, cost, fan,
    )  # fmt: skip
    assert int(counts.max()) <= MOST
    return [[tuple(row) for row in out[p, : int(n)].tolist()] for p, n in enumerate(counts)]


@settings(max_examples=12)
@given(
    lengths=st.lists(st.sampled_from([0, 0, 1, 15, 16, 17, 31, 40, 64, 90, 100, 1000, -3]), min_size=1, max_size=9),
    heads=st.integers(1, 3),
    programs=st.integers(1, 11),
    window=st.sampled_from([0, 0, 5, 33]),
    min_tiles=st.integers(1, 3),
    snap=st.integers(1, 3),
    max_pieces=st.sampled_from([0, 0, 1, 3]),
    block=st.sampled_from([4, 16]),
    cost=st.integers(0, 3),
)
@example([100] * 9, 3, 11, 0, 1, 1, 0, 16, 0)  # every edge inside an item
@example([1000], 1, 11, 0, 1, 1, 0, 4, 0)  # one item in as many pieces as it has tiles
@example([0] * 9, 1, 11, 0, 1, 3, 0, 16, 0)  # nothing but items of one tile
@example([100, 17, 0, 90], 3, 5, 0, 1, 1, 0, 4, 1)  # shares that begin and end in what items cost
@example([0] * 9, 1, 2, 0, 1, 1, 0, 16, 1)  # items that cost as much as they are
def test_every_tile_once(
    lengths: list[int], heads: int, programs: int, window: int, min_tiles: int, snap: int, max_pieces: int, block: int,
    cost: int,
) -> None:  # fmt: skip
    """For any batch: all tiles, each once; pieces numbered in order, by programs in order; a slot for each of a cut item's."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shares = walk(lengths, heads, programs, window, min_tiles, snap, max_pieces, block, device, cost)
    pieces = defaultdict(list)
    used = []
    for program, share in enumerate(shares):
        for b, lane, tile, stop, index, count, slot in share:
            pieces[b, lane].append((tile, stop, index, count, program))
            if count > 1:
                used.append(slot)
    sizes = [tiles(n, 1, window, 100) for n in lengths]
    assert set(pieces) == {(b, lane) for b in range(len(lengths)) for lane in range(heads)}
    for (b, _), found in pieces.items():
        edges = [0, *(stop for _, stop, *_ in found)]
        assert [tile for tile, *_ in found] == edges[:-1] and edges[-1] == sizes[b]
        assert [index for _, _, index, _, _ in found] == list(range(len(found)))
        assert {count for *_, count, _ in found} == {len(found)}
        workers = [program for *_, program in found]
        assert workers == list(range(workers[0], workers[0] + len(found)))
        assert len(found) == 1 or all(stop - tile >= min(snap, min_tiles) for tile, stop, *_ in found)
    assert len(used) == len(set(used)), "two pieces in one slot"
    assert all(0 <= slot < 2 * programs for slot in used), "what `plan_split` makes room for"
    if max_pieces:
        assert sum(map(bool, shares)) <= max_pieces * len(lengths) * heads


@pytest.mark.parametrize("snap", [1, 2])
def test_shares_are_equal(snap: int, device: str) -> None:
    """But for one tile, and for what an edge moves: less than `snap` tiles at each end."""
    lengths = [100, 17, 0, 64, 100, 90]
    shares = walk(lengths, 2, 7, 0, 1, snap, 0, 16, device)
    work = [sum(stop - tile for _, _, tile, stop, *_ in share) for share in shares]
    total = 2 * sum(tiles(n, 1, 0, 100) for n in lengths)
    assert sum(work) == total
    assert max(work) <= -(-total // 7) + 2 * (snap - 1) and min(work) >= total // 7 - 2 * (snap - 1)


def test_shares_cost_the_same(device: str) -> None:
    """So many tiles for each item that a program turns to, unless shares divide the tiles anyway.

    By hand: 70, 17 and 90 tokens are 5 + 2 + 6 = 13 tiles, and with one for turning to each of three items 16 units, eight for each
    of two programs. The first has the first sequence (6) and one tile of the second (2).
    """
    shares = walk([70, 17, 90], 1, 2, 0, 1, 1, 0, 16, device, 1)
    assert [[row[:4] for row in share] for share in shares] == [
        [(0, 0, 0, 5), (1, 0, 0, 1)], [(1, 0, 1, 2), (2, 0, 0, 6)],
    ]  # fmt: skip
    shares = walk([100, 100, 100], 1, 2, 0, 1, 1, 0, 16, device, 2)  # 21 tiles and 6 are 27 units, 14 and 13
    assert [[row[:4] for row in share] for share in shares] == [
        [(0, 0, 0, 7), (1, 0, 0, 3)], [(1, 0, 3, 7), (2, 0, 0, 7)],
    ]  # fmt: skip
    shares = walk([100, 100], 1, 1, 0, 1, 1, 0, 16, device, 2)
    assert [row[:4] for row in shares[0]] == [(0, 0, 0, 7), (1, 0, 0, 7)]
    shares = walk([100, 80], 1, 2, 0, 1, 1, 0, 16, device, 1)  # 12 tiles: six each, as if nothing cost anything
    assert [[row[:4] for row in share] for share in shares] == [[(0, 0, 0, 6)], [(0, 0, 6, 7), (1, 0, 0, 5)]]


@pytest.mark.parametrize(("programs", "used"), [(9, 9), (16, 16), (17, 16), (18, 18), (33, 32), (35, 35)])
def test_merges_take_whole_steps(programs: int, used: int, device: str) -> None:
    """One sequence of 640 tokens, 40 tiles, in pieces that are merged eight at a time: without the one program of 17 or 33 that
    made a step of its own, but with the two of 18, more than a sixteenth, and the three of 35."""
    shares = walk([640], 1, programs, 0, 1, 1, 0, 16, device, fan=8, capacity=640)
    assert sum(map(bool, shares)) == used
