"""The loop over keys and values: a block of query rows against a piece's tiles. `@triton.jit` functions only.

Rows are numbered `query * GROUP + head of the group`. Three choices are about memory, not arithmetic:

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
    INT8,
    LOG2E,
    PLAIN,
    decode_low,
    decode_pair,
    format_factor,
    load_ids,
    rows_of,
    widened,
)
from hfmem_kernels._kernels_slots import hide, load_rows

#: scales of values below this count as this, so that what they are split into is finite
TINY = tl.constexpr(2.0**-100)


@triton.jit
def query_rows(q_ptr, b, head, m_block, q_row0, q_len, sqb, sqt, sqh, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """A block's rows: the query of each, whether there is one, its head, and where its columns begin."""
    row = m_block * BLOCK_M + tl.arange(0, BLOCK_M)
    query = row // GROUP
    q_head = head * GROUP + row % GROUP
    q_rows = q_ptr + b.to(tl.int64) * sqb + (q_row0 + query).to(tl.int64) * sqt + q_head.to(tl.int64) * sqh
    return query, query < q_len, q_head, q_rows


@triton.jit
def seen_keys(query, row_mask, q_len, hi, window):
    """What each row may see: keys row_lo <= t < row_hi."""
    row_hi = tl.where(row_mask, hi - q_len + query + 1, 0)
    return row_hi - window, row_hi


@triton.jit
def open_loop(ids_ptr, lo, hi, tile0, tile1, BLOCK_N: tl.constexpr, PAGE: tl.constexpr, PAGES: tl.constexpr):
    """What a loop over tiles begins with: places in a tile, the last key, where it stops, and the ids of the first tile."""
    offsets = tl.arange(0, BLOCK_N)
    last = hi - 1
    first, second = load_ids(ids_ptr, lo + tile0 * BLOCK_N, last, offsets, PAGE, PAGES, True)
    return offsets, last, tl.where(hi > lo, tile1, tile0), first, second  # without a key there is no row to read


