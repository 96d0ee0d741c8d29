"""The read-only stream and the empty kernel: what the device gives at most, and what a launch costs. `@triton.jit` only."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def read_kernel(data_ptr, sums_ptr, num_tiles, TILE: tl.constexpr):
    """Sum every TILE of int32 words whose number is this program's, modulo the programs; the total proves that all was read."""
    program = tl.program_id(0)
    total = tl.zeros([TILE], tl.int32)
    pointers = data_ptr + program.to(tl.int64) * TILE + tl.arange(0, TILE)
    step = tl.num_programs(0).to(tl.int64) * TILE
    for _ in range(program, num_tiles, tl.num_programs(0)):
        total += tl.load(pointers)
        pointers += step
    tl.store(sums_ptr + program, tl.sum(total, 0))


@triton.jit
def empty_kernel(out_ptr):
    """Does one store in all."""
    if tl.program_id(0) == 0:
        tl.store(out_ptr, 1)
