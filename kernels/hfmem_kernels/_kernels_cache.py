"""Writing caches and merging results. `@triton.jit` functions only."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_common import E4M3, E5M2, LN2, LOG2E, PLAIN, decode_low


@triton.jit
def _encode_float(x, MANTISSA: tl.constexpr, BIAS: tl.constexpr, LARGEST: tl.constexpr):
    """fp32 → the bits of an 8-bit float, rounded to nearest even and saturated; NaN stays NaN.

    In integers, so that it is the same on devices with and without a conversion and in the interpreter.
    """
    magnitude = tl.minimum(tl.abs(x), LARGEST)
    bits = magnitude.to(tl.int32, bitcast=True)
    DROP: tl.constexpr = 23 - MANTISSA
    rounded = (bits + ((1 << (DROP - 1)) - 1) + ((bits >> DROP) & 1)) >> DROP
    normal = rounded - ((127 - BIAS) << MANTISSA)
    # below the smallest normal the step is constant: adding and taking away 2^23 rounds to a whole number of steps
    steps = tl.minimum(magnitude, 2.0 ** (1 - BIAS)) * (2.0 ** (BIAS - 1 + MANTISSA))
    subnormal = ((steps + 8388608.0) - 8388608.0).to(tl.int32)
    code = tl.where(magnitude < 2.0 ** (1 - BIAS), subnormal, normal)
    code = tl.where(x != x, 0x7F, code)
    sign = (x.to(tl.int32, bitcast=True) >> 24) & 0x80
    return (code | sign).to(tl.uint8)


@triton.jit
def encode(x, FORMAT: tl.constexpr):
    """fp32 → the byte that the cache stores."""
    if FORMAT == E4M3:
        code = _encode_float(x, 3, 7, 448.0)
    elif FORMAT == E5M2:
        code = _encode_float(x, 2, 15, 57344.0)
    else:
        clamped = tl.minimum(tl.maximum(x, -127.0), 127.0)
        code = (((clamped + 12582912.0) - 12582912.0).to(tl.int32) & 0xFF).to(tl.uint8)
    return code


@triton.jit
def largest(FORMAT: tl.constexpr):
    """The largest magnitude that `encode` stores exactly."""
    return 448.0 if FORMAT == E4M3 else (57344.0 if FORMAT == E5M2 else 127.0)


@triton.jit
def _write_row(
    source, stride_d, target, target_d, scale_ptr, factor,
    DIM: tl.constexpr, BLOCK: tl.constexpr, FORMAT: tl.constexpr, SCALES: tl.constexpr,
):  # fmt: skip
    """One token of one head. SCALES 0: divide by `factor`; 1: by the scale at `scale_ptr` too; 2: find a scale, store it."""
    cols = tl.arange(0, BLOCK)
    inside = cols < DIM
    x = tl.load(source + cols * stride_d, mask=inside, other=0.0)
    if FORMAT == PLAIN:
        tl.store(target + cols * target_d, x.to(tl.float32).to(target.dtype.element_ty), mask=inside)
    else:
        x = x.to(tl.float32)
        if SCALES == 2:
            biggest = tl.max(tl.abs(x), 0)
            scale = tl.where(biggest > 0.0, tl.div_rn(biggest, largest(FORMAT)), 1.0)
            tl.store(scale_ptr, scale)
        elif SCALES == 1:
            scale = tl.load(scale_ptr)
        else:
            scale = factor + 0.0
        tl.store(target + cols * target_d, encode(tl.div_rn(x, x * 0.0 + scale), FORMAT), mask=inside)


@triton.jit
def write_kernel(
    k_ptr, v_ptr, k_cache_ptr, v_cache_ptr, slots_ptr, k_scale_ptr, v_scale_ptr, k_factor, v_factor,
    skt, skh, skd, svt, svh, svd, ckp, ckt, ckh, ckd, cvp, cvt, cvh, cvd, ksp, kst, ksh, vsp, vst, vsh,
    PAGE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    FORMAT: tl.constexpr, K_SCALES: tl.constexpr, V_SCALES: tl.constexpr, DECODER: tl.constexpr,
):  # fmt: skip
    """Grid (tokens, heads): K and V of one token and head into its slot; a negative slot is skipped."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots_ptr + token)
    if slot >= 0:
        page = slot // PAGE
        place = slot % PAGE
        _write_row(
            k_ptr + token * skt + head * skh, skd, k_cache_ptr + page * ckp + place * ckt + head * ckh, ckd,
            k_scale_ptr + page * ksp + place * kst + head * ksh, k_factor, DK, BLOCK_K, FORMAT, K_SCALES,
        )  # fmt: skip
        _write_row(
            v_ptr + token * svt + head * svh, svd, v_cache_ptr + page * cvp + place * cvt + head * cvh, cvd,
            v_scale_ptr + page * vsp + place * vst + head * vsh, v_factor, DV, BLOCK_V, FORMAT, V_SCALES,
        )  # fmt: skip


@triton.jit
def _codes(x, scale):
    """e4m3 codes of groups [groups, columns] over their scales."""
    return encode(tl.div_rn(x, x * 0.0 + scale[:, None]), E4M3)


@triton.jit
def _half_codes(x):
    """fp32 → e2m1 codes, rounded to nearest, ties to even codes, and saturated."""
    size = tl.abs(x)
    code = (size > 0.25).to(tl.int32) + (size >= 0.75).to(tl.int32) + (size > 1.25).to(tl.int32)
    code += (
        (size >= 1.75).to(tl.int32) + (size > 2.5).to(tl.int32) + (size >= 3.5).to(tl.int32) + (size > 5.0).to(tl.int32)
    )
    return code | ((x.to(tl.int32, bitcast=True) >> 28) & 8)


