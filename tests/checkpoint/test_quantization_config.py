"""What configuration files say of quantization, in the dialects of those who write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_tensors import COMPRESSED_INT4

from hfmem.checkpoint.quantization import (
    parse_quantization,
)
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.model.quantized import stored_as_said


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({"config.json": {}}, None),
        ({"config.json": {"quantization_config": {"load_in_4bit": False, "load_in_8bit": False}}}, None),
        ({"config.json": {"quantization_config": None}}, None),
        ({"sub/config.json": {"quantization_config": {"quant_method": "GPTQ", "bits": 4}}}, ("gptq", 4, None)),
        ({"quantize_config.json": {"bits": 4, "group_size": 128, "desc_act": False}}, ("gptq", 4, 128)),
        ({"quant_config.json": {"zero_point": True, "q_group_size": 64, "w_bit": 4}}, ("awq", 4, 64)),
        ({"config.json": {"quantization": {"group_size": 64, "bits": 4}}}, ("mlx", 4, 64)),
        ({"config.json": {"compression_config": COMPRESSED_INT4}}, ("compressed-tensors", 4, 128)),
        ({"config.json": {"text_config": {"quantization_config": COMPRESSED_INT4}}}, ("compressed-tensors", 4, 128)),
        (
            {"hf_quant_config.json": {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}},
            ("modelopt", 4, 16),
        ),
        (
            {"hf_quant_config.json": {"producer": {}, "quantization": {"quant_algo": "FP8", "exclude_modules": []}}},
            ("modelopt", 8, None),
        ),
        ({"config.json": {"quantization_config": {"quant_method": "mxfp4"}}}, ("mxfp4", 4, 32)),
        (
            {"config.json": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}},
            ("bitsandbytes", 4, 64),
        ),
        ({"config.json": {"quantization_config": {"quant_method": "never-heard"}}}, ("never-heard", None, None)),
        ({"config.json": {"quantization_config": {"quant_method": "fp8"}}}, ("fp8", 8, None)),
        ({"config.json": {"quantization_config": {"quant_method": "eetq"}}}, ("eetq", 8, None)),
        ({"quanto_qmap.json": {"model.layers.0.mlp.up_proj": "left to chance"}}, None),
        ({"quanto_map.json": {"model.layers.0.mlp.up_proj": {"weights": "qint8", "activations": "none"}}}, None),
    ],
)
def test_dialects(files: dict[str, Any], want: tuple[str, int | None, int | None] | None) -> None:
    said = parse_quantization(files)
    assert (said and (said.method, said.bits, said.group_size)) == want


@pytest.mark.parametrize(
    ("section", "ignored", "experts"),
    [
        # MiMo-V2.6: `ignored_layers` as vLLM and SGLang read it, FP4 experts by `store_dtype`
        ({"ignored_layers": ["model.layers.0.self_attn.o_proj"], "store_dtype": "mxfp4"}, ("o_proj",), "mxfp4"),
        (
            {"ignored_layers": [], "modules_to_not_convert": ["lm_head"]},
            ("lm_head",),
            None,
        ),  # vLLM: the next where it is empty
        ({"ignored_layers": None, "modules_to_not_convert": ["lm_head"]}, ("lm_head",), None),
        ({"ignored_layers": ["a"], "modules_to_not_convert": ["lm_head"]}, ("a",), None),
        ({"expert_dtype": "fp4", "store_dtype": "mxfp4"}, (), "fp4"),
    ],
)
def test_exceptions_and_experts_of_fp8(section: dict[str, Any], ignored: tuple[str, ...], experts: str | None) -> None:
    said = parse_quantization({"config.json": {"quantization_config": {"quant_method": "fp8", **section}}})
    assert said is not None
    assert (tuple(name.rpartition(".")[2] for name in said.ignored), said.expert_dtype) == (ignored, experts)


@pytest.mark.parametrize("key", ["packing_format", "backend"])
def test_auto_round_says_whose_layout_it_packs(key: str) -> None:
    section = {"quant_method": "auto-round", "bits": 4, "group_size": 128, key: "auto_round:auto_awq"}
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None and (said.algorithm, said.bits) == ("auto_round:auto_awq", 4)


def test_details() -> None:
    said = parse_quantization(
        {
            "config.json": {
                "quantization_config": {
                    **COMPRESSED_INT4,
                    "config_groups": {
                        "a": {"targets": ["re:.*experts.*"], "weights": {"num_bits": 4, "group_size": 32}},
                        "b": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}},
                    },
                    "ignore": ["lm_head", "re:.*visual.*", "model.layers.3*", "router"],
                    "kv_cache_scheme": {"num_bits": 8, "type": "float"},
                }
            }
        }
    )
    assert said is not None
    assert said.kv_cache == "float8"
    assert (said.bits_of("m.experts.0.w1"), said.group_size_of("m.experts.0.w1")) == (4, 32)
    ignored = said.exceptions()
    assert ignored("model.visual.blocks.0.qkv")
    assert ignored("lm_head")
    assert ignored("model.layers.3.mlp.up")
    assert ignored("model.layers.0.mlp.router")
    assert not ignored("model.layers.4.mlp.up")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    [
        *("quant_method", "bits", "group_size", "config_groups", "ignore", "quantization", "quant_config", "dynamic"),
        *("kv_cache_scheme", "weight_block_size", "quant_algo", "quant_type", "load_in_4bit", "producer", "format"),
    ]
)


@given(
    st.dictionaries(keys, json_values), st.sampled_from(["config.json", "hf_quant_config.json", "quantize_config.json"])
)
@settings(deadline=None, max_examples=200)
def test_any_configuration_is_read_or_ignored(value: dict[str, Any], file: str) -> None:
    parse_quantization({file: {"quantization_config": value} if file == "config.json" else value})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        # what vLLM 0.33's `resolve_kv_cache_dtype_string` returned for `auto` (auto: None)
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, None),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "INT8"}, None),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8_E5M2"}, None),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": None}, None),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}}, "fp8"),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"dynamic": True, "num_bits": 8, "type": "float"}}, None),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, None),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "int"}}, None),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"dynamic": False, "num_bits": 4, "type": "float"}}, "nvfp4"),
        (
            {
                "quant_method": "modelopt",
                "kv_cache_quant_algo": "FP8",
                "kv_cache_scheme": {"dynamic": False, "num_bits": 4, "type": "float"},
            },
            "nvfp4",
        ),
        (
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}},
            "fp8",
        ),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8"),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": None}, None),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "hf_quant_config.json"])
def test_cache_format_that_a_checkpoint_declares(keys: dict[str, Any], expected: str | None, file: str) -> None:
    files = {"config.json": {"quantization_config": keys}} if file == "config.json" else {"config.json": {}, file: keys}
    said = parse_quantization(files)
    assert said is not None
    assert said.kv_format == expected


def test_experts_in_a_format_of_their_own() -> None:
    """DeepSeek V4: `expert_dtype` fp4 beside a section that says fp8. Routed experts take 4 bits and a byte for each 32, what is
    shared 8 bits and 4 bytes for each 128 × 128."""
    section = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    said = parse_quantization({"config.json": {"expert_dtype": "fp4", "quantization_config": section}})
    assert said is not None and said.expert_dtype == "fp4"
    experts = TensorGroup("layers.{}.ffn.experts.{}.w1.weight", "BF16", (256, 512), ((range(2), range(4)),))
    shared = TensorGroup("layers.{}.ffn.shared_experts.w1.weight", "BF16", (256, 512), ((range(2),),))
    found = stored_as_said((experts, shared), said)
    assert found is not None
    sizes = {group.pattern: group.total_bytes for group in found}
    assert sizes[experts.pattern] == 8 * (256 * 256 + 256 * 16)
    assert sizes[shared.pattern] == 2 * (256 * 512 + 2 * 4 * 4)
    plain = parse_quantization({"config.json": {"quantization_config": section}})
    assert plain is not None and plain.expert_dtype is None
