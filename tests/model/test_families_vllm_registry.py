"""Text models that only vLLM has classes for: a rank's parameters and one request's cache against vLLM itself.

Counted with vLLM 0.33.0: each class built on the meta device from the config below, parameters of the heaviest rank summed, and the
bytes of one request of 8,192 tokens taken from its own KV-cache specs and groups (batches of 2,048 tokens).
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, UnsupportedError
from hfmem.memory.cache import bytes_per_token
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, SlidingAttention

#: eight layers of 8 heads and 4 KV heads of 64
BASE: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 768,
    "vocab_size": 32000,
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 16,
    "num_shared_experts": 1,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 256,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 8,
    "kv_lora_rank": 512,
    "q_lora_rank": 256,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
PANGU: dict[str, Any] = {
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 2,
    "moe_intermediate_size": 256,
    "sandwich_norm": True,
    "router_enable_expert_bias": True,
}
STEERED: dict[str, Any] = {"moe_router_enable_expert_bias": True, "use_qk_norm": True}

MODELS: dict[str, dict[str, Any]] = {
    "teleflm": {"model_type": "TeleFLM"},
    "telechat3": {"model_type": "telechat3"},
    "telechat2": {
        "model_type": "telechat2",
        "n_layer": 8,
        "n_head": 8,
        "num_key_value_heads": 8,
        "ffn_hidden_size": 768,
    },
    "plamo3": {
        "model_type": "plamo3",
        "interleaved_sliding_window": [2048, 2048, 2048, None] * 2,
        "tie_word_embeddings": True,
    },
    "iquestloopcoder": {"model_type": "iquestloopcoder", "loop_num": 2, "loop_window_size": 64},
    "sarvam_moe": {
        "model_type": "sarvam_moe",
        **EXPERTS,
        **STEERED,
        "use_rmsnorm": True,
        "moe_shared_expert_intermediate_size": 384,
    },
    "sarvam_mla": {"model_type": "sarvam_mla", **EXPERTS, **LATENT, "q_lora_rank": None},
    "param2moe": {"model_type": "param2moe", **EXPERTS, "num_shared_experts": 2, "use_qk_norm": True},
    "pangu_ultra": {"model_type": "pangu_ultra_moe", **PANGU, **LATENT},
    "pangu_pro_v2": {
        "model_type": "pangu_pro_moe_v2",
        **PANGU,
        "num_key_value_heads": 8,
        "param_sink_number": 128,
        "param_sink_with_value": True,
        "qk_nope_dim": 64,
        "qk_rope_dim": 64,
        "v_channels": 128,
    },
    "dory": {
        "model_type": "dory",
        "layer_types": ["sliding_attention", "mlp"] * 3 + ["full_attention", "mlp"],  # vLLM's own where there are none
        "sliding_window": 1024,
        "n_input_layers": 2,
        "n_recurrent_layers": 4,
        "n_output_layers": 2,
        "n_recurrent_loops": 3,
    },
    "alice": {
        "model_type": "alice_ai",
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 256,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2,
        "linear_num_key_heads": 8,
        "linear_num_value_heads": 8,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    },
    "k2_horizon": {
        "model_type": "k2_horizon",
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 256,
        "num_shared_experts": 1,
        "mova_num_experts": 8,
        "mova_num_experts_per_tok": 2,
        "moe_gate_bias": True,
        "query_key_norm": True,
        "attention_gate_func": "sigmoid",
        "decoder_sparse_step": 1,
        "mlp_only_layers": [0],
    },
    "bailing_v2_5": {
        "model_type": "bailing_hybrid",
        "architectures": ["BailingMoeV2_5ForCausalLM"],
        **EXPERTS,
        **STEERED,
        **LATENT,
        "layer_group_size": 4,
        "group_norm_size": 4,
    },
    "domyn_edge": {
        "model_type": "domyn_edge",
        "window_sizes": ([[1024, 0]] * 3 + [[-1, -1]]) * 2,
        "per_layer_config": {str(i): {"head_dim": 128 if i % 4 == 3 else 64} for i in range(8)},
    },
}
#: name → what (tp, pp) gives: parameters of the heaviest rank, bytes of one request there
COUNTED: dict[str, dict[tuple[int, int], tuple[int, int]]] = {
    "teleflm": {
        (1, 1): (48_505_344, 67_108_864),
        (2, 1): (24_257_024, 33_554_432),
        (1, 2): (24_252_928, 33_554_432),
    },
    "telechat3": {(1, 1): (48_505_344, 67_108_864), (1, 2): (24_252_928, 33_554_432)},
    "telechat2": {(1, 1): (50_610_688, 134_217_728), (2, 1): (25_313_792, 67_108_864)},
    "plamo3": {
        (1, 1): (32_130_560, 54_624_256),
        (2, 1): (16_074_240, 27_312_128),
        (1, 2): (24_257_536, 33_603_584),
    },
    "iquestloopcoder": {(1, 1): (48_509_504, 101_318_656), (2, 1): (24_259_104, 50_659_328)},
    "sarvam_moe": {
        (1, 1): (88_475_248, 67_108_864),
        (2, 1): (44_271_216, 33_554_432),
        (1, 2): (47_092_800, 33_554_432),
    },
    "sarvam_mla": {(1, 1): (102_044_272, 75_497_472), (2, 1): (52_236_912, 75_497_472)},
    "param2moe": {(1, 1): (89_851_504, 67_108_864), (2, 1): (44_959_344, 33_554_432)},
    "pangu_ultra": {(1, 1): (94_444_128, 75_497_472), (1, 2): (52_735_552, 37_748_736)},
    "pangu_pro_v2": {(1, 1): (94_176_864, 268_435_456), (2, 1): (47_122_016, 134_217_728)},
    "dory": {(1, 1): (41_727_232, 45_203_456)},
    "alice": {(1, 1): (103_485_104, 24_510_464), (2, 1): (52_183_704, 12_255_232)},
    "k2_horizon": {
        (1, 1): (95_652_520, 67_108_864),
        (2, 1): (47_873_704, 33_554_432),
        (1, 2): (67_427_936, 33_554_432),
    },
    "bailing_v2_5": {(1, 1): (93_460_336, 20_643_840), (2, 1): (47_190_384, 20_643_840)},
    "domyn_edge": {(1, 1): (50_087_040, 65_208_320), (2, 1): (25_052_288, 32_604_160)},
}
CASES = [(name, *ranks, *counted) for name, rows in COUNTED.items() for ranks, counted in rows.items()]


@pytest.mark.parametrize(("name", "tp", "pp", "parameters", "cached"), CASES)
def test_as_vllm_builds_it(name: str, tp: int, pp: int, parameters: int, cached: int) -> None:
    arch = read_architecture(BASE | MODELS[name])
    serving = Serving(context=8192, num_seqs=1, engine="vllm", tp=tp, pp=pp, max_num_batched_tokens=2048)
    assert rank_weights(arch, synthesise(arch), serving).parameters == parameters
    assert engine("vllm").cache(arch, serving).bytes_per_rank == cached


@pytest.mark.parametrize(
    ("name", "tp", "pp", "words"),
    [
        ("dory", 2, 1, "tensor_parallel_size=1"),
        ("dory", 1, 2, "no pipeline"),
        ("alice", 1, 2, "no pipeline"),
        ("domyn_edge", 1, 2, "no pipeline"),
        ("iquestloopcoder", 1, 2, "no pipeline"),
    ],
)
def test_what_vllm_does_not_split(name: str, tp: int, pp: int, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        serving = Serving(context=100, num_seqs=1, engine="vllm", tp=tp, pp=pp)
        engine("vllm").cache(read_architecture(BASE | MODELS[name]), serving)


def test_rnj1_keeps_a_window_of_its_chunks() -> None:
    # six chunked layers of 2048 tokens, two full ones: 4 heads of 64, keys and values, bf16
    kinds = (["chunked_attention"] * 3 + ["full_attention"]) * 2
    rnj = {"model_type": "rnj1", "layer_types": kinds, "sliding_window": 2048, "tie_word_embeddings": True}
    arch = read_architecture(BASE | rnj)
    assert arch.layers[0].caches == (SlidingAttention(8, 4, 64, 64, 2048),)
    assert bytes_per_token(arch) == 2 * 2 * 4 * 64 * 2
    # Gemma 3's block: q and o of 512, k and v of 256, head norms, a gated feed-forward of 768, four norms
    block = 2 * 512 * 512 + 2 * 256 * 512 + 2 * 64 + 3 * 512 * 768 + 4 * 512
    assert arch.expected_parameters() == 32000 * 512 + 8 * block + 512
    with pytest.raises(ContradictionError, match="8 layers"):
        read_architecture(BASE | rnj | {"layer_types": kinds[:5]})


def test_step1_has_groups() -> None:
    arch = read_architecture(BASE | {"model_type": "step1", "num_attention_groups": 2, "head_dim": None})
    block = 2 * 512 * 512 + 2 * 128 * 512 + 3 * 512 * 768 + 2 * 512
    assert arch.expected_parameters() == 2 * 32000 * 512 + 8 * block + 512
    assert bytes_per_token(arch) == 8 * 2 * 2 * 64 * 2


def test_longcat_flash_lite_has_tables_of_ngrams() -> None:
    lite: dict[str, Any] = {
        **LATENT,
        "model_type": "longcat_flash",
        "num_layers": 4,
        "ffn_hidden_size": 768,
        "expert_ffn_hidden_size": 256,
        "n_routed_experts": 16,
        "zero_expert_num": 8,
        "moe_topk": 4,
    }
    tables = {"ngram_vocab_size_ratio": 3, "emb_split_num": 2, "emb_neighbor_num": 3}
    plain = read_architecture(BASE | lite | {"num_nextn_predict_layers": 0})
    ngram = read_architecture(BASE | lite | tables | {"model_type": "longcat_flash_ngram"})
    # two tables for each of 2- and 3-grams: 3 · 32000 + 1, 3, 5, 7 rows of 512 / 4, each projected to 512
    rows = sum(3 * 32000 + odd for odd in (1, 3, 5, 7))
    assert ngram.expected_parameters() - plain.expected_parameters() == rows * 128 + 4 * 512 * 128


def test_bailing_v2_5_is_told_by_its_class_or_its_norm() -> None:
    named = read_architecture(BASE | MODELS["bailing_v2_5"])
    unnamed = read_architecture({k: v for k, v in (BASE | MODELS["bailing_v2_5"]).items() if k != "architectures"})
    assert named.family == unnamed.family == "bailing_linear"
    assert named.layers == unnamed.layers


def test_dory_keeps_keys_of_every_round() -> None:
    looped = read_architecture(BASE | MODELS["dory"])
    last = read_architecture(BASE | MODELS["dory"] | {"recurrent_kv_cache_mode": "last_loop"})
    # eight blocks: attention at 0, 2, 4 (windows) and 6; of these 2 and 4 are inside the loop of 2 … 5
    window = SlidingAttention(8, 4, 64, 64, 1024)
    assert looped.layers[2].caches == looped.layers[4].caches == (window,) * 3
    assert looped.layers[6].caches == (FullAttention(8, 4, 64, 64),)
    assert last.layers[2].caches == (window,)
    with pytest.raises(ContradictionError, match="are not 8"):
        read_architecture(BASE | MODELS["dory"] | {"n_output_layers": 3})


def test_xllm_is_k2_horizon_under_other_keys() -> None:
    horizon = BASE | MODELS["k2_horizon"] | {"query_key_norm": False}
    first = {key: value for key, value in horizon.items() if not key.startswith(("mova_", "attention_gate"))}
    first |= {"model_type": "xllm", "num_values": 8, "num_values_per_tok": 2, "apply_attn_gate": True}
    assert read_architecture(first).tensors == read_architecture(horizon).tensors
    dense = read_architecture(BASE | {"model_type": "xllm", "attention_bias": True})
    block = 2 * (512 * 512 + 512) + 2 * (256 * 512 + 256) + 3 * 512 * 768 + 2 * 512
    assert dense.expected_parameters() == 2 * 32000 * 512 + 8 * block + 512


def test_a_window_of_minimax_m2_holds_in_every_layer() -> None:
    # vLLM's own specs of this config: one request of 8,192 tokens takes what one of 512 and a batch beside it does
    data = BASE | {"model_type": "minimax_m2", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 512}
    arch = read_architecture(data | {"num_hidden_layers": 4, "intermediate_size": 256})
    assert arch.caches() == (SlidingAttention(8, 4, 64, 64, 512),) * 4
    for context, cached in ((512, 2_162_688), (8192, 33_619_968), (32768, 69_271_552)):
        serving = Serving(context=context, num_seqs=1, engine="vllm", max_num_batched_tokens=8192)
        assert engine("vllm").cache(arch, serving).bytes_per_rank == cached
