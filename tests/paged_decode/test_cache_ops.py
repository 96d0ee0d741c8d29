"""Writing caches: kernels against the reference bit for bit, the reference against torch's conversions, pages moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hfmem_kernels import cache_ops, layout
from hfmem_kernels.cache_ops import gather_kv, move_pages, write_kv, write_latent
from hfmem_kernels.layout import CacheSpec, LatentFormat, Layout

KINDS = [("bfloat16", "none"), ("float16", "none")] + [
    (dtype, scales)
    for dtype in ("float8_e4m3fn", "float8_e5m2", "int8")
    for scales in ("none", "number", "head", "token")
]


def rows(tokens: int, dim: int, seed: int) -> torch.Tensor:
    """Values over many magnitudes, with zeros, halfway cases and what saturates."""
    x = torch.randn(tokens, 2, dim, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-5, 4, dim)
    x[0, 0, :4] = torch.tensor([0.0, -0.0, 1e30, -1e30])
    x[1, 1] = 0.0
    x[2, 0, :6] = torch.tensor([17.0, 18.0, 19.0, 0.5, 1.5, 2.5])
    return x


@pytest.mark.parametrize(("dtype", "scales"), KINDS)
@pytest.mark.parametrize("order", [Layout.NHD, Layout.PACKED_HND])
def test_kernel_writes_the_bits_of_the_reference(dtype: str, scales: str, order: Layout, device: str) -> None:
    spec = CacheSpec(2, 24, 8, 3, dtype, order, scales == "token")
    k, v = rows(9, 24, 0).to(device), rows(9, 8, 1).to(device)
    if dtype == "float16":
        k, v = (
            k.clamp(-6e4, 6e4),
            v.clamp(-6e4, 6e4),
        )  # beyond, a plain conversion overflows as it should, with a warning
    slots = torch.randperm(12, generator=torch.Generator().manual_seed(2))[:9]
    slots[3] = -1
    stored = []
    for impl in ("triton", "reference"):
        cache = layout.allocate(spec, 4, device)
        choices = {
            "none": (None, None),
            "number": (0.37, 2.5),
            "head": (torch.tensor([0.1, 3.0], device=device), torch.tensor([0.7, 0.01], device=device)),
            "token": (cache.k_scale, cache.v_scale),
        }
        k_scale, v_scale = choices[scales]
        write_kv(k, v, cache.k, cache.v, slots.to(device), k_scale=k_scale, v_scale=v_scale, impl=impl)
        stored.append(cache)
    for one, other in zip(stored[0].storage, stored[1].storage, strict=True):
        assert torch.equal(one, other)
    untouched = [s for s in range(12) if s not in slots.tolist()]
    for slot in untouched:
        assert not stored[0].k[slot // 3, slot % 3].view(torch.uint8).any()


def test_every_fp16_value_rounds_as_torch_does(device: str) -> None:
    """All finite fp16 values through the kernel's integer arithmetic and through torch's conversion, saturated."""
    values = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    values = values[torch.isfinite(values)].float()
    padded = torch.cat([values, values.new_zeros(-len(values) % 4096)]).view(-1, 1, 4096).to(device)
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        cache = torch.zeros(len(padded), 1, 1, 4096, dtype=dtype, device=device)
        write_kv(padded, padded, cache, cache.clone(), torch.arange(len(padded), device=device))
        top = torch.finfo(dtype).max
        expected = padded.clamp(-top, top).to(dtype)
        assert torch.equal(cache[:, 0].view(torch.uint8), expected.view(torch.uint8))


def test_nan_stays_nan(device: str) -> None:
    x = torch.full((1, 1, 16), float("nan"), device=device)
    cache = torch.zeros(1, 1, 1, 16, dtype=torch.float8_e4m3fn, device=device)
    write_kv(x, x, cache, cache.clone(), torch.zeros(1, dtype=torch.int64, device=device))
    assert cache.float().isnan().all()


@pytest.mark.parametrize("latent_format", LatentFormat)
def test_latent_rows(latent_format: LatentFormat, device: str) -> None:
    rank = 448 if latent_format is LatentFormat.FP8_V4 else 512
    latent = torch.randn(5, rank, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
    latent[1, 128:256] = 0.0
    rope = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).to(device, torch.bfloat16)
    slots = torch.tensor([4, 0, -1, 7, 3], device=device)
    stored = []
    for impl in ("triton", "reference"):
        cache = layout.allocate_latent(3, 3, rank, 64, "bfloat16", latent_format, device)
        write_latent(latent, rope, cache, slots, impl=impl)
        stored.append(cache)
    assert torch.equal(stored[0], stored[1])
    if latent_format is LatentFormat.PLAIN:
        assert torch.equal(stored[0][1, 1], torch.cat([latent[0], rope[0]]))
    elif latent_format is LatentFormat.FP8_DS:
        row = stored[0][1, 1]
        scales = row[512:528].clone().view(torch.float32)
        torch.testing.assert_close(scales, latent[0].float().view(4, 128).abs().amax(1) / 448)
        assert torch.equal(row[528:].clone().view(torch.bfloat16), rope[0])


def test_gather_is_the_inverse_of_write(device: str) -> None:
    table = layout.page_table([7, 0, 4], 3, [4, 1, 5, 0, 2], device)
    k, v = rows(11, 24, 0).to(device), rows(11, 8, 1).to(device)
    cache = layout.allocate(CacheSpec(2, 24, 8, 3, "float32"), 6, device)
    slots = [int(table[b, t // 3]) * 3 + t % 3 for b, n in ((0, 7), (2, 4)) for t in range(n)]
    write_kv(k, v, cache.k, cache.v, torch.tensor(slots, device=device))
    dense = gather_kv(cache.k, table, torch.tensor([7, 0, 4], dtype=torch.int32, device=device))
    assert dense.shape == (3, 7, 2, 24)
    assert torch.equal(dense[0], k[:7]) and torch.equal(dense[2, :4], k[7:])
    assert not dense[1].any() and not dense[2, 4:].any()


def test_pages_move_as_if_at_once() -> None:
    """A rotation: every target is another copy's source."""
    cache = torch.arange(4 * 2 * 1 * 3).view(4, 2, 1, 3).to(torch.float8_e5m2)
    before = cache.clone().view(torch.uint8)
    move_pages(cache, torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([1, 2, 0], dtype=torch.int32))
    after = cache.view(torch.uint8)
    assert [torch.equal(after[t], before[s]) for s, t in ((0, 1), (1, 2), (2, 0), (3, 3))] == [True] * 4


