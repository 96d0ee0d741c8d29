"""What PTX's register-to-register instructions do, elementwise over the threads of a block, in numpy.

Reference: PTX ISA, "Instruction set". Results are rounded as the ISA says; the approximate functions (ex2.approx, div.full …)
are computed exactly, which is within their stated error. `.ftz` flushes subnormal inputs and results.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[Any]]

VIEWS: dict[str, Any] = {
    "b16": np.uint16, "u16": np.uint16, "s16": np.int16, "f16": np.float16, "b32": np.uint32, "u32": np.uint32,
    "s32": np.int32, "f32": np.float32, "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64,
    "bf16": np.uint16, "f16x2": np.uint32, "bf16x2": np.uint32, "f32x2": np.uint64, "e4m3x2": np.uint16, "e5m2x2": np.uint16,
    "pred": np.bool_, "u8": np.uint8, "s8": np.int8, "b8": np.uint8,
}  # fmt: skip
WIDER = {"s16": np.int32, "u16": np.uint32, "s32": np.int64, "u32": np.uint64}


def bf16_to_f32(bits: Array) -> Array:
    """bf16 is the upper half of an fp32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(value: Array) -> Array:
    """Round to nearest even."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(value), np.uint16(0x7FFF), rounded)


def flush(value: Array) -> Array:
    """Subnormal fp32 to zero of the same sign."""
    return np.where(np.abs(value) < np.float32(2.0**-126), np.copysign(np.float32(0), value), value)


def permute_bytes(a: Array, b: Array, selector: Array) -> Array:
    """prmt.b32: each nibble of the selector picks a byte of b:a; its upper bit replicates that byte's sign."""
    pool = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
    result = np.zeros_like(a)
    for i in range(4):
        nibble = (selector >> np.uint32(4 * i)) & np.uint32(0xF)
        byte = ((pool >> ((nibble & np.uint32(7)).astype(np.uint64) * np.uint64(8))) & np.uint64(0xFF)).astype(
            np.uint32
        )
        byte = np.where(nibble & 8, np.where(byte & 0x80, np.uint32(0xFF), np.uint32(0)), byte)
        result |= byte << np.uint32(8 * i)
    return result


def lop3(a: Array, b: Array, c: Array, table: int) -> Array:
    """Any function of three bits: bit (a, b, c) of the table."""
    result = np.zeros_like(a)
    for index in range(8):
        if table >> index & 1:
            x, y, z = (v if index >> (2 - i) & 1 else ~v for i, v in enumerate((a, b, c)))
            result |= x & y & z
    return result


def extract(value: Array, position: Array, length: Array, signed: bool) -> Array:
    """bfe: `length` bits from `position` on, sign-extended if signed."""
    wide = value.view(np.uint32).astype(np.uint64) >> np.minimum(position, 255).astype(np.uint64)
    field = wide & ((np.uint64(1) << np.minimum(length, 32).astype(np.uint64)) - np.uint64(1))
    if signed:
        sign = np.uint64(1) << (np.maximum(length, 1) - 1).astype(np.uint64)
        field = (field ^ sign) - sign
    return field.astype(np.uint32)


def insert(field: Array, value: Array, position: Array, length: Array) -> Array:
    """bfi.b32: the low `length` bits of `field` into `value`, from `position` on."""
    ones = (np.uint64(1) << np.minimum(length, 32).astype(np.uint64)) - np.uint64(1)
    at = np.minimum(position, 32).astype(np.uint64)
    mask = (ones << at).astype(np.uint32)
    return (value & ~mask) | ((field.astype(np.uint64) << at).astype(np.uint32) & mask)


def shift(left: bool) -> Callable[[Array, Array], Array]:
    """shl and shr: amounts past the width act as the width."""

    def apply(a: Array, amount: Array) -> Array:
        bits = a.dtype.itemsize * 8
        beyond = amount.astype(np.uint64) >= bits
        within = np.minimum(amount, bits - 1).astype(a.dtype)
        moved = a << within if left else a >> within
        rest = a >> a.dtype.type(bits - 1) if not left and a.dtype.kind == "i" else np.zeros_like(a)
        return np.where(beyond, rest, moved)

    return apply


def divide(a: Array, b: Array) -> Array:
    """Integers towards zero."""
    if a.dtype.kind == "f":
        return a / b
    if a.dtype.kind == "u":
        return a // np.maximum(b, 1)
    quotient = np.abs(a.astype(np.int64)) // np.maximum(np.abs(b.astype(np.int64)), 1)
    return (quotient * np.sign(a.astype(np.int64)) * np.sign(b.astype(np.int64))).astype(a.dtype)


