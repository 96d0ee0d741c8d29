"""The loop over `nvfp4_ds_mla` rows of 352 bytes, read as uint16. `@triton.jit` functions only.

128 uint16 of four e2m1 codes each, the first in the lowest bits; 64 rotary columns in e4m3; 32 e4m3 scales, each for 16 codes.
A code times its scale has at most six binary digits and is exact in fp16, so tiles are scaled as they are decoded. What one uint16
holds goes into four products: columns 4j, 4j + 1, 4j + 2 and 4j + 3 of queries, keys and values.
"""

# ruff: noqa: RUF005 — Triton joins tuples by +, it does not unpack them
# mypy: disable-error-code=assignment
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_attend import (
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
)
from hfmem_kernels._kernels_common import (
    ARITHMETIC,
    E4M3,
    LOG2E,
    decode_pair,
    format_factor,
    load_ids,
    rows_of,
    widened,
)
from hfmem_kernels._kernels_slots import hide, load_rows

#: what a decoded and scaled element is to be multiplied by: codes come times 2**-14, scales times 2**7
FACTOR = tl.constexpr(128.0)

# $4: eight codes (two uint16) → $0 … $3: fp16 of the first codes of both, of the second, third and fourth ones
PTX_E2M1 = tl.constexpr("""{
    .reg .b32 s, m;
    shl.b32 s, $4, 12;
    shl.b32 m, $4, 9;
    and.b32 m, m, 0x0e000e00;
    lop3.b32 $0, s, 0x80008000, m, 0xea;
    shl.b32 s, $4, 8;
    shl.b32 m, $4, 5;
    and.b32 m, m, 0x0e000e00;
    lop3.b32 $1, s, 0x80008000, m, 0xea;
    shl.b32 s, $4, 4;
    shl.b32 m, $4, 1;
    and.b32 m, m, 0x0e000e00;
    lop3.b32 $2, s, 0x80008000, m, 0xea;
    shr.u32 m, $4, 3;
    and.b32 m, m, 0x0e000e00;
    lop3.b32 $3, $4, 0x80008000, m, 0xea;
}""")


@triton.jit
def _four_chunks(scales, BLOCK_N: tl.constexpr, DECODER: tl.constexpr):
    """A row's scales [BLOCK_N, 16] in uint16 → for each 128 columns those of their eight blocks [BLOCK_N, 8] in fp16, times 2**7.

    Byte 8r + 2c + h is the scale of block 8c + 4h + r: chunk c has the low and the high byte of uint16 4r + c.
    """
    even, odd = tl.split(tl.reshape(scales, [BLOCK_N, 4, 2, 2]))
    c0, c2 = tl.split(even)
    c1, c3 = tl.split(odd)
    chunks = ()
    for chunk in tl.static_range(4):
        low, high = decode_pair((c0, c1, c2, c3)[chunk], E4M3, DECODER)
        one = beside(low, high, BLOCK_N, 4)
        chunks = chunks + ((one * (128.0 * format_factor(E4M3, True, DECODER))).to(tl.float16),)
    return chunks


@triton.jit
def decode_four(codes, DECODER: tl.constexpr):
    """The four codes of each uint16 as fp16, times 2**-14: the sign in its place, exponent and mantissa in bits 9 … 11."""
    if DECODER == ARITHMETIC:
        c0 = (((codes << 12) & 0x8000) | ((codes << 9) & 0x0E00)).to(tl.float16, bitcast=True)
        c1 = (((codes << 8) & 0x8000) | ((codes << 5) & 0x0E00)).to(tl.float16, bitcast=True)
        c2 = (((codes << 4) & 0x8000) | ((codes << 1) & 0x0E00)).to(tl.float16, bitcast=True)
        c3 = ((codes & 0x8000) | ((codes >> 3) & 0x0E00)).to(tl.float16, bitcast=True)
    else:
        c0, c1, c2, c3 = tl.inline_asm_elementwise(
            PTX_E2M1,
            "=r,=r,=r,=r,r",
            [codes],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
            is_pure=True,
            pack=2,
        )
    return c0, c1, c2, c3


@triton.jit
def _tiles(codes, scales, BLOCK_N: tl.constexpr, DECODER: tl.constexpr):
    """Columns of 128, decoded and scaled, over FACTOR and exactly: four tiles [BLOCK_N, 32]."""
    wide = tl.reshape(tl.broadcast_to(scales[:, :, None], [BLOCK_N, 8, 4]), [BLOCK_N, 32])
    c0, c1, c2, c3 = decode_four(codes, DECODER)
    return c0 * wide, c1 * wide, c2 * wide, c3 * wide


