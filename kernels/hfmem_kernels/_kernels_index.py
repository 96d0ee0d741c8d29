"""An indexer's scores (DSA): of each query against every key of its sequence, one number. `@triton.jit` functions only.

A score is a sum over the index heads, of weight · relu(q · k); a key's scale, which is positive, is left to the end. Tiles are
dealt out as in the decode kernel (`_kernels_schedule`); a tile's scores are nobody else's, so nothing is merged. Keys are the
product's left side and heads its right one: with 64 keys or more that is what sm_90's tensor cores take from shared memory, and
the sum over heads is one over a few columns of each thread.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_attend import load_query, power_of, query_parts
from hfmem_kernels._kernels_common import (
    E4M3,
    PLAIN,
    decode_pair,
    format_factor,
    key_range,
    load_ids,
    num_tiles,
    rows_of,
    widened,
)
from hfmem_kernels._kernels_schedule import first_unit, piece_at

# how queries and keys meet: as they are, in one type of 16 bits or e4m3 on devices that multiply it; or in fp16, keys decoded in
# pairs, queries in 16 bits and scaled, or decoded too
ALIKE = tl.constexpr(0)
DECODED = tl.constexpr(1)
BOTH_DECODED = tl.constexpr(2)


@triton.jit
def _queries(q_rows, mask, DIM: tl.constexpr, MODE: tl.constexpr, DECODER: tl.constexpr):
    """A token's queries [heads, DIM], or their even and odd columns; and what a head's products are to be multiplied by."""
    ones = tl.where(mask, 1.0, 0.0)
    if MODE == ALIKE:
        low = tl.load(q_rows[:, None] + tl.arange(0, DIM)[None, :], mask=mask[:, None], other=0.0)
        high = low
        factor = ones
    elif MODE == DECODED:
        factor = power_of(tl.max(tl.abs(load_query(q_rows, 1, mask, tl.arange(0, DIM), DIM)), 1)) * (1.0 / 16384.0)
        low, high, _ = query_parts(q_rows, 1, mask, 0, DIM, DIM, True)
        low = (low / factor[:, None]).to(tl.float16)
        high = (high / factor[:, None]).to(tl.float16)
    else:
        pairs = tl.load(q_rows[:, None] + tl.arange(0, DIM // 2)[None, :], mask=mask[:, None], other=0)
        low, high = decode_pair(pairs, E4M3, DECODER)
        factor = ones * format_factor(E4M3, True, DECODER)
    return low, high, factor


@triton.jit
def _products(keys, low, high, MODE: tl.constexpr, DECODER: tl.constexpr):
    """keys · queriesᵀ, [keys, heads]."""
    if MODE == ALIKE:
        products = tl.dot(keys, tl.trans(low))
    else:
        k_low, k_high = decode_pair(keys, E4M3, DECODER)
        products = tl.dot(k_high, tl.trans(high), tl.dot(k_low, tl.trans(low)))
    return products


@triton.jit(
    do_not_specialize=["batch", "capacity", "columns", "offset", "spb", "sob"],
    do_not_specialize_on_alignment=["page_table_ptr", "seq_lens_ptr"],
)
def index_kernel(
    q_ptr, keys_ptr, scales_ptr, weights_ptr, page_table_ptr, seq_lens_ptr, out_ptr,
    batch, capacity, columns, offset, sqb, sqt, sqh, skp, skt, ssp, swb, swt, spb, sob, sot,
    QUERIES: tl.constexpr, HEADS: tl.constexpr, BLOCK_H: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    UNIT: tl.constexpr, FORMAT: tl.constexpr, MODE: tl.constexpr, DECODER: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr, ONE_SCAN: tl.constexpr, PAGES: tl.constexpr, WIDE: tl.constexpr, LOCKSTEP: tl.constexpr,
):  # fmt: skip
    """Grid: (programs) sharing all tiles equally. Query i of a sequence's QUERIES sees all keys but the last QUERIES - 1 - i.

    `s??` are strides: q, keys (in UNIT elements), scales, weights, page table (p), out, by batch, query, head, page, token.
    capacity: tokens that the page table holds; columns: of `out` and no more than those, what is scored; offset: of the first key.
    LOCKSTEP of a sequence's queries are worked on side by side, by as many programs, so that they share reads of keys.
    """
    STEP: tl.constexpr = 1 if MODE == ALIKE else 2
    program = tl.program_id(0)
    _, _, cost, unit, unit_stop, b, item_unit = first_unit(
        program // LOCKSTEP, tl.num_programs(0) // LOCKSTEP, seq_lens_ptr, seq_lens_ptr, batch, QUERIES // LOCKSTEP, QUERIES, 0,
        columns, BLOCK_B, ONE_SCAN, BLOCK_N, False, False, 1, 0, 1, 1,
    )  # fmt: skip
    head = tl.arange(0, BLOCK_H)
    mask = head < HEADS
    offsets = tl.arange(0, BLOCK_N)
    cols = tl.arange(0, DIM // STEP)
    first_key = keys_ptr + offset * UNIT
    while unit < unit_stop:
        seq_len = tl.load(seq_lens_ptr + b)
        lo, hi = key_range(seq_len, QUERIES, 0, columns, False)
        tiles = num_tiles(lo, hi, BLOCK_N)
        lane, start, tile0, tile1 = piece_at(unit, unit_stop, item_unit, tiles, cost, 1)
        query = lane * LOCKSTEP + program % LOCKSTEP
        b64 = b.to(tl.int64)
        low, high, factor = _queries(
            q_ptr + b64 * sqb + query * sqt + head.to(tl.int64) * sqh, mask, DIM, MODE, DECODER
        )
        weights = tl.load(weights_ptr + b64 * swb + query * swt + head, mask=mask, other=0.0).to(tl.float32)
        key_factor = format_factor(E4M3, True, DECODER) if MODE != ALIKE else 1.0
        weights = weights * factor * key_factor
        ids_ptr = page_table_ptr + b64 * spb
        out_row = out_ptr + b64 * sob + query.to(tl.int64) * sot
        seen = tl.minimum(tl.minimum(seq_len, capacity) - QUERIES + 1 + query, hi)
        last = hi - 1
        tile1 = tl.where(hi > 0, tile1, tile0)  # without a key there is no row to read
        first, second = load_ids(ids_ptr, tile0 * BLOCK_N, last, offsets, PAGE, PAGES, True)
        for tile in range(tile0, tile1):
            t0 = tile * BLOCK_N
            first, second = widened(first, second, WIDE)
            rows = rows_of(first, second, t0, last, offsets, skp, skt, PAGE, PAGES).to(tl.int64) * UNIT
            keys = tl.load(first_key + rows[:, None] + cols[None, :])
            scale = offsets * 0.0 + 1.0
            if FORMAT != PLAIN:
                scale = tl.load(scales_ptr + rows_of(first, second, t0, last, offsets, ssp, 1, PAGE, PAGES))
            first, second = load_ids(ids_ptr, t0 + BLOCK_N, last, offsets, PAGE, PAGES, False)
            scores = tl.maximum(_products(keys, low, high, MODE, DECODER), 0.0) * weights[None, :]
            tl.store(out_row + t0 + offsets, tl.sum(scores, 1) * scale, mask=t0 + offsets < seen)
        unit = start + tiles
        if unit == item_unit + (tiles + cost) * (QUERIES // LOCKSTEP):
            item_unit = unit
            b += 1
