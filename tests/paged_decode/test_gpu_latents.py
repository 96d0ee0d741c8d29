"""Latent caches, lists of slots, two caches under one softmax and an indexer's scores on a real device (`test_gpu_grid`)."""

from __future__ import annotations

import random

import pytest
import torch
from gpu_cases import DEVICE, MOST_EXECUTED, gpu
from index_cases import FORMATS as INDEX_FORMATS
from index_cases import case as index_case
from index_cases import check as check_scores

from hfmem_kernels import layout, merge_attention, mla_decode_attention, sparse_mla_decode_attention
from hfmem_kernels.cache_ops import write_latent
from hfmem_kernels.layout import LatentFormat


def latent_inputs(heads: int, q_len: int, kind: str) -> tuple[torch.Tensor, ...]:
    """Queries, a cache whose foreign rows are NaN, page table, lengths."""
    lengths = (4097, 0, 63, 900) if DEVICE == "cuda" else (MOST_EXECUTED, 0, 63, 129)
    table = layout.page_table(list(lengths), 64, random.Random(0).sample(range(90), 90), DEVICE)
    latent_format = LatentFormat(kind) if kind.endswith(("_mla", "_v4")) else LatentFormat.PLAIN
    rank = 448 if latent_format is LatentFormat.FP8_V4 else 512
    dtype = "float8_e4m3fn" if kind == "e4m3" else "bfloat16"
    cache = layout.allocate_latent(90, 64, rank, 64, dtype, latent_format, DEVICE)
    cache.view(torch.uint8).fill_(0xFF)  # NaN in bf16, fp32 and e4m3
    slots = [int(table[b, t // 64]) * 64 + t % 64 for b, n in enumerate(lengths) for t in range(n)]
    latent, rope = torch.randn(len(slots), rank, device=DEVICE), torch.randn(len(slots), 64, device=DEVICE)
    scale = 0.02 if kind == "e4m3" else None
    write_latent(latent, rope, cache, torch.tensor(slots, device=DEVICE), cache_scale=scale)
    q = torch.randn(4, q_len, heads, rank + 64, device=DEVICE).to(torch.bfloat16) * 0.1
    return q, cache, table, torch.tensor(lengths, dtype=torch.int32, device=DEVICE)


@gpu
@pytest.mark.parametrize("heads", [16, 20, 128])
@pytest.mark.parametrize("q_len", [1, 2])
@pytest.mark.parametrize("kind", ["bf16", "e4m3", "fp8_ds_mla", "fp8_ds_mla_v4", "nvfp4_ds_mla"])
def test_latent(heads: int, q_len: int, kind: str) -> None:
    """All rows against the reference in fp32, which reads the very same bytes."""
    inputs = latent_inputs(heads, q_len, kind)
    options = {"scale": 192**-0.5, "cache_scale": 0.02 if kind == "e4m3" else None, "return_lse": True}
    out, lse = mla_decode_attention(*inputs, **options)  # type: ignore[arg-type]
    expected, expected_lse = mla_decode_attention(*inputs, **options, impl="reference")  # type: ignore[arg-type]
    torch.testing.assert_close(out.float(), expected.float(), rtol=2**-6, atol=2**-6 * float(expected.abs().max()))
    torch.testing.assert_close(lse, expected_lse, rtol=1e-3, atol=1e-3)
    assert not out[1].any() and bool((lse[1] == float("-inf")).all())


@gpu
@pytest.mark.parametrize("heads", [16, 128])
@pytest.mark.parametrize("kind", ["bf16", "e4m3", "fp8_ds_mla", "fp8_ds_mla_v4", "nvfp4_ds_mla"])
def test_lists_of_slots(heads: int, kind: str) -> None:
    """Some tokens of each sequence in any order with gaps between them, and sinks, against the reference in fp32."""
    q, cache, table, lengths = latent_inputs(heads, 1, kind)
    slots = torch.full((4, 600), -1, dtype=torch.int32)
    for b, length in enumerate(lengths.tolist()):
        for place, t in enumerate(random.Random(b).sample(range(length), min(length, 500))):
            slots[b, place + place // 8] = int(table[b, t // 64]) * 64 + t % 64
    counts = torch.tensor([600, 0, 300, 600], dtype=torch.int32, device=DEVICE)
    options = {"scale": 192**-0.5, "cache_scale": 0.02 if kind == "e4m3" else None, "return_lse": True}
    arguments = (q[:, 0], cache, slots.to(DEVICE), counts)
    options |= {"sinks": torch.linspace(-4, 4, heads, device=DEVICE)}
    out, lse = sparse_mla_decode_attention(*arguments, **options)  # type: ignore[arg-type]
    expected, expected_lse = sparse_mla_decode_attention(*arguments, **options, impl="reference")  # type: ignore[arg-type]
    torch.testing.assert_close(out.float(), expected.float(), rtol=2**-6, atol=2**-6 * float(expected.abs().max()))
    torch.testing.assert_close(lse, expected_lse, rtol=1e-3, atol=1e-3)


@gpu
@pytest.mark.parametrize("kind", ["bf16", "fp8_ds_mla_v4"])
def test_two_caches_under_one_softmax(kind: str) -> None:
    """DeepSeek V4: attention to two lists, merged, is one call over both."""
    q, cache, _, _ = latent_inputs(16, 1, kind)
    if kind == "bf16":  # 512 columns, all of them values
        q, cache = q[..., :512].contiguous(), cache[..., :512].contiguous()
    owned = [s for s in range(64 * 40) if bool((cache[s // 64, s % 64].view(torch.uint8) != 0xFF).any())]
    picked = torch.tensor(random.Random(0).sample(owned, 96), dtype=torch.int32, device=DEVICE).expand(4, -1)
    window, more = picked[:, :64].contiguous(), picked[:, 64:].contiguous()
    options = {"scale": 512**-0.5, "return_lse": True}
    sinks = torch.linspace(-4, 4, 16, device=DEVICE)
    lengths = [torch.full((4,), n, dtype=torch.int32, device=DEVICE) for n in (64, 32, 96)]
    first = sparse_mla_decode_attention(q[:, 0], cache, window, lengths[0], sinks=sinks, **options)  # type: ignore[arg-type]
    second = sparse_mla_decode_attention(q[:, 0], cache, more, lengths[1], **options)  # type: ignore[arg-type]
    out, lse = merge_attention(torch.stack([first[0], second[0]]), torch.stack([first[1], second[1]]))
    whole, whole_lse = sparse_mla_decode_attention(
        q[:, 0], cache, picked, lengths[2], sinks=sinks, impl="reference", **options
    )  # type: ignore[arg-type]
    torch.testing.assert_close(out.float(), whole.float(), rtol=2**-6, atol=2**-6 * float(whole.abs().max()))
    torch.testing.assert_close(lse, whole_lse, rtol=1e-3, atol=1e-3)


@gpu
@pytest.mark.parametrize("name", INDEX_FORMATS)
@pytest.mark.parametrize("heads", [32, 64])
@pytest.mark.parametrize("queries", [1, 2])
def test_an_indexers_scores(name: str, heads: int, queries: int) -> None:
    """DeepSeek V3.2 and GLM-5: pages of 64, long and short, empty ones, a batch that is scanned in blocks."""
    lengths = (4097, 0, 63, 900) if DEVICE == "cuda" else (MOST_EXECUTED, 0, 63)
    check_scores(index_case(lengths, heads=heads, page=64, queries=queries, device=DEVICE, **INDEX_FORMATS[name]))
