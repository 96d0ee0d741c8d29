"""From checked tensors to one launch of the indexer's kernel: how queries and keys are read, strides, grid."""

from __future__ import annotations

from typing import Any

import torch

from hfmem_kernels._addresses import E4M3, PLAIN, extent, pages_a_tile, rows_of
from hfmem_kernels._heuristics import LaunchConfig, next_power_of_2
from hfmem_kernels._launch import decoder_of, lockstep_of, run, token_limits
from hfmem_kernels._reference_index import index_parts

#: how queries and keys meet; the numbers are those of `_kernels_index`
ALIKE, DECODED, BOTH_DECODED = range(3)


def launch_index(
    q: torch.Tensor,
    keys: torch.Tensor,
    weights: torch.Tensor,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    out: torch.Tensor,
    *,
    config: LaunchConfig,
    num_sms: int,
    warmup: bool = False,
) -> Any:
    """Launch (or, with `warmup`, only compile) the kernel. q [batch, queries, heads, dim]; out [batch, queries, columns].

    Columns of `out` limit what is scored, as the page table does.
    """
    from hfmem_kernels._kernels_index import index_kernel

    batch, queries, heads, dim = q.shape
    packed, decoder = keys.dtype == torch.uint8, min(decoder_of(q.device), 2 if config.convert else 1)
    scales, mode = weights, ALIKE
    elements = keys
    if packed:
        elements, behind = index_parts(keys)
        scales = behind.view(torch.float32)
        mode = DECODED if q.dtype != torch.float8_e4m3fn else ALIKE if decoder == 2 else BOTH_DECODED
        elements = elements.view(torch.float8_e4m3fn)
    rows = rows_of(elements[:, :, None, :], pairs=mode != ALIKE)
    alike = packed and mode == ALIKE
    base = rows.base.view(torch.float8_e4m3fn) if alike else rows.base  # which `rows_of` takes for bytes
    if mode == BOTH_DECODED:
        odd = any(n % 2 for n in (*q.stride()[:3], q.storage_offset()))
        q = (q.contiguous() if odd else q).view(torch.uint16)
    programs = max(1, num_sms * config.ctas_per_sm)
    block_b = 32 if batch <= 32 else 128 if batch <= 128 else 1024
    capacity, _ = token_limits(page_table, keys.shape[1], 0, queries)
    arguments = [
        q, base, scales, weights, page_table, seq_lens, out, batch, capacity, min(capacity, out.shape[2]), rows.offset,
        *q.stride()[:3], rows.page, rows.token, scales.stride(0), *weights.stride()[:2], page_table.stride(0), *out.stride()[:2],
    ]  # fmt: skip
    wide = max(extent(elements[:, :, None, :], rows), (keys.shape[0] - 1) * scales.stride(0) + keys.shape[1]) >= 2**31
    constants = {
        "QUERIES": queries, "HEADS": heads, "BLOCK_H": max(16, next_power_of_2(heads)), "DIM": dim, "PAGE": keys.shape[1],
        "UNIT": rows.unit, "FORMAT": E4M3 if packed else PLAIN, "MODE": mode, "DECODER": decoder, "BLOCK_N": config.block_n,
        "BLOCK_B": block_b, "ONE_SCAN": batch <= block_b, "PAGES": pages_a_tile(keys.shape[1], config.block_n, 0),
        "WIDE": wide, "LOCKSTEP": lockstep_of(queries, programs),
    }  # fmt: skip
    return run(index_kernel, (programs,), arguments, constants, config, warmup)
