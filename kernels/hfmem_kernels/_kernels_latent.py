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
    add_scores,
    add_values,
    hide,
    load_query,
    load_rows,
    logit_factor,
    power_of,
    query_parts,
    softmax_step,
    split_scale,
)
from hfmem_kernels._kernels_common import E4M3, LOG2E, PLAIN, format_factor, load_ids, rows_of


@triton.jit
def _beside(left, right, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS] twice → [ROWS, 2 · COLUMNS]."""
    return tl.reshape(tl.permute(tl.join(left, right), (0, 2, 1)), [ROWS, 2 * COLUMNS])


@triton.jit
def _interleaved(low, high, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Even and odd columns → COLUMNS of them."""
    return tl.reshape(tl.join(low, high), [ROWS, COLUMNS])


@triton.jit
def attend_latent(
    q_ptr, rows_ptr, ids_ptr, scale_ptr, b, m_block, q_row0, q_len, lo, hi, tile0, tile1, window, scale, v_factor, offset,
    sqb, sqt, sqh, sqd, skp, skt, skd,
    GROUP: tl.constexpr, PAGE: tl.constexpr, DK: tl.constexpr, RANK: tl.constexpr, D2: tl.constexpr,
    FORMAT: tl.constexpr, PAIRS: tl.constexpr, UNIT: tl.constexpr, SCALES: tl.constexpr, HAS_WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DECODER: tl.constexpr, PAGES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """As `attend`, for rows of RANK latent columns, which are the value too, and DK - RANK rotary ones; acc is [BLOCK_M, RANK]."""
    HALF: tl.constexpr = RANK // 2
    STEP: tl.constexpr = 2 if PAIRS else 1
    row = m_block * BLOCK_M + tl.arange(0, BLOCK_M)
    query = row // GROUP
    row_mask = query < q_len
    q_rows = q_ptr + b.to(tl.int64) * sqb + (q_row0 + query).to(tl.int64) * sqt + (row % GROUP).to(tl.int64) * sqh
    qa, qa_high, biggest_a = query_parts(q_rows, sqd, row_mask, 0, HALF, DK, PAIRS)
    qb, qb_high, biggest_b = query_parts(q_rows, sqd, row_mask, HALF, HALF, DK, PAIRS)
    qr, qr_high, biggest_r = query_parts(q_rows, sqd, row_mask, RANK, D2, DK, PAIRS)
    factor = v_factor
    if SCALES == 1:
        cache_scale = tl.load(scale_ptr)
        scale = scale * cache_scale
        factor = factor * cache_scale
    sign, scale = logit_factor(scale * LOG2E)
    to_log2 = tl.full([BLOCK_M], 1.0, tl.float32) * scale
    if FORMAT == PLAIN:
        qa = (qa * sign).to(q_ptr.dtype.element_ty)
        qb = (qb * sign).to(q_ptr.dtype.element_ty)
        qr = (qr * sign).to(q_ptr.dtype.element_ty)
    else:
        power = power_of(tl.maximum(tl.maximum(biggest_a, biggest_b), biggest_r))
        shrink = (sign * 16384.0 / power)[:, None]
        qa = (qa * shrink).to(tl.float16)
        qa_high = (qa_high * shrink).to(tl.float16)
        qb = (qb * shrink).to(tl.float16)
        qb_high = (qb_high * shrink).to(tl.float16)
        qr = (qr * shrink).to(tl.float16)
        qr_high = (qr_high * shrink).to(tl.float16)
        to_log2 = tl.maximum(to_log2 * power * (1.0 / 16384.0) * format_factor(FORMAT, PAIRS, DECODER), TINY)
        factor = factor * format_factor(FORMAT, PAIRS, DECODER)
    row_hi = tl.where(row_mask, hi - q_len + query + 1, 0)
    row_lo = row_hi - window

    base = rows_ptr + offset * UNIT
    cols = tl.arange(0, HALF // STEP)
    cols_r = RANK // STEP + tl.arange(0, D2 // STEP)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc_a = tl.zeros([BLOCK_M, HALF // STEP], tl.float32)
    acc_a_high = acc_a
    acc_b = acc_a
    acc_b_high = acc_a
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
        kb = load_rows(rows, skd, cols + HALF // STEP, DK // STEP, True)
        kr = load_rows(rows, skd, cols_r, DK // STEP, RANK + D2 <= DK)
        first, second = load_ids(ids_ptr, t0 + BLOCK_N, last, offsets, PAGE, PAGES, False)

        nothing = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        scores = add_scores(qa, qa_high, ka, nothing, FORMAT, PAIRS, DECODER)
        rest = add_scores(qb, qb_high, kb, nothing, FORMAT, PAIRS, DECODER)
        rest = add_scores(qr, qr_high, kr, rest, FORMAT, PAIRS, DECODER)
        scores = hide(scores + rest, offsets, t0, row_lo, row_hi, HAS_WINDOW)
        m, alpha, p = softmax_step(scores, to_log2, m)
        weights = weights * alpha[:, None] + p
        acc_a = acc_a * alpha[:, None]
        acc_b = acc_b * alpha[:, None]
        if PAIRS:
            acc_a_high = acc_a_high * alpha[:, None]
            acc_b_high = acc_b_high * alpha[:, None]
        acc_a, acc_a_high = add_values(p, ka, acc_a, acc_a_high, FORMAT, PAIRS, DECODER)
        acc_b, acc_b_high = add_values(p, kb, acc_b, acc_b_high, FORMAT, PAIRS, DECODER)

    if PAIRS:
        acc_a = _interleaved(acc_a, acc_a_high, BLOCK_M, HALF)
        acc_b = _interleaved(acc_b, acc_b_high, BLOCK_M, HALF)
    return _beside(acc_a, acc_b, BLOCK_M, HALF) * factor, m, tl.sum(weights, 1)


@triton.jit
def _query_chunk(q_rows, stride_d, row_mask, START: tl.constexpr, shrink):
    """128 query columns as even and odd ones, in fp16 after scaling."""
    low, high, _ = query_parts(q_rows, stride_d, row_mask, START, 128, 576, True)
    return (low * shrink).to(tl.float16), (high * shrink).to(tl.float16)


@triton.jit
def _load_chunk(rows, scales, CHUNK: tl.constexpr):
    """128 codes of each token as 64 uint16, and their scale."""
    codes = load_rows(rows, 1, CHUNK * 64 + tl.arange(0, 64), 0, True)
    return codes, tl.load(scales + CHUNK)


@triton.jit
def _score(q_low, q_high, codes, scale, nothing, DECODER: tl.constexpr):
    return add_scores(q_low, q_high, codes, nothing, E4M3, True, DECODER) * scale[None, :]


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
):  # fmt: skip
    """As `attend`, for rows of 328 uint16. Returns acc [BLOCK_M, 512], m and norm [BLOCK_M]."""
    row = m_block * BLOCK_M + tl.arange(0, BLOCK_M)
    query = row // GROUP
    row_mask = query < q_len
    q_rows = q_ptr + b.to(tl.int64) * sqb + (q_row0 + query).to(tl.int64) * sqt + (row % GROUP).to(tl.int64) * sqh
    columns = tl.arange(0, 512)
    power = power_of(tl.max(tl.abs(load_query(q_rows, sqd, row_mask, columns, 576)), 1))
    shrink = (16384.0 / power)[:, None]
    q0, q1 = _query_chunk(q_rows, sqd, row_mask, 0, shrink)
    q2, q3 = _query_chunk(q_rows, sqd, row_mask, 128, shrink)
    q4, q5 = _query_chunk(q_rows, sqd, row_mask, 256, shrink)
    q6, q7 = _query_chunk(q_rows, sqd, row_mask, 384, shrink)
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
        scales = scales_ptr + units * (UNIT // 2)
        c0, s0 = _load_chunk(rows, scales, 0)
        c1, s1 = _load_chunk(rows, scales, 1)
        c2, s2 = _load_chunk(rows, scales, 2)
        c3, s3 = _load_chunk(rows, scales, 3)
        rope = load_rows(rope_ptr + units * UNIT, 1, rope_cols, 0, True)
        first, second = load_ids(ids_ptr, t0 + BLOCK_N, last, offsets, PAGE, PAGES, False)

        nothing = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        scores = _score(q0, q1, c0, s0, nothing, DECODER) + _score(q2, q3, c1, s1, nothing, DECODER)
        scores += _score(q4, q5, c2, s2, nothing, DECODER) + _score(q6, q7, c3, s3, nothing, DECODER)
        scores = scores * latent_factor[:, None] + tl.dot(q_rope, tl.trans(rope)) * rope_factor
        scores = hide(scores, offsets, t0, row_lo, row_hi, HAS_WINDOW)

        exponent, _, inverse = split_scale(tl.maximum(tl.maximum(s0, s1), tl.maximum(s2, s3)))
        m, alpha, p = softmax_step(scores + exponent[None, :], one, m)
        weights = weights * alpha[:, None] + p * inverse[None, :]
        a0, a1 = _weigh(p, c0, s0 * inverse, alpha, a0, a1, DECODER)
        a2, a3 = _weigh(p, c1, s1 * inverse, alpha, a2, a3, DECODER)
        a4, a5 = _weigh(p, c2, s2 * inverse, alpha, a4, a5, DECODER)
        a6, a7 = _weigh(p, c3, s3 * inverse, alpha, a6, a7, DECODER)

    left = _beside(_interleaved(a0, a1, BLOCK_M, 128), _interleaved(a2, a3, BLOCK_M, 128), BLOCK_M, 128)
    right = _beside(_interleaved(a4, a5, BLOCK_M, 128), _interleaved(a6, a7, BLOCK_M, 128), BLOCK_M, 128)
    return _beside(left, right, BLOCK_M, 256) * format_factor(E4M3, True, DECODER), m, tl.sum(weights, 1)
