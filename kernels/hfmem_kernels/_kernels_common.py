"""What the decode kernels share: decoding 8-bit elements, the partition of the work, storing and merging partials.

`@triton.jit` functions only. Words used throughout:

- *item*: one (sequence, KV head, block of query rows); its keys are cut into *tiles* of BLOCK_N tokens.
- *piece*: the consecutive tiles of one item that one program works on. An item of several pieces leaves one partial result
  for each in a *slot* of the workspace; the program that comes last merges them in the order of the pieces, so that the
  result does not depend on which program that was.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

# what a cache element is; the launcher's enum has the same values
PLAIN = tl.constexpr(0)
E4M3 = tl.constexpr(1)
E5M2 = tl.constexpr(2)
INT8 = tl.constexpr(3)

# how 8-bit elements are decoded: in Triton (any device, the interpreter), in PTX, in PTX with sm_89's fp8 conversion
ARITHMETIC = tl.constexpr(0)
PACKED = tl.constexpr(1)
CONVERT = tl.constexpr(2)

# $2: four elements b0 b1 b2 b3 (two uint16) → $0: fp16 b0 and b2, $1: fp16 b1 and b3
PTX_E4M3 = tl.constexpr("""{
    .reg .b32 s, m;
    shl.b32 s, $2, 8;
    shl.b32 m, $2, 7;
    and.b32 m, m, 0x3f803f80;
    lop3.b32 $0, s, 0x80008000, m, 0xea;
    shr.u32 m, $2, 1;
    and.b32 m, m, 0x3f803f80;
    lop3.b32 $1, $2, 0x80008000, m, 0xea;
}""")
PTX_E4M3_CONVERT = tl.constexpr("""{
    .reg .b32 t;
    .reg .b16 low, high;
    prmt.b32 t, $2, 0, 0x3120;
    mov.b32 {low, high}, t;
    cvt.rn.f16x2.e4m3x2 $0, low;
    cvt.rn.f16x2.e4m3x2 $1, high;
}""")
PTX_E5M2 = tl.constexpr("""{
    prmt.b32 $0, $2, 0, 0x2404;
    and.b32 $1, $2, 0xff00ff00;
}""")
PTX_INT8 = tl.constexpr("""{
    .reg .b32 x, y, bias;
    xor.b32 x, $2, 0x80808080;
    prmt.b32 y, x, 0x64646464, 0x4240;
    prmt.b32 x, x, 0x64646464, 0x4341;
    mov.b32 bias, 0x64806480;
    sub.rn.f16x2 $0, y, bias;
    sub.rn.f16x2 $1, x, bias;
}""")

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def decode_low(x, FORMAT: tl.constexpr):
    """The element in the low byte of each uint16, as fp16; e4m3 comes out times 2**-8 (see `format_factor`)."""
    if FORMAT == E4M3:
        y = (((x << 8) & 0x8000) | ((x << 7) & 0x3F80)).to(tl.float16, bitcast=True)
    elif FORMAT == E5M2:
        y = (x << 8).to(tl.float16, bitcast=True)
    else:
        y = (((x ^ 0x80) & 0xFF) | 0x6400).to(tl.float16, bitcast=True) - 1152.0
    return y


@triton.jit
def decode_high(x, FORMAT: tl.constexpr):
    """The element in the high byte of each uint16; otherwise as `decode_low`."""
    if FORMAT == E4M3:
        y = ((x & 0x8000) | ((x >> 1) & 0x3F80)).to(tl.float16, bitcast=True)
    elif FORMAT == E5M2:
        y = (x & 0xFF00).to(tl.float16, bitcast=True)
    else:
        y = (((x >> 8) ^ 0x80) | 0x6400).to(tl.float16, bitcast=True) - 1152.0
    return y


@triton.jit
def decode_pair(x, FORMAT: tl.constexpr, DECODER: tl.constexpr):
    """Both elements of each uint16 as two fp16 tensors, exactly what `decode_low` and `decode_high` say.

    The compiler spends four integer instructions an element on those; PTX on two packed uint16 needs one or two, and on the
    devices that have it one conversion for two elements. `PTX` is executed by an emulator in the tests, byte by byte.
    """
    if DECODER == ARITHMETIC:
        low = decode_low(x, FORMAT)
        high = decode_high(x, FORMAT)
    else:
        E4M3_PTX: tl.constexpr = PTX_E4M3_CONVERT if DECODER == CONVERT else PTX_E4M3
        FLOAT_PTX: tl.constexpr = PTX_E5M2 if FORMAT == E5M2 else E4M3_PTX
        PTX: tl.constexpr = PTX_INT8 if FORMAT == INT8 else FLOAT_PTX
        low, high = tl.inline_asm_elementwise(PTX, "=r,=r,r", [x], dtype=(tl.float16, tl.float16), is_pure=True, pack=2)
    return low, high


@triton.jit
def format_factor(FORMAT: tl.constexpr, DECODER: tl.constexpr):
    """What a decoded element is to be multiplied by: fp16's exponent bias is 15, that of e4m3 is 7."""
    return 256.0 if FORMAT == E4M3 and DECODER != CONVERT else 1.0


