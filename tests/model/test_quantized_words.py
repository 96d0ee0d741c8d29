"""Weights where only config.json is at hand and its section has words of its own: torchao, BitNet, AQLM.

torchao: the tensors that version 0.18.0 stored of a bf16 `[96, 512]` linear layer; INT4, whose kernels need a GPU: the shapes of
its source.
"""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from hfmem.checkpoint.quantization_config import parse_quantization
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.dtypes import BITS
from hfmem.model.families.registry import read_architecture
from hfmem.model.quantized import stored_as_said

LINEAR = TensorGroup("model.layers.{}.mlp.up_proj.weight", "BF16", (96, 512), ((range(3),),))
HEAD = TensorGroup("lm_head.weight", "BF16", (1000, 512), ((),))


def torchao(name: str, version: int = 2, **data: Any) -> dict[str, Any]:
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": name, "_version": version, "_data": data}}}


def size_of(tensors: list[tuple[str, tuple[int, ...]]]) -> int:
    return sum(BITS[dtype] * prod(shape) // 8 for dtype, shape in tensors)


def stored(section: dict[str, Any]) -> int | None:
    """Bytes of one linear layer."""
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None
    found = stored_as_said((LINEAR, HEAD), said)
    if found is None:
        return None
    sizes = {group.pattern: group.total_bytes for group in found}
    assert sizes[HEAD.pattern] == 2 * 1000 * 512
    assert sizes[LINEAR.pattern] % 3 == 0
    return sizes[LINEAR.pattern] // 3


ROW = {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}
TENSOR = {"_type": "PerTensor", "_version": 1, "_data": {}}
GROUPS = {"_type": "PerGroup", "_version": 1, "_data": {"group_size": 32}}
TILED = {"_type": "Int4PackingFormat", "_data": "TILE_PACKED_TO_4D"}
CASES: dict[str, tuple[dict[str, Any], list[tuple[str, tuple[int, ...]]]]] = {
    "int8": (
        torchao("Int8WeightOnlyConfig", group_size=None, granularity=ROW),
        [("I8", (96, 512)), ("F32", (96, 1)), ("I8", (96, 1))],
    ),
    "int8 both": (
        torchao("Int8DynamicActivationInt8WeightConfig", granularity=ROW),
        [("I8", (96, 512)), ("F32", (96, 1)), ("I8", (96, 1))],
    ),
    "fp8": (torchao("Float8WeightOnlyConfig", granularity=ROW), [("F8_E4M3", (96, 512)), ("F32", (96, 1))]),
    "fp8 rows": (
        torchao("Float8DynamicActivationFloat8WeightConfig", granularity=[ROW, ROW]),
        [("F8_E4M3", (96, 512)), ("F32", (96, 1))],
    ),
    "fp8 tensor": (
        torchao("Float8DynamicActivationFloat8WeightConfig", granularity=[TENSOR, TENSOR]),
        [("F8_E4M3", (96, 512)), ("F32", (1, 1))],
    ),
    "int8-int4": (
        torchao("Int8DynamicActivationIntxWeightConfig", weight_granularity=GROUPS),
        [("I8", (96, 512)), ("BF16", (96, 16)), ("I8", (96, 16))],
    ),
    "intx": (
        torchao("IntxWeightOnlyConfig", granularity={"_type": "PerAxis", "_data": {"axis": 0}}),
        [("I8", (96, 512)), ("BF16", (96, 1)), ("I8", (96, 1))],
    ),
    "nvfp4": (
        torchao("NVFP4WeightOnlyConfig", 1),
        [("U8", (96, 256)), ("F8_E4M3", (32, 128)), ("F32", ())],
    ),
    "mxfp8": (
        torchao("MXDynamicActivationMXWeightConfig", 1, block_size=32),
        [("F8_E4M3", (96, 512)), ("F8_E8M0", (32, 64))],
    ),
    # two 4-bit codes a byte, scale and zero of each group
    "int4": (
        torchao("Int4WeightOnlyConfig", group_size=128),
        [("U8", (96, 256)), ("BF16", (4, 96)), ("BF16", (4, 96))],
    ),
    # inputs padded to 1024: [n / 8][k / 128][32][4] words, [k / group][n][2]
    "int4 tiled": (
        torchao("Int4WeightOnlyConfig", group_size=64, int4_packing_format=TILED),
        [("I32", (12, 8, 32, 4)), ("BF16", (16, 96, 2))],
    ),
}


#: what torchao 0.10 and 0.15 pickled: attributes of the weight's `tensor_impl`
CASES |= {
    "int8, a word": (
        {"quant_method": "torchao", "quant_type": "int8_weight_only"},
        [("I8", (96, 512)), ("BF16", (96,)), ("I64", (96,))],
    ),
    "int8, version 1": (torchao("Int8WeightOnlyConfig", 1), [("I8", (96, 512)), ("BF16", (96,)), ("I64", (96,))]),
    "int8 inputs, a word": (
        {"quant_method": "torchao", "quant_type": "int8_dynamic_activation_int8_weight"},
        [("I8", (96, 512)), ("BF16", (96,))],
    ),
    "int4 in bytes, a word": (
        {
            "quant_method": "torchao",
            "quant_type": "int8_dynamic_activation_int4_weight",
            "quant_type_kwargs": {"group_size": 64},
        },
        [("I8", (96, 512)), ("BF16", (96, 8)), ("BF16", (96, 8))],
    ),
    "fp8, a word": (
        {"quant_method": "torchao", "quant_type": "float8_weight_only"},
        [("F8_E4M3", (96, 512)), ("BF16", (96,))],
    ),
    "int4, a word": (
        {"quant_method": "torchao", "quant_type": "int4_weight_only", "quant_type_kwargs": {"group_size": 64}},
        [("I32", (12, 8, 32, 4)), ("BF16", (16, 96, 2))],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_torchao(name: str) -> None:
    section, tensors = CASES[name]
    assert stored(section) == size_of(tensors)


def test_what_torchao_does_not_say_enough_about() -> None:
    assert stored(torchao("Int4WeightOnlyConfig", int4_packing_format="preshuffled")) is None
    assert stored(torchao("FqnToConfig")) is None
    assert stored({"quant_method": "torchao", "quant_type": "uintx_weight_only"}) is None
    assert stored(torchao("Int8WeightOnlyConfig") | {"include_input_output_embeddings": True}) is None


def bytes_of(config: dict[str, Any]) -> int:
    said = parse_quantization({"config.json": config})
    assert said is not None
    arch = read_architecture(config)
    plain = [
        TensorGroup(s.pattern, "BF16", s.shape, s.boxes) for s in arch.tensors if s.tied_to is None and not s.buffer
    ]
    return sum(group.total_bytes for group in stored_as_said(plain, said) or ())


def test_bitnet_as_published() -> None:
    # microsoft/bitnet-b1.58-2B-4T: 1.18 GB on the Hub; four codes a byte, a scale a layer, tables and norms in bf16
    config = {
        "model_type": "bitnet",
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_hidden_layers": 30,
        "num_attention_heads": 20,
        "num_key_value_heads": 5,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "bitnet", "quantization_mode": "offline"},
    }
    linear = 2 * 2560 * 2560 + 2 * 640 * 2560 + 3 * 2560 * 6912
    norms = 30 * (3 * 2560 + 6912) + 2560
    assert bytes_of(config) == 2 * 128256 * 2560 + 30 * (linear // 4 + 7 * 2) + 2 * norms
    assert f"{bytes_of(config) / 1e9:.2f}" == "1.18"


def test_aqlm_as_published() -> None:
    # ISTA-DASLab/Llama-2-7b-AQLM-2Bit-1x16-hf: 2.38 GB
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "quantization_config": {
            "quant_method": "aqlm",
            "in_group_size": 8,
            "out_group_size": 1,
            "num_codebooks": 1,
            "nbits_per_codebook": 16,
            "linear_weights_not_to_quantize": ["model.embed_tokens.weight", "lm_head.weight"],
        },
    }
    linear, rows = 4 * 4096**2 + 3 * 4096 * 11008, 5 * 4096 + 2 * 11008
    books = 7 * 2**16 * 8 * 2
    whole = 2 * (2 * 32000 * 4096 + 65 * 4096) + 32 * (2 * linear // 8 + books + 2 * rows)
    assert bytes_of(config) == whole
    assert f"{whole / 1e9:.2f}" == "2.38"
    said = parse_quantization({"config.json": config})
    assert said is not None and said.bits == 2
