"""Split-KV decode attention over a paged cache, one launch. `@triton.jit` functions only; `_kernels_common` has the words.

A program walks through its pieces; in each it holds a block of query rows and streams tiles of K and V past them. Rows are
numbered `query * GROUP + head of the group`. Three choices are about memory, not arithmetic:

- the page ids of a tile are loaded one iteration ahead and carried, because a load inside the loop that another load depends
  on halves the number of tiles in flight;
- 8-bit elements are read in pairs as uint16 and split into even and odd columns, so that shared memory is read in words;
- strides come divided by UNIT, the largest power of two that keeps rows 16-byte aligned: the compiler sees only "divisible by
  16", which rows of 88 or 328 elements are not, and would fall back to narrow loads.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_common import (
    LOG2E,
    PLAIN,
    decode_low,
    decode_pair,
    finish_piece,
    format_factor,
    key_range,
    load_ids,
    num_tiles,
    query_span,
    rows_of,
    share_owner,
    share_start,
    tiles_before,
)
from hfmem_kernels._kernels_latent import attend_packed_latent


@triton.jit
def _load_query(q_rows, stride_d, row_mask, cols, DIM: tl.constexpr):
    """One block of query columns, fp32 so that nothing is rounded before scaling."""
    mask = row_mask[:, None] & (cols < DIM)[None, :]
    return tl.load(q_rows[:, None] + cols[None, :] * stride_d, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _load_rows(rows, stride_d, mask, cols, LIMIT: tl.constexpr, FULL: tl.constexpr):
    """A tile [BLOCK_N, columns] of the cache; positions outside the sequence read as zero and touch no memory."""
    pointers = rows[:, None] + cols[None, :] * stride_d
    if FULL:
        return tl.load(pointers, mask=mask[:, None], other=0)
    return tl.load(pointers, mask=mask[:, None] & (cols < LIMIT)[None, :], other=0)


@triton.jit
def _partial_scores(q_low, q_high, tile, scores, FORMAT: tl.constexpr, PAIRS: tl.constexpr, DECODER: tl.constexpr):
    """scores + Q · tileᵀ, with the tile decoded to fp16 if it holds 8-bit elements."""
    if FORMAT == PLAIN:
        scores = tl.dot(q_low, tl.trans(tile), scores, input_precision="ieee")
    elif PAIRS:
        low, high = decode_pair(tile, FORMAT, DECODER)
        scores = tl.dot(q_low, tl.trans(low), scores)
        scores = tl.dot(q_high, tl.trans(high), scores)
    else:
        scores = tl.dot(q_low, tl.trans(decode_low(tile.to(tl.uint16), FORMAT)), scores)
    return scores


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, ids_ptr, k_scale_ptr, v_scale_ptr, alibi_ptr,
    b, head, m_block, q_row0, q_len, lo, hi, tile0, tile1, window, scale, softcap, v_factor, k_offset, v_offset,
    sqb, sqt, sqh, sqd, skp, skt, skh, skd, svp, svt, svh, svd, ssp, sst, ssh, vsp, vst, vsh,
    GROUP: tl.constexpr, PAGE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    DVP: tl.constexpr, FORMAT: tl.constexpr, PAIRS: tl.constexpr, UNIT_K: tl.constexpr, UNIT_V: tl.constexpr,
    SCALES: tl.constexpr, LATENT: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    HAS_ALIBI: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DECODER: tl.constexpr,
    SCALAR_IDS: tl.constexpr, SAME_STRIDES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Attention of one block of query rows to the tiles tile0 … tile1 - 1. Returns acc [BLOCK_M, DVP], m and norm [BLOCK_M]."""
    # --- the query rows, in the type of the dot's other side
    row = m_block * BLOCK_M + tl.arange(0, BLOCK_M)
    query = row // GROUP
    row_mask = query < q_len
    q_head = head * GROUP + row % GROUP
    q_rows = q_ptr + b.to(tl.int64) * sqb + (q_row0 + query).to(tl.int64) * sqt + q_head.to(tl.int64) * sqh
    STEP: tl.constexpr = 2 if PAIRS else 1
    cols1 = tl.arange(0, D1 // STEP)
    q_low1 = _load_query(q_rows, sqd, row_mask, cols1 * STEP, DK)
    q_high1 = q_low1
    q_low2 = q_low1
    q_high2 = q_low1
    cols2 = cols1
    if PAIRS:
        q_high1 = _load_query(q_rows, sqd, row_mask, cols1 * STEP + 1, DK)
    if D2 > 0:
        cols2 = D1 // STEP + tl.arange(0, D2 // STEP)
        q_low2 = _load_query(q_rows, sqd, row_mask, cols2 * STEP, DK)
        if PAIRS:
            q_high2 = _load_query(q_rows, sqd, row_mask, cols2 * STEP + 1, DK)
    to_log2 = tl.full([BLOCK_M], 1.0, tl.float32) * scale
    if not HAS_SOFTCAP:
        to_log2 = to_log2 * LOG2E
    if FORMAT == PLAIN:
        q_low1 = q_low1.to(q_ptr.dtype.element_ty)
        q_low2 = q_low2.to(q_ptr.dtype.element_ty)
    else:
        # fp16 holds every decoded element; a power of two per row brings bf16 queries into fp16's range
        biggest = tl.max(tl.abs(q_low1), 1)
        if PAIRS:
            biggest = tl.maximum(biggest, tl.max(tl.abs(q_high1), 1))
        if D2 > 0:
            biggest = tl.maximum(biggest, tl.max(tl.abs(q_low2), 1))
            if PAIRS:
                biggest = tl.maximum(biggest, tl.max(tl.abs(q_high2), 1))
        power = (biggest.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        power = tl.where((power == 0.0) | (power == float("inf")), 1.0, power)
        shrink = (16384.0 / power)[:, None]
        q_low1 = (q_low1 * shrink).to(tl.float16)
        q_high1 = (q_high1 * shrink).to(tl.float16)
        q_low2 = (q_low2 * shrink).to(tl.float16)
        q_high2 = (q_high2 * shrink).to(tl.float16)
        to_log2 = to_log2 * power * (1.0 / 16384.0) * format_factor(FORMAT, DECODER)
    if SCALES == 1:
        to_log2 = to_log2 * tl.load(k_scale_ptr + head.to(tl.int64) * ssh)

    factor = v_factor
    if FORMAT != PLAIN:
        factor = factor * format_factor(FORMAT, DECODER)
    if SCALES == 1:
        factor = factor * tl.load(v_scale_ptr + head.to(tl.int64) * vsh)

    # --- what each row may see: keys row_lo <= t < row_hi
    row_hi = tl.where(row_mask, hi - q_len + query + 1, 0)
    row_lo = row_hi - window
    slope = row_hi.to(tl.float32)
    if HAS_ALIBI:
        slope = tl.load(alibi_ptr + q_head, mask=row_mask, other=0.0).to(tl.float32) * LOG2E

    k_base = k_ptr + (head.to(tl.int64) * skh + k_offset) * UNIT_K
    v_base = v_ptr + (head.to(tl.int64) * svh + v_offset) * UNIT_V
    cols_v = tl.arange(0, DVP // STEP)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)  # summed over the columns once, at the end
    acc = tl.zeros([BLOCK_M, DVP // STEP], tl.float32)
    acc_high = acc
    offsets = tl.arange(0, BLOCK_N)
    first, second = load_ids(ids_ptr, lo + tile0 * BLOCK_N, hi, offsets, PAGE, SCALAR_IDS)
    for tile in range(tile0, tile1):
        t0 = lo + tile * BLOCK_N
        inside = offsets < hi - t0
        if WIDE:
            first = first.to(tl.int64)
            second = second.to(tl.int64)
        rows = rows_of(first, second, t0, offsets, skp, skt, PAGE, SCALAR_IDS)
        k_rows = k_base + rows.to(tl.int64) * UNIT_K
        k1 = _load_rows(k_rows, skd, inside, cols1, DK // STEP, D1 <= DK)
        k2 = k1
        if D2 > 0:
            k2 = _load_rows(k_rows, skd, inside, cols2, DK // STEP, D1 + D2 <= DK)
        if LATENT:
            v = k1  # the latent is both the first D1 columns of the key and the value
        else:
            if not SAME_STRIDES:
                rows = rows_of(first, second, t0, offsets, svp, svt, PAGE, SCALAR_IDS)
            v = _load_rows(v_base + rows.to(tl.int64) * UNIT_V, svd, inside, cols_v, DV // STEP, DVP <= DV)
        k_token = to_log2
        v_token = to_log2
        if SCALES == 2:
            rows = rows_of(first.to(tl.int64), second.to(tl.int64), t0, offsets, ssp, sst, PAGE, SCALAR_IDS)
            k_token = tl.load(k_scale_ptr + head.to(tl.int64) * ssh + rows, mask=inside, other=0.0)
            rows = rows_of(first.to(tl.int64), second.to(tl.int64), t0, offsets, vsp, vst, PAGE, SCALAR_IDS)
            v_token = tl.load(v_scale_ptr + head.to(tl.int64) * vsh + rows, mask=inside, other=0.0)
        first, second = load_ids(ids_ptr, t0 + BLOCK_N, hi, offsets, PAGE, SCALAR_IDS)

        scores = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        scores = _partial_scores(q_low1, q_high1, k1, scores, FORMAT, PAIRS, DECODER)
        if D2 > 0:
            scores = _partial_scores(q_low2, q_high2, k2, scores, FORMAT, PAIRS, DECODER)
        scores = scores * to_log2[:, None]
        if SCALES == 2:
            scores = scores * k_token[None, :]
        if HAS_SOFTCAP:
            # cap · tanh(x / cap); tanh(y) = 1 - 2 / (1 + 2**(2 y log2 e)) neither overflows nor needs a library
            e = tl.exp2(scores * (2.0 * LOG2E / softcap))
            scores = (1.0 - 2.0 / (1.0 + e)) * (softcap * LOG2E)
        if HAS_ALIBI:
            scores += slope[:, None] * (offsets[None, :] - (row_hi - t0 - 1)[:, None]).to(tl.float32)
        seen = offsets[None, :] < (row_hi - t0)[:, None]
        if HAS_WINDOW:
            seen = seen & (offsets[None, :] >= (row_lo - t0)[:, None])
        scores = tl.where(seen, scores, float("-inf"))

        top = tl.maximum(m, tl.max(scores, 1))
        shift = tl.where(top == float("-inf"), 0.0, top)
        alpha = tl.exp2(m - shift)
        p = tl.exp2(scores - shift[:, None])
        m = top
        weights = weights * alpha[:, None] + p
        acc = acc * alpha[:, None]
        if FORMAT == PLAIN:
            acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")
        elif SCALES == 2:
            # bf16 for the product with the token's scale, whose size is unknown: fp16 could underflow
            p_scaled = (p * v_token[None, :]).to(tl.bfloat16)
            if PAIRS:
                acc_high = acc_high * alpha[:, None]
                v_low, v_high = decode_pair(v, FORMAT, DECODER)
                acc = tl.dot(p_scaled, v_low.to(tl.float32).to(tl.bfloat16), acc)
                acc_high = tl.dot(p_scaled, v_high.to(tl.float32).to(tl.bfloat16), acc_high)
            else:
                decoded = decode_low(v.to(tl.uint16), FORMAT).to(tl.float32).to(tl.bfloat16)
                acc = tl.dot(p_scaled, decoded, acc)
        else:
            p_half = p.to(tl.float16)
            if PAIRS:
                acc_high = acc_high * alpha[:, None]
                v_low, v_high = decode_pair(v, FORMAT, DECODER)
                acc = tl.dot(p_half, v_low, acc)
                acc_high = tl.dot(p_half, v_high, acc_high)
            else:
                acc = tl.dot(p_half, decode_low(v.to(tl.uint16), FORMAT), acc)

    if PAIRS:
        acc = tl.reshape(tl.join(acc, acc_high), [BLOCK_M, DVP])
    return acc * factor, m, tl.sum(weights, 1)


@triton.jit
def decode_kernel(
    q_ptr, k_ptr, v_ptr, page_table_ptr, seq_lens_ptr, cu_q_ptr, out_ptr, lse_ptr, sinks_ptr, alibi_ptr,
    k_scale_ptr, v_scale_ptr, partial_ptr, state_ptr, counter_ptr,
    batch, num_kv_heads, q_len, window, capacity, num_slots, max_pieces, scale, softcap, v_factor, k_offset, v_offset,
    sqb, sqt, sqh, sqd, skp, skt, skh, skd, svp, svt, svh, svd, spb, sob, sot, soh, sod, slb, slt, slh,
    ssp, sst, ssh, vsp, vst, vsh,
    GROUP: tl.constexpr, PAGE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    DVP: tl.constexpr, FORMAT: tl.constexpr, PAIRS: tl.constexpr, UNIT_K: tl.constexpr, UNIT_V: tl.constexpr,
    SCALES: tl.constexpr, LATENT: tl.constexpr, VARLEN: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_SINKS: tl.constexpr, HAS_LSE: tl.constexpr,
    M_BLOCKS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr,
    SPLIT_TILES: tl.constexpr, MIN_TILES: tl.constexpr, DECODER: tl.constexpr, SCALAR_IDS: tl.constexpr,
    SAME_STRIDES: tl.constexpr, WIDE: tl.constexpr, PACKED_LATENT: tl.constexpr,
):  # fmt: skip
    """Grid: (programs) sharing all tiles equally when SPLIT_TILES is 0, else (items × max_pieces), a fixed split.

    `s??` are strides: q, k, v, page table (p), out, lse, k scales (s), v scales (v), by batch, token, head, page, dim.
    """
    program = tl.program_id(0)
    heads = num_kv_heads * M_BLOCKS
    if SPLIT_TILES > 0:
        item = program // max_pieces
        fixed_piece = program % max_pieces
        b = item // heads
        lane = item % heads
        unit = 0
        unit_stop = 1
        quotient = 1
        remainder = 0
        tile = fixed_piece * SPLIT_TILES
        item_unit = 0
    else:
        item = 0
        fixed_piece = 0
        _, _, per_head = tiles_before(
            seq_lens_ptr, cu_q_ptr, batch, 0, q_len, window, capacity, BLOCK_B, BLOCK_N, HAS_WINDOW, VARLEN
        )
        total = per_head * heads
        programs = tl.minimum(tl.num_programs(0), tl.maximum(total // MIN_TILES, 1))
        quotient = total // programs
        remainder = total % programs
        unit = share_start(program, quotient, remainder)
        unit_stop = share_start(program + 1, quotient, remainder)
        if program >= programs:
            unit_stop = unit
        b, before, _ = tiles_before(
            seq_lens_ptr, cu_q_ptr, batch, unit // heads, q_len, window, capacity, BLOCK_B, BLOCK_N, HAS_WINDOW, VARLEN
        )
        item_unit = before * heads  # first unit of sequence b, then of the item
        lane = 0
        tile = 0

    while unit < unit_stop:
        q_row0, count = query_span(cu_q_ptr, b, q_len, True, VARLEN)
        lo, hi = key_range(tl.load(seq_lens_ptr + b), count, window, capacity, HAS_WINDOW)
        tiles = num_tiles(lo, hi, BLOCK_N)
        if SPLIT_TILES > 0:
            tile_stop = tl.minimum(tile + SPLIT_TILES, tiles)
            num_pieces = (tiles + SPLIT_TILES - 1) // SPLIT_TILES
            index = fixed_piece
            rest_base = item * max_pieces
            rest_stride = 1
            first_slot = rest_base
        else:
            lane = (unit - item_unit) // tiles
            start = item_unit + lane * tiles
            tile = unit - start
            tile_stop = tl.minimum(tiles, tile + unit_stop - unit)
            first = share_owner(start, quotient, remainder)
            num_pieces = share_owner(start + tiles - 1, quotient, remainder) - first + 1
            index = program - first
            rest_base = 2 * first
            rest_stride = 2
            # a program has one slot for an item that ends in it and one for an item that begins in it
            first_slot = rest_base + (share_start(first, quotient, remainder) < start).to(tl.int32)
        if tile < tile_stop:
            head = lane // M_BLOCKS
            m_block = lane % M_BLOCKS
            if PACKED_LATENT:
                acc, m, norm = attend_packed_latent(
                    q_ptr, k_ptr, page_table_ptr + b.to(tl.int64) * spb, b, m_block, q_row0, count, lo, hi, tile,
                    tile_stop, window, scale, sqb, sqt, sqh, sqd, skp, skt, GROUP, PAGE, UNIT_K, HAS_WINDOW, BLOCK_M,
                    BLOCK_N, DECODER, SCALAR_IDS, WIDE,
                )  # fmt: skip
            else:
                acc, m, norm = _attend(
                    q_ptr, k_ptr, v_ptr, page_table_ptr + b.to(tl.int64) * spb, k_scale_ptr, v_scale_ptr, alibi_ptr,
                    b, head, m_block, q_row0, count, lo, hi, tile, tile_stop, window, scale, softcap, v_factor, k_offset, v_offset,
                    sqb, sqt, sqh, sqd, skp, skt, skh, skd, svp, svt, svh, svd, ssp, sst, ssh, vsp, vst, vsh,
                    GROUP, PAGE, DK, DV, D1, D2, DVP, FORMAT, PAIRS, UNIT_K, UNIT_V, SCALES, LATENT, HAS_WINDOW,
                    HAS_SOFTCAP, HAS_ALIBI, BLOCK_M, BLOCK_N, DECODER, SCALAR_IDS, SAME_STRIDES, WIDE,
                )  # fmt: skip
            rows = tl.arange(0, BLOCK_M)
            row = m_block * BLOCK_M + rows
            query = row // GROUP
            q_head = head * GROUP + row % GROUP
            row_mask = query < count
            token = (q_row0 + query).to(tl.int64)
            out_rows = out_ptr + b.to(tl.int64) * sob + token * sot + q_head.to(tl.int64) * soh
            lse_ptrs = lse_ptr + b.to(tl.int64) * slb + token * slt + q_head.to(tl.int64) * slh
            finish_piece(
                acc, m, norm, index, num_pieces, first_slot, rest_base, rest_stride, partial_ptr, state_ptr, counter_ptr,
                num_slots, out_rows, sod, lse_ptrs, sinks_ptr + q_head, rows, row_mask, BLOCK_M, DVP, DV, HAS_LSE,
                HAS_SINKS,
            )  # fmt: skip
        if SPLIT_TILES > 0:
            unit += 1
        else:
            unit += tile_stop - tile
            if unit == item_unit + tiles * heads:
                item_unit = unit
                b += 1
