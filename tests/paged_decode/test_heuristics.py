"""Launch configurations: pure, complete over the models' shapes, and within what the tables promise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hfmem_kernels._heuristics import (
    FIXED_SPLIT_TOKENS,
    SHARED_BYTES,
    DecodeShape,
    config_of,
    family_of,
    next_power_of_2,
    select_config,
    table_entries,
)

#: query heads / KV heads, key dim, value dim, MLA — Llama-3.1-8B, 70B at TP 8, Qwen3-30B-A3B, Qwen2-7B, Llama-2, Gemma 3, gpt-oss,
#: MiMo-V2, Gemma 4's full layers, Phi-3-mini, Phi-2, DeepSeek-V3 at TP 8 and whole
MODELS = [
    (4, 128, 128, False), (8, 128, 128, False), (8, 128, 128, False), (7, 128, 128, False), (1, 128, 128, False),
    (2, 256, 256, False), (8, 64, 64, False), (16, 192, 128, False), (16, 512, 512, False), (1, 96, 96, False),
    (1, 80, 80, False), (16, 576, 512, True), (128, 576, 512, True),
]  # fmt: skip
FAMILIES = [f for f in SHARED_BYTES if f != "interpreter"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("q_len", [1, 2, 4, 8])
@pytest.mark.parametrize("element_bytes", [1, 2])
def test_every_model_has_a_configuration(family: str, q_len: int, element_bytes: int) -> None:
    for group, dim, v_dim, latent in MODELS:
        config = select_config(DecodeShape(group, q_len, dim, v_dim, element_bytes, latent), family)
        assert config.block_m >= 16 and config.block_m == next_power_of_2(config.block_m)
        assert config.block_m <= max(16, next_power_of_2(group * q_len))
        assert 32 * config.num_warps * config.ctas_per_sm * config.register_cap <= 65536


def test_short_groups_take_one_block() -> None:
    """All query rows of a KV head in one block wherever the table has one that large: every key is read once."""
    for group, dim in ((4, 128), (8, 128), (7, 128), (2, 256), (8, 64)):
        for q_len in (1, 2):
            config = select_config(DecodeShape(group, q_len, dim, dim, 2), "sm90")
            assert config.block_m >= group * q_len


@pytest.mark.parametrize("element_bytes", [1, 2])
def test_bytes_in_flight_on_hopper(element_bytes: int) -> None:
    """(stages - 1) tiles of every resident program: 4.45 TB/s · 0.8 µs / 132 SMs = 27 KB at the least, 64 KiB aimed at in bf16."""
    for entry in table_entries("sm90", element_bytes, latent=False):
        if entry.rows == 16:
            tile = entry.block_n * entry.columns * element_bytes
            in_flight = (entry.num_stages - 1) * tile * entry.ctas_per_sm
            assert in_flight >= (65536 if element_bytes == 2 else 32768)


@pytest.mark.parametrize(
    ("family", "fits"), [("sm80", False), ("sm86", False), ("sm90", True), ("sm100", True), ("sm120", False)]
)
def test_the_widest_fp32_rows_need_their_shared_memory(family: str, fits: bool) -> None:
    """Queries, keys and values of 16 rows and 1,024 columns are 64 KiB each, 192 together; of 512 columns half of that fits all."""
    assert fits == (SHARED_BYTES[family] - 1024 >= 3 * 16 * 1024 * 4)
    select_config(DecodeShape(4, 1, 512, 512, 4), family)
    if fits:
        select_config(DecodeShape(4, 1, 1024, 1024, 4), family)
    else:
        with pytest.raises(
            ValueError, match="head_dim: expected at most 1024 padded key and value columns, given 2048"
        ):
            select_config(DecodeShape(4, 1, 1024, 1024, 4), family)


@pytest.mark.parametrize(("element_bytes", "dim"), [(1, 64), (1, 128), (2, 64), (2, 128)])
def test_blocks_of_64_rows_need_a_compiler_that_takes_them(element_bytes: int, dim: int) -> None:
    """Triton 3.3.1 fails on wgmma within a while loop (FenceInsertion); 3.5.1 and 3.6.0 compile it."""
    shape = DecodeShape(64, 1, dim, dim, element_bytes)
    rows = {triton: select_config(shape, "sm90", triton=triton).block_m for triton in ((3, 3), (3, 5), (3, 6), (3, 9))}
    assert rows == {(3, 3): 32, (3, 5): 64, (3, 6): 64, (3, 9): 64}


def test_batch_invariant_splits_by_tokens() -> None:
    config = select_config(DecodeShape(4, 1, 128, 128, 2), "sm90", batch_invariant=True)
    assert config.split_tiles * config.block_n == FIXED_SPLIT_TOKENS


@pytest.mark.parametrize(
    ("capability", "arch", "family"),
    [
        ((8, 0), "", "sm80"), ((8, 6), "", "sm86"), ((8, 9), "", "sm86"), ((9, 0), "", "sm90"), ((10, 0), "", "sm100"),
        ((10, 3), "", "sm100"), ((12, 0), "", "sm120"), ((9, 4), "gfx942:sramecc+:xnack-", "gfx942"),
    ],
)  # fmt: skip
def test_families(capability: tuple[int, int], arch: str, family: str) -> None:
    assert family_of(capability, arch) == family


def test_older_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"device: expected compute capability 8\.0 or later, given 7\.5"):
        family_of((7, 5))


def test_too_wide_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="head_dim: expected at most 1024 padded"):
        select_config(DecodeShape(1, 1, 1024, 1024, 2), "sm90")


def test_rows_of_the_table_are_distinct() -> None:
    for family in FAMILIES:
        for size in (1, 2):
            entries = table_entries(family, size, latent=False)
            assert len({(e.rows, e.columns) for e in entries}) == len(entries)
            assert all(config_of(e).register_cap >= 128 for e in entries)


def test_older_compilers_get_their_own_rows() -> None:
    """64 query rows of heads of 128 in bf16: tiles of 64 tokens by default, of 32 before Triton 3.9."""
    shape = DecodeShape(64, 1, 128, 128, 2)
    new, old = (select_config(shape, "sm90", triton=version) for version in ((3, 9), (3, 6)))
    assert (new.block_n, old.block_n) == (64, 32)
    assert select_config(shape, "sm90", triton=(4, 0)) == new


@pytest.mark.parametrize("triton", [(3, 2), (3, 5), (3, 6), (3, 7), (3, 8), (3, 9)])
def test_every_compiler_has_a_row_for_everything(triton: tuple[int, int]) -> None:
    for family in FAMILIES:
        for size in (1, 2):
            entries = table_entries(family, size, latent=False, triton=triton)
            assert len({(e.rows, e.columns) for e in entries}) == len(entries)
            assert {e.columns for e in entries if e.rows == 16} == {128, 256, 512, 1024}
            for group, dim, v_dim, latent in MODELS:
                select_config(DecodeShape(group, 4, dim, v_dim, size, latent), family, triton=triton)


def test_choosing_imports_no_torch() -> None:
    modules = ", ".join(f"hfmem_kernels{m}" for m in ("", "._heuristics", ".layout", ".traffic"))
    code = f"import sys, {modules}; print(sorted({{'torch', 'triton'}} & set(sys.modules)))"
    environment = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("family", "triton", "group", "expected"),
    [
        ("sm90", (3, 6), 4, (32, 4, 3)),
        ("sm90", (3, 9), 4, (64, 3, 2)),  # no copies of 4 bytes: a third program would spill
        ("sm90", (3, 6), 32, (64, 4, 2)),
        ("sm100", (3, 6), 4, (64, 3, 2)),
    ],
)
def test_scales_of_tokens_take_smaller_tiles_or_fewer_programs(
    family: str, triton: tuple[int, int], group: int, expected: tuple[int, int, int]
) -> None:
    """Tokens of a tile, stages and programs, as NOTES.md gives them; the cap lets those programs be resident."""
    config = select_config(DecodeShape(group, 1, 128, 128, 1, token_scales=True), family, triton=triton)
    assert (config.block_n, config.num_stages, config.ctas_per_sm) == expected
    assert config.register_cap * config.num_warps * 32 * config.ctas_per_sm <= 65536
