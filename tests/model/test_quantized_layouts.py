"""Weights where only config.json is at hand, in the layouts of smaller dialects and of compressed-tensors' schemes, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.checkpoint.quantization import logical_groups
from hfmem.checkpoint.quantization_config import parse_quantization
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.model.quantized import stored_as_said

EMBED = TensorGroup("model.embed_tokens.weight", "BF16", (1000, 512), ((),))
UP = TensorGroup("model.layers.{}.mlp.up_proj.weight", "BF16", (1024, 512), ((range(2),),))
HEAD = TensorGroup("lm_head.weight", "BF16", (1000, 512), ((),))
TABLE, MATRIX, N = 2 * 1000 * 512, 2 * 1024 * 512, 1024 * 512


def stored(section: dict[str, Any]) -> tuple[int, int, int] | None:
    """Bytes of the embedding, of both layers' matrices, of the head."""
    key = "quantization_config" if "quant_method" in section else "quantization"
    said = parse_quantization({"config.json": {key: section}})
    assert said is not None
    found = stored_as_said((EMBED, UP, HEAD), said)
    if found is None:
        return None
    sizes = dict.fromkeys((EMBED.pattern, UP.pattern, HEAD.pattern), 0)
    for group in found:
        sizes[group.pattern] += group.total_bytes
    embed, up, head = sizes.values()
    return embed, up, head


