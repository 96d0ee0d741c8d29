"""The loop over an MLA cache, where every head reads the same rows and values are a part of keys. `@triton.jit` functions only.

Plain rows of one format; `_kernels_packed` has those that carry their scales. A product over 576 columns is one long chain of
additions; both loops take it in parts that do not wait for each other.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_attend import (
    TINY,
    add_values,
    beside,
    interleaved,
    logit_factor,
    open_loop,
    power_of,
    query_parts,
    query_rows,
    scores_of,
    seen_keys,
    softmax_step,
    with_more,
)
from hfmem_kernels._kernels_common import LOG2E, PLAIN, format_factor, load_ids, rows_of, widened
from hfmem_kernels._kernels_slots import hide, load_rows


@triton.jit
def _faded(low, high, alpha, PAIRS: tl.constexpr):
    """Both accumulators times what is left of them."""
    low = low * alpha[:, None]
    high = high * alpha[:, None] if PAIRS else low
    return low, high


@triton.jit
def attend_latent(
    q_ptr, rows_ptr, ids_ptr, scale_ptr, b, m_block, q_row0, q_len, lo, hi, tile0, tile1, window, scale, v_factor, offset,
    sqb, sqt, sqh, sqd, skp, skt, skd,
    GROUP: tl.constexpr, PAGE: tl.constexpr, DK: tl.constexpr, RANK: tl.constexpr, D2: tl.constexpr,
    FORMAT: tl.constexpr, PAIRS: tl.constexpr, UNIT: tl.constexpr, SCALES: tl.constexpr, HAS_WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DECODER: tl.constexpr, PAGES: tl.constexpr, WIDE: tl.constexpr,
    CUT: tl.constexpr,
):  # fmt: skip
    """As `attend`, for rows of RANK latent columns, which are the value too, and DK - RANK rotary ones (none: D2 is
    0); acc is [BLOCK_M, RANK]."""
    QUARTER: tl.constexpr = RANK // 4
    STEP: tl.constexpr = 2 if PAIRS else 1
    query, row_mask, _head, q_rows = query_rows(q_ptr, b, 0, m_block, q_row0, q_len, sqb, sqt, sqh, GROUP, BLOCK_M)
    qa, qa_high, biggest_a = query_parts(q_rows, sqd, row_mask, 0, QUARTER, DK, PAIRS)
    qb, qb_high, biggest_b = query_parts(q_rows, sqd, row_mask, QUARTER, QUARTER, DK, PAIRS)
    qc, qc_high, biggest_c = query_parts(q_rows, sqd, row_mask, 2 * QUARTER, QUARTER, DK, PAIRS)
    qd, qd_high, biggest_d = query_parts(q_rows, sqd, row_mask, 3 * QUARTER, QUARTER, DK, PAIRS)
    qr, qr_high, biggest_r = qa, qa_high, biggest_a
    if D2 > 0:
        qr, qr_high, biggest_r = query_parts(q_rows, sqd, row_mask, RANK, D2, DK, PAIRS)
    factor = v_factor
    if SCALES == 1:
        cache_scale = tl.load(scale_ptr)
        scale = scale * cache_scale
        factor = factor * cache_scale
    sign, scale = logit_factor(scale * LOG2E)
    to_log2 = tl.full([BLOCK_M], 1.0, tl.float32) * scale
    if FORMAT == PLAIN:
        shrink = tl.full([BLOCK_M], 1.0, tl.float32)[:, None] * sign
    else:
        power = power_of(
            tl.maximum(tl.maximum(tl.maximum(biggest_a, biggest_b), tl.maximum(biggest_c, biggest_d)), biggest_r)
        )
        shrink = (sign * 16384.0 / power)[:, None]
        to_log2 = tl.maximum(to_log2 * power * (1.0 / 16384.0) * format_factor(FORMAT, PAIRS, DECODER), TINY)
        factor = factor * format_factor(FORMAT, PAIRS, DECODER)
    ELEMENT: tl.constexpr = q_ptr.dtype.element_ty if FORMAT == PLAIN else tl.float16
    turned = -shrink if CUT else shrink
    qa = (qa * shrink).to(ELEMENT)
    qa_high = (qa_high * turned).to(ELEMENT)
    qb = (qb * turned).to(ELEMENT)
    qb_high = (qb_high * shrink).to(ELEMENT)
    qc = (qc * turned).to(ELEMENT)
    qc_high = (qc_high * shrink).to(ELEMENT)
    qd = (qd * turned).to(ELEMENT)
    qd_high = (qd_high * shrink).to(ELEMENT)
    qr = (qr * turned).to(ELEMENT)
    qr_high = (qr_high * shrink).to(ELEMENT)
    row_lo, row_hi = seen_keys(query, row_mask, q_len, hi, window)

    base = rows_ptr + offset * UNIT
    cols = tl.arange(0, QUARTER // STEP)
    cols_r = cols
    if D2 > 0:
        cols_r = RANK // STEP + tl.arange(0, D2 // STEP)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc_a = tl.zeros([BLOCK_M, QUARTER // STEP], tl.float32)
    acc_a_high = acc_a
    acc_b = acc_a
    acc_b_high = acc_a
    acc_c = acc_a
    acc_c_high = acc_a
    acc_d = acc_a
    acc_d_high = acc_a
    offsets, last, tile1, first, second = open_loop(ids_ptr, lo, hi, tile0, tile1, BLOCK_N, PAGE, PAGES)
    for tile in range(tile0, tile1):
        t0 = lo + tile * BLOCK_N
        first, second = widened(first, second, WIDE)
        ids = first
        rows = base + rows_of(first, second, t0, last, offsets, skp, skt, PAGE, PAGES).to(tl.int64) * UNIT
        ka = load_rows(rows, skd, cols, DK // STEP, True, ids, PAGES)
        kb = load_rows(rows, skd, cols + QUARTER // STEP, DK // STEP, True, ids, PAGES)
        kc = load_rows(rows, skd, cols + 2 * (QUARTER // STEP), DK // STEP, True, ids, PAGES)
        kd = load_rows(rows, skd, cols + 3 * (QUARTER // STEP), DK // STEP, True, ids, PAGES)
        kr = ka
        if D2 > 0:
            kr = load_rows(rows, skd, cols_r, DK // STEP, RANK + D2 <= DK, ids, PAGES)
        first, second = load_ids(ids_ptr, t0 + BLOCK_N, last, offsets, PAGE, PAGES, False)

        scores = scores_of(qa, qa_high, ka, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT)
        scores = with_more(scores, scores_of(qb, qb_high, kb, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT), CUT)
        scores = with_more(scores, scores_of(qc, qc_high, kc, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT), CUT)
        scores = with_more(scores, scores_of(qd, qd_high, kd, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT), CUT)
        if D2 > 0:
            scores = with_more(scores, scores_of(qr, qr_high, kr, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT), CUT)
        scores = hide(scores, offsets, t0, row_lo, row_hi, HAS_WINDOW, ids, PAGES)
        m, alpha, p = softmax_step(scores, to_log2, m)
        weights = weights * alpha[:, None] + p
        acc_a, acc_a_high = _faded(acc_a, acc_a_high, alpha, PAIRS)
        acc_b, acc_b_high = _faded(acc_b, acc_b_high, alpha, PAIRS)
        acc_c, acc_c_high = _faded(acc_c, acc_c_high, alpha, PAIRS)
        acc_d, acc_d_high = _faded(acc_d, acc_d_high, alpha, PAIRS)
        acc_a, acc_a_high = add_values(p, ka, acc_a, acc_a_high, FORMAT, PAIRS, DECODER)
        acc_b, acc_b_high = add_values(p, kb, acc_b, acc_b_high, FORMAT, PAIRS, DECODER)
        acc_c, acc_c_high = add_values(p, kc, acc_c, acc_c_high, FORMAT, PAIRS, DECODER)
        acc_d, acc_d_high = add_values(p, kd, acc_d, acc_d_high, FORMAT, PAIRS, DECODER)

    if PAIRS:
        acc_a = interleaved(acc_a, acc_a_high, BLOCK_M, QUARTER)
        acc_b = interleaved(acc_b, acc_b_high, BLOCK_M, QUARTER)
        acc_c = interleaved(acc_c, acc_c_high, BLOCK_M, QUARTER)
        acc_d = interleaved(acc_d, acc_d_high, BLOCK_M, QUARTER)
    left = beside(acc_a, acc_b, BLOCK_M, QUARTER)
    right = beside(acc_c, acc_d, BLOCK_M, QUARTER)
    return beside(left, right, BLOCK_M, 2 * QUARTER) * factor, m, tl.sum(weights, 1)
