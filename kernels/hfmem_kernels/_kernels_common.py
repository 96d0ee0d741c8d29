"""What the decode kernels share: decoding 8-bit elements, which keys a sequence has, where their rows are.

`@triton.jit` functions only.
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
def format_factor(FORMAT: tl.constexpr, PAIRS: tl.constexpr, DECODER: tl.constexpr):
    """What a decoded element is to be multiplied by: fp16's exponent bias is 15, that of e4m3 is 7.

    The conversion sees to it; single bytes are decoded by arithmetic whatever the device has.
    """
    return 256.0 if FORMAT == E4M3 and not (PAIRS and DECODER == CONVERT) else 1.0


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
def load_id(ids_ptr, page, last, PAGE: tl.constexpr, GUARDED: tl.constexpr):
    """Ids of pages, that of the last key's page for those behind it; 0 for a GUARDED load without keys."""
    last_page = (last.to(tl.uint32) // PAGE).to(tl.int32)
    pointers = ids_ptr + tl.minimum(page, last_page)
    if GUARDED:
        return tl.load(pointers, mask=page * 0 + last >= 0, other=0)
    return tl.load(pointers)


# How many pages a tile may touch, known when the kernel is compiled: 1 (pages are multiples of tiles, which begin at their edges),
# 2 (a page is no smaller than a tile), 0 (more, or it is not known); -1: what is listed are slots of single tokens, page · PAGE +
# place, negative ones of nothing (`_kernels_slots`).
#
# Positions behind the last key count as the last key: its row is there, it was asked for anyway, and what it scores is hidden.
# A mask instead would cost every row of every tile three instructions more, and would be false in the last tile alone.
@triton.jit
def load_ids(ids_ptr, t0, last, offsets, PAGE: tl.constexpr, PAGES: tl.constexpr, GUARDED: tl.constexpr):
    """Page ids of the tile that begins at t0: its one or two, scalar, or one a token. GUARDED: there may be no key at all."""
    t = t0 if PAGES > 0 else t0 + offsets
    A_PAGE: tl.constexpr = 1 if PAGES < 0 else PAGE
    page = (t.to(tl.uint32) // A_PAGE).to(tl.int32)
    first = load_id(ids_ptr, page, last, A_PAGE, GUARDED)
    second = first
    if PAGES > 1:
        second = load_id(ids_ptr, page + 1, last, PAGE, GUARDED)
    return first, second


@triton.jit
def widened(first, second, WIDE: tl.constexpr):
    """Ids in 64 bits, if offsets of rows need them."""
    if WIDE:
        first = first.to(tl.int64)
        second = second.to(tl.int64)
    return first, second


@triton.jit
def rows_of(
    first, second, t0, last, offsets, stride_page, stride_token, PAGE: tl.constexpr, PAGES: tl.constexpr,
    CLAMP: tl.constexpr = True,
):  # fmt: skip
    """Offset of each token's row. int64 if the ids are; without a multiplication by the page for each row if it spans the tile.

    Positions are never negative; said by unsigned types, it saves the corrections of a signed division for each row. Without
    CLAMP what lies behind the last key reads the slots behind it, in the last key's page: there, but with anything in them.
    """
    if PAGES > 0:
        start = (t0.to(tl.uint32) % PAGE).to(tl.int32)
        inside = tl.minimum(offsets, last - t0) if CLAMP else offsets
        rows = first * stride_page + start.to(first.dtype) * stride_token + inside.to(first.dtype) * stride_token
        if PAGES > 1:
            jump = (second - first) * stride_page - (first * 0 + PAGE) * stride_token
            rows += tl.where(start + inside >= PAGE, jump, 0)
    elif PAGES < 0:
        slot = tl.maximum(first, 0).to(tl.uint32)
        rows = (slot // PAGE).to(first.dtype) * stride_page + (slot % PAGE).to(first.dtype) * stride_token
    else:
        place = ((t0 + offsets).to(tl.uint32) % PAGE).to(first.dtype) * stride_token
        if CLAMP:
            last_place = (last.to(tl.uint32) % PAGE).to(first.dtype) * stride_token
            place = tl.where(offsets <= last - t0, place, last_place)
        rows = first * stride_page + place
    return rows