def compressed(
    stored_as: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    group = {
        "targets": ["Linear"],
        "weights": {"type": "int", "symmetric": True, **weights},
        "input_activations": inputs,
    }
    section = {"quant_method": "compressed-tensors", "format": stored_as, "config_groups": {"group_0": group}}
    return section | {"ignore": ["lm_head"]} | more


STATIC: dict[str, Any] = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
GROUP: dict[str, Any] = {"num_bits": 4, "strategy": "group", "group_size": 128}
#: a section, and the bytes of one 1024 × 512 matrix under it
SCHEMES: dict[str, tuple[dict[str, Any], int]] = {
    "W4A16": (compressed("pack-quantized", GROUP), N // 2 + 2 * 1024 * 4 + 16),
    "W4A16_ASYM": (
        compressed("pack-quantized", GROUP | {"symmetric": False}),
        N // 2 + 2 * 1024 * 4 + 16 + 4 * (1024 // 8) * 4,  # zero points packed along the rows
    ),
    "W4A16 by order": (
        compressed("pack-quantized", GROUP | {"actorder": "group"}),
        N // 2 + 2 * 1024 * 4 + 16 + 4 * 512,
    ),
    "W4A16 static order": (compressed("pack-quantized", GROUP | {"actorder": "static"}), N // 2 + 2 * 1024 * 4 + 16),
    "W8A16": (compressed("pack-quantized", {"num_bits": 8, "strategy": "channel"}), N + 2 * 1024 + 16),
    "W8A8": (compressed("int-quantized", {"num_bits": 8, "strategy": "channel"}), N + 2 * 1024),
    "FP8": (compressed("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}, STATIC), N + 2 + 2),
    "FP8_BLOCK": (
        compressed(
            "float-quantized", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}
        ),
        N + 2 * 8 * 4,
    ),
    "NVFP4A16": (
        compressed(
            "nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
        ),
        N // 2 + N // 16 + 4,
    ),
    "NVFP4": (
        compressed(
            "nvfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "dynamic": "local"},
        ),
        N // 2 + N // 16 + 4 + 4,
    ),
    "MXFP4": (
        compressed("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}),
        N // 2 + N // 32,
    ),
    "MXFP8": (
        compressed("mxfp8-quantized", {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32}),
        N + N // 32,
    ),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_of_compressed_tensors(name: str) -> None:
    section, matrix = SCHEMES[name]
    assert stored(section) == (TABLE, 2 * matrix, TABLE)


def test_compressed_tensors_at_the_edges() -> None:
    section, matrix = SCHEMES["W8A8"]
    # a head that nothing leaves out is a linear layer like any other
    assert stored(section | {"ignore": []}) == (TABLE, 2 * matrix, 1000 * 512 + 2 * 1000)
    # one group that names modules speaks of no others
    groups = {"group_0": section["config_groups"]["group_0"] | {"targets": ["re:.*layers.1.*up_proj"]}}
    assert stored(section | {"config_groups": groups}) == (TABLE, matrix + MATRIX, TABLE)
    # a section about the cache alone, and formats that are not known
    cache = {
        "quant_method": "compressed-tensors",
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
        "config_groups": {},
    }
    assert stored(cache) == (TABLE, 2 * MATRIX, TABLE)
    assert stored(section | {"format": "dense-of-its-own"}) is None
    assert stored(compressed("float-quantized", {"num_bits": 8, "type": "float", "strategy": "block"})) is None


def test_modes_of_mlx() -> None:
    affine4, affine8 = N // 2 + 4 * N // 64, N + 4 * N // 64
    table = 1000 * 512 // 2 + 4 * 1000 * 512 // 64
    assert stored({"group_size": 64, "bits": 4}) == (table, 2 * affine4, table)
    # gpt-oss as mlx-community has it: a floating-point mode, and modules that name none are affine
    mixed = {
        "group_size": 32,
        "bits": 4,
        "mode": "mxfp4",
        "model.embed_tokens": {"group_size": 64, "bits": 8},
        "lm_head": False,
    }
    assert stored(mixed) == (1000 * 512 + 4 * 1000 * 512 // 64, 2 * (N // 2 + N // 32), 2 * TABLE // 2)
    own = {"group_size": 64, "bits": 4, "model.layers.0.mlp.up_proj": {"group_size": 64, "bits": 8}}
    assert stored(own) == (table, affine4 + affine8, table)
    assert stored({"group_size": 16, "bits": 4, "mode": "nvfp4"}) == (*(1000 * 288, 2 * (N // 2 + N // 16)), 1000 * 288)
    assert stored({"group_size": 64, "bits": 2}) == (*(1000 * 160, 2 * (N // 4 + 4 * N // 64)), 1000 * 160)


def test_fp8_in_other_blocks() -> None:
    section = {"quant_method": "fp8", "weight_block_size": [64, 256]}
    assert stored(section) == (TABLE, 2 * (N + 4 * 16 * 2), TABLE)
    assert stored({"quant_method": "fp8", "activation_scheme": "dynamic"}) == (TABLE, 2 * (N + 4), TABLE)
    assert stored({"quant_method": "fp8", "activation_scheme": "static"}) == (TABLE, 2 * (N + 8), TABLE)
    assert stored({"quant_method": "fbgemm_fp8"}) == (TABLE, 2 * (N + 4 * 1024), TABLE)


def test_layouts_of_transformers_own() -> None:
    higgs = N // 2 + 2 * 1024 * 2 + 2 * 16 + 2 * 16 * 16 * 2
    assert stored({"quant_method": "higgs", "bits": 4, "group_size": 256}) == (TABLE, 2 * higgs, TABLE)
    mxfp4 = N // 2 + N // 32 + 2 * 2 + 2 * 2 * 32 * 32
    assert stored({"quant_method": "fp_quant", "forward_dtype": "mxfp4"}) == (TABLE, 2 * mxfp4, TABLE)
    assert stored({"quant_method": "fp_quant", "store_master_weights": True}) is None
    gemma = {"quant_method": "gemma", "num_bits": 4, "module_quant_configs": {r"layers\.1\.mlp": {"num_bits": 8}}}
    assert stored(gemma) == (TABLE, N // 2 + N + 2 * (4 * 1024 + 8), TABLE)
    metal = {"quant_method": "metal", "bits": 4, "group_size": 64}
    assert stored(metal) == (TABLE, 2 * (N // 2 + 4 * N // 64), TABLE)
    hqq = {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 8, "group_size": 64}}}
    assert stored(hqq) == (TABLE, 2 * (N + 4 * N // 64), TABLE)
    skipped = {"skip_modules": ["model.layers.0.mlp.up_proj"]}
    assert stored(hqq | skipped) == (TABLE, MATRIX + N + 4 * N // 64, TABLE)


def test_spqr_names_each_tensors_size() -> None:
    sizes = {"dense_weights": 40_000, "row_offsets": 1_025, "col_vals": 5_000, "in_perm": 0}
    shapes = {f"model.layers.{i}.mlp.up_proj.{leaf}.shape": size for i in range(2) for leaf, size in sizes.items()}
    each = 8 * 40_000 + 4 * 1_025 + 4 * 5_000
    assert stored({"quant_method": "spqr", "bits": 3, "shapes": shapes}) == (TABLE, 2 * each, TABLE)
    assert stored({"quant_method": "spqr", "bits": 3}) is None


def test_a_head_that_gptq_packs() -> None:
    section = {"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True}
    head = 1000 * 512 // 2 + 4 * 125 * 4 + 2 * 4 * 1000 + 4 * 512
    found = stored(section)
    assert found is not None and found[2] == head


def test_torchao_by_module_name() -> None:
    # as pytorch/Phi-4-mini-instruct-INT8-INT4 has it: the embedding by rows in 8 bits, linear layers by groups in 4, a byte each
    rows = {"_type": "IntxWeightOnlyConfig", "_data": {"granularity": {"_type": "PerAxis", "_data": {"axis": 0}}}}
    grain = {"_type": "PerGroup", "_data": {"group_size": 32}}
    groups = {"_type": "Int8DynamicActivationIntxWeightConfig", "_data": {"weight_granularity": grain}}
    named: dict[str, Any] = {"_default": groups, "model.embed_tokens": rows}

    def section(key: str) -> dict[str, Any]:
        kind = {"_type": "FqnToConfig", "_data": {key: named}}
        return {"quant_method": "torchao", "quant_type": {"default": kind}, "include_input_output_embeddings": True}

    embed, up = 1000 * 512 + 1000 * 3, 2 * (N + 3 * N // 32)
    for key in ("fqn_to_config", "module_fqn_to_config"):
        assert stored(section(key)) == (embed, up, TABLE)
    named |= {"re:.*layers.1.*": None}
    assert stored(section("fqn_to_config")) == (embed, up // 2 + MATRIX, TABLE)
    del named["_default"]
    assert stored(section("fqn_to_config")) == (embed, 2 * MATRIX, TABLE)


def test_files_whose_modules_are_packed_in_two_ways() -> None:
    # mlx-community/gpt-oss-20b-MXFP4-Q8: MXFP4 but for what the section names by number, affine 8 bits in groups of 64
    every = "model.layers.{}."
    section: dict[str, Any] = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    section |= {f"model.layers.{i}.self_attn.q_proj": {"group_size": 64, "bits": 8} for i in range(2)}
    said = parse_quantization({"config.json": {"quantization": section}})
    layers = ((range(2),),)
    files = [
        TensorGroup(f"{every}self_attn.q_proj.weight", "U32", (1024, 128), layers),
        TensorGroup(f"{every}self_attn.q_proj.scales", "BF16", (1024, 8), layers),
        TensorGroup(f"{every}self_attn.q_proj.biases", "BF16", (1024, 8), layers),
        TensorGroup(f"{every}mlp.up_proj.weight", "U32", (1024, 64), layers),
        TensorGroup(f"{every}mlp.up_proj.scales", "U8", (1024, 16), layers),
    ]
    found = {group.pattern: (group.shape, group.bits, group.group_size) for group in logical_groups(files, said)}
    assert found == {
        f"{every}self_attn.q_proj.weight": ((1024, 512), 8, 64),
        f"{every}mlp.up_proj.weight": ((1024, 512), 4, 32),
    }
    # Gemma's own files: 4 bits, and 2 by a pattern of numbers; one scale a row tells nothing of the width
    gemma = {"quant_method": "gemma", "num_bits": 4, "module_quant_configs": {r"layers\.\d+\.mlp": {"num_bits": 2}}}
    said = parse_quantization({"config.json": {"quantization_config": gemma}})
    files = [
        TensorGroup(f"{every}self_attn.q_proj.weight", "U8", (1024, 256), layers),
        TensorGroup(f"{every}self_attn.q_proj.weight_scale", "F32", (1024, 1), layers),
        TensorGroup(f"{every}mlp.up_proj.weight", "U8", (1024, 128), layers),
        TensorGroup(f"{every}mlp.up_proj.weight_scale", "F32", (1024, 1), layers),
    ]
    assert [(group.shape, group.bits) for group in logical_groups(files, said)] == [((1024, 512), 4), ((1024, 512), 2)]