@triton.jit
def _write_656(latent, sld, rope, row):
    """[512 e4m3 | an fp32 scale for each 128 | 64 bf16]."""
    groups = tl.arange(0, 4)
    cols = groups[:, None] * 128 + tl.arange(0, 128)[None, :]
    x = tl.load(latent + cols * sld).to(tl.float32)
    biggest = tl.max(tl.abs(x), 1)
    scale = tl.where(biggest > 0.0, tl.div_rn(biggest, biggest * 0.0 + 448.0), 1.0)
    tl.store(row + cols, _codes(x, scale))
    tl.store((row + 512).to(tl.pointer_type(tl.float32)) + groups, scale)
    tl.store((row + 528).to(tl.pointer_type(tl.bfloat16)) + tl.arange(0, 64), rope.to(tl.bfloat16))


@triton.jit
def _write_584(latent, sld, rope, row, eight):
    """[448 e4m3 | 64 bf16], and at `eight` a ue8m0 scale for each 64: the power of two that is no smaller than largest / 448."""
    groups = tl.arange(0, 8)
    cols = groups[:, None] * 64 + tl.arange(0, 64)[None, :]
    x = tl.load(latent + cols * sld, mask=cols < 448, other=0.0).to(tl.float32)
    biggest = tl.maximum(tl.max(tl.abs(x), 1), 1e-4)
    bits = tl.div_rn(biggest, biggest * 0.0 + 448.0).to(tl.int32, bitcast=True)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(tl.int32)
    tl.store(row + cols, _codes(x, (exponent << 23).to(tl.float32, bitcast=True)), mask=cols < 448)
    tl.store(eight + groups, tl.where(groups < 7, exponent, 0).to(tl.uint8))
    tl.store((row + 448).to(tl.pointer_type(tl.bfloat16)) + tl.arange(0, 64), rope.to(tl.bfloat16))


@triton.jit
def _write_352(latent, sld, rope, row):
    """[512 e2m1 | 64 e4m3 | an e4m3 scale for each 16 of the first, that of block s at byte 8 · (s mod 4) + s div 4]."""
    blocks = tl.arange(0, 32)
    pairs = blocks[:, None] * 8 + tl.arange(0, 8)[None, :]
    even = tl.load(latent + 2 * pairs * sld).to(tl.float32)
    odd = tl.load(latent + (2 * pairs + 1) * sld).to(tl.float32)
    biggest = tl.maximum(tl.max(tl.abs(even), 1), tl.max(tl.abs(odd), 1))
    code = encode(tl.maximum(tl.div_rn(biggest, biggest * 0.0 + 6.0), 0.001953125), E4M3)
    scale = (decode_low(code.to(tl.uint16), E4M3).to(tl.float32) * 256.0)[:, None]
    halves = _half_codes(tl.div_rn(even, even * 0.0 + scale)) | (_half_codes(tl.div_rn(odd, odd * 0.0 + scale)) << 4)
    tl.store(row + pairs, halves.to(tl.uint8))
    tl.store(row + 256 + tl.arange(0, 64), encode(rope, E4M3))
    tl.store(row + 320 + 8 * (blocks % 4) + blocks // 4, code)


@triton.jit
def write_packed_latent_kernel(
    latent_ptr, rope_ptr, bytes_ptr, slots_ptr, slt, sld, srt, srd, sp, st,
    PAGE: tl.constexpr, ROWS: tl.constexpr, DECODER: tl.constexpr,
):  # fmt: skip
    """Grid (tokens): a row of ROWS bytes that carries its scales (`LatentFormat`)."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token)
    if slot >= 0:
        page = bytes_ptr + (slot // PAGE) * sp
        latent = latent_ptr + token * slt
        rope = tl.load(rope_ptr + token * srt + tl.arange(0, 64) * srd).to(tl.float32)
        if ROWS == 584:
            _write_584(latent, sld, rope, page + (slot % PAGE) * 576, page + PAGE * 576 + (slot % PAGE) * 8)
        elif ROWS == 352:
            _write_352(latent, sld, rope, page + (slot % PAGE) * st)
        else:
            _write_656(latent, sld, rope, page + (slot % PAGE) * st)


@triton.jit
def merge_kernel(
    outs_ptr, lses_ptr, out_ptr, lse_ptr, parts, rows, sop, sor, sod, slp, slr, dor, dod, dlr,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr, DECODER: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of rows): combine `parts` results over disjoint keys; a part whose lse is -inf may hold anything."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = row < rows
    cols = tl.arange(0, BLOCK_D)
    top = tl.full([BLOCK_R], float("-inf"), tl.float32)
    for part in range(parts):
        lse_rows = lses_ptr + tl.cast(part, tl.int64) * slp + row * slr
        top = tl.maximum(top, tl.load(lse_rows, mask=inside, other=float("-inf")))
    shift = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros([BLOCK_R], tl.float32)
    acc = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for part in range(parts):
        far = tl.cast(part, tl.int64)  # 16 parts of 2^27 elements each are 2^31
        lse = tl.load(lses_ptr + far * slp + row * slr, mask=inside, other=float("-inf"))
        weight = tl.exp2((lse - shift) * LOG2E)
        mask = (inside & (weight > 0.0))[:, None] & (cols < DIM)[None, :]
        x = tl.load(outs_ptr + far * sop + row[:, None] * sor + cols[None, :] * sod, mask=mask, other=0.0)
        acc += x.to(tl.float32) * weight[:, None]
        total += weight
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    mask = inside[:, None] & (cols < DIM)[None, :]
    value = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row[:, None] * dor + cols[None, :] * dod, value, mask=mask)
    tl.store(lse_ptr + row * dlr, tl.where(empty, float("-inf"), shift + tl.log2(total) * LN2), mask=inside)
