"""A bare attention stream, to time one choice with everything else equal: page ids carried ahead, or loaded where they are used.

`@triton.jit` functions only; not part of the product: equal lengths, one cache format, and the pieces of an item are never merged.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(ids, t, stride_page, stride_token, PAGE: tl.constexpr):
    return ids.to(tl.int64) * stride_page + (t % PAGE).to(tl.int64) * stride_token


@triton.jit
def paged_stream_kernel(
    q_ptr, k_ptr, v_ptr, ids_ptr, out_ptr, num_items, num_heads, tokens, scale_log2,
    stride_qb, stride_qh, stride_page, stride_token, stride_head, stride_ids,
    GROUP: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CARRY: tl.constexpr,
):  # fmt: skip
    """Grid: (programs), equal shares of all tiles. A program's pieces leave their normalised result in its slots, in turn.

    q [batch, heads, DIM]; k, v [page, token, head, DIM] with equal strides; out [programs, 2, BLOCK_M, DIM].
    """
    program = tl.program_id(0)
    tiles = (tokens + BLOCK_N - 1) // BLOCK_N
    total = num_items * tiles
    unit = total * program.to(tl.int64) // tl.num_programs(0)
    unit_stop = total * (program.to(tl.int64) + 1) // tl.num_programs(0)
    rows = tl.arange(0, BLOCK_M)
    cols = tl.arange(0, DIM)
    offsets = tl.arange(0, BLOCK_N)
    piece = 0
    while unit < unit_stop:
        item = unit // tiles
        first = (unit - item * tiles).to(tl.int32)
        last = tl.minimum(tiles, first + unit_stop - unit).to(tl.int32)
        b = item // num_heads
        head = item % num_heads
        ids_row = ids_ptr + b * stride_ids
        q_rows = q_ptr + b * stride_qb + (head * GROUP + rows) * stride_qh
        q = tl.load(q_rows[:, None] + cols[None, :], mask=(rows < GROUP)[:, None], other=0.0)
        base = head * stride_head
        m = tl.full([BLOCK_M], float("-inf"), tl.float32)
        norm = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, DIM], tl.float32)
        t = first * BLOCK_N + offsets
        ids = tl.load(ids_row + t // PAGE, mask=t < tokens, other=0)
        for tile in range(first, last):
            t = tile * BLOCK_N + offsets
            inside = t < tokens
            if not CARRY:
                ids = tl.load(ids_row + t // PAGE, mask=inside, other=0)
            where = base + _rows(ids, t, stride_page, stride_token, PAGE)
            k = tl.load(k_ptr + where[:, None] + cols[None, :], mask=inside[:, None], other=0.0)
            v = tl.load(v_ptr + where[:, None] + cols[None, :], mask=inside[:, None], other=0.0)
            if CARRY:
                ahead = t + BLOCK_N
                ids = tl.load(ids_row + ahead // PAGE, mask=ahead < tokens, other=0)
            scores = tl.dot(q, tl.trans(k)) * scale_log2
            scores = tl.where(inside[None, :], scores, float("-inf"))
            top = tl.maximum(m, tl.max(scores, 1))
            alpha = tl.exp2(m - top)
            p = tl.exp2(scores - top[:, None])
            m = top
            norm = norm * alpha + tl.sum(p, 1)
            acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None])
        slot = (program * 2 + piece % 2).to(tl.int64) * BLOCK_M
        tl.store(out_ptr + (slot + rows)[:, None] * DIM + cols[None, :], acc / norm[:, None])
        piece += 1
        unit += last - first
