"""How pieces become results: partials, states and counters in the workspace, one launch. `@triton.jit` functions only."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_common import LN2, LOG2E
from hfmem_kernels._kernels_schedule import slot_of


@triton.jit
def normaliser(m, norm, sink, HAS_SINKS: tl.constexpr):
    """What a row of `acc` is to be multiplied by, and its lse. A row without keys: 0 and -inf.

    m: maximum logit in log2 units; norm: sum of 2**(logit - m); sink: one more logit, in natural units.
    """
    factor = tl.full(m.shape, 1.0, tl.float32)
    if HAS_SINKS:
        sink = sink * LOG2E
        top = tl.maximum(m, sink)
        top = tl.where(top == float("-inf"), 0.0, top)
        factor = tl.exp2(m - top)
        norm = norm * factor + tl.exp2(sink - top)
        m = top
    empty = norm == 0.0
    denominator = tl.where(empty, 1.0, norm)
    return factor / denominator, tl.where(empty, float("-inf"), (m + tl.log2(denominator)) * LN2)


@triton.jit
def load_sinks(sinks_ptr, q_head, row_mask, HAS_SINKS: tl.constexpr):
    """The sinks of some query heads; zeros, never looked at, where there are none."""
    sink = tl.zeros(q_head.shape, tl.float32)
    if HAS_SINKS:
        sink = tl.load(sinks_ptr + q_head, mask=row_mask, other=0.0).to(tl.float32)
    return sink


@triton.jit
def store_state(states, slot, m, norm, rows, row_mask, BLOCK_M: tl.constexpr):
    """Write m and norm of a slot."""
    pointers = states + (slot * BLOCK_M + rows) * 2
    tl.store(pointers, m, mask=row_mask)
    tl.store(pointers + 1, norm, mask=row_mask)


@triton.jit
def store_result(
    acc, factor, lse, columns, out_rows, out_stride, lse_ptrs, row_mask, DV: tl.constexpr, HAS_LSE: tl.constexpr
):
    """Write rows of the output, `columns` of them, and their lse."""
    value = (acc * factor[:, None]).to(out_rows.dtype.element_ty)
    tl.store(out_rows[:, None] + columns[None, :] * out_stride, value, mask=row_mask[:, None] & (columns < DV)[None, :])
    if HAS_LSE:
        tl.store(lse_ptrs, lse, mask=row_mask)


@triton.jit
def load_piece(
    piece, stop, partials, states, rows, row_mask, cols,
    BLOCK_M: tl.constexpr, DVP: tl.constexpr, FIRST: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """m and norm [rows] of a piece and some columns of its partial result; a piece that is not there weighs nothing.

    Loads bypass L1, which the stores of other programs do not update. FIRST is 0 where it cannot be the first piece.
    """
    mask = row_mask & (rows * 0 + piece < stop)
    place = slot_of(piece, FIRST, STRIDE) * BLOCK_M + rows
    m = tl.load(states + place * 2, mask=mask, other=float("-inf"), cache_modifier=".cg")
    norm = tl.load(states + place * 2 + 1, mask=mask, other=0.0, cache_modifier=".cg")
    part = tl.load(partials + place[:, None] * DVP + cols[None, :], mask=mask[:, None], other=0.0, cache_modifier=".cg")
    return m, norm, part


@triton.jit
def load_four(
    piece, step, stop, partials, states, rows, row_mask, cols,
    BLOCK_M: tl.constexpr, DVP: tl.constexpr, FIRST: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """`load_piece` of four pieces, `step` apart."""
    m0, n0, p0 = load_piece(piece, stop, partials, states, rows, row_mask, cols, BLOCK_M, DVP, FIRST, STRIDE)
    m1, n1, p1 = load_piece(piece + step, stop, partials, states, rows, row_mask, cols, BLOCK_M, DVP, 0, STRIDE)
    m2, n2, p2 = load_piece(piece + 2 * step, stop, partials, states, rows, row_mask, cols, BLOCK_M, DVP, 0, STRIDE)
    m3, n3, p3 = load_piece(piece + 3 * step, stop, partials, states, rows, row_mask, cols, BLOCK_M, DVP, 0, STRIDE)
    return m0, m1, m2, m3, n0, n1, n2, n3, p0, p1, p2, p3


@triton.jit
def highest(m0, m1, m2, m3):
    """The largest logit of four pieces."""
    return tl.maximum(tl.maximum(m0, m1), tl.maximum(m2, m3))


@triton.jit
def sum_of_four(top, m0, m1, m2, m3, n0, n1, n2, n3, p0, p1, p2, p3):
    """What four pieces add to the sum of exponentials and to the result, when the largest logit is `top`."""
    w0 = tl.exp2(m0 - top)
    w1 = tl.exp2(m1 - top)
    w2 = tl.exp2(m2 - top)
    w3 = tl.exp2(m3 - top)
    norm = (n0 * w0 + n1 * w1) + (n2 * w2 + n3 * w3)
    return norm, (p0 * w0[:, None] + p1 * w1[:, None]) + (p2 * w2[:, None] + p3 * w3[:, None])


@triton.jit
def merge_slots(
    partials, states, start, stop, step, rows, row_mask, out_rows, out_stride, lse_ptrs, sink, target,
    BLOCK_M: tl.constexpr, DVP: tl.constexpr, DV: tl.constexpr, HAS_LSE: tl.constexpr, HAS_SINKS: tl.constexpr,
    FINAL: tl.constexpr, CHUNK: tl.constexpr, FAN: tl.constexpr, FIRST: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """Combine the pieces start, start + step, … < stop of an item into the output (FINAL) or into slot `target`.

    This is the tail of every short call, so it waits for memory as few times as it can: the states and the partials of FAN
    pieces, 4, 8 or 16, are under way at once. They are written out one by one because a tensor of three dimensions, summed
    over the pieces, is laid out across threads by Triton before 3.8, and spilled. Columns go by in chunks, so that wide values
    need no second accumulator's worth of registers.
    """
    top = tl.full(rows.shape, float("-inf"), tl.float32)
    total = tl.zeros(rows.shape, tl.float32)
    for column in range(0, DVP, CHUNK):
        cols = column + tl.arange(0, CHUNK)
        top = tl.full(rows.shape, float("-inf"), tl.float32)
        total = tl.zeros(rows.shape, tl.float32)
        acc = tl.zeros([rows.shape[0], CHUNK], tl.float32)
        for piece in range(start, stop, FAN * step):
            a0, a1, a2, a3, an0, an1, an2, an3, ap0, ap1, ap2, ap3 = load_four(
                piece, step, stop, partials, states, rows, row_mask, cols, BLOCK_M, DVP, FIRST, STRIDE
            )
            higher = tl.maximum(top, highest(a0, a1, a2, a3))
            if FAN >= 8:
                b0, b1, b2, b3, bn0, bn1, bn2, bn3, bp0, bp1, bp2, bp3 = load_four(
                    piece + 4 * step, step, stop, partials, states, rows, row_mask, cols, BLOCK_M, DVP, 0, STRIDE
                )
                higher = tl.maximum(higher, highest(b0, b1, b2, b3))
            if FAN >= 16:
                c0, c1, c2, c3, cn0, cn1, cn2, cn3, cp0, cp1, cp2, cp3 = load_four(
                    piece + 8 * step, step, stop, partials, states, rows, row_mask, cols, BLOCK_M, DVP, 0, STRIDE
                )
                d0, d1, d2, d3, dn0, dn1, dn2, dn3, dp0, dp1, dp2, dp3 = load_four(
                    piece + 12 * step, step, stop, partials, states, rows, row_mask, cols, BLOCK_M, DVP, 0, STRIDE
                )
                higher = tl.maximum(higher, tl.maximum(highest(c0, c1, c2, c3), highest(d0, d1, d2, d3)))
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            norm, part = sum_of_four(shift, a0, a1, a2, a3, an0, an1, an2, an3, ap0, ap1, ap2, ap3)
            if FAN >= 8:
                more_norm, more = sum_of_four(shift, b0, b1, b2, b3, bn0, bn1, bn2, bn3, bp0, bp1, bp2, bp3)
                norm += more_norm
                part += more
            if FAN >= 16:
                more_norm, more = sum_of_four(shift, c0, c1, c2, c3, cn0, cn1, cn2, cn3, cp0, cp1, cp2, cp3)
                norm += more_norm
                part += more
                more_norm, more = sum_of_four(shift, d0, d1, d2, d3, dn0, dn1, dn2, dn3, dp0, dp1, dp2, dp3)
                norm += more_norm
                part += more
            fade = tl.exp2(top - shift)
            total = total * fade + norm
            acc = acc * fade[:, None] + part
            top = higher
        if FINAL:
            factor, lse = normaliser(top, total, sink, HAS_SINKS)
            store_result(acc, factor, lse, cols, out_rows, out_stride, lse_ptrs, row_mask, DV, HAS_LSE)
        else:
            base = target * BLOCK_M
            tl.debug_barrier()  # every thread has read this chunk of the slot before it is overwritten
            tl.store(partials + (base + rows)[:, None] * DVP + cols[None, :], acc, mask=row_mask[:, None])
    if not FINAL:
        tl.debug_barrier()
        store_state(states, target, top, total, rows, row_mask, BLOCK_M)


@triton.jit
def store_piece(acc, m, norm, slot, partials, states, row_mask, BLOCK_M: tl.constexpr, DVP: tl.constexpr):
    """Leave a piece's result in its slot."""
    rows = tl.arange(0, BLOCK_M)
    cols = tl.arange(0, DVP)
    tl.store(partials + (slot * BLOCK_M + rows)[:, None] * DVP + cols[None, :], acc, mask=row_mask[:, None])
    store_state(states, slot, m, norm, rows, row_mask, BLOCK_M)


