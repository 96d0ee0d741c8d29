"""`mla_decode_attention` over both row formats, against the oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hfmem_kernels import _reference, layout, testing
from hfmem_kernels._heuristics import LaunchConfig
from hfmem_kernels.cache_ops import write_latent
from hfmem_kernels.layout import LatentFormat
from hfmem_kernels.paged_decode import mla_decode_attention

SMALL = LaunchConfig(block_m=16, block_n=32, num_warps=4, num_stages=2, ctas_per_sm=1)
SCALE = 192**-0.5


def build(
    seq_lens: tuple[int, ...],
    latent_format: LatentFormat,
    dtype: str,
    heads: int,
    q_len: int,
    page_size: int,
    device: str,
) -> tuple[torch.Tensor, ...]:
    """Queries, a cache written by the reference writer with NaN in every slot of nobody, page table and lengths."""
    generator = torch.Generator().manual_seed(1)
    pages = [layout.num_pages(n, page_size) for n in seq_lens]
    order = torch.randperm(sum(pages) + 1, generator=generator).tolist()
    table = layout.page_table(list(seq_lens), page_size, order, "cpu")
    cache = layout.allocate_latent(sum(pages) + 1, page_size, 512, 64, dtype, latent_format, "cpu")
    cache.view(torch.uint8).fill_(0xFF)  # NaN in bf16, fp16, fp32 and fp8
    tokens = sum(seq_lens)
    latent = torch.randn(tokens, 512, generator=generator) * torch.logspace(-2, 1, 512)
    rope = torch.randn(tokens, 64, generator=generator)
    slots = [
        int(table[b, t // page_size]) * page_size + t % page_size for b, n in enumerate(seq_lens) for t in range(n)
    ]
    write_latent(latent, rope, cache, torch.tensor(slots), impl="reference")
    q = (torch.randn(len(seq_lens), q_len, heads, 576, generator=generator) * 0.1).to(torch.bfloat16)
    lengths = torch.tensor(seq_lens, dtype=torch.int32)
    return tuple(t.to(device) for t in (q, cache, table, lengths))


def check(
    tensors: tuple[torch.Tensor, ...],
    config: LaunchConfig,
    operand: str,
    window: int = 0,
    cache_scale: float | None = None,
) -> None:
    q, cache, table, lengths = tensors
    out, lse = mla_decode_attention(
        q,
        cache,
        table,
        lengths,
        scale=SCALE,
        window=window or None,
        cache_scale=cache_scale,
        config=config,
        return_lse=True,
    )
    scale = None if cache_scale is None else torch.tensor(cache_scale, dtype=torch.float32, device=q.device)
    keywords = {"scale": SCALE, "window": window, "kv_lora_rank": 512, "dtype": torch.float64}
    expected, expected_lse = _reference.decode(q, cache, None, table, lengths, k_scale=scale, **keywords)  # type: ignore[arg-type]
    # Σ p·|latent|: |out| of the same weights cannot be had from the latent cache, the largest value stands for each column
    rows = [_reference.gather(cache, table[b], 0, int(n)) for b, n in enumerate(lengths)]
    unpacked = [
        _reference.unpack_latent(r, 512, torch.float64) if r.dtype == torch.uint8 else r.double() * (cache_scale or 1.0)
        for r in rows
    ]
    largest = torch.stack([u[:, :512].abs().amax(0) if len(u) else u.new_zeros(512) for u in unpacked])
    logit = SCALE * float(q.double().abs().sum(-1).amax()) * max(float(u.abs().amax()) for u in unpacked if len(u))
    rounding = testing.Rounding(operand, "bfloat16", 576, int(lengths.max()), logit, float(largest.max()))
    bound, lse_bound = testing.bounds(expected, expected_lse, largest[:, None, None, :].expand_as(expected), rounding)
    assert bool(((out.double() - expected).abs() <= bound).all())
    empty = torch.isinf(expected_lse)
    assert torch.equal(torch.isinf(lse), empty) and not out[empty].any()
    assert bool(((lse.double() - expected_lse).abs()[~empty] <= lse_bound[~empty]).all())
    # the mean error is far below the bound: a column mixed up with another would not be
    assert float((out.double() - expected).abs().mean()) < 2**-8 * float(expected.abs().mean())


@pytest.mark.parametrize("latent_format", LatentFormat)
@pytest.mark.parametrize("heads_q", [(16, 1), (20, 2), (3, 1)], ids=["h16", "h20_q2_two_blocks", "h3"])
def test_formats(latent_format: LatentFormat, heads_q: tuple[int, int], device: str) -> None:
    tensors = build((45, 0, 33), latent_format, "bfloat16", heads_q[0], heads_q[1], 16, device)
    check(tensors, SMALL, "bfloat16")


@pytest.mark.parametrize("latent_format", LatentFormat)
@pytest.mark.parametrize("cut", [True, False], ids=["parts", "one"])
def test_large_pages_and_window(latent_format: LatentFormat, cut: bool, device: str) -> None:
    tensors = build((75, 33), latent_format, "bfloat16", 16, 1, 64, device)
    check(tensors, replace(SMALL, cut=cut), "bfloat16", window=40)


def test_rows_of_656_bytes_in_blocks_of_32(device: str) -> None:
    """Their scales are loaded one by one, those of blocks of 16 together."""
    tensors = build((33,), LatentFormat.FP8_DS, "bfloat16", 20, 1, 16, device)
    check(tensors, replace(SMALL, block_m=32), "bfloat16")


@pytest.mark.parametrize("latent_format", LatentFormat)
def test_fixed_split(latent_format: LatentFormat, device: str) -> None:
    tensors = build((75, 33), latent_format, "bfloat16", 16, 1, 64, device)
    check(tensors, replace(SMALL, block_n=16, split_tiles=1), "bfloat16")


@pytest.mark.parametrize(("rank", "rope"), [(16, 8), (64, 16), (128, 64), (256, 32)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_other_ranks(rank: int, rope: int, dtype: str, device: str) -> None:
    """MiniCPM3's 256 + 32, and the few columns of small test models."""
    generator = torch.Generator().manual_seed(2)
    cache = torch.randn(4, 16, rank + rope, generator=generator).to(torch.bfloat16).to(getattr(torch, dtype)).to(device)
    q = (torch.randn(2, 8, rank + rope, generator=generator) * 0.3).to(torch.bfloat16).to(device)
    table = torch.tensor([[2, 0, 3], [1, -1, -1]], dtype=torch.int32, device=device)
    lengths = torch.tensor([45, 7], dtype=torch.int32, device=device)
    options = {
        "scale": 0.2,
        "kv_lora_rank": rank,
        "cache_scale": 0.5 if dtype != "bfloat16" else None,
        "return_lse": True,
    }
    out, lse = mla_decode_attention(q, cache, table, lengths, config=SMALL, **options)
    expected, expected_lse = mla_decode_attention(q, cache, table, lengths, impl="reference", **options)
    assert torch.allclose(lse, expected_lse, atol=2e-3, rtol=0)
    assert torch.allclose(out.float(), expected.float(), atol=2e-2 * float(expected.float().abs().max()), rtol=0)


def test_whole_row_in_fp8(device: str) -> None:
    """576 e4m3 elements with one scale for all."""
    tensors = build((45, 33), LatentFormat.PLAIN, "float8_e4m3fn", 16, 1, 16, device)
    check(tensors, SMALL, "float16", cache_scale=0.25)


def test_rows_of_656_bytes_are_what_the_writer_says(device: str) -> None:
    """One token, one head: the output is the dequantized latent itself."""
    q, cache, table, lengths = build((1,), LatentFormat.FP8_DS, "bfloat16", 1, 1, 16, device)
    out = mla_decode_attention(q, cache, table, lengths, scale=SCALE, config=SMALL)
    row = cache[int(table[0, 0]), 0]
    codes = row[:512].view(torch.float8_e4m3fn).float().view(4, 128)
    expected = (codes * row[512:528].clone().view(torch.float32)[:, None]).flatten()
    assert isinstance(out, torch.Tensor)
    torch.testing.assert_close(out.flatten().float(), expected, rtol=2**-7, atol=0)
