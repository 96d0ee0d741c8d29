"""Models whose layers differ by entries of their own, blocks with neighbours' inputs, and configs read as another type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hfmem
from hfmem.errors import ContradictionError, MissingKeyError, UnknownArchitectureError, UnsupportedError
from hfmem.memory.cache import bytes_per_token
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import FullAttention, Mamba2State, NoCache, ShortConvState

BF16 = {"dtype": "bfloat16", "tie_word_embeddings": False}
PUZZLE: dict[str, Any] = {
    "model_type": "nemotron_h_puzzle",
    "architectures": ["NemotronHPuzzleForCausalLM"],
    **BF16,
    "hidden_size": 64,
    "vocab_size": 100,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "n_groups": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "num_experts_per_tok": 2,
    "moe_shared_expert_intermediate_size": 48,
    "block_configs": [
        {"block_type": "mamba"},
        {"block_type": "moe", "n_routed_experts": 8, "moe_intermediate_size": 32},
        {"block_type": "attention"},
        {"block_type": "moe", "n_routed_experts": 4, "moe_intermediate_size": 16},
        {"block_type": "attention", "num_key_value_heads": 1},
    ],
}
MAMBA = (2 * 64 + 2 * 2 * 8 + 4) * 64 + (64 + 2 * 2 * 8) * 5 + 3 * 4 + 64 + 64 * 64


def experts(count: int, width: int) -> int:
    return count * 64 + count * 2 * 64 * width + 2 * 64 * 48


def test_nemotron_h_cut_by_search() -> None:
    arch = read_architecture(PUZZLE)
    attention = 2 * 64 * 64 + 2 * 32 * 64, 2 * 64 * 64 + 2 * 16 * 64
    expected = MAMBA + sum(attention) + experts(8, 32) + experts(4, 16) + 5 * 64 + 2 * 100 * 64 + 64
    assert arch.expected_parameters() == expected
    assert [type(c) for c in arch.caches()] == [Mamba2State, NoCache, FullAttention, NoCache, FullAttention]
    assert bytes_per_token(arch) == 2 * 16 * (2 + 1) * 2
    # prediction layers with blocks of their own
    own = {"num_nextn_predict_layers": 1, "mtp_block_configs": [PUZZLE["block_configs"][2], PUZZLE["block_configs"][3]]}
    mtp = attention[0] + experts(4, 16) + 2 * 64 + 2 * 64 * 64 + 3 * 64
    assert read_architecture(PUZZLE | own).parameters_by_component()[Component.MTP] == mtp


def test_what_a_block_must_say() -> None:
    for entry, error, words in (
        ({"n_routed_experts": 4}, ContradictionError, "entry 0 of 'block_configs' names no 'block_type'"),
        ({"block_type": "ring"}, UnknownArchitectureError, "'block_configs.block_type' is 'ring'"),
        ({"block_type": "moe"}, MissingKeyError, "'n_routed_experts'"),
    ):
        with pytest.raises(error, match=words):
            read_architecture(PUZZLE | {"block_configs": [entry]})
    with pytest.raises(MissingKeyError, match="'block_configs'"):
        read_architecture({key: value for key, value in PUZZLE.items() if key != "block_configs"})


def test_yuan_2() -> None:
    # IEITYuan/Yuan2-2B-hf: keys of its config.json
    data = {
        "model_type": "yuan",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "dtype": "bfloat16",
    }
    data |= {"num_attention_heads": 32, "vocab_size": 135040, "tie_word_embeddings": True}
    arch = read_architecture(data)
    filters = 2 * (1024 * 2048 * 2) + 1024 + 2048 + 2048
    layer = 4 * 2048 * 2048 + filters + 3 * 2048 * 8192 + 2 * 2048
    assert arch.expected_parameters() == 24 * layer + 135040 * 2048 + 2048
    assert {c for c in arch.caches() if isinstance(c, ShortConvState)} == {ShortConvState(2048, 3)}
    with pytest.raises(UnknownArchitectureError, match="'use_shareqk' is 'true'"):
        read_architecture(data | {"use_shareqk": True})


def test_plamo_1() -> None:
    data = {"model_type": "plamo", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, **BF16}
    arch = read_architecture(data | {"num_attention_heads": 8, "n_shared_head": 4, "vocab_size": 100})
    assert arch.expected_parameters() == 2 * (2 * 64 * 64 + 2 * 16 * 64 + 3 * 64 * 128 + 64) + 2 * 100 * 64 + 64
    assert bytes_per_token(arch) == 2 * 2 * 2 * 8 * 2


def test_an_assumed_type_is_that_of_the_part_with_the_sizes() -> None:
    text = {"model_type": "foo_text", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100}
    wrapper = {"model_type": "foo", "dtype": "bfloat16", "vision_config": {"hidden_size": 32}, "llm_config": text}
    arch = read_architecture(wrapper, assume="llama")
    alone = read_architecture({**text, "dtype": "bfloat16", "model_type": "llama"})
    assert (arch.expected_parameters(), arch.dtype) == (alone.expected_parameters(), "BF16")
    # a type that has such a part itself reads the whole config
    whole = {**wrapper, "text_config": {**text, "model_type": "llama"}}
    assert read_architecture(whole, assume="llava").expected_parameters() > arch.expected_parameters()


def test_youtu_llm_under_its_first_name() -> None:
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 100,
    }
    ranks = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "v_head_dim": 16, "qk_nope_head_dim": 16}
    first = read_architecture({"model_type": "youtu_llm", "dtype": "bfloat16", **sizes, **ranks})
    now = read_architecture({"model_type": "youtu", "dtype": "bfloat16", **sizes, **ranks})
    assert first.tensors == now.tensors


def test_a_refusal_says_where_the_sizes_are() -> None:
    text = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    with pytest.raises(UnknownArchitectureError, match="its 'llm_config' looks like llama"):
        read_architecture({"model_type": "foo", "llm_config": text, "vision_config": {}})


def test_who_serves_them(tmp_path: Path) -> None:
    # registries: vLLM 0.33.0 `registry.py`, SGLang 0.5.23 `models/*.py` (EntryClass), llama.cpp `conversion/`
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    data = {"model_type": "yuan", "architectures": ["YuanForCausalLM"], "max_position_embeddings": 128, **BF16, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(data))
    for engine, words in (
        ("vllm", "vLLM 0.33 does not serve yuan models"),
        ("sglang", "no state pool for yuan models"),
        ("llama.cpp", "llama.cpp has no yuan models"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            hfmem.estimate(str(tmp_path), context=64, engine=engine)
    (tmp_path / "config.json").write_text(json.dumps(PUZZLE | {"max_position_embeddings": 128}))
    for engine in ("vllm", "sglang", "llama.cpp"):
        assert hfmem.estimate(str(tmp_path), context=64, engine=engine).kv_cache.bytes > 0