@triton.jit
def arrive(
    index, num_pieces, partials, states, counters, group_counters, out_rows, out_stride, lse_ptrs, sink, rows, row_mask,
    BLOCK_M: tl.constexpr, DVP: tl.constexpr, DV: tl.constexpr, HAS_LSE: tl.constexpr, HAS_SINKS: tl.constexpr,
    CHUNK: tl.constexpr, FAN: tl.constexpr, ONE_LEVEL: tl.constexpr, FIRST: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """After `store_piece`: the last program of an item to arrive merges its pieces. Counters are left as they were: zero.

    partials, states, counters: where the item's slots begin. Up to ONE_LEVEL pieces are merged at once, more in two levels, groups
    and then the groups, so that one program never reads hundreds of partials. Groups of 8 for up to 64 pieces, of 16 for up to 256,
    then of 32: about as many as there are groups, which takes the fewest steps. The tree depends on `num_pieces` alone.
    """
    ONE_SHIFT: tl.constexpr = 6 if ONE_LEVEL == 64 else 5 if ONE_LEVEL == 32 else 4
    shift = tl.where(num_pieces <= 256, 4, 5)
    if ONE_LEVEL < 64:
        shift = tl.where(num_pieces <= 64, 3, shift)
    shift = tl.where(num_pieces <= ONE_LEVEL, ONE_SHIFT, shift)
    fan = 1 << shift
    num_groups = (num_pieces + fan - 1) >> shift
    start = (index >> shift) << shift
    stop = tl.minimum(start + fan, num_pieces)
    leader = slot_of(start, FIRST, STRIDE)
    last = False
    tl.debug_barrier()  # every thread's stores come before the counter, which releases them to the device
    arrived = tl.atomic_add(counters + leader, 1, sem="acq_rel", scope="gpu")
    if arrived == stop - start - 1:
        tl.store(counters + leader, 0)
        last = num_groups == 1
        if num_groups > 1:
            merge_slots(
                partials, states, start, stop, 1, rows, row_mask, out_rows, out_stride, lse_ptrs, sink, leader, BLOCK_M, DVP,
                DV, False, False, False, CHUNK, FAN, FIRST, STRIDE,
            )  # fmt: skip
            tl.debug_barrier()
            if tl.atomic_add(group_counters, 1, sem="acq_rel", scope="gpu") == num_groups - 1:
                tl.store(group_counters, 0)
                last = True
    if last:
        step = tl.where(num_groups == 1, 1, fan)
        merge_slots(
            partials, states, 0, num_pieces, step, rows, row_mask, out_rows, out_stride, lse_ptrs, sink, leader, BLOCK_M, DVP,
            DV, HAS_LSE, HAS_SINKS, True, CHUNK, FAN, FIRST, STRIDE,
        )  # fmt: skip
