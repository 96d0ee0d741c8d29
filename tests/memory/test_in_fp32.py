"""What vLLM holds in fp32 although a file has it in 16 bit: sizes by hand from published shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from drafting_models import architecture

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.memory.in_fp32 import in_fp32
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 2048,
    "num_attention_heads": 8, "num_key_value_heads": 8, "dtype": "bfloat16", "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip


def test_what_deepseek_v4_keeps() -> None:
    arch = architecture("deepseek-ai/DeepSeek-V4-Flash")
    kept = ("layers.{}.hc_attn_fn", "mtp.{}.hc_head_scale", "layers.{}.attn.indexer.compressor.ape")
    assert all(in_fp32(arch, name) for name in kept)
    assert not in_fp32(arch, "layers.{}.attn.compressor.wkv.weight")


@pytest.mark.parametrize(
    ("model", "wide"),
    [
        ("MiniMaxAI/MiniMax-M2.5", 62 * 256 * 3072),  # layers × experts × hidden size
        ("zai-org/GLM-4.7-Flash", 46 * 64 * 2048),  # the first of 47 layers is dense
    ],
)
def test_routers_take_two_bytes_more_an_element(model: str, wide: int) -> None:
    arch = architecture(model)
    router = next(spec for spec in arch.tensors if spec.pattern.endswith(".gate.weight") and len(spec.shape) == 2)
    count = sum(len(box[router.layer_axis or 0]) for box in router.boxes)
    assert router.elements * count == wide
    assert in_fp32(arch, router.pattern)
    group = TensorGroup(router.pattern, "BF16", router.shape, router.boxes)
    serving = Serving(context=4096)
    both = rank_weights(arch, [group], serving).bytes, rank_weights(arch, [group], Serving(4096, engine="sglang")).bytes
    assert both == (wide * 4, wide * 2)


def test_routers_in_what_the_config_names() -> None:
    """MiMo V2's are in fp32 unless `moe_router_dtype` says otherwise, Ling's where `router_dtype` says so."""
    mimo, ling = architecture("XiaomiMiMo/MiMo-V2.6-Pro-RL"), architecture("inclusionAI/Ling-1T")
    gate = "model.layers.{}.mlp.gate.weight"
    assert in_fp32(mimo, gate) and not in_fp32(replace(mimo, router_dtype="bfloat16"), gate)
    assert in_fp32(replace(ling, router_dtype="fp32"), gate) and not in_fp32(replace(ling, router_dtype=None), gate)
    said = architecture({**LLAMA, "moe_router_dtype": "float32"})
    assert said.router_dtype == "float32" and not in_fp32(said, gate)  # Llama's class does not ask


def test_others_keep_the_files_type() -> None:
    assert not in_fp32(architecture("Qwen/Qwen3-30B-A3B"), "model.layers.{}.mlp.gate.weight")
    assert not in_fp32(architecture(LLAMA), "model.layers.{}.mlp.gate_proj.weight")


def test_mamba_1_decays() -> None:
    """falcon-mamba-7b: 64 layers of 8192 channels with 16 states, stored in bf16, held in fp32."""
    arch = architecture("tiiuae/falcon-mamba-7b")
    spec = next(spec for spec in arch.tensors if spec.pattern.endswith(".A_log"))
    group = TensorGroup(spec.pattern, "BF16", spec.shape, spec.boxes)
    assert rank_weights(arch, [group], Serving(context=4096)).bytes == 64 * 8192 * 16 * 4


def test_scales_of_eight_bit_codes() -> None:
    arch = architecture(LLAMA)
    at, boxes = "model.layers.{}.self_attn.q_proj.", ((range(2),),)
    scale = TensorGroup(at + "weight_scale", "BF16", (512, 1), boxes)
    for dtype, size in (("F8_E4M3", 4), ("I8", 4), ("U8", 2)):
        codes = TensorGroup(at + "weight", dtype, (512, 512), boxes)
        held = rank_weights(arch, [codes, scale], Serving(context=4096)).bytes
        assert held == 2 * (512 * 512 + 512 * size)


def test_latent_projections_of_glm_5_next_are_plain_again() -> None:
    """11 layers of 1536 × 4096 in fp8 with 12 × 32 scales: two bytes an element and no scales in vLLM."""
    arch = architecture("zai-org/GLM-5.3-Flash")
    spec = next(spec for spec in arch.tensors if spec.pattern.endswith(".self_attn.q_a_proj.weight"))
    count = sum(len(box[spec.layer_axis or 0]) for box in spec.boxes)
    codes = TensorGroup(spec.pattern, "F8_E4M3", spec.shape, spec.boxes)
    scales = TensorGroup(spec.pattern + "_scale_inv", "F32", (12, 32), spec.boxes)
    assert (count, spec.shape) == (11, (1536, 4096))
    assert rank_weights(arch, [codes, scales], Serving(context=4096)).bytes == 11 * 1536 * 4096 * 2


def test_heads_that_classify() -> None:
    """bge-reranker-large's dense layer of 1024 × 1024 in front of its one score."""
    arch = architecture("BAAI/bge-reranker-large")
    spec = next(spec for spec in arch.tensors if spec.pattern == "classifier.dense.weight")
    group = TensorGroup(spec.pattern, "BF16", spec.shape, spec.boxes)
    assert rank_weights(arch, [group], Serving(context=512)).bytes == 1024 * 1024 * 4
