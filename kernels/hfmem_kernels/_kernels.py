"""Split-KV decode attention over a paged cache, one launch: a program walks through its pieces. `@triton.jit` functions only.

`_kernels_schedule` says which pieces those are and has the words, `_kernels_attend` and `_kernels_latent` work on one,
`_kernels_merge` joins what several programs found out about one item.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
from __future__ import annotations

import triton
import triton.language as tl

from hfmem_kernels._kernels_attend import attend
from hfmem_kernels._kernels_common import key_range, num_tiles, query_span
from hfmem_kernels._kernels_latent import attend_latent
from hfmem_kernels._kernels_merge import arrive, load_sinks, normaliser, store_piece, store_result
from hfmem_kernels._kernels_nvfp4 import attend_nvfp4_latent
from hfmem_kernels._kernels_packed import attend_packed_latent
from hfmem_kernels._kernels_schedule import first_unit, piece_at, pieces_of, slot_of


@triton.jit
def _places(
    q_row0, count, b, head, m_block, out_ptr, lse_ptr, sob, sot, soh, slb, slt, slh,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Where the first ROWS rows of a block belong: query head, whether there is such a row, pointers into out and lse."""
    row = m_block * BLOCK_M + tl.arange(0, ROWS)
    query = row // GROUP
    q_head = head * GROUP + row % GROUP
    token = (q_row0 + query).to(tl.int64)
    out_rows = out_ptr + b.to(tl.int64) * sob + token * sot + q_head.to(tl.int64) * soh
    lse_ptrs = lse_ptr + b.to(tl.int64) * slb + token * slt + q_head.to(tl.int64) * slh
    return q_head, query < count, out_rows, lse_ptrs


