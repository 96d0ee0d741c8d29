"""Tensors as quantizers store them."""

from __future__ import annotations

from math import prod
from typing import Any

from hfmem.checkpoint.grouping import group_tensors
from hfmem.checkpoint.quantization import (
    LogicalGroup,
    Quantization,
    logical_groups,
    parse_quantization,
)
from hfmem.dtypes import num_bytes

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