@triton.jit
def key_range(seq_len, q_len, window, capacity, HAS_WINDOW: tl.constexpr):
    """First and past-the-last key position that any query of a sequence sees. `capacity`: what the page table can hold."""
    hi = tl.minimum(tl.maximum(seq_len, 0), capacity)
    lo = tl.maximum(hi - q_len + 1 - window, 0) if HAS_WINDOW else hi * 0
    return lo, hi


@triton.jit
def num_tiles(lo, hi, BLOCK_N: tl.constexpr):
    """Tiles of a sequence; one where there is no key, so that somebody writes its zeros."""
    return tl.maximum((hi - lo + BLOCK_N - 1) // BLOCK_N, 1)


@triton.jit
def query_span(cu_q_ptr, b, q_len, mask, VARLEN: tl.constexpr):
    """Row of the first query of sequence `b` and the number of its queries."""
    if VARLEN:
        start = tl.load(cu_q_ptr + b, mask=mask, other=0)
        count = tl.load(cu_q_ptr + b + 1, mask=mask, other=0) - start
    else:
        start = b * 0
        count = b * 0 + q_len
    return start, count


@triton.jit
def load_ids(ids_ptr, t0, hi, offsets, PAGE: tl.constexpr, SCALAR_IDS: tl.constexpr):
    """Page ids of the tile that begins at t0: the first two, scalar, if a page is no smaller than a tile, else one a token."""
    if SCALAR_IDS:
        first = tl.load(ids_ptr + t0 // PAGE, mask=t0 < hi, other=0)
        ahead = (t0 // PAGE + 1) * PAGE
        second = tl.load(ids_ptr + ahead // PAGE, mask=ahead < hi, other=0)
    else:
        t = t0 + offsets
        first = tl.load(ids_ptr + t // PAGE, mask=t < hi, other=0)
        second = first
    return first, second


@triton.jit
def rows_of(first, second, t0, offsets, stride_page, stride_token, PAGE: tl.constexpr, SCALAR_IDS: tl.constexpr):
    """Offset of each token's row. int64 if the ids are; without a multiplication for each row where a page spans the tile."""
    wide = offsets.to(first.dtype)
    if SCALAR_IDS:
        inside = t0 % PAGE
        rows = first * stride_page + inside.to(first.dtype) * stride_token + wide * stride_token
        jump = (second - first) * stride_page - (first * 0 + PAGE) * stride_token
        rows += tl.where(inside + offsets >= PAGE, jump, 0)
    else:
        rows = first * stride_page + ((t0 + offsets) % PAGE).to(first.dtype) * stride_token
    return rows


@triton.jit
def tiles_before(
    seq_lens_ptr, cu_q_ptr, batch, limit, q_len, window, capacity,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, HAS_WINDOW: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Scan the sequences: how many end at or before tile `limit` of the concatenation, tiles in those, tiles in all."""
    total = 0
    before = 0
    first = 0
    for start in range(0, batch, BLOCK_B):
        b = start + tl.arange(0, BLOCK_B)
        inside = b < batch
        seq_len = tl.load(seq_lens_ptr + b, mask=inside, other=0)
        _, count = query_span(cu_q_ptr, b, q_len, inside, VARLEN)
        lo, hi = key_range(seq_len, count, window, capacity, HAS_WINDOW)
        n = tl.where(inside, num_tiles(lo, hi, BLOCK_N), 0)
        ends = total + tl.cumsum(n, 0)
        passed = inside & (ends <= limit)
        first += tl.sum(passed.to(tl.int32), 0)
        before += tl.sum(tl.where(passed, n, 0), 0)
        total += tl.sum(n, 0)
    return first, before, total


@triton.jit
def share_start(program, quotient, remainder):
    """First unit of a program's share when the first `remainder` programs get `quotient` + 1 units, the others `quotient`."""
    return program * quotient + tl.minimum(program, remainder)


@triton.jit
def share_owner(unit, quotient, remainder):
    """The program whose share holds `unit`: the inverse of `share_start`."""
    cut = remainder * (quotient + 1)
    return tl.where(unit < cut, unit // (quotient + 1), remainder + (unit - cut) // quotient)


@triton.jit
def normaliser(m, norm, sink_ptrs, row_mask, HAS_SINKS: tl.constexpr):
    """What a row of `acc` is to be multiplied by, and its lse. A row without keys: 0 and -inf.

    m: maximum logit in log2 units; norm: sum of 2**(logit - m).
    """
    factor = tl.full(m.shape, 1.0, tl.float32)
    if HAS_SINKS:
        sink = tl.load(sink_ptrs, mask=row_mask, other=0.0).to(tl.float32) * LOG2E
        top = tl.maximum(m, sink)
        top = tl.where(top == float("-inf"), 0.0, top)
        factor = tl.exp2(m - top)
        norm = norm * factor + tl.exp2(sink - top)
        m = top
    empty = norm == 0.0
    denominator = tl.where(empty, 1.0, norm)
    return factor / denominator, tl.where(empty, float("-inf"), (m + tl.log2(denominator)) * LN2)


@triton.jit
def slot_of(index, first_slot, rest_base, rest_stride):
    """The slot of an item's piece number `index`; the first piece has a slot of its own choosing."""
    return tl.where(index == 0, first_slot, rest_base + index * rest_stride)


@triton.jit
def store_state(state_ptr, slot, m, norm, rows, row_mask, BLOCK_M: tl.constexpr):
    """Write m and norm of a slot."""
    pointers = state_ptr + (slot.to(tl.int64) * BLOCK_M + rows) * 2
    tl.store(pointers, m, mask=row_mask)
    tl.store(pointers + 1, norm, mask=row_mask)


@triton.jit
def merge_slots(
    partial_ptr, state_ptr, start, stop, step, first_slot, rest_base, rest_stride, rows, row_mask, out_rows, out_stride,
    lse_ptrs, sink_ptrs, target,
    BLOCK_M: tl.constexpr, DVP: tl.constexpr, DV: tl.constexpr, HAS_LSE: tl.constexpr, HAS_SINKS: tl.constexpr,
    FINAL: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Combine the pieces start, start + step, … < stop of an item into the output (FINAL) or into slot `target`.

    This is the tail of every short call, so it waits for memory as few times as it can: the states of 32 pieces are one load,
    the partials of four pieces are under way at once. Columns go by in chunks, so that wide values need no second accumulator's
    worth of registers. Loads bypass L1, which the stores of other programs do not update.
    """
    lanes = tl.arange(0, 32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    shift = total
    for begin in range(start, stop, 32 * step):
        piece = begin + lanes * step
        bases = slot_of(piece, first_slot, rest_base, rest_stride).to(tl.int64) * BLOCK_M
        pointers = state_ptr + (bases[:, None] + rows[None, :]) * 2
        mask = (piece < stop)[:, None] & row_mask[None, :]
        m = tl.load(pointers, mask=mask, other=float("-inf"), cache_modifier=".cg")
        norm = tl.load(pointers + 1, mask=mask, other=0.0, cache_modifier=".cg")
        higher = tl.maximum(top, tl.max(m, 0))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp2(top - shift) + tl.sum(norm * tl.exp2(m - shift[None, :]), 0)
        top = higher
    factor, lse = normaliser(top, total, sink_ptrs, row_mask, HAS_SINKS)
    for column in range(0, DVP, CHUNK):
        cols = column + tl.arange(0, CHUNK)
        acc = tl.zeros([BLOCK_M, CHUNK], tl.float32)
        for j in tl.range(start, stop, step, loop_unroll_factor=4):
            base = slot_of(j, first_slot, rest_base, rest_stride).to(tl.int64) * BLOCK_M
            m = tl.load(state_ptr + (base + rows) * 2, mask=row_mask, other=float("-inf"), cache_modifier=".cg")
            part = tl.load(
                partial_ptr + (base + rows)[:, None] * DVP + cols[None, :],
                mask=row_mask[:, None], other=0.0, cache_modifier=".cg",
            )  # fmt: skip
            acc += part * tl.exp2(m - shift)[:, None]
        if FINAL:
            out_ptrs = out_rows[:, None] + cols[None, :] * out_stride
            value = (acc * factor[:, None]).to(out_rows.dtype.element_ty)
            tl.store(out_ptrs, value, mask=row_mask[:, None] & (cols < DV)[None, :])
        else:
            base = target.to(tl.int64) * BLOCK_M
            tl.debug_barrier()  # every thread has read this chunk of the slot before it is overwritten
            tl.store(partial_ptr + (base + rows)[:, None] * DVP + cols[None, :], acc, mask=row_mask[:, None])
    if FINAL:
        if HAS_LSE:
            tl.store(lse_ptrs, lse, mask=row_mask)
    else:
        tl.debug_barrier()
        store_state(state_ptr, target, top, total, rows, row_mask, BLOCK_M)


@triton.jit
def finish_piece(
    acc, m, norm, index, num_pieces, first_slot, rest_base, rest_stride,
    partial_ptr, state_ptr, counter_ptr, num_slots, out_rows, out_stride, lse_ptrs, sink_ptrs, rows, row_mask,
    BLOCK_M: tl.constexpr, DVP: tl.constexpr, DV: tl.constexpr, HAS_LSE: tl.constexpr, HAS_SINKS: tl.constexpr,
):  # fmt: skip
    """Store a piece's result; the last program of an item to arrive merges its pieces. Counters are left as they were: zero.

    Up to 16 pieces are merged at once, more in two levels (groups of 16 or 32, then the groups), so that one program never
    reads hundreds of partials. The tree depends on `num_pieces` alone.
    """
    cols = tl.arange(0, DVP)
    CHUNK: tl.constexpr = min(DVP, max(16, 2048 // BLOCK_M))
    if num_pieces == 1:
        factor, lse = normaliser(m, norm, sink_ptrs, row_mask, HAS_SINKS)
        out_ptrs = out_rows[:, None] + cols[None, :] * out_stride
        value = (acc * factor[:, None]).to(out_rows.dtype.element_ty)
        tl.store(out_ptrs, value, mask=row_mask[:, None] & (cols < DV)[None, :])
        if HAS_LSE:
            tl.store(lse_ptrs, lse, mask=row_mask)
    else:
        slot = slot_of(index, first_slot, rest_base, rest_stride)
        base = slot.to(tl.int64) * BLOCK_M
        tl.store(partial_ptr + (base + rows)[:, None] * DVP + cols[None, :], acc, mask=row_mask[:, None])
        store_state(state_ptr, slot, m, norm, rows, row_mask, BLOCK_M)
        fan = tl.where(num_pieces <= 256, 16, 32)
        num_groups = (num_pieces + fan - 1) // fan
        start = index // fan * fan
        stop = tl.minimum(start + fan, num_pieces)
        leader = slot_of(start, first_slot, rest_base, rest_stride)
        last = False
        tl.debug_barrier()  # every thread's stores come before the counter, which releases them to the device
        arrived = tl.atomic_add(counter_ptr + leader, 1, sem="acq_rel", scope="gpu")
        if arrived == stop - start - 1:
            tl.store(counter_ptr + leader, 0)
            last = num_groups == 1
            if num_groups > 1:
                merge_slots(
                    partial_ptr, state_ptr, start, stop, 1, first_slot, rest_base, rest_stride, rows, row_mask, out_rows,
                    out_stride, lse_ptrs, sink_ptrs, leader, BLOCK_M, DVP, DV, False, False, False, CHUNK,
                )  # fmt: skip
                tl.debug_barrier()
                groups_counter = counter_ptr + num_slots + first_slot
                if tl.atomic_add(groups_counter, 1, sem="acq_rel", scope="gpu") == num_groups - 1:
                    tl.store(groups_counter, 0)
                    last = True
        if last:
            step = tl.where(num_groups == 1, 1, fan)
            merge_slots(
                partial_ptr, state_ptr, 0, num_pieces, step, first_slot, rest_base, rest_stride, rows, row_mask, out_rows,
                out_stride, lse_ptrs, sink_ptrs, leader, BLOCK_M, DVP, DV, HAS_LSE, HAS_SINKS, True, CHUNK,
            )  # fmt: skip
