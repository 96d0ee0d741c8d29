"""Decode attention in plain PyTorch, one sequence at a time: the oracle. Any device, any float dtype to compute in; not fast."""

from __future__ import annotations

import torch

from hfmem_kernels._reference_rows import rows_at, unpack


def gather(cache: torch.Tensor, pages: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Tokens start … stop - 1 of the sequence whose page ids are `pages`: [stop - start, …] from [pages, page, …]."""
    positions = torch.arange(start, stop, device=cache.device)
    page_size = cache.shape[1]
    return cache[pages[positions // page_size].long(), positions % page_size]


def dequantize(rows: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """rows [tokens, heads, dim] times a scale for the tensor, for each head, or [tokens, heads]."""
    values = rows.to(dtype)
    if scale is None:
        return values
    scale = scale.to(dtype)
    if scale.numel() == 1:
        return values * scale.reshape(())
    return values * (scale[None, :, None] if scale.dim() == 1 else scale[:, :, None])


def slots_of(pages: torch.Tensor, page_size: int, start: int, stop: int) -> torch.Tensor:
    """Where tokens start … stop - 1 of the sequence with these page ids are: page · page size + place, int64."""
    positions = torch.arange(start, stop, device=pages.device)
    return pages[positions // page_size].long() * page_size + positions % page_size


def latents(cache: torch.Tensor, slots: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Rows [tokens, 1, columns] of an MLA cache in any format, dequantized."""
    rows = rows_at(cache, slots)
    values = unpack(rows, dtype) if rows.dtype == torch.uint8 else rows.to(dtype)
    return dequantize(values[:, None, :], scale, dtype)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    seq_len: int,
    start: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence: q [q_len, heads, dim]; k, v [tokens, kv heads, dim] at positions `start` … `seq_len` - 1, in k's dtype.

    Query i stands at position seq_len - q_len + i and sees itself and what is before it, `window` tokens at most. A sink is
    one more logit with a value of zero. Returns out [q_len, heads, v dim] and lse [q_len, heads], natural logarithm.
    """
    q_len, num_heads, _ = q.shape
    group = num_heads // k.shape[1]
    k = k.repeat_interleave(group, dim=1)
    v = v.repeat_interleave(group, dim=1)
    logits = torch.einsum("qhd,thd->qht", q.to(k.dtype), k) * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    q_at = seq_len - q_len + torch.arange(q_len, device=q.device)[:, None, None]
    k_at = torch.arange(start, seq_len, device=q.device)[None, None, :]
    if alibi_slopes is not None:
        logits = logits + alibi_slopes.to(k.dtype)[None, :, None] * (k_at - q_at)
    seen = k_at <= q_at
    if window:
        seen = seen & (k_at > q_at - window)
    logits = logits.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        logits = torch.cat([logits, sinks.to(k.dtype)[None, :, None].expand(q_len, -1, 1)], dim=2)
        v = torch.cat([v, v.new_zeros(1, *v.shape[1:])])
    lse = torch.logsumexp(logits, dim=2)
    weights = torch.exp(logits - lse.masked_fill(lse == float("-inf"), 0.0)[:, :, None])
    return torch.einsum("qht,thd->qhd", weights, v), lse


def decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor | None,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    cu_q: torch.Tensor | None = None,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
    alibi_slopes: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    kv_lora_rank: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paged decode attention, computed and returned in `dtype`; arguments as `paged_decode_attention`.

    With `kv_lora_rank`, `k_cache` is an MLA cache [pages, page, width] and `v_cache` is None. Returns out and lse, shaped like
    q without and with its last dimension replaced.
    """
    lengths = seq_lens.tolist()
    q_starts = cu_q.tolist() if cu_q is not None else list(range(0, (len(lengths) + 1) * q.shape[1], q.shape[1]))
    flat_q = q if cu_q is not None else q.reshape(-1, *q.shape[2:])
    v_dim = kv_lora_rank or (v_cache.shape[-1] if v_cache is not None else 0)
    out = torch.zeros(*flat_q.shape[:-1], v_dim, dtype=dtype, device=q.device)
    lse = torch.full(flat_q.shape[:-1], float("-inf"), dtype=dtype, device=q.device)
    capacity = page_table.shape[1] * k_cache.shape[1]
    for b, length in enumerate(lengths):
        rows = slice(q_starts[b], q_starts[b + 1])
        length = min(max(length, 0), capacity)
        start = max(0, length - (rows.stop - rows.start) + 1 - window) if window else 0
        if kv_lora_rank:
            k = latents(k_cache, slots_of(page_table[b], k_cache.shape[1], start, length), k_scale, dtype)
            v = k[..., :kv_lora_rank]
        else:
            assert v_cache is not None
            keys = gather(k_cache, page_table[b], start, length)
            values = gather(v_cache, page_table[b], start, length)
            k = dequantize(keys, _rows_of(k_scale, page_table[b], start, length), dtype)
            v = dequantize(values, _rows_of(v_scale, page_table[b], start, length), dtype)
        out[rows], lse[rows] = attend(
            flat_q[rows].to(dtype), k, v, seq_len=length, start=start, scale=scale, window=window, softcap=softcap,
            sinks=sinks, alibi_slopes=alibi_slopes,
        )  # fmt: skip
    return out.view(*q.shape[:-1], v_dim), lse.view(q.shape[:-1])


def decode_listed(
    q: torch.Tensor,
    cache: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    kv_lora_rank: int,
    sinks: torch.Tensor | None = None,
    cache_scale: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of each token of q [tokens, heads, dim] to the slots that are listed for it; arguments as `sparse_mla_decode`."""
    out = torch.zeros(*q.shape[:-1], kv_lora_rank, dtype=dtype, device=q.device)
    lse = torch.full(q.shape[:-1], float("-inf"), dtype=dtype, device=q.device)
    for token, length in enumerate(lengths.tolist()):
        listed = slots[token, : min(max(length, 0), slots.shape[1])]
        k = latents(cache, listed[listed >= 0], cache_scale, dtype)
        row = q[token : token + 1].to(dtype)
        attended = attend(
            row, k, k[..., :kv_lora_rank], seq_len=len(k), start=0, scale=scale, window=0, softcap=0.0, sinks=sinks,
            alibi_slopes=None,
        )  # fmt: skip
        out[token], lse[token] = attended[0][0], attended[1][0]
    return out, lse


def _rows_of(scale: torch.Tensor | None, pages: torch.Tensor, start: int, stop: int) -> torch.Tensor | None:
    if scale is None or scale.dim() < 3:
        return scale
    return gather(scale, pages, start, stop)


def merge(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Combine attention over disjoint keys: outs [parts, …, dim], lses [parts, …] → out, lse. All parts empty: 0 and -inf."""
    lse = torch.logsumexp(lses, dim=0)
    weights = torch.exp(lses - lse.masked_fill(lse == float("-inf"), 0.0))
    parts = outs.masked_fill((weights == 0)[..., None], 0)  # a part without keys may hold anything
    return (weights[..., None] * parts).sum(dim=0), lse
