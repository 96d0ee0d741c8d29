"""Logical weights of every packing: shapes as the quantizers write them, elements by hand, no byte lost."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_layouts import COMMON, Layout
from quantized_tensors import COMPRESSED_INT4, IN, OUT, Stored, config, logical

from hfmem.checkpoint.modules import LEAVES
from hfmem.checkpoint.quantization import (
    summarize,
)
from hfmem.dtypes import BITS

#: compressed-tensors' codes of three bits: ten a word before release 0.18, one after another since
THREE_BITS = COMPRESSED_INT4 | {
    "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 3, "group_size": 128, "symmetric": True}}
    }
}
THREE_BITS_A_ROW = COMPRESSED_INT4 | {
    "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 3, "strategy": "channel", "symmetric": True}}
    }
}

CASES: list[Layout] = [
    *COMMON,
    *(
        (
            f"compressed-tensors w3a16, {words} words, {groups} groups",
            {
                "weight_packed": ("I32", (OUT, words)),
                "weight_scale": ("BF16", (OUT, groups)),
                "weight_shape": ("I64", (2,)),
            },
            THREE_BITS if groups > 1 else THREE_BITS_A_ROW,
            "compressed-tensors",
            3,
            128 if groups > 1 else None,
        )
        for words, groups in ((IN * 3 // 32, IN // 128), (-(-IN // 10), IN // 128), (IN * 3 // 32, 1))
    ),
    (
        "compressed-tensors mxfp6",
        {"weight_packed": ("U8", (OUT, IN * 3 // 4)), "weight_scale": ("U8", (OUT, IN // 32))},
        {"quant_method": "compressed-tensors", "format": "mxfp6-pack-quantized"},
        "compressed-tensors",
        6,
        32,
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
    row = 410 * 32 if "410 words" in case else IN * bits // kept  # ten codes in each word of 32 bits
    assert summary.quantized_bytes - summary.overhead_bytes == 3 * OUT * row // 8


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F4", "I8", "U8", "U32"])
@pytest.mark.parametrize("scale", ["weight_scale", "weight_scale_inv", "scales"])
def test_a_single_number_beside_a_scale_is_itself(dtype: str, scale: str) -> None:
    groups = logical({"m.weight": (dtype, () if dtype != "F4" else (2,)), f"m.{scale}": ("F32", ())}, None)
    assert sum(group.total_bytes for group in groups) == (2 if dtype == "F4" else 1) * BITS[dtype] // 8 + 4


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
