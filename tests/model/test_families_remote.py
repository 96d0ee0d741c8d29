"""Decoders whose code is published beside their weights: sizes by hand from their configs and from SGLang's modules."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError
from hfmem.memory.cache import bytes_per_token
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import DeltaNetState, FullAttention, LinearAttentionState, NoCache, SlidingAttention


def ideal(arch: Architecture, context: int) -> int:
    return engine("ideal").cache(arch, Serving(context=context, num_seqs=1, engine="ideal")).bytes


def names(arch: Architecture) -> set[str]:
    return {spec.pattern for spec in arch.tensors}


LLADA: dict[str, Any] = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "block_type": "llama",
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
    "max_sequence_length": 4096,
}


def test_llada_is_the_8_b_of_its_card() -> None:
    arch = read_architecture(LLADA)
    layer = 4 * 4096 * 4096 + 3 * 4096 * 12288 + 2 * 4096
    assert arch.expected_parameters() == 2 * 126_464 * 4096 + 32 * layer + 4096 == 8_015_581_184
    assert {"model.transformer.wte.weight", "model.transformer.ff_out.weight"} < names(arch)
    assert "model.transformer.blocks.{}.ff_proj.weight" in names(arch)
    assert ideal(arch, 4096) == 0


def test_dream_is_qwen_2_5_without_a_cache() -> None:
    config = {
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        "dtype": "bfloat16",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    }
    arch = read_architecture(config)
    assert arch.expected_parameters() == 7_615_616_512  # Qwen2.5-7B's files
    assert {"lm_head.weight", "model.layers.{}.self_attn.q_proj.bias"} < names(arch)
    assert arch.caches() == (NoCache("diffusion"),) * 28


def test_sdar_is_qwen_3() -> None:
    config = {
        "model_type": "sdar",
        "architectures": ["SDARForCausalLM"],
        "dtype": "bfloat16",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    }
    arch = read_architecture(config)
    assert arch.expected_parameters() == 8_190_735_360  # Qwen3-8B's files
    assert bytes_per_token(arch) == 36 * 2 * 8 * 128 * 2


def test_sdar_moe_is_qwen_3_moe() -> None:
    config = {
        "model_type": "sdar_moe",
        "dtype": "bfloat16",
        "hidden_size": 2048,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    }
    assert read_architecture(config).expected_parameters() == 30_532_122_624  # Qwen3-30B-A3B's files


def test_llada_2_has_norms_of_q_and_k() -> None:
    config = {
        "model_type": "llada2_moe",
        "architectures": ["LLaDA2MoeModelLM"],
        "dtype": "bfloat16",
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "moe_router_enable_expert_bias": True,
        "vocab_size": 100,
    }
    arch = read_architecture(config)
    attention = (64 + 2 * 32) * 64 + 64 * 64 + 2 * 16 + 2 * 64
    experts = 2 * (8 * 64 + (8 + 1) * 3 * 32 * 64)
    assert arch.expected_parameters() == 2 * 6400 + 64 + 3 * attention + 3 * 96 * 64 + experts
    assert bytes_per_token(arch) == 3 * 2 * 2 * 16 * 2


JET: dict[str, Any] = {
    "model_type": "jet_nemotron",
    "architectures": ["JetNemotronForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": ["jet", "swa", "jet", "attn"],
    "efficient_attention_config": {
        "swa": {"window_size": 32},
        "jet": {
            "mode": "chunk",
            "expand_v": 2.0,
            "num_heads": 3,
            "head_dim": 8,
            "norm_eps": "1e-5",
            "conv_size": 4,
            "dconv_generator_reduction": 8,
        },
    },
    "vocab_size": 100,
    "tie_word_embeddings": True,
}


def test_jet_nemotron() -> None:
    arch = read_architecture(JET)
    k, v = 3 * 8, 3 * 16
    jet = (2 * k + 2 * v + 2 * 3) * 64 + 64 * v + 2 * 3 + 16 + (v // 8) * 64 + 4 * v * (v // 8) + 4 * v
    attention = 2 * 64 * 64 + 2 * 32 * 64 + 64 + 2 * 32
    assert arch.expected_parameters() == 6400 + 64 + 4 * (3 * 96 * 64 + 128) + 2 * jet + 2 * attention
    state = DeltaNetState(3, 3, 8, 16, 4)
    assert arch.caches() == (state, SlidingAttention(4, 2, 16, 16, 32), state, FullAttention(4, 2, 16, 16))
    with pytest.raises(ContradictionError, match="layer_types"):
        read_architecture(JET | {"layer_types": ["jet", "attn"]})


def test_minicpm_sala_repeats_its_mixers() -> None:
    config = {
        "model_type": "minicpm_sala",
        "dtype": "bfloat16",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "mixer_types": ["minicpm4", "lightning", "lightning-attn"],
        "lightning_nkv": 4,
        "use_output_gate": True,
        "use_output_norm": True,
        "attn_use_output_gate": True,
        "vocab_size": 100,
        "tie_word_embeddings": False,
    }
    arch = read_architecture(config)
    full, linear = FullAttention(4, 2, 16, 16), LinearAttentionState(4, 16)
    assert arch.caches() == (full, linear, linear, full, linear)
    attention, lightning = 3 * 64 * 64 + 2 * 32 * 64, 5 * 64 * 64 + 64 + 2 * 16
    assert arch.expected_parameters() == 12_800 + 64 + 5 * (3 * 96 * 64 + 128) + 2 * attention + 3 * lightning
    with pytest.raises(ContradictionError, match="must be equal"):
        read_architecture(config | {"lightning_nkv": 2})


def test_spark_2_5_has_a_window_in_three_layers_of_four() -> None:
    config = {
        "model_type": "spark2_5",
        "dtype": "bfloat16",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "sliding_window": 32,
        "vocab_size": 100,
        "tie_word_embeddings": True,
    }
    arch = read_architecture(config)
    layer = (4 + 2 * 2) * 24 * 64 + 4 * 64 + 64 * 96 + 3 * 96 * 64 + 128
    assert arch.expected_parameters() == 6400 + 64 + 5 * layer
    assert [type(cache) for cache in arch.caches()] == [SlidingAttention] * 3 + [FullAttention, SlidingAttention]
    assert ideal(arch, 1000) == (4 * 32 + 1000) * 2 * 2 * 24 * 2


def test_nanbeige_keeps_keys_of_every_loop() -> None:
    config = {
        "model_type": "nanbeige",
        "dtype": "bfloat16",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "tie_word_embeddings": False,
    }
    arch = read_architecture(config)
    assert arch.expected_parameters() == 12_800 + 64 + 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 128)
    assert bytes_per_token(arch) == 2 * 3 * 2 * 2 * 16 * 2  # two loops unless the config says otherwise
    assert bytes_per_token(read_architecture(config | {"num_loops": 3})) == 3 * 3 * 2 * 2 * 16 * 2
