"""The loop over latent rows that carry their scales: uint8 caches, read as uint16. `@triton.jit` functions only.

A row is GROUPS chunks of codes, each with a scale, and rotary columns in bf16 without one:

- ROWS_656 (`fp8_ds_mla`): 4 x 128 e4m3 | 4 fp32 scales | 64 bf16; values are the codes;
- ROWS_584 (DeepSeek V4): 7 x 64 e4m3 | 64 bf16, and behind all such rows of a page 8 bytes for each: 7 scales, which are powers of
  two (ue8m0), and one of nothing; values are the whole row, rotary columns included.

Tuples hold what there is of each chunk: the loops over them are unrolled.
"""

# ruff: noqa: RUF005 — Triton joins tuples by +, it does not unpack them
# mypy: disable-error-code=assignment
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_attend import (
    add_values,
    beside,
    interleaved,
    load_query,
    open_loop,
    power_of,
    query_parts,
    query_rows,
    scores_of,
    seen_keys,
    softmax_step,
    split_scale,
)
from hfmem_kernels._kernels_common import E4M3, LOG2E, format_factor, load_ids, rows_of, widened
from hfmem_kernels._kernels_slots import hide, load_rows

# rows by their bytes; the launcher's numbers are the same
ROWS_656 = tl.constexpr(656)
ROWS_584 = tl.constexpr(584)


@triton.jit
def _queries(
    q_rows, stride_d, row_mask, shrink, GROUPS: tl.constexpr, WIDTH: tl.constexpr, DK: tl.constexpr, CUT: tl.constexpr
):
    """Even and, with CUT negated (`scores_of`), odd columns of each chunk, in fp16 after scaling."""
    low = ()
    high = ()
    for group in tl.static_range(GROUPS):
        even, odd, _ = query_parts(q_rows, stride_d, row_mask, group * WIDTH, WIDTH, DK, True)
        low = low + ((even * shrink).to(tl.float16),)
        high = high + ((odd * (-shrink if CUT else shrink)).to(tl.float16),)
    return low, high


