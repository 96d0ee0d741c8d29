"""Who works on what: the partition of a ragged batch, decided by every program for itself. `@triton.jit` functions only.

Words used throughout the decode kernels:

- *item*: one (sequence, KV head, block of query rows); its keys are cut into *tiles* of BLOCK_N tokens. A tile is a *unit* of work,
  and so many more come before an item's first as it costs to turn to it: loading its queries, writing what came before.
- *share*: the units that one program gets, from `share_start` of its number to that of the next. Shares differ by one unit at most.
- *piece*: the consecutive tiles of one item that one program works on. An edge of a share less than SNAP tiles from an edge of
  the item moves there: so short a piece is not worth a merge, and items of fewer than 2 · SNAP tiles are never cut.
- *lockstep*: so many items of a sequence are worked on side by side, by as many programs, a *group*. They hold the same share of
  tiles, each of an item of its own, so a share is that of a group. The heads of a token lie side by side in a cache, and blocks of
  rows read the same one: what a group reads at about the same time lies together. Below, *program* means a group.
- An item of several pieces leaves one partial result for each in a *slot* of the workspace; the program that comes last merges
  them in the order of the pieces, so that the result does not depend on which program that was.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_common import key_range, num_tiles, query_span


@triton.jit
def tiles_of(
    seq_lens_ptr, cu_q_ptr, batch, start, q_len, window, capacity,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, HAS_WINDOW: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Tiles of the sequences start … start + BLOCK_B - 1, 0 past the last; and which of them exist."""
    b = start + tl.arange(0, BLOCK_B)
    inside = b < batch
    seq_len = tl.load(seq_lens_ptr + b, mask=inside, other=0)
    _, count = query_span(cu_q_ptr, b, q_len, inside, VARLEN)
    lo, hi = key_range(seq_len, count, window, capacity, HAS_WINDOW)
    return tl.where(inside, num_tiles(lo, hi, BLOCK_N), 0), inside


