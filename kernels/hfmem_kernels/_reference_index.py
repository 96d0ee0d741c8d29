"""An indexer's keys and scores in plain PyTorch: the oracle, from DeepSeek's definition and vLLM's description of its cache."""

from __future__ import annotations

import torch

from hfmem_kernels.layout import SCALE_BYTES


def index_parts(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 keys [pages, page, dim + 4] as they lie: a page's elements [pages, page, dim], and behind them its fp32 scales, bytes
    [pages, page, 4]."""
    pages, page, width = keys.shape
    dim, start = width - SCALE_BYTES, keys.storage_offset()
    codes = keys.as_strided((pages, page, dim), (keys.stride(0), dim, 1), start)
    return codes, keys.as_strided((pages, page, SCALE_BYTES), (keys.stride(0), SCALE_BYTES, 1), start + page * dim)


def index_keys(keys: torch.Tensor, slots: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The keys [tokens, dim] at `slots` (page · page size + place), each times its scale."""
    pages, places = slots.long() // keys.shape[1], slots.long() % keys.shape[1]
    if keys.dtype != torch.uint8:
        return keys[pages, places].to(dtype)
    codes, scales = (part[pages, places].contiguous() for part in index_parts(keys))
    return codes.view(torch.float8_e4m3fn).to(dtype) * scales.view(torch.float32).to(dtype)


def pack_index_keys(values: torch.Tensor, *, power_of_two: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """values [tokens, dim] → e4m3 codes and fp32 scales [tokens], as vLLM's writer has it: the largest of a key becomes 448, no
    scale is below that of 1e-4; or the next power of two (`ue8m0`)."""
    scale = values.float().abs().amax(1).clamp(min=1e-4) / 448.0
    if power_of_two:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    return (values.float() / scale[:, None]).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def store_index_keys(keys: torch.Tensor, slots: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> None:
    """Write packed keys to their slots."""
    pages, places = slots // keys.shape[1], slots % keys.shape[1]
    data, behind = index_parts(keys)
    data[pages, places] = codes.contiguous().view(torch.uint8)
    behind[pages, places] = scales.contiguous().view(torch.uint8).view(-1, SCALE_BYTES)


def scores(q: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ over heads of weight · relu(q · k): q [heads, dim], keys [tokens, dim], weights [heads] → [tokens]."""
    return (torch.relu(keys @ q.T) * weights).sum(1)


def index_logits(
    q: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor,
    out: torch.Tensor, dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Arguments as `hfmem_kernels.index_logits`, q [batch, queries, heads, dim]; writes what each query sees into `out`, as far as
    that is wide enough."""
    queries, page = q.shape[1], keys.shape[1]
    for b, length in enumerate(seq_lens.tolist()):
        length = min(max(length, 0), page_table.shape[1] * page)
        at = torch.arange(min(length, out.shape[2]), device=q.device)
        rows = index_keys(keys, page_table[b, at // page].long() * page + at % page, dtype)
        for i in range(queries):
            seen = min(max(0, length - queries + 1 + i), len(at))
            out[b, i, :seen] = scores(q[b, i].to(dtype), rows[:seen], weights[b, i].to(dtype)).to(out.dtype)