@triton.jit
def _load_codes(rows, ids, PAGES: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """The codes of each token, chunk by chunk, two to a uint16."""
    codes = ()
    for group in tl.static_range(GROUPS):
        codes = codes + (load_rows(rows, 1, group * (WIDTH // 2) + tl.arange(0, WIDTH // 2), 0, True, ids, PAGES),)
    return codes


@triton.jit
def _four_scales(rows, BLOCK_N: tl.constexpr, TOGETHER: tl.constexpr):
    """The fp32 scales of a row's four chunks. TOGETHER: in one load, no gain with 32 query rows, which spill on sm_80."""
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
def _seven_scales(eight):
    """Seven powers of two from the eight bytes of an int64: exponents of fp32, so each byte goes where fp32 has its exponent."""
    low = eight.to(tl.int32)
    high = (eight >> 32).to(tl.int32)
    scales = ()
    for group in tl.static_range(7):
        half = low if group < 4 else high
        bits = ((half >> (group % 4 * 8)) & 0xFF) << 23
        scales = scales + (bits.to(tl.float32, bitcast=True),)
    return scales


@triton.jit
def _listed(scales, ids, GROUPS: tl.constexpr, PAGES: tl.constexpr):
    """Scales, 0 where the id of a slot is negative: anything may stand there (`_kernels_slots`)."""
    kept = scales
    if PAGES < 0:
        kept = ()
        for group in tl.static_range(GROUPS):
            kept = kept + (tl.where(ids >= 0, scales[group], 0.0),)
    return kept


@triton.jit
def _largest(scales, GROUPS: tl.constexpr):
    biggest = scales[0]
    for group in tl.static_range(1, GROUPS):
        biggest = tl.maximum(biggest, scales[group])
    return biggest


@triton.jit
def attend_packed_latent(
    q_ptr, rows_ptr, ids_ptr, b, m_block, q_row0, q_len, lo, hi, tile0, tile1, window, scale,
    sqb, sqt, sqh, sqd, skp, skt,
    GROUP: tl.constexpr, PAGE: tl.constexpr, UNIT: tl.constexpr, HAS_WINDOW: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, DECODER: tl.constexpr, PAGES: tl.constexpr, WIDE: tl.constexpr,
    CUT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """As `attend`, for rows of ROWS bytes. Returns acc [BLOCK_M, 512], m and norm [BLOCK_M]."""
    WHOLE: tl.constexpr = ROWS == ROWS_584  # values are whole rows
    GROUPS: tl.constexpr = 7 if WHOLE else 4
    WIDTH: tl.constexpr = 64 if WHOLE else 128
    CODES: tl.constexpr = GROUPS * WIDTH
    DK: tl.constexpr = CODES + 64
    query, row_mask, _head, q_rows = query_rows(q_ptr, b, 0, m_block, q_row0, q_len, sqb, sqt, sqh, GROUP, BLOCK_M)
    columns = tl.arange(0, 512)
    power = power_of(tl.max(tl.abs(load_query(q_rows, sqd, row_mask, columns, CODES)), 1))
    shrink = (16384.0 / power)[:, None]
    q_low, q_high = _queries(q_rows, sqd, row_mask, shrink, GROUPS, WIDTH, CODES, CUT)
    rope_cols = tl.arange(0, 64)
    q_rope = load_query(q_rows, sqd, row_mask, CODES + rope_cols, DK).to(tl.bfloat16)
    rope_factor = scale * LOG2E
    one = tl.full([BLOCK_M], 1.0, tl.float32)
    latent_factor = power * (rope_factor / 16384.0) * format_factor(E4M3, True, DECODER)
    row_lo, row_hi = seen_keys(query, row_mask, q_len, hi, window)

    if WHOLE:
        scales_ptr = rows_ptr.to(tl.pointer_type(tl.int64)) + PAGE * 72
        rope_ptr = rows_ptr.to(tl.pointer_type(tl.bfloat16)) + 224
    else:
        scales_ptr = rows_ptr.to(tl.pointer_type(tl.float32)) + 128
        rope_ptr = rows_ptr.to(tl.pointer_type(tl.bfloat16)) + 264
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    low = ()
    high = ()
    for _group in tl.static_range(GROUPS):
        low = low + (tl.zeros([BLOCK_M, WIDTH // 2], tl.float32),)
        high = high + (tl.zeros([BLOCK_M, WIDTH // 2], tl.float32),)
    turned = m
    if WHOLE:
        turned = tl.zeros([BLOCK_M, 64], tl.float32)
    offsets, last, tile1, first, second = open_loop(ids_ptr, lo, hi, tile0, tile1, BLOCK_N, PAGE, PAGES)
    for tile in range(tile0, tile1):
        t0 = lo + tile * BLOCK_N
        first, second = widened(first, second, WIDE)
        ids = first
        units = rows_of(first, second, t0, last, offsets, skp, skt, PAGE, PAGES).to(tl.int64)
        rows = rows_ptr + units * UNIT
        codes = _load_codes(rows, ids, PAGES, GROUPS, WIDTH)
        if WHOLE:
            place = rows_of(first, second, t0, last, offsets, skp * (UNIT // 4), 1, PAGE, PAGES)
            scales = _seven_scales(tl.load(scales_ptr + place))
        else:
            scales = _four_scales(scales_ptr + units * (UNIT // 2), BLOCK_N, BLOCK_M == 16)
        scales = _listed(scales, ids, GROUPS, PAGES)
        rope = load_rows(rope_ptr + units * UNIT, 1, rope_cols, 0, True, ids, PAGES)
        first, second = load_ids(ids_ptr, t0 + BLOCK_N, last, offsets, PAGE, PAGES, False)

        scores = (
            scores_of(q_low[0], q_high[0], codes[0], BLOCK_M, BLOCK_N, E4M3, True, DECODER, CUT) * scales[0][None, :]
        )
        for group in tl.static_range(1, GROUPS):
            part = scores_of(q_low[group], q_high[group], codes[group], BLOCK_M, BLOCK_N, E4M3, True, DECODER, CUT)
            scores += part * scales[group][None, :]
        scores = scores * latent_factor[:, None] + tl.dot(q_rope, tl.trans(rope)) * rope_factor
        scores = hide(scores, offsets, t0, row_lo, row_hi, HAS_WINDOW, ids, PAGES)

        exponent, _, inverse = split_scale(_largest(scales, GROUPS))
        m, alpha, p = softmax_step(scores + exponent[None, :], one, m)
        weights = weights * alpha[:, None] + p * inverse[None, :]
        new_low = ()
        new_high = ()
        for group in tl.static_range(GROUPS):
            # p is divided by a power of two within the largest scale, so what is left of a scale is at most 2
            share = scales[group] * inverse
            even, odd = add_values(
                p * share[None, :],
                codes[group],
                low[group] * alpha[:, None],
                high[group] * alpha[:, None],
                E4M3,
                True,
                DECODER,
            )
            new_low = new_low + (even,)
            new_high = new_high + (odd,)
        low = new_low
        high = new_high
        if WHOLE:
            turned = tl.dot((p * inverse[None, :]).to(tl.bfloat16), rope, turned * alpha[:, None])

    factor = format_factor(E4M3, True, DECODER)
    if WHOLE:
        a = beside(_chunk(low, high, 0, BLOCK_M, 64), _chunk(low, high, 1, BLOCK_M, 64), BLOCK_M, 64)
        c = beside(_chunk(low, high, 2, BLOCK_M, 64), _chunk(low, high, 3, BLOCK_M, 64), BLOCK_M, 64)
        d = beside(_chunk(low, high, 4, BLOCK_M, 64), _chunk(low, high, 5, BLOCK_M, 64), BLOCK_M, 64)
        e = beside(_chunk(low, high, 6, BLOCK_M, 64), turned * (1.0 / factor), BLOCK_M, 64)
        left = beside(a, c, BLOCK_M, 128)
        right = beside(d, e, BLOCK_M, 128)
    else:
        left = beside(_chunk(low, high, 0, BLOCK_M, 128), _chunk(low, high, 1, BLOCK_M, 128), BLOCK_M, 128)
        right = beside(_chunk(low, high, 2, BLOCK_M, 128), _chunk(low, high, 3, BLOCK_M, 128), BLOCK_M, 128)
    return beside(left, right, BLOCK_M, 256) * factor, m, tl.sum(weights, 1)


@triton.jit
def _chunk(low, high, GROUP: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr):
    """The accumulated columns of a chunk."""
    return interleaved(low[GROUP], high[GROUP], BLOCK_M, WIDTH)
