"""What the loops do for lists of slots, in which a negative entry is of nothing. `@triton.jit` functions only.

Such an entry reads nothing: the row that its number is nearest to may be nobody's, and a NaN outlives a weight of 0.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_attend import hide, load_rows


@triton.jit
def load_listed(rows, stride_d, cols, LIMIT: tl.constexpr, FULL: tl.constexpr, ids, PAGES: tl.constexpr):
    """`load_rows`, zeros where the id of a slot is negative. ids: the tile's, slots if PAGES is negative."""
    if PAGES < 0:
        mask = (ids >= 0)[:, None] if FULL else (ids >= 0)[:, None] & (cols < LIMIT)[None, :]
        tile = tl.load(rows[:, None] + cols[None, :] * stride_d, mask=mask, other=0)
    else:
        tile = load_rows(rows, stride_d, cols, LIMIT, FULL)
    return tile


@triton.jit
def hide_unlisted(scores, offsets, t0, row_lo, row_hi, HAS_WINDOW: tl.constexpr, ids, PAGES: tl.constexpr):
    """`hide`, and -inf where the id of a slot is negative."""
    scores = hide(scores, offsets, t0, row_lo, row_hi, HAS_WINDOW)
    return tl.where((ids >= 0)[None, :], scores, float("-inf")) if PAGES < 0 else scores
