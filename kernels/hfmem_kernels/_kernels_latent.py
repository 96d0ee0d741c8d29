"""The loop over an MLA cache, where every head reads the same rows and values are a part of keys. `@triton.jit` functions only.

Plain rows of one format, and `fp8_ds_mla` rows: 512 latent e4m3 codes with a scale for each 128, then 64 rotary columns in bf16.
A product over 576 columns is one long chain of additions; both loops take it in parts that do not wait for each other.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_attend import (
    TINY,
    add_values,
    beside,
    hide,
    interleaved,
    load_query,
    load_rows,
    logit_factor,
    power_of,
    query_parts,
    scores_of,
    softmax_step,
    split_scale,
    with_more,
)
from hfmem_kernels._kernels_common import E4M3, LOG2E, PLAIN, format_factor, load_ids, rows_of


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
    """As `attend`, for rows of RANK latent columns, which are the value too, and DK - RANK rotary ones; acc is [BLOCK_M, RANK]."""
    QUARTER: tl.constexpr = RANK // 4
    STEP: tl.constexpr = 2 if PAIRS else 1
    row = m_block * BLOCK_M + tl.arange(0, BLOCK_M)
    query = row // GROUP
    row_mask = query < q_len
    q_rows = q_ptr + b.to(tl.int64) * sqb + (q_row0 + query).to(tl.int64) * sqt + (row % GROUP).to(tl.int64) * sqh
    qa, qa_high, biggest_a = query_parts(q_rows, sqd, row_mask, 0, QUARTER, DK, PAIRS)
    qb, qb_high, biggest_b = query_parts(q_rows, sqd, row_mask, QUARTER, QUARTER, DK, PAIRS)
    qc, qc_high, biggest_c = query_parts(q_rows, sqd, row_mask, 2 * QUARTER, QUARTER, DK, PAIRS)
    qd, qd_high, biggest_d = query_parts(q_rows, sqd, row_mask, 3 * QUARTER, QUARTER, DK, PAIRS)
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
    row_hi = tl.where(row_mask, hi - q_len + query + 1, 0)
    row_lo = row_hi - window

    base = rows_ptr + offset * UNIT
    cols = tl.arange(0, QUARTER // STEP)
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
    offsets = tl.arange(0, BLOCK_N)
    last = hi - 1
    tile1 = tl.where(hi > lo, tile1, tile0)  # without a key there is no row to read
    first, second = load_ids(ids_ptr, lo + tile0 * BLOCK_N, last, offsets, PAGE, PAGES, True)
    for tile in range(tile0, tile1):
        t0 = lo + tile * BLOCK_N
        if WIDE:
            first = first.to(tl.int64)
            second = second.to(tl.int64)
        rows = base + rows_of(first, second, t0, last, offsets, skp, skt, PAGE, PAGES).to(tl.int64) * UNIT
        ka = load_rows(rows, skd, cols, DK // STEP, True)
        kb = load_rows(rows, skd, cols + QUARTER // STEP, DK // STEP, True)
        kc = load_rows(rows, skd, cols + 2 * (QUARTER // STEP), DK // STEP, True)
        kd = load_rows(rows, skd, cols + 3 * (QUARTER // STEP), DK // STEP, True)
        kr = load_rows(rows, skd, cols_r, DK // STEP, RANK + D2 <= DK)
        first, second = load_ids(ids_ptr, t0 + BLOCK_N, last, offsets, PAGE, PAGES, False)

        scores = scores_of(qa, qa_high, ka, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT)
        scores = with_more(scores, scores_of(qb, qb_high, kb, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT), CUT)
        scores = with_more(scores, scores_of(qc, qc_high, kc, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT), CUT)
        scores = with_more(scores, scores_of(qd, qd_high, kd, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT), CUT)
        scores = with_more(scores, scores_of(qr, qr_high, kr, BLOCK_M, BLOCK_N, FORMAT, PAIRS, DECODER, CUT), CUT)
        scores = hide(scores, offsets, t0, row_lo, row_hi, HAS_WINDOW)
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


@triton.jit
def _query_chunk(q_rows, stride_d, row_mask, START: tl.constexpr, shrink, CUT: tl.constexpr):
    """128 query columns as even and, with CUT negated, odd ones (`scores_of`), in fp16 after scaling."""
    low, high, _ = query_parts(q_rows, stride_d, row_mask, START, 128, 576, True)
    return (low * shrink).to(tl.float16), (high * (-shrink if CUT else shrink)).to(tl.float16)


@triton.jit
def _load_codes(rows, CHUNK: tl.constexpr):
    """128 codes of each token as 64 uint16."""
    return load_rows(rows, 1, CHUNK * 64 + tl.arange(0, 64), 0, True)


@triton.jit
def _load_scales(rows, BLOCK_N: tl.constexpr, TOGETHER: tl.constexpr):
    """The scales of a row's four chunks. TOGETHER: its 16 bytes in one load, no gain with 32 query rows, which spill on sm_80."""
    if TOGETHER:
        even, odd = tl.split(tl.reshape(tl.load(rows[:, None] + tl.arange(0, 4)[None, :]), [BLOCK_N, 2, 2]))
        s0, s2 = tl.split(even)
        s1, s3 = tl.split(odd)
    else:
        s0 = tl.load(rows)
        s1 = tl.load(rows + 1)
        s2 = tl.load(rows + 2)
        s3 = tl.load(rows + 3)
    return s0, s1, s2, s3


@triton.jit
def _score(
    q_low, q_high, codes, scale, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DECODER: tl.constexpr, CUT: tl.constexpr
):
    return scores_of(q_low, q_high, codes, BLOCK_M, BLOCK_N, E4M3, True, DECODER, CUT) * scale[None, :]


