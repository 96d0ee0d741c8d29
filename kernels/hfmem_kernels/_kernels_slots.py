"""Tiles of the cache and which of their keys a row sees; for lists of slots, too, in which a negative entry is of nothing.

Such an entry reads nothing: the row that its number is nearest to may be nobody's, and a NaN outlives a weight of 0. `ids`: the
tile's, slots of single tokens if PAGES is negative (`load_ids`). `@triton.jit` functions only.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(rows, stride_d, cols, LIMIT: tl.constexpr, FULL: tl.constexpr, ids, PAGES: tl.constexpr):
    """A tile [BLOCK_N, columns] of the cache, zero in columns that it does not have and where the id of a slot is negative."""
    pointers = rows[:, None] + cols[None, :] * stride_d
    if PAGES < 0:
        mask = (ids >= 0)[:, None] if FULL else (ids >= 0)[:, None] & (cols < LIMIT)[None, :]
        tile = tl.load(pointers, mask=mask, other=0)
    elif FULL:
        tile = tl.load(pointers)
    else:
        tile = tl.load(pointers, mask=(cols < LIMIT)[None, :], other=0)
    return tile


@triton.jit
def hide(scores, offsets, t0, row_lo, row_hi, HAS_WINDOW: tl.constexpr, ids, PAGES: tl.constexpr):
    """-inf where a row does not see the key, rows see row_lo <= position < row_hi, and where the id of a slot is negative."""
    seen = offsets[None, :] < (row_hi - t0)[:, None]
    if HAS_WINDOW:
        seen = seen & (offsets[None, :] >= (row_lo - t0)[:, None])
    scores = tl.where(seen, scores, float("-inf"))
    return tl.where((ids >= 0)[None, :], scores, float("-inf")) if PAGES < 0 else scores
