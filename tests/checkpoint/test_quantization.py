"""Logical weights of every packing: shapes as the quantizers write them, elements by hand, no byte lost."""

from __future__ import annotations

import csv
import gzip
import json
import os
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfmem.checkpoint.grouping import group_tensors
from hfmem.checkpoint.merge import merge
from hfmem.checkpoint.modules import LEAVES
from hfmem.checkpoint.quantization import (
    LogicalGroup,
    Quantization,
    is_buffer,
    logical_groups,
    parse_quantization,
    summarize,
)
from hfmem.checkpoint.safetensors import parse_header
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.dtypes import BITS, num_bytes
from hfmem.model.quantized import stored_as_said

Stored = dict[str, tuple[str, tuple[int, ...]]]


def logical(tensors: Stored, said: Quantization | None = None) -> tuple[LogicalGroup, ...]:
    """The logical groups, checked: every stored byte is in exactly one."""
    groups = logical_groups(group_tensors((n, d, s) for n, (d, s) in tensors.items()), said)
    stored = sum(num_bytes(dtype, prod(shape)) for dtype, shape in tensors.values())
    assert sum(group.total_bytes for group in groups) == stored
    return groups


def config(**quantization: Any) -> Quantization | None:
    return parse_quantization({"config.json": {"quantization_config": quantization}})


OUT, IN = 1024, 4096
COMPRESSED_INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 128, "symmetric": True}}
    },
    "ignore": ["lm_head"],
}

