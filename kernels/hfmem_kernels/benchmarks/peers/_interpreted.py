"""Functions that the interpreter can run, for peers that call CUDA's library or aliases it does not see. `@triton.jit` only."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def divide(x, y):
    """x / y."""
    return x / y


@triton.jit
def exp2(x):
    """2 to the x."""
    return tl.exp2(x)


@triton.jit
def log2(x):
    """The logarithm to the base 2."""
    return tl.log2(x)
