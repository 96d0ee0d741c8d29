"""GigaChat 3.5: SGLang 0.5.23's class with the sizes its config class has as defaults, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, UnknownArchitectureError, UnsupportedError
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import DeltaNetState, LatentAttention

CONFIG: dict[str, Any] = {
    "model_type": "gigachat3_5",
    "architectures": ["GigaChat35ForCausalLM"],
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
    "hidden_size": 1280,
    "intermediate_size": 896,
    "moe_intermediate_size": 896,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 16,
    "norm_type": "ZeroCenteredGatedNorm",
    "layernorm_type": "pre_post",
    "gated_attention": True,
    "full_attention_layers": [3, 7, 11],
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
}
H = 1280


def gated(size: int) -> int:
    """A norm and its gate of rank 16."""
    return size + 2 * 16 * size


LATENT = (1536 + 576) * H + 16 * 192 * 1536 + 16 * 256 * 512 + H * 2048 + gated(1536) + gated(512)
GATE = 2048 * H
DELTA = (2 * 1024 + 2 * 2048 + 2 * 16) * H + 4 * (2 * 1024 + 2048) + 2 * 16 + 128 + H * 2048
EXPERTS = 64 * H + 64 * 3 * 896 * H + 3 * 1792 * H


def test_parameters_by_hand() -> None:
    arch = read_architecture(CONFIG)
    layers = 3 * (LATENT + GATE) + 9 * DELTA + 3 * 896 * H + 11 * EXPERTS + 12 * 4 * gated(H)
    whole = 2 * 128256 * H + layers + gated(H)
    assert arch.expected_parameters() == whole
    plain = read_architecture(CONFIG | {"norm_type": "LlamaRMSNorm", "layernorm_type": "pre", "gated_attention": False})
    gates = 3 * (GATE + 2 * 16 * (1536 + 512)) + 12 * (4 * gated(H) - 2 * H) + 2 * 16 * H
    assert plain.expected_parameters() == whole - gates
    more = read_architecture(CONFIG | {"num_nextn_predict_layers": 1})
    block = LATENT + GATE + EXPERTS + 4 * gated(H) + 2 * H * H + 3 * gated(H)
    assert more.parameters_by_component()[Component.MTP] == block


def test_what_it_keeps() -> None:
    arch = read_architecture(CONFIG)
    kinds = [type(cache) for cache in arch.caches()]
    assert kinds == [DeltaNetState, DeltaNetState, DeltaNetState, LatentAttention] * 3
    typed = CONFIG | {"layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 3, "full_attention_layers": None}
    assert read_architecture(typed).caches() == arch.caches()
    # SGLang: rows of the three latent layers; nine states of a convolution and an fp32 matrix a head, in four slots
    state = 3 * (2 * 1024 + 2048) * 2 + 16 * 128 * 128 * 4
    assert engine("sglang").cache(arch, Serving(1024, engine="sglang")).bytes == 1024 * 3 * 576 * 2 + 4 * 9 * state
    with pytest.raises(UnsupportedError, match="does not serve gigachat3_5"):
        engine("vllm").cache(arch, Serving(1024))


def test_what_contradicts() -> None:
    with pytest.raises(ContradictionError, match="full_attention_layers"):
        read_architecture(CONFIG | {"full_attention_layers": [12]})
    with pytest.raises(UnknownArchitectureError, match="norm_type"):
        read_architecture(CONFIG | {"norm_type": "BatchNorm"})