@triton.jit
def _weigh(p, codes, share, alpha, low, high, DECODER: tl.constexpr):
    """Both accumulators plus P times the codes; share: the chunk's scales over the power of two that P holds."""
    return add_values(p * share[None, :], codes, low * alpha[:, None], high * alpha[:, None], E4M3, True, DECODER)


@triton.jit
def attend_packed_latent(
    q_ptr, rows_ptr, ids_ptr, b, m_block, q_row0, q_len, lo, hi, tile0, tile1, window, scale,
    sqb, sqt, sqh, sqd, skp, skt,
    GROUP: tl.constexpr, PAGE: tl.constexpr, UNIT: tl.constexpr, HAS_WINDOW: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, DECODER: tl.constexpr, PAGES: tl.constexpr, WIDE: tl.constexpr,
    CUT: tl.constexpr,
):  # fmt: skip
    """As `attend`, for rows of 328 uint16. Returns acc [BLOCK_M, 512], m and norm [BLOCK_M]."""
    row = m_block * BLOCK_M + tl.arange(0, BLOCK_M)
    query = row // GROUP
    row_mask = query < q_len
    q_rows = q_ptr + b.to(tl.int64) * sqb + (q_row0 + query).to(tl.int64) * sqt + (row % GROUP).to(tl.int64) * sqh
    columns = tl.arange(0, 512)
    power = power_of(tl.max(tl.abs(load_query(q_rows, sqd, row_mask, columns, 576)), 1))
    shrink = (16384.0 / power)[:, None]
    q0, q1 = _query_chunk(q_rows, sqd, row_mask, 0, shrink, CUT)
    q2, q3 = _query_chunk(q_rows, sqd, row_mask, 128, shrink, CUT)
    q4, q5 = _query_chunk(q_rows, sqd, row_mask, 256, shrink, CUT)
    q6, q7 = _query_chunk(q_rows, sqd, row_mask, 384, shrink, CUT)
    rope_cols = tl.arange(0, 64)
    q_rope = load_query(q_rows, sqd, row_mask, 512 + rope_cols, 576).to(tl.bfloat16)
    rope_factor = scale * LOG2E
    one = tl.full([BLOCK_M], 1.0, tl.float32)
    latent_factor = power * (rope_factor / 16384.0) * format_factor(E4M3, True, DECODER)
    row_hi = tl.where(row_mask, hi - q_len + query + 1, 0)
    row_lo = row_hi - window

    scales_ptr = rows_ptr.to(tl.pointer_type(tl.float32)) + 128
    rope_ptr = rows_ptr.to(tl.pointer_type(tl.bfloat16)) + 264
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    a0 = tl.zeros([BLOCK_M, 64], tl.float32)
    a1 = a0
    a2 = a0
    a3 = a0
    a4 = a0
    a5 = a0
    a6 = a0
    a7 = a0
    offsets = tl.arange(0, BLOCK_N)
    last = hi - 1
    tile1 = tl.where(hi > lo, tile1, tile0)  # without a key there is no row to read
    first, second = load_ids(ids_ptr, lo + tile0 * BLOCK_N, last, offsets, PAGE, PAGES, True)
    for tile in range(tile0, tile1):
        t0 = lo + tile * BLOCK_N
        if WIDE:
            first = first.to(tl.int64)
            second = second.to(tl.int64)
        units = rows_of(first, second, t0, last, offsets, skp, skt, PAGE, PAGES).to(tl.int64)
        rows = rows_ptr + units * UNIT
        c0 = _load_codes(rows, 0)
        c1 = _load_codes(rows, 1)
        c2 = _load_codes(rows, 2)
        c3 = _load_codes(rows, 3)
        s0, s1, s2, s3 = _load_scales(scales_ptr + units * (UNIT // 2), BLOCK_N, BLOCK_M == 16)
        rope = load_rows(rope_ptr + units * UNIT, 1, rope_cols, 0, True)
        first, second = load_ids(ids_ptr, t0 + BLOCK_N, last, offsets, PAGE, PAGES, False)

        scores = _score(q0, q1, c0, s0, BLOCK_M, BLOCK_N, DECODER, CUT)
        scores += _score(q2, q3, c1, s1, BLOCK_M, BLOCK_N, DECODER, CUT)
        scores += _score(q4, q5, c2, s2, BLOCK_M, BLOCK_N, DECODER, CUT)
        scores += _score(q6, q7, c3, s3, BLOCK_M, BLOCK_N, DECODER, CUT)
        scores = scores * latent_factor[:, None] + tl.dot(q_rope, tl.trans(rope)) * rope_factor
        scores = hide(scores, offsets, t0, row_lo, row_hi, HAS_WINDOW)

        exponent, _, inverse = split_scale(tl.maximum(tl.maximum(s0, s1), tl.maximum(s2, s3)))
        m, alpha, p = softmax_step(scores + exponent[None, :], one, m)
        weights = weights * alpha[:, None] + p * inverse[None, :]
        a0, a1 = _weigh(p, c0, s0 * inverse, alpha, a0, a1, DECODER)
        a2, a3 = _weigh(p, c1, s1 * inverse, alpha, a2, a3, DECODER)
        a4, a5 = _weigh(p, c2, s2 * inverse, alpha, a4, a5, DECODER)
        a6, a7 = _weigh(p, c3, s3 * inverse, alpha, a6, a7, DECODER)

    left = beside(interleaved(a0, a1, BLOCK_M, 128), interleaved(a2, a3, BLOCK_M, 128), BLOCK_M, 128)
    right = beside(interleaved(a4, a5, BLOCK_M, 128), interleaved(a6, a7, BLOCK_M, 128), BLOCK_M, 128)
    return beside(left, right, BLOCK_M, 256) * format_factor(E4M3, True, DECODER), m, tl.sum(weights, 1)