def high_half(a: Array, b: Array) -> Array:
    """Bits 64 … 127 of the products of 64-bit integers."""
    return np.array([int(x) * int(y) >> 64 for x, y in zip(a, b, strict=True)], a.dtype)


def remainder(a: Array, b: Array) -> Array:
    """The sign is that of the dividend."""
    return a - divide(a, b) * b


def fused(a: Array, b: Array, c: Array) -> Array:
    """a · b + c in fp64, rounded once to fp32 (a product of two fp32 is exact there)."""
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)


def smaller(*values: Array) -> Array:
    """min, of three from sm_100 on: of a number and NaN the number."""
    return reduce(np.fmin if values[0].dtype.kind == "f" else np.minimum, values)


def larger(*values: Array) -> Array:
    """max, of three from sm_100 on: of a number and NaN the number."""
    return reduce(np.fmax if values[0].dtype.kind == "f" else np.maximum, values)


def count_bits(a: Array) -> Array:
    """How many bits of each value are set, as 32-bit integers (`popc`)."""
    return np.unpackbits(a.view(np.uint8).reshape(*a.shape, a.dtype.itemsize), axis=-1).sum(axis=-1, dtype=np.uint32)


ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": divide,
    "rem": remainder,
    "min": smaller,
    "max": larger,
    "fma": fused,
    "neg": lambda a: -a if a.dtype.kind == "f" else np.zeros_like(a) - a,
    "abs": np.abs,
    "not": lambda a: ~a,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": shift(left=True),
    "shr": shift(left=False),
    "mov": lambda a: a,
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": lambda a: a.dtype.type(1) / a,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "prmt": permute_bytes,
    "popc": count_bits,
}

COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "neu": lambda a, b: ~(a == b),
    "equ": lambda a, b: (a == b) | np.isnan(a) | np.isnan(b),
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
}


def elementwise(name: str, kind: str, values: list[Array], ftz: bool) -> Array:
    """`name` over operands that are views of type `kind`."""
    function = ELEMENTWISE[name]
    if kind == "bf16":
        if name in ("mov", "and", "or", "xor", "not"):
            return function(*values)
        return f32_to_bf16(function(*map(bf16_to_f32, values)))
    if kind == "f16x2":
        return np.asarray(function(*(v.view(np.float16).reshape(-1, 2) for v in values))).reshape(-1).view(np.uint32)
    if kind == "bf16x2":
        halves = (bf16_to_f32(v.view(np.uint16)) for v in values)
        return f32_to_bf16(function(*halves)).view(np.uint32)
    if kind == "f32x2":
        pairs = [np.ascontiguousarray(v).view(np.float32).reshape(-1, 2) for v in values]
        both = flush(function(*map(flush, pairs))) if ftz else function(*pairs)
        return np.ascontiguousarray(both).reshape(-1).view(np.uint64)
    if ftz and kind == "f32":
        return flush(function(*map(flush, values)))
    return function(*values)


def convert(target: str, source: str, values: list[Array]) -> Array:
    """cvt: to `target` from `source`. Pairs take the upper half first."""
    if target in ("bf16x2", "f16x2") and source == "f32":
        high, low = (f32_to_bf16(v) if target == "bf16x2" else v.astype(np.float16).view(np.uint16) for v in values)
        return (high.astype(np.uint32) << 16) | low
    if source in ("e4m3x2", "e5m2x2"):
        kind = torch.float8_e4m3fn if source == "e4m3x2" else torch.float8_e5m2
        codes = torch.from_numpy(np.ascontiguousarray(values[0]).view(np.uint8).copy()).view(kind)
        return codes.to(torch.float16).numpy().view(np.uint32)
    value = bf16_to_f32(values[0]) if source == "bf16" else values[0]
    if target == "bf16":
        return f32_to_bf16(value.astype(np.float32))
    if VIEWS[target] in (np.float16, np.float32, np.float64) or value.dtype.kind in "iub":
        return value.astype(VIEWS[target])
    info = np.iinfo(VIEWS[target])  # float to integer: towards zero (.rzi) and clamped; NaN is zero
    return np.clip(np.nan_to_num(np.trunc(value)), info.min, info.max).astype(VIEWS[target])