@triton.jit
def _woven(acc, CHUNK: tl.constexpr, BLOCK_M: tl.constexpr):
    """128 columns in their order from those 4j, 4j + 1, 4j + 2 and 4j + 3."""
    even = interleaved(acc[4 * CHUNK], acc[4 * CHUNK + 2], BLOCK_M, 64)
    odd = interleaved(acc[4 * CHUNK + 1], acc[4 * CHUNK + 3], BLOCK_M, 64)
    return interleaved(even, odd, BLOCK_M, 128)


@triton.jit
def attend_nvfp4_latent(
    q_ptr, rows_ptr, ids_ptr, b, m_block, q_row0, q_len, lo, hi, tile0, tile1, window, scale,
    sqb, sqt, sqh, sqd, skp, skt,
    GROUP: tl.constexpr, PAGE: tl.constexpr, UNIT: tl.constexpr, HAS_WINDOW: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, DECODER: tl.constexpr, PAGES: tl.constexpr, WIDE: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """As `attend`, for rows of 176 uint16. Returns acc [BLOCK_M, 512], m and norm [BLOCK_M]."""
    query, row_mask, _head, q_rows = query_rows(q_ptr, b, 0, m_block, q_row0, q_len, sqb, sqt, sqh, GROUP, BLOCK_M)
    power = power_of(tl.max(tl.abs(load_query(q_rows, sqd, row_mask, tl.arange(0, 1024), 576)), 1))
    shrink = (16384.0 / power)[:, None]
    queries = ()
    for number in tl.static_range(16):
        columns = number // 4 * 128 + 4 * tl.arange(0, 32) + number % 4
        queries = queries + ((load_query(q_rows, sqd, row_mask, columns, 576) * shrink).to(tl.float16),)
    rope_low, rope_high, _ = query_parts(q_rows, sqd, row_mask, 512, 64, 576, True)
    rope_low = (rope_low * shrink).to(tl.float16)
    rope_high = (rope_high * (-shrink if CUT else shrink)).to(tl.float16)
    to_log2 = power * (scale * (LOG2E / 16384.0))
    one = tl.full([BLOCK_M], 1.0, tl.float32)
    row_lo, row_hi = seen_keys(query, row_mask, q_len, hi, window)

    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc = ()
    for _number in tl.static_range(16):
        acc = acc + (tl.zeros([BLOCK_M, 32], tl.float32),)
    offsets, last, tile1, first, second = open_loop(ids_ptr, lo, hi, tile0, tile1, BLOCK_N, PAGE, PAGES)
    for tile in range(tile0, tile1):
        t0 = lo + tile * BLOCK_N
        first, second = widened(first, second, WIDE)
        ids = first
        rows = rows_ptr + rows_of(first, second, t0, last, offsets, skp, skt, PAGE, PAGES).to(tl.int64) * UNIT
        codes = ()
        for chunk in tl.static_range(4):
            codes = codes + (load_rows(rows, 1, chunk * 32 + tl.arange(0, 32), 0, True, ids, PAGES),)
        rope = load_rows(rows, 1, 128 + tl.arange(0, 32), 0, True, ids, PAGES)
        scales = _four_chunks(load_rows(rows, 1, 160 + tl.arange(0, 16), 0, True, ids, PAGES), BLOCK_N, DECODER)
        first, second = load_ids(ids_ptr, t0 + BLOCK_N, last, offsets, PAGE, PAGES, False)

        nothing = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        turned = scores_of(rope_low, rope_high, rope, BLOCK_M, BLOCK_N, E4M3, True, DECODER, CUT)
        scores = turned * (format_factor(E4M3, True, DECODER) / FACTOR)
        tiles = ()
        for chunk in tl.static_range(4):
            tiles = tiles + _tiles(codes[chunk], scales[chunk], BLOCK_N, DECODER)
            part = nothing
            for at in tl.static_range(4):
                part = tl.dot(queries[4 * chunk + at], tl.trans(tiles[4 * chunk + at]), part)
            scores += part
        scores = hide(scores * (to_log2 * FACTOR)[:, None], offsets, t0, row_lo, row_hi, HAS_WINDOW, ids, PAGES)
        m, alpha, p = softmax_step(scores, one, m)
        weights = weights * alpha[:, None] + p
        p_half = p.to(tl.float16)
        new = ()
        for column in tl.static_range(16):
            new = new + (tl.dot(p_half, tiles[column], acc[column] * alpha[:, None]),)
        acc = new

    left = beside(_woven(acc, 0, BLOCK_M), _woven(acc, 1, BLOCK_M), BLOCK_M, 128)
    right = beside(_woven(acc, 2, BLOCK_M), _woven(acc, 3, BLOCK_M), BLOCK_M, 128)
    return beside(left, right, BLOCK_M, 256) * FACTOR, m, tl.sum(weights, 1)
