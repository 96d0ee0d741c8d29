"""Cache layouts: bytes by hand arithmetic, views that alias their storage, page tables."""

from __future__ import annotations

import pytest
import torch

from hfmem_kernels import layout
from hfmem_kernels.layout import CacheSpec, LatentFormat, Layout


def spec(**changes: object) -> CacheSpec:
    values: dict[str, object] = {
        "num_kv_heads": 8,
        "head_dim": 128,
        "v_head_dim": 128,
        "page_size": 16,
        "dtype": "bfloat16",
    }
    return CacheSpec(**(values | changes))  # type: ignore[arg-type]


def test_bytes_of_published_models() -> None:
    """Llama-3.1-8B: 131,072 bytes a token over 32 layers. Gemma-3 27B: 16 KV heads of 128. MLA rows: 576 · 2 and 656."""
    assert layout.page_bytes(spec()) * 32 == 131072 * 16
    assert layout.page_bytes(spec(num_kv_heads=16)) == 16 * 16 * (128 + 128) * 2
    assert layout.latent_row_bytes(512, 64, "bfloat16", LatentFormat.PLAIN) == 1152
    assert layout.latent_row_bytes(512, 64, "", LatentFormat.FP8_DS) == 512 + 4 * 4 + 64 * 2 == 656
    assert layout.latent_row_bytes(512, 64, "float8_e4m3fn", LatentFormat.PLAIN) == 576


def test_bytes_with_scales_and_unequal_dims() -> None:
    """[K | fp32 | V | fp32] in each head and slot; MiMo-V2: keys of 192, values of 128."""
    assert layout.row_bytes(spec(dtype="int8", token_scales=True)) == 128 + 4 + 128 + 4
    assert layout.page_bytes(spec(head_dim=192, num_kv_heads=4, page_size=528)) == 528 * 4 * (192 + 128) * 2


def test_bytes_of_sequences_are_whole_pages() -> None:
    assert layout.cache_bytes(spec(), [0, 1, 16, 17]) == (0 + 1 + 1 + 2) * layout.page_bytes(spec())


@pytest.mark.parametrize("order", Layout)
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int8"])
@pytest.mark.parametrize("token_scales", [False, True])
def test_allocated_bytes_are_the_counted_ones(order: Layout, dtype: str, token_scales: bool) -> None:
    one = spec(
        num_kv_heads=3, head_dim=24, v_head_dim=16, page_size=5, dtype=dtype, layout=order, token_scales=token_scales
    )
    cache = layout.allocate(one, 7, "cpu")
    assert cache.allocated_bytes == 7 * layout.page_bytes(one)
    assert cache.k.shape == (7, 5, 3, 24) and cache.v.shape == (7, 5, 3, 16)
    assert (cache.k_scale is not None) == token_scales


@pytest.mark.parametrize("order", Layout)
def test_views_do_not_overlap(order: Layout) -> None:
    """Filling K, V and the scales with different bytes fills the whole storage and nothing twice."""
    one = spec(num_kv_heads=2, head_dim=8, v_head_dim=4, page_size=3, dtype="int8", layout=order, token_scales=True)
    cache = layout.allocate(one, 2, "cpu")
    assert cache.k_scale is not None and cache.v_scale is not None
    cache.k.fill_(1)
    cache.v.fill_(2)
    cache.k_scale.view(torch.int32).fill_(0x03030303)
    cache.v_scale.view(torch.int32).fill_(0x04040404)
    found = torch.cat([t.flatten() for t in cache.storage]).bincount(minlength=5).tolist()
    rows = 2 * 3 * 2
    assert found == [0, rows * 8, rows * 4, rows * 4, rows * 4]


def test_strides_of_the_named_orders() -> None:
    """flash-attn's [page, token, head, dim], FlashInfer's HND [page, head, token, dim], one row of K and V."""
    pages = {order: layout.allocate(spec(layout=order), 2, "cpu").k.stride() for order in Layout}
    assert pages[Layout.NHD] == pages[Layout.FLAT] == (16 * 8 * 128, 8 * 128, 128, 1)
    assert pages[Layout.HND] == (16 * 8 * 128, 128, 16 * 128, 1)
    assert pages[Layout.PACKED] == (16 * 8 * 256, 8 * 256, 256, 1)
    assert pages[Layout.PACKED_HND] == (16 * 8 * 256, 256, 16 * 256, 1)


def test_latent_caches() -> None:
    plain = layout.allocate_latent(3, 64, 512, 64, "bfloat16", LatentFormat.PLAIN, "cpu")
    packed = layout.allocate_latent(3, 64, 512, 64, "bfloat16", LatentFormat.FP8_DS, "cpu")
    assert plain.shape == (3, 64, 576) and plain.numel() * 2 == 3 * 64 * 1152
    assert packed.shape == (3, 64, 656) and packed.dtype == torch.uint8


def test_paged_view_of_a_flat_cache() -> None:
    flat = torch.arange(12 * 2 * 3).view(12, 2, 3)
    paged = layout.paged_view(flat, 4)
    assert torch.equal(paged[1, 2], flat[6]) and paged.data_ptr() == flat.data_ptr()
    with pytest.raises(ValueError, match=r"flat: expected .* multiple of 5, given \(12, 2, 3\)"):
        layout.paged_view(flat, 5)


def test_page_table() -> None:
    table = layout.page_table([17, 0, 16], 16, [5, 3, 9, 1], "cpu")
    assert table.dtype == torch.int32
    assert table.tolist() == [[5, 3], [-1, -1], [9, -1]]
    with pytest.raises(ValueError, match="page_ids: expected at least 3, given 2"):
        layout.page_table([17, 1], 16, [0, 1], "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float7"}, "dtype: expected one of .*, given 'float7'"),
        ({"page_size": 0}, "page_size: expected at least 1, given 0"),
    ],
)
def test_bad_specs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**changes)