def test_scales_of_keys_and_values_are_of_any_kind_each(device: str) -> None:
    """A scale for each token beside a number that numpy made; the same bits as when both are of one kind."""
    k = rows(5, 16, 0).to(device)
    slots = torch.arange(5, device=device)
    for impl in ("triton", "reference"):
        token, of_v = (torch.zeros(2, 3, 2, device=device) for _ in range(2))
        mixed, alike, numbers = (
            [torch.zeros(2, 3, 2, 16, dtype=torch.float8_e4m3fn, device=device) for _ in range(2)] for _ in range(3)
        )
        write_kv(k, k, *mixed, slots, k_scale=token, v_scale=np.float32(0.37), impl=impl)
        write_kv(k, k, *alike, slots, k_scale=torch.zeros_like(token), v_scale=of_v, impl=impl)
        write_kv(k, k, *numbers, slots, k_scale=0.37, v_scale=0.37, impl=impl)
        assert torch.equal(token, of_v)
        assert torch.equal(mixed[0].view(torch.uint8), alike[0].view(torch.uint8))
        assert torch.equal(mixed[1].view(torch.uint8), numbers[1].view(torch.uint8))


def test_a_latent_row_has_one_scale() -> None:
    """A scale for each token would be the latent's and then the rotary part's."""
    cache = torch.zeros(2, 4, 48, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"cache_scale: expected a number or one element, given shape \[2, 4, 1\]"):
        write_latent(
            torch.ones(1, 32),
            torch.ones(1, 16),
            cache,
            torch.zeros(1, dtype=torch.int64),
            cache_scale=torch.ones(2, 4, 1),
        )


def test_gathering_refuses_what_is_no_page() -> None:
    cache, lengths = torch.zeros(4, 8, 2), torch.tensor([9], dtype=torch.int32)
    with pytest.raises(ValueError, match="page_table: expected ids 0 … 3 in the 9 tokens of sequence 0"):
        gather_kv(cache, torch.tensor([[0, -1]], dtype=torch.int32), lengths)
    with pytest.raises(ValueError, match="seq_lens: expected values 0 … 8"):
        gather_kv(cache, torch.tensor([[0]], dtype=torch.int32), lengths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 3, 8)}, r"k: expected shape \[2, 1, 8\], given shape \[2, 3, 8\]"),
        ({"slot_mapping": torch.zeros(2, dtype=torch.int32)}, "slot_mapping: expected dtype int64, given dtype int32"),
        ({"slot_mapping": torch.zeros(3, dtype=torch.int64)}, r"slot_mapping: expected shape \[2\], given shape \[3\]"),
        ({"k_scale": 0.5}, "k_scale: expected None for a cache that is not quantized"),
        ({"v_cache": torch.zeros(4, 2, 1, 8, dtype=torch.float16)}, "v_cache: expected .*float32, given .*float16"),
    ],
)
def test_bad_arguments(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "k": torch.zeros(2, 1, 8), "v": torch.zeros(2, 1, 8), "k_cache": torch.zeros(4, 2, 1, 8),
        "v_cache": torch.zeros(4, 2, 1, 8), "slot_mapping": torch.zeros(2, dtype=torch.int64),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        cache_ops.write_kv(**(arguments | change))  # type: ignore[arg-type]
