"""Attention to `fp8_ds_mla` rows: 512 latent e4m3 codes with a scale for each 128, then 64 rotary columns in bf16."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_common import E4M3, LOG2E, decode_pair, format_factor, load_ids, rows_of


@triton.jit
def _query_chunk(q_rows, stride_d, row_mask, START: tl.constexpr, shrink):
    """128 query columns as even and odd ones, in fp16 after scaling."""
    cols = START + 2 * tl.arange(0, 64)
    low = tl.load(q_rows[:, None] + cols[None, :] * stride_d, mask=row_mask[:, None], other=0.0).to(tl.float32)
    high = tl.load(q_rows[:, None] + (cols + 1)[None, :] * stride_d, mask=row_mask[:, None], other=0.0).to(tl.float32)
    return (low * shrink).to(tl.float16), (high * shrink).to(tl.float16)


@triton.jit
def _load_chunk(rows, scales, inside, CHUNK: tl.constexpr):
    """128 codes of each token as 64 uint16, and their scale."""
    cols = CHUNK * 64 + tl.arange(0, 64)
    codes = tl.load(rows[:, None] + cols[None, :], mask=inside[:, None], other=0)
    return codes, tl.load(scales + CHUNK, mask=inside, other=0.0)


@triton.jit
def _score(q_low, q_high, codes, scale, scores, DECODER: tl.constexpr):
    low, high = decode_pair(codes, E4M3, DECODER)
    part = tl.dot(q_low, tl.trans(low))
    part = tl.dot(q_high, tl.trans(high), part)
    return scores + part * scale[None, :]


@triton.jit
def _weigh(p, codes, scale, alpha, acc_low, acc_high, DECODER: tl.constexpr):
    """Both accumulators plus P · scale times the codes; bf16, because the size of the scales is unknown."""
    low, high = decode_pair(codes, E4M3, DECODER)
    scaled = (p * scale[None, :]).to(tl.bfloat16)
    acc_low = tl.dot(scaled, low.to(tl.float32).to(tl.bfloat16), acc_low * alpha[:, None])
    acc_high = tl.dot(scaled, high.to(tl.float32).to(tl.bfloat16), acc_high * alpha[:, None])
    return acc_low, acc_high


@triton.jit
def _beside(left, right, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS] twice → [ROWS, 2 · COLUMNS]."""
    return tl.reshape(tl.permute(tl.join(left, right), (0, 2, 1)), [ROWS, 2 * COLUMNS])


@triton.jit
def attend_packed_latent(
    q_ptr, rows_ptr, ids_ptr, b, m_block, q_row0, q_len, lo, hi, tile0, tile1, window, scale,
    sqb, sqt, sqh, sqd, skp, skt,
    GROUP: tl.constexpr, PAGE: tl.constexpr, UNIT: tl.constexpr, HAS_WINDOW: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, DECODER: tl.constexpr, SCALAR_IDS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """As `_attend`, for rows of 328 uint16. Returns acc [BLOCK_M, 512], m and norm [BLOCK_M]."""
    row = m_block * BLOCK_M + tl.arange(0, BLOCK_M)
    query = row // GROUP
    row_mask = query < q_len
    q_rows = q_ptr + b.to(tl.int64) * sqb + (q_row0 + query).to(tl.int64) * sqt + (row % GROUP).to(tl.int64) * sqh
    columns = tl.arange(0, 512)
    whole = tl.load(q_rows[:, None] + columns[None, :] * sqd, mask=row_mask[:, None], other=0.0).to(tl.float32)
    biggest = tl.max(tl.abs(whole), 1)
    power = (biggest.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    power = tl.where((power == 0.0) | (power == float("inf")), 1.0, power)
    shrink = (16384.0 / power)[:, None]
    q0, q1 = _query_chunk(q_rows, sqd, row_mask, 0, shrink)
    q2, q3 = _query_chunk(q_rows, sqd, row_mask, 128, shrink)
    q4, q5 = _query_chunk(q_rows, sqd, row_mask, 256, shrink)
    q6, q7 = _query_chunk(q_rows, sqd, row_mask, 384, shrink)
    rope_cols = tl.arange(0, 64)
    q_rope = tl.load(q_rows[:, None] + (512 + rope_cols)[None, :] * sqd, mask=row_mask[:, None], other=0.0)
    q_rope = q_rope.to(tl.float32).to(tl.bfloat16)
    rope_factor = scale * LOG2E
    latent_factor = power * (rope_factor / 16384.0) * format_factor(E4M3, DECODER)
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
    first, second = load_ids(ids_ptr, lo + tile0 * BLOCK_N, hi, offsets, PAGE, SCALAR_IDS)
    for tile in range(tile0, tile1):
        t0 = lo + tile * BLOCK_N
        inside = offsets < hi - t0
        if WIDE:
            first = first.to(tl.int64)
            second = second.to(tl.int64)
        units = rows_of(first, second, t0, offsets, skp, skt, PAGE, SCALAR_IDS).to(tl.int64)
        rows = rows_ptr + units * UNIT
        scales = scales_ptr + units * (UNIT // 2)
        c0, s0 = _load_chunk(rows, scales, inside, 0)
        c1, s1 = _load_chunk(rows, scales, inside, 1)
        c2, s2 = _load_chunk(rows, scales, inside, 2)
        c3, s3 = _load_chunk(rows, scales, inside, 3)
        rope = tl.load((rope_ptr + units * UNIT)[:, None] + rope_cols[None, :], mask=inside[:, None], other=0.0)
        first, second = load_ids(ids_ptr, t0 + BLOCK_N, hi, offsets, PAGE, SCALAR_IDS)

        scores = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        scores = _score(q0, q1, c0, s0, scores, DECODER)
        scores = _score(q2, q3, c1, s1, scores, DECODER)
        scores = _score(q4, q5, c2, s2, scores, DECODER)
        scores = _score(q6, q7, c3, s3, scores, DECODER)
        scores = scores * latent_factor[:, None] + tl.dot(q_rope, tl.trans(rope)) * rope_factor
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
        a0, a1 = _weigh(p, c0, s0, alpha, a0, a1, DECODER)
        a2, a3 = _weigh(p, c1, s1, alpha, a2, a3, DECODER)
        a4, a5 = _weigh(p, c2, s2, alpha, a4, a5, DECODER)
        a6, a7 = _weigh(p, c3, s3, alpha, a6, a7, DECODER)

    left = _beside(
        tl.reshape(tl.join(a0, a1), [BLOCK_M, 128]), tl.reshape(tl.join(a2, a3), [BLOCK_M, 128]), BLOCK_M, 128
    )
    right = _beside(
        tl.reshape(tl.join(a4, a5), [BLOCK_M, 128]), tl.reshape(tl.join(a6, a7), [BLOCK_M, 128]), BLOCK_M, 128
    )
    acc = _beside(left, right, BLOCK_M, 256)
    return acc * format_factor(E4M3, DECODER), m, tl.sum(weights, 1)