@triton.jit
def units_before(
    seq_lens_ptr, cu_q_ptr, batch, limit, cost, q_len, window, capacity,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, HAS_WINDOW: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Scan the sequences, an item of each, which takes `cost` units and its tiles: how many end at or before unit `limit` of the
    concatenation, the units of those, and of all."""
    total = 0
    before = 0
    first = 0
    for start in range(0, batch, BLOCK_B):
        n, inside = tiles_of(
            seq_lens_ptr, cu_q_ptr, batch, start, q_len, window, capacity, BLOCK_B, BLOCK_N, HAS_WINDOW, VARLEN
        )
        n += tl.where(inside, cost, 0)
        ends = total + tl.cumsum(n, 0)
        passed = inside & (ends <= limit)
        first += tl.sum(passed.to(tl.int32), 0)
        before = tl.maximum(before, tl.max(tl.where(passed, ends, 0), 0))
        total += tl.sum(n, 0)
    return first, before, total


@triton.jit
def share_start(program, quotient, remainder):
    """First unit of a program's share when the first `remainder` programs get `quotient` + 1 units, the others `quotient`."""
    return program * quotient + tl.minimum(program, remainder)


@triton.jit
def divided(a, b):
    """a // b of what is never negative: an unsigned division takes half the instructions of a signed one."""
    return (a.to(tl.uint32) // b.to(tl.uint32)).to(tl.int32)


@triton.jit
def share_owner(unit, quotient, remainder):
    """The program whose share holds `unit`: the inverse of `share_start`. One division, as each takes 20 instructions."""
    cut = remainder * (quotient + 1)
    longer = unit < cut
    program = divided(tl.where(longer, unit, unit - cut), tl.where(longer, quotient + 1, tl.maximum(quotient, 1)))
    return tl.where(longer, program, remainder + program)


@triton.jit
def snapped(tile, tiles, SNAP: tl.constexpr):
    """Where the edge of a share that falls on `tile` of an item of `tiles` tiles cuts it; `tiles` or more: behind it."""
    inner = tl.where(tile < SNAP, 0, tl.where(tiles - tile < SNAP, tiles, tile))
    return tl.where(tile >= tiles, tiles, inner)


@triton.jit
def pieces_of(start, tiles, quotient, remainder, SNAP: tl.constexpr):
    """The program of an item's first piece, and the number of its pieces; piece k belongs to that program + k.

    Edges of shares that cut the item are those in start + SNAP … start + tiles - SNAP. The first piece belongs to the last
    program whose share begins before that range.
    """
    first = share_owner(start + SNAP - 1, quotient, remainder)
    last = share_owner(tl.maximum(start + tiles - SNAP, 0), quotient, remainder)
    return first, tl.maximum(last - first, 0) + 1


@triton.jit
def first_unit(
    program, most_programs, seq_lens_ptr, cu_q_ptr, batch, lane_items, q_len, window, capacity,
    BLOCK_B: tl.constexpr, ONE_SCAN: tl.constexpr, BLOCK_N: tl.constexpr, HAS_WINDOW: tl.constexpr,
    VARLEN: tl.constexpr, MIN_TILES: tl.constexpr, MAX_PIECES: tl.constexpr, PIECE_COST: tl.constexpr, FAN: tl.constexpr,
):  # fmt: skip
    """The shares (quotient, remainder) and what a piece costs, this program's units, and the sequence they begin in with its first
    unit.

    lane_items: items of a sequence that follow each other, with lockstep those of one lane. most_programs: how many there are.
    """
    if ONE_SCAN:
        n, inside = tiles_of(
            seq_lens_ptr, cu_q_ptr, batch, 0, q_len, window, capacity, BLOCK_B, BLOCK_N, HAS_WINDOW, VARLEN
        )
        per_lane = tl.sum(n, 0) * lane_items
    else:
        _, _, tiles = units_before(
            seq_lens_ptr, cu_q_ptr, batch, 0, 0, q_len, window, capacity, BLOCK_B, BLOCK_N, HAS_WINDOW, VARLEN
        )
        per_lane = tiles * lane_items
    items = batch * lane_items
    programs = tl.minimum(most_programs, tl.maximum(per_lane // MIN_TILES, 1))
    if MAX_PIECES > 0:
        programs = tl.minimum(programs, items * MAX_PIECES)
    # Merges take FAN pieces at a time: without the few programs that would make each take another time. Branches here would cost
    # more than they save, and Triton 3.9 its asynchronous copies
    step = items * FAN
    even = tl.where((items & (items - 1)) == 0, programs & -step, 0)
    programs = tl.where((programs == most_programs) & (even * 16 >= programs * 15), even, programs)
    quotient = divided(per_lane, programs)
    remainder = per_lane - quotient * programs
    # small shares have one piece each; and where shares divide the tiles, their edges are likely to be those of items already
    cost = tl.where((quotient >= 4 * PIECE_COST) & (remainder > 0), PIECE_COST, 0)
    if PIECE_COST > 0:
        total = per_lane + items * cost
        quotient = divided(total, programs)
        remainder = total - quotient * programs
    unit = share_start(program, quotient, remainder)
    unit_stop = share_start(program + 1, quotient, remainder)
    if program >= programs:
        unit_stop = unit
    if ONE_SCAN:
        ends = tl.cumsum(tl.where(inside, n + cost, 0), 0)
        passed = inside & (ends <= unit // lane_items)
        b = tl.sum(passed.to(tl.int32), 0)
        before = tl.max(tl.where(passed, ends, 0), 0)
    else:
        b, before, _ = units_before(
            seq_lens_ptr, cu_q_ptr, batch, unit // lane_items, cost, q_len, window, capacity, BLOCK_B, BLOCK_N, HAS_WINDOW,
            VARLEN,
        )  # fmt: skip
    return quotient, remainder, cost, unit, unit_stop, b, before * lane_items


@triton.jit
def piece_at(unit, unit_stop, item_unit, tiles, cost, SNAP: tl.constexpr):
    """A program's piece of the item that `unit` lies in. item_unit: first unit of that item's sequence; tiles: of every item of it.

    Returns the item's number within its sequence and the unit of its first tile; the piece's first tile and where it stops (none:
    no piece).
    """
    lane = divided(unit - item_unit, tiles + cost)
    start = item_unit + lane * (tiles + cost) + cost
    return lane, start, snapped(unit - start, tiles, SNAP), snapped(unit_stop - start, tiles, SNAP)


@triton.jit
def slot_of(index, FIRST: tl.constexpr, STRIDE: tl.constexpr):
    """The slot of an item's piece number `index`, counted from where the item's slots begin; FIRST is that of the first piece.

    With equal shares a program p of the grid has two slots: 2p for the item that ends in its share, 2p + 1 for one that begins in
    it and goes on. So an item's begin with slot 2p of its first program, whose piece is in the next (FIRST 1), and as the programs
    of its pieces are LOCKSTEP apart, its slots are twice that (STRIDE). A fixed split has slots side by side (0, 1).
    """
    return index * STRIDE if FIRST == 0 else tl.where(index == 0, FIRST, index * STRIDE)
