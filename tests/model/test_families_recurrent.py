"""State-space models, hybrids and other recurrent families.

Expected totals and transformers' constant state: measured with transformers 5.23.0 on the meta device (tied once). Growth per token
in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from hfmem.errors import ContradictionError, HfmemError, UnknownArchitectureError
from hfmem.memory.cache import bytes_per_token, state_bytes_per_seq
from hfmem.memory.engines import transformers
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Column, Component, TensorSpec
from hfmem.model.layers import (
    CcaState,
    DeltaNetState,
    FullAttention,
    IndexedAttention,
    Mamba1State,
    Mamba2State,
    NoCache,
    RgLruState,
    RwkvState,
    ShortConvState,
    SlidingAttention,
)

NANO: dict[str, Any] = {
    "model_type": "nemotron_h",
    "conv_kernel": 4,
    "head_dim": 128,
    "hidden_size": 2688,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "mamba_head_dim": 64,
    "mamba_num_heads": 64,
    "mamba_ssm_cache_dtype": "float32",
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
    "n_groups": 8,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_attention_heads": 32,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 52,
    "num_key_value_heads": 2,
    "ssm_state_size": 128,
    "vocab_size": 131072,
    "torch_dtype": "bfloat16",
}
NEMOTRON_56B = {
    "model_type": "nemotron_h",
    "attention_head_dim": 128,
    "conv_kernel": 4,
    "hidden_size": 8192,
    "hybrid_override_pattern": "M-M-M-M*-" + "M-M-M-M-M*-" * 9 + "M-M-M-M-M-",
    "intermediate_size": 32768,
    "mamba_head_dim": 64,
    "mamba_num_heads": 256,
    "n_groups": 8,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "ssm_state_size": 256,
    "vocab_size": 131072,
    "torch_dtype": "bfloat16",
}
QWEN3_NEXT: dict[str, Any] = {
    "model_type": "qwen3_next",
    "decoder_sparse_step": 1,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_size": 2048,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "mlp_only_layers": [],
    "moe_intermediate_size": 512,
    "num_attention_heads": 16,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "shared_expert_intermediate_size": 512,
    "vocab_size": 151936,
    "torch_dtype": "bfloat16",
}
_TEXT_27B = {
    "model_type": "qwen3_5_text",
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "linear_num_value_heads": 48,
    "mamba_ssm_dtype": "float32",
    "mtp_num_hidden_layers": 1,
    "num_attention_heads": 24,
    "num_hidden_layers": 64,
    "num_key_value_heads": 4,
    "vocab_size": 248320,
    "dtype": "bfloat16",
}
QWEN35_27B = {
    "model_type": "qwen3_5",
    "text_config": _TEXT_27B,
    "vision_config": {"model_type": "qwen3_5", "out_hidden_size": 5120},
    "tie_word_embeddings": False,
}
QWEN35_35B = {
    "model_type": "qwen3_5_moe",
    "text_config": {"model_type": "qwen3_5_moe_text", "mtp_num_hidden_layers": 1, "dtype": "bfloat16"},
    "vision_config": {"model_type": "qwen3_5_moe", "out_hidden_size": 2048},
}
#: a pruned Qwen3.5-35B-A3B, text only, under the wrapper's class
REAP_18B = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "model_type": "qwen3_5_moe_text",
    "num_experts": 128,
    "dtype": "float16",
}
JAMBA_LARGE: dict[str, Any] = {
    "model_type": "jamba",
    "attn_layer_offset": 4,
    "attn_layer_period": 8,
    "expert_layer_offset": 1,
    "expert_layer_period": 2,
    "hidden_size": 8192,
    "intermediate_size": 24576,
    "mamba_dt_rank": 512,
    "num_attention_heads": 64,
    "num_hidden_layers": 72,
    "num_key_value_heads": 8,
    "vocab_size": 65536,
    "torch_dtype": "bfloat16",
}
BAMBA = {
    "model_type": "bamba",
    "attn_layer_indices": [9, 18, 27],
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}
GRANITE_TINY = {
    "model_type": "granitemoehybrid",
    "hidden_size": 1536,
    "num_hidden_layers": 40,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "mamba_n_heads": 48,
    "mamba_d_state": 128,
    "intermediate_size": 512,
    "shared_intermediate_size": 1024,
    "num_local_experts": 64,
    "num_experts_per_tok": 6,
    "layer_types": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)],
    "vocab_size": 100352,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
FALCON_H1 = {
    "model_type": "falcon_h1",
    "hidden_size": 1024,
    "num_hidden_layers": 36,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 2048,
    "mamba_d_ssm": 1536,
    "mamba_n_heads": 24,
    "mamba_d_state": 128,
    "vocab_size": 32784,
    "torch_dtype": "bfloat16",
}
LFM2: dict[str, Any] = {
    "model_type": "lfm2",
    "block_ff_dim": 12288,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "vocab_size": 65536,
    "torch_dtype": "bfloat16",
}
FALCON_MAMBA = {
    "model_type": "falcon_mamba",
    "expand": 16,
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "num_hidden_layers": 64,
    "time_step_rank": 256,
    "vocab_size": 65024,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def default(model_type: str) -> dict[str, Any]:
    """The class defaults alone."""
    return {"model_type": model_type, "dtype": "bfloat16"}


@dataclass(frozen=True)
class Case:
    """A config and what it must give; None: no independent number."""

    config: dict[str, Any]
    total: int
    active: int | None
    growth: int
    state: int | None
    stored: int | None = None


CASES = {
    "nemotron-nano": Case(NANO, 31_577_937_344, 3_580_073_408, 6_144, 49_364_992),
    "nemotron-56b": Case(NEMOTRON_56B, 56_324_350_464, 56_324_350_464, 40_960, 914_817_024),
    # 81,324,862,720 is the checkpoint's own count, prediction layer and all
    "qwen3-next": Case(QWEN3_NEXT, 79_674_391_296, 3_874_929_408, 24_576, 77_856_768, 81_324_862_720),
    # the prediction layer: attention, MLP, a 2:1 projection and seven norms, by hand
    "qwen3.5-27b": Case(QWEN35_27B, 27_356_728_560, 27_356_728_560, 65_536, 154_927_104, 27_356_728_560 + 424_699_392),
    "qwen3.5-35b": Case(QWEN35_35B, 35_107_181_936, 3_901_560_176, 20_480, 64_880_640),
    "reap-18b": Case(REAP_18B, 37_087_995_136 // 2, None, 20_480, 64_880_640),  # half the bytes of its files, all F16
    "jamba-large": Case(JAMBA_LARGE, 398_555_145_696, 94_149_338_592, 36_864, 74_317_824),
    "bamba": Case(BAMBA, 9_780_235_392, 9_780_235_392, 12_288, 123_594_752),
    "granite-h-tiny": Case(GRANITE_TINY, 6_939_037_248, 1_465_470_528, 8_192, 57_581_568),
    "falcon-h1": Case(FALCON_H1, 521_411_104, 521_411_104, 18_432, 28_827_648),
    "lfm2": Case(LFM2, 1_170_340_608, 1_170_340_608, 12_288, 122_880),
    "falcon-mamba": Case(FALCON_MAMBA, 7_272_665_088, 7_272_665_088, 0, 37_748_736),
    "mamba-130m": Case(default("mamba") | {"num_hidden_layers": 24}, 129_135_360, 129_135_360, 0, 2_654_208),
    "mamba-codestral": Case(default("mamba2"), 7_285_403_648, 7_285_403_648, 0, 273_678_336),
    "zaya": Case(default("zaya"), 8_840_488_784, 1_290_741_584, 40_960, 215_040),
    "olmo_hybrid": Case(default("olmo_hybrid"), 7_430_870_688, 7_430_870_688, 122_880, 55_296_000),
    "zamba": Case(default("zamba"), 7_232_490_496, 7_232_490_496, 13 * 2 * 16 * 464 * 2, None),
    "zamba2": Case(default("zamba2"), 2_481_848_336, 2_481_848_336, 9 * 2 * 32 * 160 * 2, None),
    "recurrent_gemma": Case(default("recurrent_gemma"), 2_010_263_040, 2_010_263_040, 0, None),
    "rwkv": Case(default("rwkv"), 7_392_649_216, 7_392_649_216, 0, None),
    "bailing_hybrid": Case(default("bailing_hybrid"), 124_414_191_072, None, 7 * 1152, None),
    "glm5_next": Case(default("glm5_next"), 313_786_889_214, None, 11 * 2 * (512 + 2 * 128 + 1), None),
    "lfm2_vl": Case(default("lfm2_vl"), 2_812_857_088, 2_812_857_088, 32 * 2 * 8 * 80 * 2, 0),
    "lfm3": Case(default("lfm3"), 1_728_801_536, 1_728_801_536, 6 * 2 * 4 * 128 * 2, 13 * 2048 * 7 * 2),
    # the published count of RWKV-5-World-1B5
    "rwkv5": Case(
        {
            "model_type": "rwkv5",
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "head_size": 64,
            "vocab_size": 65536,
            "torch_dtype": "bfloat16",
        },
        1_577_754_624,
        1_577_754_624,
        0,
        None,
    ),
    # the published count of RWKV7-Goose-World3-1.5B
    "rwkv7": Case(
        {
            "model_type": "rwkv7",
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "head_dim": 64,
            "vocab_size": 65536,
            "decay_low_rank_dim": 96,
            "gate_low_rank_dim": 256,
            "a_low_rank_dim": 96,
            "v_low_rank_dim": 64,
            "hidden_ratio": 4.0,
            "torch_dtype": "bfloat16",
        },
        1_527_404_544,
        1_527_404_544,
        0,
        None,
    ),
}


def without_mtp(arch: Architecture) -> int:
    """Parameters that run in plain decoding."""
    return arch.expected_parameters() - arch.parameters_by_component().get(Component.MTP, 0)


@pytest.mark.parametrize("name", CASES)
def test_parameters_and_cache(name: str) -> None:
    case = CASES[name]
    arch = read_architecture(dict(case.config))
    assert without_mtp(arch) == case.total
    if case.active is not None:
        assert arch.active_parameters() == case.active
    if case.stored is not None:
        assert arch.expected_parameters() == case.stored
    assert bytes_per_token(arch) == case.growth
    if case.state is not None:
        held = transformers.cache(arch, Serving(context=1, engine="transformers"))
        assert held.state_bytes_per_seq == case.state


def test_ideal_state_is_kernel_minus_one_and_the_named_dtype() -> None:
    # 23 Mamba layers: 64 · 64 + 2 · 8 · 128 channels, 3 columns in bf16, and 64 · 64 · 128 floats
    arch = read_architecture(dict(NANO))
    assert state_bytes_per_seq(arch) == 23 * (6144 * 3 * 2 + 64 * 64 * 128 * 4)
    # no dtype named: the model's. 36 delta nets: 8192 channels, 3 columns, and 32 · 128 · 128
    arch = read_architecture(dict(QWEN3_NEXT))
    assert state_bytes_per_seq(arch) == 36 * (8192 * 3 + 32 * 128 * 128) * 2


def test_nemotron_mixers_follow_the_pattern() -> None:
    arch = read_architecture(dict(NANO))
    letters = {Mamba2State: "M", FullAttention: "*"}
    roles = {"mlp": "-", "moe": "E"}
    pattern = "".join(roles[c.role] if isinstance(c, NoCache) else letters[type(c)] for c in arch.caches())
    assert pattern == NANO["hybrid_override_pattern"]
    words = {"M": "mamba", "E": "moe", "*": "full_attention"}
    spelled = {k: v for k, v in NANO.items() if k != "hybrid_override_pattern"}
    spelled["layers_block_type"] = [words[letter] for letter in pattern]
    assert read_architecture(spelled).layers == arch.layers
    with pytest.raises(UnknownArchitectureError, match="hybrid_override_pattern"):
        read_architecture(NANO | {"hybrid_override_pattern": "MEX*"})
    with pytest.raises(ContradictionError, match="52"):
        read_architecture(NANO | {"hybrid_override_pattern": "ME*"})


def test_nemotron_latent_experts_and_prediction() -> None:
    keys = {"hybrid_override_pattern": "ME*", "num_hidden_layers": 3, "moe_latent_size": 512}
    base = read_architecture(NANO | keys)
    arch = read_architecture(NANO | keys | {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"})
    assert without_mtp(arch) == without_mtp(base)
    h, experts = 2688, 128 * 2 * 1856 * 512 + 128 * 2688 + 2 * 512 * 2688 + 2 * 3712 * 2688
    attention = 2 * h * 32 * 128 + 2 * h * 2 * 128
    assert arch.parameters_by_component()[Component.MTP] == attention + experts + 2 * h + 2 * h * h + 3 * h


def test_qwen35_names_below_the_wrapper() -> None:
    names = {spec.pattern for spec in read_architecture(dict(QWEN35_35B)).tensors}
    assert "model.language_model.layers.{}.linear_attn.in_proj_qkv.weight" in names
    assert "model.language_model.layers.{}.mlp.experts.gate_up_proj" in names
    assert {"model.visual.merger.norm.weight", "lm_head.weight", "mtp.fc.weight"} <= names
    names = {spec.pattern for spec in read_architecture(dict(REAP_18B)).tensors}
    assert "model.language_model.layers.{}.mlp.experts.{}.up_proj.weight" in names
    assert not any(name.startswith("model.visual") for name in names)
    assert "model.layers.{}.self_attn.q_proj.weight" in {s.pattern for s in read_architecture(dict(_TEXT_27B)).tensors}


def test_qwen35_text_keys_at_the_top_level() -> None:
    flat = {k: v for k, v in _TEXT_27B.items() if k != "model_type"} | {"model_type": "qwen3_5"}
    arch = read_architecture(flat | {"vision_config": {"out_hidden_size": 5120}})
    assert arch.expected_parameters() == read_architecture(dict(QWEN35_27B)).expected_parameters()


def test_qwen_full_attention_layers_and_gate() -> None:
    arch = read_architecture(dict(QWEN3_NEXT))
    attending = [i for i, c in enumerate(arch.caches()) if isinstance(c, FullAttention)]
    assert attending == list(range(3, 48, 4))
    assert arch.caches()[0] == DeltaNetState(16, 32, 128, 128, 4)
    (q,) = [s for s in arch.tensors if s.pattern == "model.layers.{}.self_attn.q_proj.weight"]
    assert q.shape == (2 * 16 * 256, 2048)
    with pytest.raises(UnknownArchitectureError, match="mamba"):
        read_architecture(QWEN3_NEXT | {"layer_types": ["mamba"] * 48})
    with pytest.raises(ContradictionError, match="47 entries"):
        read_architecture(QWEN3_NEXT | {"layer_types": ["full_attention"] * 47})


def test_jamba_periods() -> None:
    arch = read_architecture(dict(JAMBA_LARGE))
    assert [i for i, c in enumerate(arch.caches()) if isinstance(c, FullAttention)] == list(range(4, 72, 8))
    assert arch.caches()[0] == Mamba1State(16384, 16, 4)
    (router,) = [s for s in arch.tensors if s.pattern.endswith("router.weight")]
    assert router.count == 36 and router.boxes == ((range(1, 72, 2),),)


def test_hybrids_in_parallel_keep_both() -> None:
    arch = read_architecture(dict(FALCON_H1))
    assert set(arch.layers[0].caches) == {FullAttention(8, 2, 64, 64), Mamba2State(24, 64, 128, 1, 4)}
    layer = read_architecture(
        default("zaya") | {"layer_types": ["hybrid_sliding"] * 40, "sliding_window": 4096}
    ).layers[0]
    assert layer.caches == (SlidingAttention(8, 2, 128, 128, 4096), CcaState(1280, 2, 128))


def test_zamba_blocks_share_weights_but_not_caches() -> None:
    arch = read_architecture(default("zamba2") | {"num_mem_blocks": 2})
    hybrid = [i for i, layer in enumerate(arch.layers) if len(layer.caches) == 2]
    assert len(hybrid) == 9
    blocks = [s for s in arch.tensors if s.pattern.endswith("shared_transformer.self_attn.q_proj.weight")]
    own, copies = [s for s in blocks if s.tied_to is None], [s for s in blocks if s.tied_to is not None]
    assert [s.count for s in own] == [2] and [s.count for s in copies] == [7]
    assert all(s.optional for s in copies)
    assert arch.layers[hybrid[0]].caches[0] == FullAttention(32, 32, 160, 160)


def test_lfm2_layers_and_width() -> None:
    arch = read_architecture(dict(LFM2))
    assert [i for i, c in enumerate(arch.caches()) if isinstance(c, FullAttention)] == LFM2["full_attn_idxs"]
    assert arch.caches()[0] == ShortConvState(2048, 3)
    assert arch.intermediate_size == 8192  # two thirds of 12288
    assert read_architecture(LFM2 | {"block_auto_adjust_ff_dim": False}).intermediate_size == 12288
    assert read_architecture(LFM2 | {"block_ff_dim": 3000, "block_multiple_of": 256}).intermediate_size == 2048


def test_recurrent_gemma_cycle_and_rwkv_vectors() -> None:
    caches = read_architecture(default("recurrent_gemma")).caches()
    assert caches[:3] == (RgLruState(2560, 4, "F32"),) * 2 + (SlidingAttention(10, 10, 256, 256, 2048),)
    assert len(caches) == 26 and isinstance(caches[25], RgLruState)
    arch = read_architecture(default("rwkv"))
    assert set(arch.caches()) == {RwkvState(4096, 5)}
    assert arch.num_attention_heads is None and arch.head_dim is None


def test_mamba_has_no_heads_to_report() -> None:
    arch = read_architecture(dict(FALCON_MAMBA))
    assert (arch.num_attention_heads, arch.num_kv_heads, arch.head_dim) == (None, None, None)
    assert set(arch.caches()) == {Mamba1State(8192, 16, 4)}  # the published width, not expand · hidden_size


def test_mamba2_heads_must_fill_the_width() -> None:
    with pytest.raises(ContradictionError, match="Mamba heads"):
        read_architecture(default("mamba2") | {"num_heads": 100})
    with pytest.raises(ContradictionError, match="Mamba heads"):
        read_architecture(BAMBA | {"mamba_d_head": 32})


def test_mamba2_projection_splits_part_by_part() -> None:
    arch = read_architecture(dict(BAMBA))
    (spec,) = [s for s in arch.tensors if s.pattern == "model.layers.{}.mamba.in_proj.weight"]
    assert isinstance(spec, TensorSpec) and isinstance(spec.split, Column)
    assert spec.split.parts == (8192, 8192, 128, 128, 128) and sum(spec.split.parts) == spec.shape[0]
    assert spec.split.kv_heads == (None, None, 1, 1, None)


def test_qwen4_ngram_tables_have_prime_sizes() -> None:
    text = {
        "indexer_n_heads": 8,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 256,
        "ple_layer_ids": [2, 5],
        "num_hidden_layers": 8,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "ngram_vocab_size_base": 20000,
        "dtype": "bfloat16",
    }
    arch = read_architecture({"model_type": "qwen4_exp", "text_config": text})
    assert arch.expected_parameters() == 2_178_078_064  # transformers 5.23.0, meta device
    tables = [s for s in arch.tensors if s.pattern.endswith("ngram_embedding.weight")]
    assert [s.shape for s in tables] == [(321_280, 128), (323_584, 128)]
    # vLLM keeps them in pinned host memory (`EngramConfig.cpu_offload`)
    served = rank_weights(arch, synthesise(arch), Serving(512, engine="vllm", tp=2))
    assert served.host_bytes == (321_280 + 323_584) * 128 * 2
    assert [len(layer.caches) for layer in arch.layers[:8]] == [1, 2, 1, 1, 2, 1, 1, 1]
    assert arch.layers[3].caches == (IndexedAttention(16, 2, 256, 256, 256),)
    with pytest.raises(ContradictionError, match="ple_layer_ids"):
        read_architecture({"model_type": "qwen4_exp", "text_config": text | {"ple_layer_ids": [9]}})


def test_plamo2_by_hand() -> None:
    config = {
        "model_type": "plamo2",
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "hidden_size_per_head": 128,
        "num_key_value_heads": 1,
        "mamba_d_state": 64,
        "mamba_d_conv": 4,
        "mamba_num_heads": 32,
        "mamba_step": 2,
        "intermediate_size": 8192,
        "vocab_size": 100032,
        "torch_dtype": "float32",
    }
    arch = read_architecture(config)
    h, inner, rank = 2048, 32 * 128, 128
    attention = h * (18 * 128) + 16 * 128 * h + 17 * 128
    mamba = 2 * inner * h + inner * 4 + (rank + 128) * inner + 32 * rank + h * inner + 3 * 32 + rank + 128
    every = 3 * 8192 * h + 4 * h
    assert arch.expected_parameters() == 100032 * h + h + 8 * (attention + mamba) + 16 * every
    assert [isinstance(c, FullAttention) for c in arch.caches()] == [False, True] * 8
    assert arch.caches()[0] == Mamba2State(32, 128, 64, 0, 4)
    middle = read_architecture(config | {"mamba_step": 4, "num_hidden_layers": 6})
    assert [i for i, c in enumerate(middle.caches()) if isinstance(c, FullAttention)] == [2]


def test_rwkv_matrix_states() -> None:
    base = CASES["rwkv5"].config
    assert set(read_architecture(dict(base)).caches()) == {RwkvState(2048, 2, 32, 64)}
    arch = read_architecture(base | {"model_type": "rwkv6", "hidden_size": 4096})
    (mix,) = [s for s in arch.tensors if s.pattern.endswith("time_maa_w1")]
    assert mix.shape == (4096, 5 * 64)
    with pytest.raises(ContradictionError, match="attention_hidden_size"):
        read_architecture(base | {"attention_hidden_size": 2050})


def test_the_mamba_packages_own_configs() -> None:
    # no model_type; 2,768,345,600 and 2,702,599,680 parameters published
    first = {"d_model": 2560, "n_layer": 64, "vocab_size": 50277, "ssm_cfg": {}, "pad_vocab_size_multiple": 8}
    arch = read_architecture(dict(first))
    assert arch.expected_parameters() == 2_768_345_600
    assert set(arch.caches()) == {Mamba1State(5120, 16, 4)}
    second = first | {"ssm_cfg": {"layer": "Mamba2"}, "pad_vocab_size_multiple": 16}
    arch = read_architecture(dict(second))
    assert arch.expected_parameters() == 2_702_599_680
    assert set(arch.caches()) == {Mamba2State(80, 64, 128, 1, 4)}
    with pytest.raises(UnknownArchitectureError, match="attn_layer_idx"):
        read_architecture(second | {"attn_layer_idx": [9, 18]})
    with pytest.raises(UnknownArchitectureError, match="Mamba3"):
        read_architecture(first | {"ssm_cfg": {"layer": "Mamba3"}})


@pytest.mark.parametrize("name", CASES)
def test_garbage_is_refused_not_crashed_on(name: str) -> None:
    config = CASES[name].config
    for key in [k for k in config if k not in ("model_type", "torch_dtype", "dtype", "architectures")]:
        for junk in ("x", -1, [], {}, 10**20, 0, [None], 1.5, True):
            try:
                read_architecture(config | {key: junk})
            except HfmemError:
                continue