# What changes from call to call without changing the arithmetic is not specialised on: the values 1 and multiples of 16 would
# each be compiled anew in the middle of serving, and a batch-invariant result must come from one machine code.
@triton.jit(
    do_not_specialize=["batch", "window", "capacity", "num_slots", "max_pieces", "k_offset", "v_offset", "spb"],
    do_not_specialize_on_alignment=["page_table_ptr", "seq_lens_ptr", "cu_q_ptr"],
)
def decode_kernel(
    q_ptr, k_ptr, v_ptr, page_table_ptr, seq_lens_ptr, cu_q_ptr, out_ptr, lse_ptr, sinks_ptr, alibi_ptr,
    k_scale_ptr, v_scale_ptr, partial_ptr, state_ptr, counter_ptr,
    batch, q_len, window, capacity, num_slots, max_pieces, scale, softcap, v_factor, k_offset, v_offset,
    sqb, sqt, sqh, sqd, skp, skt, skh, skd, svp, svt, svh, svd, spb, sob, sot, soh, sod, slb, slt, slh,
    ssp, sst, ssh, vsp, vst, vsh,
    HEADS: tl.constexpr, GROUP: tl.constexpr, PAGE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, D1: tl.constexpr,
    D2: tl.constexpr, DVP: tl.constexpr, FORMAT: tl.constexpr, PAIRS: tl.constexpr, UNIT_K: tl.constexpr, UNIT_V: tl.constexpr,
    SCALES: tl.constexpr, V_SCALES: tl.constexpr, LATENT: tl.constexpr, VARLEN: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_SINKS: tl.constexpr, HAS_LSE: tl.constexpr,
    M_BLOCKS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr,
    ONE_SCAN: tl.constexpr, SPLIT_TILES: tl.constexpr, MIN_TILES: tl.constexpr, SNAP: tl.constexpr,
    MAX_PIECES: tl.constexpr, PIECE_COST: tl.constexpr, LOCKSTEP: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    FAN: tl.constexpr, ONE_LEVEL: tl.constexpr, DECODER: tl.constexpr, PAGES: tl.constexpr, SAME_STRIDES: tl.constexpr,
    SAME_SCALES: tl.constexpr, WIDE: tl.constexpr, WIDE_SCALES: tl.constexpr, CUT: tl.constexpr, PACKED_LATENT: tl.constexpr,
):  # fmt: skip
    """Grid: (programs) sharing all tiles equally when SPLIT_TILES is 0, else a fixed split, (sequences × max_pieces × HEADS).

    `s??` are strides: q, k, v, page table (p), out, lse, k scales (s), v scales (v), by batch, token, head, page, dim.
    HEADS: items of a sequence, KV heads × blocks of query rows; LOCKSTEP of them side by side (`_kernels_schedule`).
    ROWS, CHUNK, FAN: query rows, columns and pieces of one step of a merge. ONE_LEVEL: most pieces of a merge in one go.
    CUT: scores are those of parts of the columns (`scores_of`). PACKED_LATENT: bytes of a row that carries its scales, or 0.
    """
    FIRST: tl.constexpr = 0 if SPLIT_TILES > 0 else 1  # slots of an item's pieces (`slot_of`)
    STRIDE: tl.constexpr = 1 if SPLIT_TILES > 0 else 2 * LOCKSTEP
    program = tl.program_id(0)
    if SPLIT_TILES > 0:
        item = program // (max_pieces * HEADS) * HEADS + program % HEADS  # heads side by side here, too
        fixed_piece = program // HEADS % max_pieces
        b = item // HEADS
        quotient = 1
        remainder = 0
        cost = 0
        unit = 0
        unit_stop = 1
        item_unit = 0
    else:
        item = 0
        fixed_piece = 0
        group = program // LOCKSTEP
        quotient, remainder, cost, unit, unit_stop, b, item_unit = first_unit(
            group, tl.num_programs(0) // LOCKSTEP, seq_lens_ptr, cu_q_ptr, batch, HEADS // LOCKSTEP, q_len, window, capacity,
            BLOCK_B, ONE_SCAN, BLOCK_N, HAS_WINDOW, VARLEN, MIN_TILES, MAX_PIECES, PIECE_COST, FAN,
        )  # fmt: skip

    while unit < unit_stop:
        q_row0, count = query_span(cu_q_ptr, b, q_len, True, VARLEN)
        lo, hi = key_range(tl.load(seq_lens_ptr + b), count, window, capacity, HAS_WINDOW)
        tiles = num_tiles(lo, hi, BLOCK_N)
        if SPLIT_TILES > 0:
            lane = item % HEADS
            start = 0
            tile = fixed_piece * SPLIT_TILES
            tile_stop = tl.minimum(tile + SPLIT_TILES, tiles)
        else:
            lane, start, tile, tile_stop = piece_at(unit, unit_stop, item_unit, tiles, cost, SNAP)
            lane = lane * LOCKSTEP + program % LOCKSTEP
        if tile < tile_stop:
            head = lane // M_BLOCKS
            m_block = lane % M_BLOCKS
            q_head, row_mask, out_rows, lse_ptrs = _places(
                q_row0, count, b, head, m_block, out_ptr, lse_ptr, sob, sot, soh, slb, slt, slh, GROUP, BLOCK_M, BLOCK_M
            )
            sink = load_sinks(sinks_ptr, q_head, row_mask, HAS_SINKS)  # early: at the end somebody would wait for it
            if PACKED_LATENT == 352:
                acc, m, norm = attend_nvfp4_latent(
                    q_ptr, k_ptr, page_table_ptr + b.to(tl.int64) * spb, b, m_block, q_row0, count, lo, hi, tile,
                    tile_stop, window, scale, sqb, sqt, sqh, sqd, skp, skt, GROUP, PAGE, UNIT_K, HAS_WINDOW, BLOCK_M,
                    BLOCK_N, DECODER, PAGES, WIDE, CUT,
                )  # fmt: skip
            elif PACKED_LATENT > 0:
                acc, m, norm = attend_packed_latent(
                    q_ptr, k_ptr, page_table_ptr + b.to(tl.int64) * spb, b, m_block, q_row0, count, lo, hi, tile,
                    tile_stop, window, scale, sqb, sqt, sqh, sqd, skp, skt, GROUP, PAGE, UNIT_K, HAS_WINDOW, BLOCK_M,
                    BLOCK_N, DECODER, PAGES, WIDE, CUT, PACKED_LATENT,
                )  # fmt: skip
            elif LATENT:
                acc, m, norm = attend_latent(
                    q_ptr, k_ptr, page_table_ptr + b.to(tl.int64) * spb, k_scale_ptr, b, m_block, q_row0, count, lo, hi,
                    tile, tile_stop, window, scale, v_factor, k_offset, sqb, sqt, sqh, sqd, skp, skt, skd, GROUP, PAGE,
                    DK, DV, D2, FORMAT, PAIRS, UNIT_K, SCALES, HAS_WINDOW, BLOCK_M, BLOCK_N, DECODER, PAGES, WIDE, CUT,
                )  # fmt: skip
            else:
                acc, m, norm = attend(
                    q_ptr, k_ptr, v_ptr, page_table_ptr + b.to(tl.int64) * spb, k_scale_ptr, v_scale_ptr, alibi_ptr,
                    b, head, m_block, q_row0, count, lo, hi, tile, tile_stop, window, scale, softcap, v_factor, k_offset, v_offset,
                    sqb, sqt, sqh, sqd, skp, skt, skh, skd, svp, svt, svh, svd, ssp, sst, ssh, vsp, vst, vsh,
                    GROUP, PAGE, DK, DV, D1, D2, DVP, FORMAT, PAIRS, UNIT_K, UNIT_V, SCALES, V_SCALES, HAS_WINDOW,
                    HAS_SOFTCAP, HAS_ALIBI, BLOCK_M, BLOCK_N, DECODER, PAGES, SAME_STRIDES, SAME_SCALES, WIDE,
                    WIDE_SCALES, CUT,
                )  # fmt: skip
            if (tile == 0) & (tile_stop >= tiles):
                factor, lse = normaliser(m, norm, sink, HAS_SINKS)
                columns = tl.arange(0, DVP)
                store_result(acc, factor, lse, columns, out_rows, sod, lse_ptrs, row_mask, DV, HAS_LSE)
            else:
                if SPLIT_TILES > 0:
                    num_pieces = (tiles + SPLIT_TILES - 1) // SPLIT_TILES
                    index = fixed_piece
                    base = item.to(tl.int64) * max_pieces
                else:  # not before the loop: it would wait for these divisions
                    first, num_pieces = pieces_of(start, tiles, quotient, remainder, SNAP)
                    index = tl.where(tile == 0, 0, group - first)
                    base = 2 * (first * LOCKSTEP + program % LOCKSTEP).to(tl.int64)
                partials = partial_ptr + base * (BLOCK_M * DVP)
                states = state_ptr + base * (BLOCK_M * 2)
                store_piece(acc, m, norm, slot_of(index, FIRST, STRIDE), partials, states, row_mask, BLOCK_M, DVP)
                merged_head, merged_mask, merged_rows, merged_lse = _places(
                    q_row0, count, b, head, m_block, out_ptr, lse_ptr, sob, sot, soh, slb, slt, slh, GROUP, BLOCK_M, ROWS,
                )  # fmt: skip
                merged_sink = load_sinks(sinks_ptr, merged_head, merged_mask, HAS_SINKS)
                arrive(
                    index, num_pieces, partials, states, counter_ptr + base, counter_ptr + num_slots + base, merged_rows, sod,
                    merged_lse, merged_sink, tl.arange(0, ROWS), merged_mask, BLOCK_M, DVP, DV, HAS_LSE, HAS_SINKS, CHUNK, FAN,
                    ONE_LEVEL, FIRST, STRIDE,
                )  # fmt: skip
        if SPLIT_TILES > 0:
            unit += 1
        else:
            unit = start + tiles
            if unit == item_unit + (tiles + cost) * (HEADS // LOCKSTEP):
                item_unit = unit
                b += 1