# name of the case, leaves of a module whose weight is [OUT, IN], what the config says, method, bits, group size
CASES: list[tuple[str, Stored, dict[str, Any] | None, str, int, int | None]] = [
    *(
        (
            f"gptq-{bits}bit{'-said' if said else ''}",
            {
                "qweight": ("I32", (IN * bits // 32, OUT)),
                "qzeros": ("I32", (IN // 128, OUT * bits // 32)),
                "scales": ("F16", (IN // 128, OUT)),
                "g_idx": ("I32", (IN,)),
            },
            {"quant_method": "gptq", "bits": bits, "group_size": 128, "desc_act": True} if said else None,
            "gptq",
            bits,
            128,
        )
        for bits in (2, 3, 4, 8)
        for said in (True, False)
    ),
    (
        "gptq one group, no zeros",
        {"qweight": ("I32", (IN // 8, OUT)), "scales": ("F16", (1, OUT)), "g_idx": ("I32", (IN,))},
        {"quant_method": "gptq", "bits": 4, "group_size": -1},
        "gptq",
        4,
        None,
    ),
    (
        "awq gemm",
        {
            "qweight": ("I32", (IN, OUT // 8)),
            "qzeros": ("I32", (IN // 64, OUT // 8)),
            "scales": ("F16", (IN // 64, OUT)),
        },
        None,
        "awq",
        4,
        64,
    ),
    (
        "awq gemv",
        {"qweight": ("I32", (OUT, IN // 8)), "qzeros": ("I32", (OUT, 4)), "scales": ("F16", (OUT, IN // 128))},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"},
        "awq",
        4,
        128,
    ),
    (
        "bitsandbytes nf4, nested",
        {
            "weight": ("U8", (OUT * IN // 2, 1)),
            "weight.absmax": ("U8", (OUT * IN // 64,)),
            "weight.quant_map": ("F32", (16,)),
            "weight.nested_absmax": ("F32", (OUT * IN // 64 // 256,)),
            "weight.nested_quant_map": ("F32", (256,)),
            "weight.quant_state.bitsandbytes__nf4": ("U8", (91,)),
        },
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "bitsandbytes",
        4,
        64,
    ),
    (
        "bitsandbytes fp4 stored as bf16",
        {
            "weight": ("BF16", (OUT * IN // 4, 1)),
            "weight.absmax": ("F32", (OUT * IN // 64,)),
            "weight.quant_map": ("F32", (16,)),
            "weight.quant_state.bitsandbytes__fp4": ("U8", (80,)),
        },
        None,
        "bitsandbytes",
        4,
        64,
    ),
    (
        "bitsandbytes int8",
        {"weight": ("I8", (OUT, IN)), "SCB": ("F32", (OUT,)), "weight_format": ("U8", ())},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "bitsandbytes",
        8,
        None,
    ),
    (
        "fp8 blocks",
        {"weight": ("F8_E4M3", (OUT, IN)), "weight_scale_inv": ("F32", (OUT // 128, IN // 128))},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "fp8",
        8,
        None,
    ),
    ("fp8 per tensor", {"weight": ("F8_E4M3", (OUT, IN)), "weight_scale": ("F32", ())}, None, "fp8", 8, None),
    (
        "fp8 per channel, static input",
        {"weight": ("F8_E4M3", (OUT, IN)), "weight_scale": ("BF16", (OUT, 1)), "input_scale": ("F32", (1,))},
        None,
        "fp8",
        8,
        None,
    ),
    (
        "compressed-tensors w4a16",
        {
            "weight_packed": ("I32", (OUT, IN // 8)),
            "weight_scale": ("BF16", (OUT, IN // 128)),
            "weight_shape": ("I64", (2,)),
        },
        COMPRESSED_INT4,
        "compressed-tensors",
        4,
        128,
    ),
    (
        "compressed-tensors w4a16 asymmetric, act-order",
        {
            "weight_packed": ("I32", (OUT, IN // 8)),
            "weight_scale": ("BF16", (OUT, IN // 128)),
            "weight_zero_point": ("I32", (OUT // 8, IN // 128)),
            "weight_g_idx": ("I32", (IN,)),
            "weight_shape": ("I64", (2,)),
        },
        COMPRESSED_INT4,
        "compressed-tensors",
        4,
        128,
    ),
    (
        "compressed-tensors w8a8",
        {"weight": ("I8", (OUT, IN)), "weight_scale": ("BF16", (OUT, 1)), "weight_zero_point": ("I8", (OUT, 1))},
        {**COMPRESSED_INT4, "format": "int-quantized"},
        "compressed-tensors",
        8,
        None,
    ),
    (
        "compressed-tensors nvfp4",
        {
            "weight_packed": ("U8", (OUT, IN // 2)),
            "weight_scale": ("F8_E4M3", (OUT, IN // 16)),
            "weight_global_scale": ("F32", (1,)),
            "input_global_scale": ("F32", (1,)),
        },
        None,
        "compressed-tensors",
        4,
        16,
    ),
    (
        "compressed-tensors int4-quantized",
        {"weight_packed": ("I8", (OUT, IN // 2)), "weight_scale": ("BF16", (OUT, IN // 128))},
        {"quant_method": "compressed-tensors", "format": "int4-quantized"},
        "compressed-tensors",
        4,
        128,
    ),
    (
        "compressed-tensors mxfp4",
        {"weight_packed": ("U8", (OUT, IN // 2)), "weight_scale": ("U8", (OUT, IN // 32))},
        None,
        "compressed-tensors",
        4,
        32,
    ),
    (
        "compressed-tensors 2:4 bitmask over fp8",
        {
            "compressed": ("F8_E4M3", (OUT, IN // 2)),
            "bitmask": ("U8", (OUT, IN // 8)),
            "shape": ("I64", (2,)),
            "weight_scale": ("BF16", (OUT, 1)),
        },
        {**COMPRESSED_INT4, "sparsity_config": {"format": "sparse-24-bitmask"}},
        "compressed-tensors",
        8,
        None,
    ),
    (
        "compressed-tensors marlin 2:4",
        {
            "weight_packed": ("I32", (IN // 32, OUT * 2)),
            "scale_packed": ("F16", (IN // 128, OUT)),
            "meta": ("I16", (IN // 32, OUT * 2)),
        },
        COMPRESSED_INT4,
        "compressed-tensors",
        4,
        128,
    ),
    (
        "modelopt nvfp4",
        {
            "weight": ("U8", (OUT, IN // 2)),
            "weight_scale": ("F8_E4M3", (OUT, IN // 16)),
            "weight_scale_2": ("F32", ()),
            "input_scale": ("F32", ()),
        },
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        "modelopt",
        4,
        16,
    ),
    (
        "modelopt w4a8 awq",
        {
            "weight": ("U8", (OUT // 2, IN)),
            "weight_scale": ("BF16", (OUT, IN // 128)),
            "weight_scale_2": ("F32", ()),
            "pre_quant_scale": ("BF16", (IN,)),
        },
        {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"},
        "modelopt",
        4,
        128,
    ),
    (
        "quark mxfp4",
        {"weight": ("U8", (OUT, IN // 2)), "weight_scale": ("U8", (OUT, IN // 32))},
        {"quant_method": "quark"},
        "quark",
        4,
        32,
    ),
    (
        "quark mxfp6",
        {"weight": ("U8", (OUT, IN * 3 // 4)), "weight_scale": ("U8", (OUT, IN // 32))},
        {"quant_method": "quark"},
        "quark",
        6,
        32,
    ),
    (
        "deepseek mxfp4 experts",
        {"weight": ("I8", (OUT, IN // 2)), "scale": ("F8_E8M0", (OUT, IN // 32))},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "fp8",
        4,
        32,
    ),
    (
        "mlx 4 bit",
        {
            "weight": ("U32", (OUT, IN // 8)),
            "scales": ("BF16", (OUT, IN // 64)),
            "biases": ("BF16", (OUT, IN // 64)),
        },
        None,
        "mlx",
        4,
        64,
    ),
    (
        "mlx 6 bit in groups of 32",
        {
            "weight": ("U32", (OUT, IN * 6 // 32)),
            "scales": ("F16", (OUT, IN // 32)),
            "biases": ("F16", (OUT, IN // 32)),
        },
        {"group_size": 32, "bits": 6},
        "mlx",
        6,
        32,
    ),
    (
        "eetq",
        {"weight": ("I8", (IN, OUT)), "weight_scales": ("F16", (OUT,))},
        {"quant_method": "eetq"},
        "eetq",
        8,
        None,
    ),
    (
        "bitnet",
        {"weight": ("U8", (OUT // 4, IN)), "weight_scale": ("BF16", (1,))},
        {"quant_method": "bitnet"},
        "bitnet",
        2,
        None,
    ),
    (
        "hqq",
        {
            "W_q": ("U8", (64 // 2, OUT * IN // 64)),
            "scale": ("F16", (1, OUT * IN // 64)),
            "zero": ("F16", (1, OUT * IN // 64)),
            "shape": ("I64", (2,)),
            "nbits": ("I64", ()),
        },
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
        "hqq",
        4,
        64,
    ),
    (
        "aqlm 2 bit",
        {
            "codes": ("I16", (OUT, IN // 8, 1)),
            "codebooks": ("F16", (1, 65536, 1, 8)),
            "scales": ("F16", (OUT, 1, 1, 1)),
        },
        {"quant_method": "aqlm"},
        "aqlm",
        2,
        None,
    ),
    (
        "quip# e8p12",
        {"Qidxs": ("I16", (OUT, IN // 8)), "SU": ("F16", (IN,)), "SV": ("F16", (OUT,)), "Wscale": ("F32", ())},
        None,
        "quip",
        2,
        None,
    ),
    (
        "exl3 4 bit",
        {"trellis": ("I16", (IN // 16, OUT // 16, 64)), "suh": ("F16", (IN,)), "svh": ("F16", (OUT,))},
        None,
        "exl3",
        4,
        None,
    ),
    (
        "exl2 4 bit",
        {
            "q_weight": ("I32", (IN // 8, OUT)),
            "q_scale": ("I32", (32, OUT // 8)),
            "q_scale_max": ("F16", (32,)),
            "q_groups": ("I16", (64,)),
            "q_invperm": ("I32", (IN,)),
        },
        None,
        "exl2",
        4,
        None,
    ),
    (
        "torchao int4, tiled",
        {
            "_weight_qdata": ("I32", (OUT // 8, IN // 128, 32, 4)),
            "_weight_scale_and_zero": ("BF16", (IN // 128, OUT, 2)),
        },
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
        "torchao",
        4,
        None,
    ),
    (
        "torchao fp8",
        {"weight:qdata": ("F8_E4M3", (OUT, IN)), "weight:scale": ("F32", (OUT, 1))},
        {"quant_method": "torchao", "quant_type": "float8_weight_only"},
        "torchao",
        8,
        None,
    ),
    (
        "fp_quant mxfp4",
        {"qweight": ("U8", (OUT, IN // 2)), "scales": ("U8", (OUT, IN // 32)), "dqweight": ("BF16", (0,))},
        {"quant_method": "fp_quant"},
        "fp_quant",
        4,
        32,
    ),
]


@pytest.mark.parametrize(("case", "leaves", "said", "method", "bits", "group"), CASES, ids=[c[0] for c in CASES])
def test_one_weight_of_each_layout(
    case: str, leaves: Stored, said: dict[str, Any] | None, method: str, bits: int, group: int | None
) -> None:
    tensors = {f"model.layers.{i}.self_attn.q_proj.{leaf}": fact for i in range(3) for leaf, fact in leaves.items()}
    tensors["model.layers.0.self_attn.q_proj.bias"] = ("F16", (OUT,))
    tensors["model.norm.weight"] = ("F16", (IN,))
    weight, *rest = logical(tensors, config(**said) if said else None)
    assert weight.pattern == "model.layers.{}.self_attn.q_proj.weight"
    assert weight.total_elements == 3 * OUT * IN
    assert weight.count == 3
    assert (weight.method, weight.bits, weight.group_size) == (method, bits, group)
    assert len(weight.parts) == len(leaves)
    assert {(g.pattern, g.total_elements, g.method) for g in rest} == {
        ("model.layers.{}.self_attn.q_proj.bias", OUT, None),
        ("model.norm.weight", IN, None),
    }
    if weight.shape_known:
        assert sorted(weight.shape) == [OUT, IN]
    summary = summarize((weight, *rest))
    assert summary is not None
    assert summary.recognized
    assert summary.quantized_elements == 3 * OUT * IN
    assert summary.plain_elements == OUT + IN
    kept = 2 if "2:4" in case else 1  # half of the codes, and which half
    assert bits <= kept * summary.bits_per_weight < bits + 3
    assert summary.quantized_bytes - summary.overhead_bytes == 3 * OUT * IN * bits // 8 // kept


def test_blocks_of_fp8_are_named() -> None:
    weight, *_ = logical(
        {"a.weight": ("F8_E4M3", (576, 7168)), "a.weight_scale_inv": ("F32", (5, 56))},
        config(quant_method="fp8", weight_block_size=[128, 128]),
    )
    assert weight.block == (128, 128)
    weight, *_ = logical({"a.weight": ("F8_E4M3", (512, 256)), "a.weight_scale_inv": ("F32", (4, 2))})
    assert weight.block == (128, 128)


def test_stacked_experts_without_a_weight_leaf() -> None:
    experts = "model.layers.0.mlp.experts.gate_up_proj"
    groups = logical(
        {
            f"{experts}_blocks": ("U8", (32, 5760, 90, 16)),
            f"{experts}_scales": ("U8", (32, 5760, 90)),
            f"{experts}_bias": ("BF16", (32, 5760)),
        }
    )
    assert [(g.pattern, g.elements, g.method) for g in groups] == [
        ("model.layers.{}.mlp.experts.gate_up_proj", 32 * 5760 * 2880, "mxfp4"),
        ("model.layers.{}.mlp.experts.gate_up_proj_bias", 32 * 5760, None),
    ]
    packed = {
        experts: ("U8", (8, IN // 2, OUT)),
        f"{experts}_weight_scale": ("F8_E4M3", (8, IN // 16, OUT)),
        f"{experts}_weight_scale_2": ("F32", (1,)),
        f"{experts}_input_scale": ("F32", (1,)),
    }
    groups = logical(packed, config(quant_method="modelopt", quant_algo="NVFP4"))
    assert [(g.elements, g.bits) for g in groups] == [(8 * IN * OUT, 4)]
    groups = logical({experts: ("F8_E4M3", (8, 512, 256)), f"{experts}_scale_inv": ("F32", (8, 4, 2))})
    assert [(g.pattern, g.elements, g.method) for g in groups] == [
        ("model.layers.{}.mlp.experts.gate_up_proj", 8 * 512 * 256, "fp8")
    ]


def test_layers_that_stay_unquantized_are_told_apart() -> None:
    tensors: Stored = {}
    for i in range(10):
        name = f"layers.{i}.down_proj"
        tensors[f"{name}.input_scale"] = ("F32", ())
        if i in (0, 9):
            tensors[f"{name}.weight"] = ("BF16", (64, 128))
        else:
            tensors[f"{name}.weight"] = ("U8", (64, 64))
            tensors[f"{name}.weight_scale"] = ("F8_E4M3", (64, 8))
            tensors[f"{name}.weight_scale_2"] = ("F32", ())
    groups = logical(tensors, config(quant_method="modelopt", quant_algo="NVFP4"))
    assert sum(g.total_elements for g in groups) == 10 * 64 * 128
    quantized = [g for g in groups if g.method]
    assert [(g.count, g.elements) for g in quantized] == [(8, 64 * 128)]
    assert list(quantized[0].indices()) == [(i,) for i in range(1, 9)]


def test_scales_of_the_kv_cache_are_no_parameters() -> None:
    tensors: Stored = {
        "l.0.self_attn.k_scale": ("F32", ()),
        "l.0.self_attn.k_proj.weight": ("F8_E4M3", (8, 8)),
        "l.0.self_attn.k_proj.weight_scale": ("F32", ()),
        "l.0.self_attn.k_proj.k_scale": ("F32", ()),
    }
    assert sum(g.total_elements for g in logical(tensors)) == 64


def test_a_scale_of_an_unquantized_model_is_a_parameter() -> None:
    tensors: Stored = {"norm.weight": ("BF16", (64,)), "norm.scale": ("BF16", (64,)), "x.scales": ("F32", (3,))}
    groups = logical(tensors)
    assert sum(g.total_elements for g in groups) == 131
    assert summarize(groups) is None


def test_what_no_layout_explains_counts_as_stored_and_says_so() -> None:
    tensors: Stored = {"a.weird_codes": ("I32", (64, 64)), "a.weird_scale": ("F16", (64,))}
    said = config(quant_method="brand-new", bits=3)
    groups = logical(tensors, said)
    assert sum(g.total_elements for g in groups) == 64 * 64 + 64
    summary = summarize(groups, said)
    assert summary is not None
    assert not summary.recognized
    assert summary.method == "brand-new"
    unsaid = summarize(groups)
    assert unsaid is not None
    assert not unsaid.recognized


@pytest.mark.parametrize(
    ("name", "shape", "buffer"),
    [
        ("model.layers.{}.self_attn.rotary_emb.inv_freq", (64,), True),
        ("model.layers.{}.mlp.gate.e_score_correction_bias", (256,), True),
        ("transformer.h.{}.attn.bias", (1, 1, 1024, 1024), True),
        ("transformer.h.{}.attn.bias", (768,), False),
        ("embeddings.position_ids", (1, 512), True),
        ("final_logits_bias", (1, 50265), True),
        ("model.layers.{}.self_attn.q_proj.bias", (4096,), False),
        ("model.layers.{}.self_attn.q_proj.weight", (1, 1, 3, 3), False),
    ],
)
def test_buffers(name: str, shape: tuple[int, ...], buffer: bool) -> None:
    assert is_buffer(name, shape) is buffer


# ------------------------------------------------------------------ configuration files


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
    ],
)
def test_dialects(files: dict[str, Any], want: tuple[str, int | None, int | None] | None) -> None:
    said = parse_quantization(files)
    assert (said and (said.method, said.bits, said.group_size)) == want


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
    assert said.ignores("model.visual.blocks.0.qkv")
    assert said.ignores("lm_head")
    assert said.ignores("model.layers.3.mlp.up")
    assert said.ignores("model.layers.0.mlp.router")
    assert not said.ignores("model.layers.4.mlp.up")


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


any_fact = st.tuples(st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 40), max_size=4).map(tuple)).filter(
    lambda fact: prod(fact[1]) * BITS[fact[0]] % 8 == 0
)


@given(
    st.dictionaries(st.sampled_from(sorted(LEAVES)), any_fact, min_size=1, max_size=6),
    st.none() | st.sampled_from([c[2] for c in CASES]),
)
@settings(deadline=None, max_examples=500)
def test_no_shape_crashes_or_loses_a_byte(leaves: Stored, said: dict[str, Any] | None) -> None:
    groups = logical({f"m.{leaf}": fact for leaf, fact in leaves.items()}, config(**said) if said else None)
    assert all(group.elements >= 0 for group in groups)
    summarize(groups)


# ------------------------------------------------------------------ real layouts


def read_files(corpus: Path, name: str) -> dict[str, Any]:
    files = {}
    for file in ("config.json", "hf_quant_config.json", "quantize_config.json"):
        path = corpus / "models" / name / file
        if path.exists():
            files[file] = json.loads(path.read_text())
    return files


@pytest.mark.conformance
@pytest.mark.skipif("HFMEM_CORPUS" not in os.environ, reason="HFMEM_CORPUS names no folder")
def test_real_headers_have_their_logical_parameters() -> None:
    corpus = Path(os.environ["HFMEM_CORPUS"])
    folder = corpus.parent / "headers"
    with (folder / "INDEX.tsv").open() as lines:
        rows = {row["id"].replace("/", "__"): row for row in csv.DictReader(lines, delimiter="\t")}
    quantized = 0
    for path in sorted(folder.glob("*.json.gz")):
        name = path.name.removesuffix(".json.gz")
        shards = json.loads(gzip.decompress(path.read_bytes()))["shards"]
        stored = merge({file: parse_header(json.dumps(header).encode(), file=file) for file, header in shards.items()})
        said = parse_quantization(read_files(corpus, name))
        for hint in {said, None}:
            groups = logical_groups(stored, hint)
            summary = summarize(groups, hint)
            assert sum(group.total_elements for group in groups) == int(rows[name]["params"]), name
            assert sum(group.total_bytes for group in groups) == int(rows[name]["total_bytes"]), name
            assert summary is None or summary.recognized, name
        quantized += said is not None
    assert quantized >= 9


@pytest.mark.conformance
@pytest.mark.skipif("HFMEM_CORPUS" not in os.environ, reason="HFMEM_CORPUS names no folder")
def test_real_configurations_are_understood() -> None:
    corpus = Path(os.environ["HFMEM_CORPUS"])
    with (corpus / "INDEX.tsv").open() as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["has_config"] == "1"]
    for row in rows:
        said = parse_quantization(read_files(corpus, row["id"].replace("/", "__")))
        column = row["quantisation"]
        if column not in ("-", "?"):
            assert said is not None, row["id"]
            assert said.known, row["id"]
            assert said.method == column.partition("-")[0] or column.startswith(said.method), row["id"]


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
