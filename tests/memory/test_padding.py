"""What kernels hold beyond a rank's share of the file, by hand from published shapes and vLLM's sources."""

from __future__ import annotations

from fractions import Fraction

import pytest

from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.padding import fp4_share, in_fp32, zeros_copies
from hfmem.memory.shares import Sharding
from hfmem.model.inventory import Column, Component, ExpertSplit, Row, TensorSpec

#: an expert of Nemotron 3 Nano: 1856 of 2688, without a gate
_UP = TensorSpec("layers.{}.experts.{}.up_proj.weight", (1856, 2688), (), Component.MLP, ExpertSplit(1, Column()))


@pytest.mark.parametrize(
    ("capability", "minor", "tp", "ep", "rows", "columns"),
    [
        (120, 13, 2, False, 1024, 2688),  # 928 rows, in the swizzled order of scales: to 128 (RTX 5080, 5070 Ti)
        (120, 33, 1, False, 1920, 2688),
        (120, 33, 2, True, 1920, 2688),
        (100, 17, 1, False, 1920, 2688),
        (100, 33, 1, False, 1920, 2816),  # TensorRT-LLM's kernel: hidden sizes to 256, from 0.20
        (90, 33, 1, False, 1856, 2688),  # Marlin
    ],
)
def test_experts_of_nvfp4_without_a_gate(
    capability: int, minor: int, tp: int, ep: bool, rows: int, columns: int
) -> None:
    ranks = Sharding(tp=tp, expert_ranks=tp, expert_parallel=ep, num_experts=128)
    own = 1856 if ep else 1856 // tp
    expected = Fraction(rows * columns, own * 2688)
    assert fp4_share(_UP, ranks, capability, Release(minor), gated=False) == expected


@pytest.mark.parametrize(("minor", "rows"), [(25, 704), (28, 704), (33, 704)])
def test_gated_experts_of_nvfp4_are_whole_where_their_rows_suit(minor: int, rows: int) -> None:
    """GLM-4.5-Air at TP 2: 704 = 11 × 64 rows of 4096."""
    up = TensorSpec(
        "layers.{}.mlp.experts.{}.up_proj.weight", (1408, 4096), (), Component.MLP, ExpertSplit(1, Column())
    )
    ranks = Sharding(tp=2, expert_ranks=2, num_experts=128)
    for capability in (100, 120):
        assert fp4_share(up, ranks, capability, Release(minor), gated=True) == Fraction(rows, 704)


@pytest.mark.parametrize(
    ("split", "shape", "code_rows", "capability", "minor", "copies"),
    [
        (Column(), (18944, 3584), 3584, 90, 31, 4),  # Qwen2.5 7B AWQ on an H100: half a byte becomes two
        (Column(), (18944, 3584), 448, 90, 31, 1),  # GPTQ's order of codes
        (Column(), (18944, 3584), 3584, 90, 17, 1),
        (Column(), (18944, 3584), 3584, 89, 31, 1),
        (Row(), (3584, 18944), 18944, 90, 31, 4),
        (Row(), (3584, 18960), 18960, 90, 31, 1),  # no whole tiles of 64 columns
    ],
)
def test_zero_points_of_awq(
    split: Column | Row, shape: tuple[int, int], code_rows: int, capability: int, minor: int, copies: int
) -> None:
    spec = TensorSpec("layers.{}.mlp.up_proj.weight", shape, (), Component.MLP, split)
    assert zeros_copies(spec, code_rows, Sharding(tp=1), capability, Release(minor)) == copies


def test_what_deepseek_v4_keeps_in_fp32() -> None:
    kept = ("layers.{}.hc_attn_fn", "mtp.{}.hc_head_scale", "layers.{}.attn.indexer.compressor.ape")
    assert all(map(in_fp32, kept))
    assert not in_fp32("layers.{}.attn.compressor.wkv.weight")
