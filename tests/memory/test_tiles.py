"""What kernels round packed experts up to, by hand from published shapes and vLLM's sources.

Humming's figures were also run: vLLM 0.33's classes built without memory as on an H100 and its `process_weights_after_loading`.
"""

from __future__ import annotations

from fractions import Fraction

import pytest

from hfmem.checkpoint.quantization_config import parse_quantization
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.serving import Serving
from hfmem.memory.shares import Sharding
from hfmem.memory.tiles import kernel_share
from hfmem.memory.weights import held_tensors
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Column, Component, ExpertSplit, Row, TensorSpec
from hfmem.model.quantized import stored_as_said

BOXES = ((range(1), range(1)),)


def _fp4(spec: TensorSpec) -> tuple[TensorGroup, TensorGroup, int]:
    codes = TensorGroup(spec.pattern, "U8", (spec.shape[0], spec.shape[1] // 2), BOXES)
    return codes, codes, 16


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
        (90, 31, 1, False, 1856, 2688),  # Marlin: 29 × 64
        (90, 33, 1, False, 2048, 2688),  # Humming: rows to 256, columns to 128
        (90, 33, 2, False, 1024, 2688),
        (89, 33, 2, False, 960, 2688),  # Marlin: to 64 where the hidden size is whole 128s
    ],
)
def test_experts_of_nvfp4_without_a_gate(
    capability: int, minor: int, tp: int, ep: bool, rows: int, columns: int
) -> None:
    ranks = Sharding(tp=tp, expert_ranks=tp, expert_parallel=ep, num_experts=128)
    own = 1856 if ep else 1856 // tp
    expected = Fraction(rows * columns, own * 2688)
    assert kernel_share(_UP, *_fp4(_UP), ranks, capability, Release(minor), gated=False) == expected


@pytest.mark.parametrize(("minor", "rows"), [(25, 704), (28, 704), (33, 704)])
def test_gated_experts_of_nvfp4_are_whole_where_their_rows_suit(minor: int, rows: int) -> None:
    """GLM-4.5-Air at TP 2: 704 = 11 × 64 rows of 4096."""
    up = TensorSpec(
        "layers.{}.mlp.experts.{}.up_proj.weight", (1408, 4096), (), Component.MLP, ExpertSplit(1, Column())
    )
    ranks = Sharding(tp=2, expert_ranks=2, num_experts=128)
    for capability in (100, 120):
        assert kernel_share(up, *_fp4(up), ranks, capability, Release(minor), gated=True) == Fraction(rows, 704)


def test_humming_pads_inputs_and_outputs_apart() -> None:
    """Nemotron 3 Nano on Hopper: `down_proj` is 2688 rows to 2816 and 1856 columns to 1920."""
    down = TensorSpec("layers.{}.experts.{}.down_proj.weight", (2688, 1856), (), Component.MLP, ExpertSplit(1, Row()))
    assert kernel_share(down, *_fp4(down), Sharding(), 90, Release(), gated=False) == Fraction(2816 * 1920, 2688 * 1856)


#: an expert of Qwen3 30B A3B: 768 of 2048, gate and up in one parameter
_GATE = TensorSpec("layers.{}.experts.{}.up_proj.weight", (768, 2048), (), Component.MLP, ExpertSplit(1, Column()))
_DOWN = TensorSpec("layers.{}.experts.{}.down_proj.weight", (2048, 768), (), Component.MLP, ExpertSplit(1, Row()))


