"""The grid: shapes as the models' configs have them, bytes by hand, and the order of the rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hfmem_kernels.benchmarks import grid
from hfmem_kernels.benchmarks.inputs import num_sets
from hfmem_kernels.benchmarks.rows import Row, mixed, uniform, zipf
from hfmem_kernels.benchmarks.shapes import SOURCES, shape
from hfmem_kernels.benchmarks.targets import TARGETS, regions_of
from hfmem_kernels.layout import LatentFormat, Layout

#: heads, KV heads, width, value width, window, sinks: config.json of each model, divided by the ranks where they are shared out
CONFIGS = {
    "llama-3.1-8b": (32, 8, 128, 128, None, False),
    "llama-3.1-70b-tp8": (8, 1, 128, 128, None, False),
    "qwen3-30b-a3b": (32, 4, 128, 128, None, False),
    "qwen2-7b": (28, 4, 128, 128, None, False),
    "llama-2-7b": (32, 32, 128, 128, None, False),
    "gemma-3-12b-window": (16, 8, 256, 256, 1024, False),
    "gpt-oss-20b": (64, 8, 64, 64, None, True),
    "gpt-oss-20b-window": (64, 8, 64, 64, 128, True),
    "qwen3-next": (16, 2, 256, 256, None, False),
    "deepseek-v3-tp8": (16, 1, 576, 512, None, False),
    "deepseek-v3": (128, 1, 576, 512, None, False),
    "deepseek-v4-flash-tp4": (16, 1, 512, 512, None, True),
}


def test_every_source_is_checked() -> None:
    assert set(CONFIGS) == set(SOURCES)


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_are_those_of_the_configs(name: str) -> None:
    s = shape(name)
    assert (s.num_heads, s.num_kv_heads, s.head_dim, s.v_head_dim, s.window, s.sinks) == CONFIGS[name]
    # DeepSeek-V3: qk_nope_head_dim 128 + qk_rope_head_dim 64
    assert s.scale == pytest.approx((192 if name.startswith("deepseek-v3") else s.head_dim) ** -0.5)


def test_bytes_by_hand() -> None:
    llama = shape("llama-3.1-8b")
    head = Row(llama, uniform(8, 32768))
    assert head.traffic.kv_bytes == head.cache_bytes == 2**30  # 8 · 32768 · 8 heads · 2 · 128 · 2 B
    assert head.in_fp8().traffic.kv_bytes == 2**29
    odd = Row(llama, uniform(1, 1000), page_size=528)
    assert (odd.pages, odd.cache_bytes, odd.traffic.kv_bytes) == (2, 2 * 528 * 4096, 1000 * 4096)
    windowed = Row(shape("gemma-3-12b-window"), uniform(2, 5000))
    # tokens 3976 … 4999 lie in pages 248 … 312
    assert windowed.pages == 2 * 65 and windowed.traffic.kv_bytes == 2 * 1024 * 8 * 2 * 256 * 2
    latent = Row(shape("deepseek-v3"), uniform(1, 64), page_size=64, latent_format=LatentFormat.FP8_DS)
    assert latent.cache_bytes == latent.traffic.kv_bytes == 64 * 656
    # DeepSeek V4: pages of whole 576 bytes, 64 · 584 = 64.9 of them; 65 tokens take two pages
    v4 = Row(shape("deepseek-v4-flash-tp4"), uniform(1, 65), page_size=64, latent_format=LatentFormat.FP8_V4)
    assert (v4.cache_bytes, v4.traffic.kv_bytes, v4.traffic.flops) == (2 * 65 * 576, 65 * 584, 2 * 65 * 16 * 1024)
    # 3 of 100 tokens: two pages are kept, three rows and a list of three slots and a length are read
    picked = replace(v4, mix=uniform(1, 3), kept=100, listed=True)
    assert (picked.cache_bytes, picked.traffic.kv_bytes, picked.traffic.table_bytes) == (2 * 65 * 576, 3 * 584, 16)


def test_mixes() -> None:
    lengths = zipf(64, 262144, "z").lengths
    assert sum(lengths) == 262144 and len(lengths) == 64 and min(lengths) > 0
    assert sorted(lengths, reverse=True) != list(lengths)
    longest, *rest = sorted(lengths, reverse=True)
    assert longest / rest[0] == pytest.approx(2, rel=0.01) and longest / rest[8] == pytest.approx(10, rel=0.02)
    assert sum(grid.ONE_LONG.lengths) == 64 * 3056  # the uniform row beside it has as many bytes
    assert mixed("m", (2, 5), (1, 7)).lengths == (5, 5, 7)


@pytest.mark.parametrize("name", ["quick", "core", "full", "smoke"])
def test_rows_are_told_apart_and_baselines_come_first(name: str) -> None:
    rows = grid.GRIDS[name]()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    for place, row in enumerate(rows):
        assert row.baseline is None or row.baseline in names[:place], row.name


def test_the_quick_rows_lead_the_core_and_the_core_leads_the_full_grid() -> None:
    quick, core, full = ([row.name for row in make()] for make in (grid.quick_grid, grid.core_grid, grid.full_grid))
    assert core[: len(quick)] == quick and full[: len(core)] == core
    assert quick[:3] == ["llama-3.1-8b 8x32k bf16 p16", "llama-3.1-8b 1x32k bf16 p16", "llama-3.1-8b 1x1k bf16 p16"]


def test_the_core_grid_covers_every_target_shape_page_layout_and_format() -> None:
    rows = grid.core_grid()
    found = {region for row in rows for region in regions_of(row)}
    assert found == {target.region for target in TARGETS}
    assert {row.shape.name for row in rows} == set(SOURCES)
    assert {row.page_size for row in rows} >= {1, 16, 64, 256, 528, 672, 1072}
    assert {row.layout for row in rows} == set(Layout)
    assert {row.dtype for row in rows} == {"bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8"}
    assert {row.scales for row in rows} == {"none", "tensor", "head", "token"}
    assert {row.q_len for row in rows} == {1, 2, 4, 8}
    assert any(0 in row.mix.lengths for row in rows)


def test_the_full_grid_has_every_batch_and_context() -> None:
    sizes = {(len(row.mix.lengths), max(row.mix.lengths)) for row in grid.full_grid() if row.shape.name == "qwen2-7b"}
    assert sizes >= {
        (batch, context << 10) for batch in (1, 4, 16, 32, 64, 256) for context in (1, 4, 8, 16, 32, 64, 128)
    }


def test_regions_by_hand() -> None:
    llama = shape("llama-3.1-8b")
    assert regions_of(Row(llama, uniform(1, 1024))) == ["≤ 4 MB"]
    assert regions_of(Row(llama, uniform(1, 1025))) == []
    assert regions_of(Row(llama, uniform(16, 32768))) == [
        "≥ 512 MB bf16, page ≥ 16",
        "batch × KV heads 128–256, context ≥ 8k",
    ]
    assert regions_of(Row(llama, uniform(8, 32768), q_len=8)) == []  # 4 · 8 query rows
    assert regions_of(Row(llama, uniform(8, 32768), page_size=1)) == ["page 1"]


def test_sets_go_past_l2_or_do_not_fit() -> None:
    l2 = 50 << 20
    assert num_sets(4 << 20, l2, 10**12) == 1 + 25  # 100 MiB lie between two uses of a copy
    assert num_sets(1 << 30, l2, 10**12) == 2
    assert num_sets(1 << 10, l2, 10**12) == 512
    assert num_sets(2 << 30, l2, 3 << 30) == 1  # 40 times L2: what stays is a fortieth
    assert num_sets(1 << 30, l2, (1 << 30) + 1) == 0
    assert num_sets(8 << 30, l2, 4 << 30) == 0
