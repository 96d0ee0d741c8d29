"""State-space models, hybrids and other recurrent families.

Expected totals and transformers' constant state: measured with transformers 5.23.0 on the meta device (tied once). Growth per token
in bf16.
"""

from __future__ import annotations

import pytest
from recurrent_configs import (
    BAMBA,
    CASES,
    FALCON_H1,
    FALCON_MAMBA,
    JAMBA_LARGE,
    LFM2,
    NANO,
    QWEN3_NEXT,
    QWEN35_27B,
    QWEN35_35B,
    REAP_18B,
    TEXT_27B,
    default,
)

from hfmem.errors import ContradictionError, HfmemError, UnknownArchitectureError
from hfmem.memory.cache import bytes_per_token, state_bytes_per_seq
from hfmem.memory.drafts import prediction_layers
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
    assert "model.layers.{}.self_attn.q_proj.weight" in {s.pattern for s in read_architecture(dict(TEXT_27B)).tensors}


def test_qwen35_text_keys_at_the_top_level() -> None:
    flat = {k: v for k, v in TEXT_27B.items() if k != "model_type"} | {"model_type": "qwen3_5"}
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


def test_value_heads_share_key_heads() -> None:
    """16 key heads serve 32 value heads two by two; 31 cannot be dealt out."""
    with pytest.raises(ContradictionError, match="31 value heads cannot share 16 key heads"):
        read_architecture(QWEN3_NEXT | {"linear_num_value_heads": 31})


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


def test_qwen4_prediction_layer() -> None:
    """Its 31 tensors in the published Qwen3.8-Flash-Next have 2,607,150,848 elements; vLLM keeps its rows like the trunk's."""
    text = {
        "mtp_num_hidden_layers": 1,
        "hc_lowrank": 320,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 128,
    }
    text |= {
        "hidden_size": 2560,
        "moe_intermediate_size": 640,
        "shared_expert_intermediate_size": 640,
        "num_experts": 512,
    }
    text |= {
        "num_experts_per_tok": 10,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "hc_count": 4,
    }
    config = {"model_type": "qwen4_exp_text", "dtype": "bfloat16", "num_hidden_layers": 4, "vocab_size": 320, **text}
    arch = read_architecture(config)
    assert arch.parameters_by_component()[Component.MTP] == 2_607_150_848
    assert prediction_layers(arch)[0].caches == (IndexedAttention(24, 2, 256, 256, 128),)
    assert Component.MTP not in read_architecture(config | {"mtp_num_hidden_layers": 0}).parameters_by_component()


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
