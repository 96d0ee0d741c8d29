"""Bytes and operations of a decode step, by hand arithmetic."""

from __future__ import annotations

import pytest

from hfmem_kernels import traffic
from hfmem_kernels.layout import CacheSpec, LatentFormat


def test_llama_8b_at_32k() -> None:
    """8 sequences of 32,768 tokens, 8 KV heads of 128 in bf16: 8 · 32768 · 8 · 512 B = 1 GiB of cache a layer."""
    t = traffic.decode_traffic(CacheSpec(8, 128, 128, 16, "bfloat16"), 32, [32768] * 8)
    assert t.kv_bytes == 2**30
    assert t.query_bytes == t.output_bytes == 8 * 32 * 128 * 2
    assert t.table_bytes == 4 * (8 * 2048 + 8)
    assert t.flops == 2 * 8 * 32768 * 32 * 256
    assert t.seconds(4.45e12, 6e-6) == pytest.approx(6e-6 + t.total_bytes / 4.45e12)
    assert 3.9 < t.intensity < 4.0  # group of 4: 4 · 2 · 2 operations for 4 bytes


def test_scales_count() -> None:
    t = traffic.decode_traffic(CacheSpec(2, 128, 128, 16, "int8", token_scales=True), 8, [100])
    assert t.kv_bytes == 100 * 2 * (256 + 8)


def test_windows_and_queries() -> None:
    """4 queries at the end of 100 tokens with a window of 16 see 19 tokens between them, 16 each."""
    assert traffic.visible_tokens(100, 4, 16) == 19
    assert traffic.visible_pairs(100, 4, 16) == 64
    assert traffic.visible_pairs(100, 4) == 97 + 98 + 99 + 100
    assert traffic.visible_pairs(2, 4) == 0 + 0 + 1 + 2
    t = traffic.decode_traffic(CacheSpec(1, 64, 64, 16, "bfloat16"), 1, [100], q_len=4, window=16)
    assert t.table_bytes == 4 * (2 + 1)  # tokens 81 … 99 lie in pages 5 and 6


def test_latent() -> None:
    plain = traffic.latent_traffic(512, 64, 128, [4096], page_size=64)
    assert plain.kv_bytes == 4096 * 1152
    assert plain.flops == 2 * 4096 * 128 * (576 + 512)
    packed = traffic.latent_traffic(512, 64, 128, [4096], page_size=64, latent_format=LatentFormat.FP8_DS)
    assert packed.kv_bytes == 4096 * 656
    halves = traffic.latent_traffic(512, 64, 128, [4096], page_size=64, latent_format=LatentFormat.NVFP4_DS)
    assert halves.kv_bytes == 4096 * 352 and halves.flops == packed.flops
    # DeepSeek V4: 512 columns of keys that are values, too
    v4 = traffic.latent_traffic(512, 0, 64, [100], page_size=64, latent_format=LatentFormat.FP8_V4)
    assert (v4.kv_bytes, v4.query_bytes, v4.flops) == (100 * 584, 64 * 512 * 2, 2 * 100 * 64 * 1024)


def test_empty_sequences() -> None:
    t = traffic.decode_traffic(CacheSpec(1, 64, 64, 16, "bfloat16"), 1, [0, 0])
    assert t.kv_bytes == t.flops == 0 and t.table_bytes == 8


@pytest.mark.parametrize(
    ("dtype", "token_scales", "row"),
    [
        # K and V of 128 elements in one head; token scales are an fp32 number for each of the two
        ("bfloat16", False, 512),
        ("float16", False, 512),
        ("float32", False, 1024),
        ("float8_e4m3fn", False, 256),
        ("float8_e5m2", False, 256),
        ("int8", False, 256),
        ("int8", True, 264),
        ("float8_e4m3fn", True, 264),
    ],
)
def test_every_format(dtype: str, token_scales: bool, row: int) -> None:
    """Three sequences of 1, 17 and 0 tokens in pages of 16, 8 heads: bytes of 18 rows of each head, ids of 1 and 2 pages."""
    t = traffic.decode_traffic(CacheSpec(8, 128, 128, 16, dtype, token_scales=token_scales), 32, [1, 17, 0])
    assert t.kv_bytes == 18 * 8 * row
    assert (t.query_bytes, t.output_bytes, t.table_bytes) == (3 * 32 * 128 * 2, 3 * 32 * 128 * 2, 4 * (3 + 3))
    assert t.flops == 2 * 18 * 32 * 256
    assert t.total_bytes == t.kv_bytes + 2 * 24_576 + 24


@pytest.mark.parametrize(
    ("dtype", "layout", "row"),
    [
        ("bfloat16", LatentFormat.PLAIN, 1152),
        ("float8_e4m3fn", LatentFormat.PLAIN, 576),
        ("bfloat16", LatentFormat.FP8_DS, 512 + 4 * 4 + 64 * 2),
    ],
)
def test_every_latent_format(dtype: str, layout: LatentFormat, row: int) -> None:
    """Two queries of 16 heads for each of 65 and 64 tokens, in pages of 64; the first query does not see the newest token."""
    t = traffic.latent_traffic(512, 64, 16, [65, 64], page_size=64, dtype=dtype, latent_format=layout, q_len=2)
    assert t.kv_bytes == 129 * row
    assert (t.query_bytes, t.output_bytes, t.table_bytes) == (
        2 * 2 * 16 * 576 * 2,
        2 * 2 * 16 * 512 * 2,
        4 * (2 + 1 + 2),
    )
    assert t.flops == 2 * (64 + 65 + 63 + 64) * 16 * (576 + 512)