@pytest.mark.parametrize(
    ("capability", "minor", "up", "down"),
    [
        (90, 33, (256, 2048), (2048, 256)),  # Humming: 2 × 192 rows to 512, 192 columns to 256
        (90, 31, (192, 2048), (2048, 192)),
        (89, 33, (192, 2048), (2048, 192)),  # Marlin: 192 = 3 × 64
    ],
)
def test_gated_experts_of_nvfp4_on_four_ranks(
    capability: int, minor: int, up: tuple[int, int], down: tuple[int, int]
) -> None:
    ranks = Sharding(tp=4, expert_ranks=4, num_experts=128)
    for spec, held, own in ((_GATE, up, 192 * 2048), (_DOWN, down, 2048 * 192)):
        codes, _, size = _fp4(spec)
        scales = TensorGroup(spec.pattern + "_scale", "F8_E4M3", (spec.shape[0], spec.shape[1] // 16), BOXES)
        for group in (codes, scales):
            found = kernel_share(spec, group, codes, size, ranks, capability, Release(minor), gated=True)
            assert found == Fraction(held[0] * held[1], own)


def test_groups_that_ranks_cut_are_made_smaller() -> None:
    """GPTQ and AWQ: 192 columns do not hold whole groups of 128; groups of 64 do, twice as many scales."""
    ranks = Sharding(tp=4, expert_ranks=4, num_experts=128)
    codes = TensorGroup(_DOWN.pattern.replace("weight", "qweight"), "I32", (768 // 8, 2048), BOXES)
    scales = TensorGroup(_DOWN.pattern.replace("weight", "scales"), "F16", (6, 2048), BOXES)
    for capability, columns in ((89, 192), (90, 256)):
        found = [kernel_share(_DOWN, g, codes, 128, ranks, capability, Release(), gated=True) for g in (codes, scales)]
        assert found == [Fraction(columns, 192), Fraction(columns // 64, 1) / Fraction(192, 128)]
    with pytest.raises(UnsupportedError, match="groups of 128"):
        eighths = Sharding(tp=48, expert_ranks=48, num_experts=128)
        kernel_share(_DOWN, scales, codes, 128, eighths, 89, Release(), gated=True)


def test_marlin_pads_the_inner_size_to_whole_groups() -> None:
    """704 rows of GLM-4.5 Air at TP 2: 704 = 11 × 64, and 12 × 64 = 768 where a group is 128."""
    down = TensorSpec("layers.{}.experts.{}.down_proj.weight", (4096, 1536), (), Component.MLP, ExpertSplit(1, Row()))
    codes = TensorGroup(down.pattern.replace("weight", "weight_packed"), "I32", (4096, 192), BOXES)
    ranks = Sharding(tp=2, expert_ranks=2, num_experts=128)
    assert kernel_share(down, codes, codes, 128, ranks, 80, Release(), gated=True) == 1
    narrow = Sharding(tp=16, expert_ranks=16, num_experts=128)  # 96 columns in groups of 32: to 128
    assert kernel_share(down, codes, codes, 32, narrow, 80, Release(), gated=True) == Fraction(128, 96)
    assert kernel_share(down, codes, codes, 32, narrow, 80, Release(24), gated=True) == 1


def test_a_model_of_nvfp4_experts_on_hopper() -> None:
    """Qwen3 30B A3B at TP 4, as vLLM 0.33 holds it once loaded: `w13_weight` of 48 layers takes 3,221,225,472 bytes, `w2_weight`
    half of it, their scales an eighth."""
    section = {
        "quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head", "*mlp.gate"],
    }  # fmt: skip
    arch = read_architecture(
        {
            "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
            "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151_936,
            "moe_intermediate_size": 768, "intermediate_size": 6144, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "dtype": "bfloat16", "tie_word_embeddings": False, "max_position_embeddings": 40_960, "norm_topk_prob": True,
        }
    )  # fmt: skip
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None
    groups = stored_as_said(synthesise(arch), said)
    assert groups is not None
    held: dict[str, int] = {}
    for item in held_tensors(arch, groups, Serving(4096, tp=4)):
        if ".experts." in item.pattern and "input_scale" not in item.pattern:
            name = item.pattern.partition(".experts.{}.")[2]
            held[name] = held.get(name, 0) + sum(item.stage_counts) * item.bytes
    codes = [held[f"{name}_proj.weight"] for name in ("gate", "up", "down")]
    scales = [held[f"{name}_proj.weight_scale"] for name in ("gate", "up", "down")]
    assert codes == [1_610_612_736] * 3
    assert scales == [201_326_592] * 3