@triton.jit
def load_query(q_rows, stride_d, row_mask, cols, DIM: tl.constexpr):
    """One block of query columns, fp32 so that nothing is rounded before scaling."""
    mask = row_mask[:, None] & (cols < DIM)[None, :]
    return tl.load(q_rows[:, None] + cols[None, :] * stride_d, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def query_parts(
    q_rows, stride_d, row_mask, START: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr, PAIRS: tl.constexpr
):
    """WIDTH query columns from START: the even and the odd ones if PAIRS, else all and, unused, all again. And the largest."""
    STEP: tl.constexpr = 2 if PAIRS else 1
    cols = START + tl.arange(0, WIDTH // STEP) * STEP
    low = load_query(q_rows, stride_d, row_mask, cols, DIM)
    high = low
    if PAIRS:
        high = load_query(q_rows, stride_d, row_mask, cols + 1, DIM)
    return low, high, tl.maximum(tl.max(tl.abs(low), 1), tl.max(tl.abs(high), 1))


@triton.jit
def power_of(biggest):
    """The power of two within each row's largest query element: divided by it, bf16 queries fit the range of fp16."""
    power = (biggest.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    return tl.where((power == 0.0) | (power == float("inf")), 1.0, power)


@triton.jit
def logit_factor(factor):
    """What logits are multiplied by, as a sign, for the queries, and a magnitude that is never 0: hidden logits stay -inf."""
    return tl.where(factor < 0.0, -1.0, 1.0), tl.maximum(tl.abs(factor), TINY)


@triton.jit
def split_scale(scale):
    """A positive scale as 2**exponent · rest with rest in 1 … 2, exactly: exponent and rest in fp32, and 2**-exponent.

    A weight times its value's scale goes into fp16, where neither the one nor the other must be lost. The exponent therefore
    joins the logits, whose maximum is taken away; the rest is at most 2.
    """
    bits = tl.maximum(scale, TINY).to(tl.int32, bitcast=True)
    power = bits & 0x7F800000
    exponent = ((power >> 23) - 127).to(tl.float32)
    rest = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    return exponent, rest, (0x7F000000 - power).to(tl.float32, bitcast=True)


@triton.jit
def scores_of(
    q_low, q_high, tile,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, FORMAT: tl.constexpr, PAIRS: tl.constexpr, DECODER: tl.constexpr,
    CUT: tl.constexpr,
):  # fmt: skip
    """Q · tileᵀ, with the tile decoded to fp16 if it holds 8-bit elements. CUT: the odd columns of Q, `q_high`, come negated.

    A product is one chain of additions, each waiting for the one before, and 16 rows have few chains to take turns. Products of
    parts do not wait for each other, so with CUT even and odd columns have their own, and callers cut long rows. They are
    subtracted, what is subtracted being negated before the loop, because the compiler makes one chain again of a sum of products.
    """
    nothing = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if FORMAT == PLAIN:
        scores = tl.dot(q_low, tl.trans(tile), nothing, input_precision="ieee")
    elif PAIRS:
        low, high = decode_pair(tile, FORMAT, DECODER)
        if CUT:
            scores = tl.dot(q_low, tl.trans(low), nothing) - tl.dot(q_high, tl.trans(high), nothing)
        else:
            scores = tl.dot(q_high, tl.trans(high), tl.dot(q_low, tl.trans(low), nothing))
    else:
        scores = tl.dot(q_low, tl.trans(decode_low(tile.to(tl.uint16), FORMAT)), nothing)
    return scores


@triton.jit
def with_more(scores, more, CUT: tl.constexpr):
    """The scores of two parts, with CUT those of the second from negated queries (`scores_of`)."""
    return scores - more if CUT else scores + more


@triton.jit
def add_values(p, tile, acc, acc_high, FORMAT: tl.constexpr, PAIRS: tl.constexpr, DECODER: tl.constexpr):
    """acc + P · tile; with PAIRS the even columns in `acc`, the odd ones in `acc_high`. P is at most 2, so fp16 holds it."""
    if FORMAT == PLAIN:
        acc = tl.dot(p.to(tile.dtype), tile, acc, input_precision="ieee")
    elif PAIRS:
        low, high = decode_pair(tile, FORMAT, DECODER)
        p_half = p.to(tl.float16)
        acc = tl.dot(p_half, low, acc)
        acc_high = tl.dot(p_half, high, acc_high)
    else:
        acc = tl.dot(p.to(tl.float16), decode_low(tile.to(tl.uint16), FORMAT), acc)
    return acc, acc_high


@triton.jit
def beside(left, right, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS] twice → [ROWS, 2 · COLUMNS]."""
    return tl.reshape(tl.permute(tl.join(left, right), (0, 2, 1)), [ROWS, 2 * COLUMNS])


@triton.jit
def interleaved(low, high, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Even and odd columns → COLUMNS of them."""
    return tl.reshape(tl.join(low, high), [ROWS, COLUMNS])


@triton.jit
def softmax_step(scores, factor, m):
    """The running maximum, what fades what came before, the weights of this tile. Rows that saw no key stay at -inf, 1, 0.

    Logits are scores times `factor` [rows], which is positive: the product is part of the exponential's subtraction.
    """
    top = tl.maximum(m, tl.max(scores, 1) * factor)
    shift = tl.where(top == float("-inf"), 0.0, top)
    return top, tl.exp2(m - shift), tl.exp2(scores * factor[:, None] - shift[:, None])


@triton.jit
def scaled_queries(
    q_rows, stride_d, row_mask, scale, DK: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, FORMAT: tl.constexpr,
    PAIRS: tl.constexpr, BLOCK_M: tl.constexpr, DECODER: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """A block's queries, D1 columns and D2 more, in the type of the dot's other side and some negated (`scores_of`); and what makes
    logits of their scores, a positive factor for each row."""
    low1, high1, biggest = query_parts(q_rows, stride_d, row_mask, 0, D1, DK, PAIRS)
    low2 = low1
    high2 = high1
    if D2 > 0:
        low2, high2, other = query_parts(q_rows, stride_d, row_mask, D1, D2, DK, PAIRS)
        biggest = tl.maximum(biggest, other)
    sign, scale = logit_factor(scale)
    factor = tl.full([BLOCK_M], 1.0, tl.float32) * scale
    if FORMAT == PLAIN:
        low1 = (low1 * sign).to(q_rows.dtype.element_ty)
        low2 = (low2 * (-sign if CUT else sign)).to(q_rows.dtype.element_ty)
    else:
        power = power_of(biggest)  # fp16 holds every decoded element
        shrink = (sign * 16384.0 / power)[:, None]
        turned = -shrink if CUT else shrink
        low1 = (low1 * shrink).to(tl.float16)
        high1 = (high1 * turned).to(tl.float16)
        low2 = (low2 * turned).to(tl.float16)
        high2 = (high2 * shrink).to(tl.float16)
        factor = tl.maximum(factor * power * (1.0 / 16384.0) * format_factor(FORMAT, PAIRS, DECODER), TINY)
    return low1, high1, low2, high2, factor


@triton.jit
def logits_of(
    scores, to_log2, k_token, softcap, slope, offsets, at,
    SCALES: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Scores with all that is done to them but the factor of `softmax_step`, which comes back too: `to_log2`, or 1 if it was needed
    before. at: each row's own position in the tile."""
    to_logit = to_log2
    if (SCALES == 2 or HAS_SOFTCAP) or HAS_ALIBI:
        scores = scores * to_log2[:, None]
        to_logit = tl.full([BLOCK_M], 1.0, tl.float32)
    if SCALES == 2:
        scores = scores * k_token[None, :]
    if HAS_SOFTCAP:
        # cap · tanh(x / cap); tanh(y) = 1 - 2 / (1 + 2**(2 y log2 e)) neither overflows nor needs a library
        e = tl.exp2(scores * (2.0 * LOG2E / softcap))
        scores = (1.0 - 2.0 / (1.0 + e)) * (softcap * LOG2E)
    if HAS_ALIBI:
        scores += slope[:, None] * (offsets[None, :] - at[:, None]).to(tl.float32)
    return scores, to_logit


@triton.jit
def attend(
    q_ptr, k_ptr, v_ptr, ids_ptr, k_scale_ptr, v_scale_ptr, alibi_ptr,
    b, head, m_block, q_row0, q_len, lo, hi, tile0, tile1, window, scale, softcap, v_factor, k_offset, v_offset,
    sqb, sqt, sqh, sqd, skp, skt, skh, skd, svp, svt, svh, svd, ssp, sst, ssh, vsp, vst, vsh,
    GROUP: tl.constexpr, PAGE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    DVP: tl.constexpr, FORMAT: tl.constexpr, PAIRS: tl.constexpr, UNIT_K: tl.constexpr, UNIT_V: tl.constexpr,
    SCALES: tl.constexpr, V_SCALES: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    HAS_ALIBI: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DECODER: tl.constexpr,
    PAGES: tl.constexpr, SAME_STRIDES: tl.constexpr, SAME_SCALES: tl.constexpr, WIDE: tl.constexpr,
    WIDE_SCALES: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """Attention of one block of query rows to the tiles tile0 … tile1 - 1. Returns acc [BLOCK_M, DVP], m and norm [BLOCK_M]."""
    query, row_mask, q_head, q_rows = query_rows(q_ptr, b, head, m_block, q_row0, q_len, sqb, sqt, sqh, GROUP, BLOCK_M)
    STEP: tl.constexpr = 2 if PAIRS else 1
    if SCALES == 1:
        scale = scale * tl.load(k_scale_ptr + head.to(tl.int64) * ssh)
    if not HAS_SOFTCAP:
        scale = scale * LOG2E
    q_low1, q_high1, q_low2, q_high2, to_log2 = scaled_queries(
        q_rows, sqd, row_mask, scale, DK, D1, D2, FORMAT, PAIRS, BLOCK_M, DECODER, CUT
    )
    factor = v_factor
    if FORMAT != PLAIN:
        factor = factor * format_factor(FORMAT, PAIRS, DECODER)
    if V_SCALES == 1:
        factor = factor * tl.load(v_scale_ptr + head.to(tl.int64) * vsh)

    row_lo, row_hi = seen_keys(query, row_mask, q_len, hi, window)
    slope = row_hi.to(tl.float32)
    if HAS_ALIBI:
        slope = tl.load(alibi_ptr + q_head, mask=row_mask, other=0.0).to(tl.float32) * LOG2E

    k_base = k_ptr + (head.to(tl.int64) * skh + k_offset) * UNIT_K
    v_base = v_ptr + (head.to(tl.int64) * svh + v_offset) * UNIT_V
    cols1 = tl.arange(0, D1 // STEP)
    cols2 = cols1
    if D2 > 0:
        cols2 = D1 // STEP + tl.arange(0, D2 // STEP)
    # values in halves, as keys are, so that rows are dealt out to threads in one way and their offsets computed once
    HALVES: tl.constexpr = (CUT and FORMAT == PLAIN) and DVP >= 128
    WIDTH: tl.constexpr = DVP // 2 if PAIRS or HALVES else DVP
    cols_v = tl.arange(0, WIDTH)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)  # summed over the columns once, at the end
    acc = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    acc_high = acc
    # int8 has no NaN that a weight of 0 would not take away, so its rows may be anybody's; a scale may not
    CLAMP: tl.constexpr = FORMAT != INT8
    offsets, last, tile1, first, second = open_loop(ids_ptr, lo, hi, tile0, tile1, BLOCK_N, PAGE, PAGES)
    for tile in range(tile0, tile1):
        t0 = lo + tile * BLOCK_N
        first, second = widened(first, second, WIDE)
        ids = first
        rows = rows_of(first, second, t0, last, offsets, skp, skt, PAGE, PAGES, CLAMP)
        k_rows = k_base + rows.to(tl.int64) * UNIT_K
        k1 = load_rows(k_rows, skd, cols1, DK // STEP, D1 <= DK, ids, PAGES)
        k2 = k1
        if D2 > 0:
            k2 = load_rows(k_rows, skd, cols2, DK // STEP, D1 + D2 <= DK, ids, PAGES)
        if not SAME_STRIDES:
            rows = rows_of(first, second, t0, last, offsets, svp, svt, PAGE, PAGES, CLAMP)
        v_rows = v_base + rows.to(tl.int64) * UNIT_V
        v = load_rows(v_rows, svd, cols_v, DV // STEP, DVP <= DV, ids, PAGES)
        v_high = v
        if HALVES:
            v_high = load_rows(v_rows, svd, WIDTH + cols_v, DV, DVP <= DV, ids, PAGES)
        k_token = to_log2
        v_token = to_log2
        if SCALES == 2:
            first, second = widened(first, second, WIDE_SCALES)
            rows = rows_of(first, second, t0, last, offsets, ssp, sst, PAGE, PAGES)
            k_token = tl.load(k_scale_ptr + head.to(tl.int64) * ssh + rows)
            if not SAME_SCALES:
                rows = rows_of(first, second, t0, last, offsets, vsp, vst, PAGE, PAGES)
            v_token = tl.load(v_scale_ptr + head.to(tl.int64) * vsh + rows)
        first, second = load_ids(ids_ptr, t0 + BLOCK_N, last, offsets, PAGE, PAGES, False)

        scores = scores_of(q_low1, q_high1, k1, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT)
        if D2 > 0:
            more = scores_of(q_low2, q_high2, k2, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT)
            scores = with_more(scores, more, CUT)
        scores, to_logit = logits_of(
            scores, to_log2, k_token, softcap, slope, offsets, row_hi - t0 - 1, SCALES, HAS_SOFTCAP, HAS_ALIBI, BLOCK_M
        )
        scores = hide(scores, offsets, t0, row_lo, row_hi, HAS_WINDOW, ids, PAGES)
        if SCALES == 2:
            exponent, rest, inverse = split_scale(v_token)
            m, alpha, p = softmax_step(scores + exponent[None, :], to_logit, m)
            weights = weights * alpha[:, None] + p * inverse[None, :]
            p = p * rest[None, :]
        else:
            m, alpha, p = softmax_step(scores, to_logit, m)
            weights = weights * alpha[:, None] + p
        acc = acc * alpha[:, None]
        if PAIRS or HALVES:
            acc_high = acc_high * alpha[:, None]
        acc, acc_high = add_values(p, v, acc, acc_high, FORMAT, PAIRS, DECODER)
        if HALVES:
            acc_high, _ = add_values(p, v_high, acc_high, acc_high, FORMAT, PAIRS, DECODER)

    if PAIRS:
        acc = interleaved(acc, acc_high, BLOCK_M, DVP)
    if HALVES:
        acc = beside(acc, acc_high, BLOCK_M, WIDTH)
    return acc * factor, m, tl.sum(weights, 1)
