"""What PTX's warp-wide instructions do: matrix products and their fragments, shuffles, reductions. Arrays are [warps, 32, …].

Reference: PTX ISA, "Matrix fragments for mma.m16n8k16", "ldmatrix", "stmatrix", "shfl.sync", "redux.sync".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ptx_arithmetic import Array, bf16_to_f32

LANES = np.arange(32)
ROW, QUAD = LANES // 4, LANES % 4


def _values(registers: list[Array], kind: str) -> Array:
    """Registers [threads] of two 16-bit numbers each → fp32 [warps, rows, quads, halves, registers], rows of four lanes."""
    pairs = np.stack(registers, -1).view(np.uint16).reshape(-1, 8, 4, len(registers), 2)
    values = bf16_to_f32(pairs) if kind == "bf16" else pairs.view(np.float16).astype(np.float32)
    return values.swapaxes(3, 4)


def multiply(a: list[Array], b: list[Array], c: list[Array], kind: str) -> list[Array]:
    """mma.m16n8k16: C [16, 8] + A [16, 16] · B [16, 8] of each warp; four fp32 registers a thread, as bits.

    Register r of A holds rows ROW + 8 (r mod 2) and columns 2 QUAD + {0, 1} + 8 (r div 2), register r of B rows 2 QUAD + {0, 1}
    + 8 r of column ROW; register r of C row ROW + 8 (r div 2), column 2 QUAD + r mod 2. Sums are formed in fp64.
    """
    warps = len(a[0]) // 32
    left = _values(a, kind).reshape(warps, 8, 4, 2, 2, 2)  # row, quad, half, column block, row block
    left = left.transpose(0, 5, 1, 4, 2, 3).reshape(warps, 16, 16)
    right = _values(b, kind).transpose(0, 4, 2, 3, 1).reshape(warps, 16, 8)
    product = left.astype(np.float64) @ right.astype(np.float64)
    added = product.reshape(warps, 2, 8, 4, 2).transpose(1, 4, 0, 2, 3).reshape(4, -1)
    return [(old.view(np.float32) + new).astype(np.float32).view(np.uint32) for old, new in zip(c, added, strict=True)]


def matrix_rows(addresses: Array, number: int) -> Array:
    """Where the 8 rows (16 bytes each) of each of `number` matrices begin: [warps, number, 8] of lanes' addresses."""
    return addresses.reshape(-1, 32)[:, : 8 * number].reshape(-1, number, 8)


def spread(rows: Array, transposed: bool) -> list[Array]:
    """ldmatrix: [warps, matrices, 8, 8] of 16-bit elements → one register a matrix, [threads]."""
    if transposed:
        rows = rows.swapaxes(2, 3)
    low, high = rows[:, :, ROW, QUAD * 2].astype(np.uint32), rows[:, :, ROW, QUAD * 2 + 1].astype(np.uint32)
    both = low | (high << 16)
    return [both[:, i].reshape(-1) for i in range(rows.shape[1])]


def collect(registers: list[Array], transposed: bool) -> Array:
    """stmatrix: the inverse of `spread`."""
    values = np.stack([r.reshape(-1, 32) for r in registers], 1)
    rows = np.empty((*values.shape[:2], 8, 8), np.uint16)
    rows[:, :, ROW, QUAD * 2] = values & 0xFFFF
    rows[:, :, ROW, QUAD * 2 + 1] = values >> 16
    return rows.swapaxes(2, 3) if transposed else rows


def shuffle(mode: str, value: Array, amount: Array, limits: Array) -> tuple[Array, Array]:
    """shfl.sync: what each lane gets, and whether its source lies within its segment."""
    lane = np.tile(LANES, len(value) // 32).astype(np.int64)
    by, clamp, segment = (x.astype(np.int64) & 0x1F for x in (amount, limits, limits >> np.uint32(8)))
    lowest = lane & segment
    furthest = lowest | (clamp & ~segment)
    source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": lowest | (by & ~segment)}[mode]
    inside = source >= furthest if mode == "up" else source <= furthest
    source = np.where(inside, source, lane) + np.arange(len(value)) // 32 * 32
    return value[source], inside


REDUCE: dict[str, Any] = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
#: floating point, from sm_100 on: NaN counts only where every lane has it, so Triton gives it to lanes that are to be left out
REDUCE_FLOAT: dict[str, Any] = {"min": np.fmin, "max": np.fmax}


def reduce(operation: str, value: Array) -> Array:
    """redux.sync over all 32 lanes."""
    function = (REDUCE_FLOAT if value.dtype.kind == "f" else REDUCE)[operation]
    result = function.reduce(value.reshape(-1, 32), axis=1, dtype=value.dtype)
    return np.repeat(result, 32)
