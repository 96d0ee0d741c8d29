"""Weights pruned to two in four and vectors of centroids, from config.json alone.

Bytes of one matrix are what the packages' own code stored of matrices of these shapes: `Marlin24Compressor` and
`Sparse24BitMaskTensor` of compressed-tensors 0.9.4, `VQuantLinear` of vptq 0.0.5 as transformers builds it.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.checkpoint.quantization_config import parse_quantization
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.model.quantized import stored_as_said

Q = TensorGroup("model.layers.{}.self_attn.q_proj.weight", "BF16", (256, 512), ((range(4),),))
DOWN = TensorGroup("model.layers.{}.mlp.down_proj.weight", "BF16", (512, 1024), ((range(4),),))
HEAD = TensorGroup("lm_head.weight", "BF16", (1000, 512), ((),))
PLAIN = {"down": 2 * 512 * 1024, "head": 2 * 1000 * 512}


def stored(section: dict[str, Any]) -> tuple[int, ...] | None:
    """Bytes of q, down and the head in all layers."""
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None
    found = stored_as_said((Q, DOWN, HEAD), said)
    if found is None:
        return None
    named = (Q.pattern, DOWN.pattern, HEAD.pattern)
    return tuple(sum(group.total_bytes for group in found if group.pattern == name) for name in named)


def scheme(bits: int, kind: str, group: int | None = None) -> dict[str, Any]:
    strategy = "group" if group else "channel"
    return {"num_bits": bits, "type": kind, "symmetric": True, "strategy": strategy, "group_size": group}


def compressed(word: str, weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    section = {"quant_method": "compressed-tensors", "format": word, "config_groups": groups, "ignore": ["lm_head"]}
    return section | more


HALVES = {"format": "sparse-24-bitmask", "sparsity_structure": "2:4", "targets": ["Linear"], "ignore": ["lm_head"]}


@pytest.mark.parametrize(
    ("weights", "q", "down"),
    [
        (scheme(4, "int", 128), 51_200, 4 * 512 * 16 * 4 + 2 * 8 * 512 + 4 * 512 * 16 * 2),
        (scheme(4, "int"), 4 * 16 * 512 + 2 * 256 + 2 * 16 * 512, 197_632),
        (scheme(8, "int", 128), 83_968, 4 * 32 * 2048 + 2 * 8 * 512 + 2 * 32 * 1024),
    ],
)
def test_marlin_of_pruned_weights(weights: dict[str, Any], q: int, down: int) -> None:
    dense = {"format": "dense", "sparsity_structure": "2:4"}
    section = compressed("marlin-24", weights, sparsity_config=dense)
    assert stored(section) == (4 * q, 4 * down, PLAIN["head"])


def test_what_marlin_of_pruned_weights_does_not_take() -> None:
    for weights in (scheme(4, "int", 64), scheme(3, "int", 128), scheme(4, "int", 128) | {"symmetric": False}):
        assert stored(compressed("marlin-24", weights)) is None


def test_pruned_weights_beside_a_mask() -> None:
    # half of the values, a bit for each place, the shape; beside them FP8's scales, of 16 bits a row
    assert stored({"quant_method": "compressed-tensors", "config_groups": {}, "sparsity_config": HALVES}) == (
        *(4 * 147_472, 4 * (512 * 512 * 2 + 512 * 128 + 16)),
        PLAIN["head"],
    )
    fp8 = compressed("float-quantized", scheme(8, "float"), sparsity_config=HALVES)
    q, down = 256 * 256 + 256 * 64 + 16 + 2 * 256, 512 * 512 + 512 * 128 + 16 + 2 * 512
    assert stored(fp8) == (4 * q, 4 * down, PLAIN["head"])


@pytest.mark.parametrize(
    "said",
    [
        HALVES | {"format": "sparse-bitmask"},  # how many are zero decides
        HALVES | {"ignore": ["lm_head", "re:.*q_proj"]},  # quantized and not pruned
        HALVES | {"targets": ["model.layers.0.mlp.down_proj"]},
    ],
)
def test_pruned_in_part_is_no_size(said: dict[str, Any]) -> None:
    assert stored(compressed("float-quantized", scheme(8, "float"), sparsity_config=said)) is None


def vptq(lengths: list[int], centroids: list[int], residual: list[int], groups: int, size: int, apart: int) -> Any:
    return {
        "vector_lens": lengths,
        "num_centroids": centroids,
        "num_res_centroids": residual,
        "group_num": groups,
        "group_size": size,
        "outlier_size": apart,
        "indices_as_float": False,
        "enable_norm": True,
        "enable_perm": True,
        "is_indice_packed": True,
    }


def test_vptq_names_every_module() -> None:
    plain = vptq([-1, 8], [-1, 65_536], [-1, 256], 1, 512, 0)
    outlying = vptq([4, 6], [4096, 1024], [-1, -1], 1, 480, 32)
    grouped = vptq([-1, 12], [-1, 4096], [-1, 4096], 2, 512, 0)
    layers = {f"model.layers.{i}.self_attn.q_proj": plain if i else outlying for i in range(4)}
    layers |= {f"model.layers.{i}.mlp.down_proj": grouped for i in range(3)}  # the last layer's stays as it was
    section = {"quant_method": "vptq", "config_for_layers": layers, "shared_layer_config": {}}
    assert stored(section) == (3 * 1_104_896 + 78_024, 3 * 531_456 + PLAIN["down"], PLAIN["head"])


def test_vptq_without_sizes_is_no_size() -> None:
    said = vptq([-1, 8], [-1, 65_536], [-1, 256], 1, 512, 0)
    for key in ("vector_lens", "group_size"):
        layers = {"model.layers.0.self_attn.q_proj": {**said, key: None}}
        assert stored({"quant_method": "vptq", "config_for_layers": layers}) is None
