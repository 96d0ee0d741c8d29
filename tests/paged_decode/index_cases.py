"""Inputs of an indexer's call and the check of its scores, for the interpreter, the PTX machine and a device."""

from __future__ import annotations

from typing import Any

import torch

from hfmem_kernels import _reference_index, index_logits, layout
from hfmem_kernels._reference_index import pack_index_keys, store_index_keys

NARROW = torch.float8_e4m3fn


def case(
    lengths: tuple[int, ...], *, heads: int = 6, dim: int = 128, page: int = 16, queries: int = 1, packed: bool = True,
    q_dtype: torch.dtype = NARROW, seed: int = 0, device: str = "cpu",
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """q, keys, weights, page table and lengths; pages are shuffled, and every byte that no sequence owns is NaN."""
    generator = torch.Generator().manual_seed(seed)
    counts = [layout.num_pages(n, page) for n in lengths]
    pages = sum(counts) + 2
    table = layout.page_table(list(lengths), page, torch.randperm(pages, generator=generator).tolist(), "cpu")
    owned = [int(table[b, t // page]) * page + t % page for b, n in enumerate(lengths) for t in range(n)]
    slots = torch.tensor(owned, dtype=torch.int64)
    values = torch.randn(len(owned), dim, generator=generator)
    if packed:
        keys = layout.allocate_index(pages, page, dim, "cpu")
        keys.as_strided((pages, keys.stride(0)), (keys.stride(0), 1)).fill_(0x7F)
        codes, scales = pack_index_keys(values, power_of_two=False)
        store_index_keys(keys, slots, codes, scales)
        if device != "cpu":
            whole = keys.as_strided((pages, keys.stride(0)), (keys.stride(0), 1)).to(device)
            keys = layout.latent_view(whole, page, dim + 4)
    else:
        keys = torch.full((pages, page, dim), float("nan"), dtype=q_dtype)
        keys[slots // page, slots % page] = values.to(q_dtype)
        keys = keys.to(device)
    q = torch.randn(len(lengths), queries, heads, dim, generator=generator).to(q_dtype)
    weights = torch.randn(len(lengths), queries, heads, generator=generator)
    lengths_there = torch.tensor(lengths, dtype=torch.int32, device=device)
    return q.to(device), keys, weights.to(device), table.to(device), lengths_there


def bound_of(inputs: tuple[torch.Tensor, ...], share: float) -> torch.Tensor:
    """`share` of Σ |weight| · Σ |q| · |k|, for each pair; anything where there is no pair."""
    q, keys, weights, table, lengths = inputs
    bound = torch.zeros(q.shape[0], q.shape[1], table.shape[1] * keys.shape[1], dtype=torch.float64, device=q.device)
    for b, length in enumerate(lengths.tolist()):
        at = torch.arange(length, device=q.device)
        slots = table[b, at // keys.shape[1]].long() * keys.shape[1] + at % keys.shape[1]
        rows = _reference_index.index_keys(keys, slots, torch.float64).abs()
        for i in range(q.shape[1]):
            bound[b, i, :length] = share * _reference_index.scores(
                q[b, i].double().abs(), rows, weights[b, i].double().abs()
            )
    return bound


def check(inputs: tuple[torch.Tensor, ...], **keywords: Any) -> None:
    """Within fp32's rounding: dim + heads additions of products that are exact, queries in bf16 and fp16 as they are."""
    q = inputs[0]
    out = index_logits(*inputs, **keywords)
    expected = torch.full_like(out, float("-inf"), dtype=torch.float64)
    _reference_index.index_logits(*inputs, expected, torch.float64)
    seen = ~torch.isinf(expected)
    assert torch.equal(torch.isinf(out), ~seen) and out.dtype == torch.float32
    native = out.device.type == "cuda" and q.dtype == NARROW and torch.cuda.get_device_capability() >= (8, 9)
    bound = bound_of(inputs, 2.0**-10 if native else (q.shape[3] + q.shape[2] + 16) * 2.0**-24)
    assert bool(((out.double() - expected).abs()[seen] <= bound[seen]).all())


FORMATS = {
    "e4m3": {"q_dtype": NARROW},
    "bf16_over_e4m3": {"q_dtype": torch.bfloat16},
    "fp16_over_e4m3": {"q_dtype": torch.float16},
    "bf16": {"q_dtype": torch.bfloat16, "packed": False},
    "fp16": {"q_dtype": torch.float16, "packed": False},
}
