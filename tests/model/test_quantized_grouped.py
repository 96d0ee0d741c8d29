"""SINQ and quanto, from the tensors and from config files alone: what their libraries wrote of a small Llama, and by hand."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
from quantized_tensors import Stored, logical

from hfmem.checkpoint.quantization import summarize
from hfmem.checkpoint.quantization_config import Quantization, parse_quantization
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.dtypes import num_bytes
from hfmem.model.quantized import stored_as_said

OUT, IN = 512, 256
MODULE = "model.layers.0.mlp.up_proj"
WEIGHT = TensorGroup("model.layers.{}.mlp.up_proj.weight", "BF16", (OUT, IN), ((range(1),),))
HEAD = TensorGroup("lm_head.weight", "BF16", (1024, IN), ((),))

#: `sinq` 0.2.0 on a [512, 256] matrix: 2,048 groups of 64
SINQ_SCALES: Stored = {
    "meta.scale.x": ("U8", (32, 64)),
    "meta.scale.s": ("F16", (1, 64)),
    "meta.scale.m": ("F16", (1, 64)),
    "meta.zero.x": ("U8", (2048, 1)),
    "meta.zero.s": ("F16", (1, 1)),
    "meta.zero.m": ("F16", (1, 1)),
}
SINQ: dict[str, tuple[dict[str, Any], Stored, int]] = {
    "4 bit": ({"nbits": 4}, {"W_q": ("U8", (1024, 64)), "meta.scale2": ("F16", (1, 256))}, 4),
    "8 bit": ({"nbits": 8}, {"W_q": ("U8", (2048, 64)), "meta.scale2": ("F16", (1, 256))}, 8),
    "2 bit": ({"nbits": 2}, {"W_q": ("U8", (512, 64)), "meta.scale2": ("F16", (1, 256))}, 2),
    # ten codes of three bits in a word
    "3 bit": ({"nbits": 3}, {"W_q": ("I32", (205, 64)), "meta.scale2": ("F16", (1, 256))}, 3),
    # a second scale for each column of 32 tiles of 64 × 64
    "tiles": ({"tiling_mode": "2D"}, {"W_q": ("U8", (1024, 64)), "meta.scale2": ("F16", (32, 1, 64))}, 4),
}
#: `optimum-quanto` 0.2.7 on the same
ONE: Stored = {"input_scale": ("BF16", ()), "output_scale": ("BF16", ())}
QUANTO: dict[str, tuple[Stored, int]] = {
    "qint8": ({"weight._data": ("I8", (512, 256)), "weight._scale": ("BF16", (512, 1))}, 8),
    "qfloat8_e4m3fn": ({"weight._data": ("F8_E4M3", (512, 256)), "weight._scale": ("BF16", (512, 1))}, 8),
    "qint4": (
        {
            "weight._data._data": ("U8", (512, 128)),
            "weight._scale": ("BF16", (1024, 1)),
            "weight._shift": ("BF16", (1024, 1)),
        },
        4,
    ),
    "qint2": (
        {
            "weight._data._data": ("U8", (256, 128)),
            "weight._scale": ("BF16", (1024, 1)),
            "weight._shift": ("BF16", (1024, 1)),
        },
        2,
    ),
}


def size_of(tensors: Stored) -> int:
    return sum(num_bytes(dtype, prod(shape)) for dtype, shape in tensors.values())


def derived(said: Quantization | None, group: TensorGroup = WEIGHT) -> int:
    assert said is not None
    found = stored_as_said((group,), said)
    assert found is not None
    return sum(g.total_bytes for g in found)


@pytest.mark.parametrize("name", SINQ)
def test_sinq(name: str) -> None:
    words, own, bits = SINQ[name]
    section = {"quant_method": "sinq", "group_size": 64, "tiling_mode": "1D", "method": "sinq", **words}
    said = parse_quantization({"config.json": {"quantization_config": section}})
    tensors = SINQ_SCALES | own
    (weight,) = logical({f"{MODULE}.{leaf}": fact for leaf, fact in tensors.items()}, said)
    assert (weight.total_elements, weight.method, weight.bits, weight.group_size) == (OUT * IN, "sinq", bits, 64)
    assert weight.pattern == f"{MODULE}.weight".replace(".0.", ".{}.")
    if words.get("tiling_mode") != "2D":  # the second scale tells how many inputs there are
        assert weight.shape == (OUT, IN)
    assert derived(said) == size_of(tensors)


def test_sinq_takes_the_head_unless_it_is_an_exception() -> None:
    section = {"quant_method": "sinq", "nbits": 4, "group_size": 64}
    said = parse_quantization({"config.json": {"quantization_config": section}})
    # 4,096 groups: half a byte a weight, a scale, a zero, two halves of scales for 32 scales; the zeros' two; 256 second scales
    assert derived(said, HEAD) == 1024 * 256 // 2 + 4096 + 4096 + 2 * 2 * 128 + 2 * 2 + 2 * 256
    kept = parse_quantization(
        {"config.json": {"quantization_config": section | {"modules_to_not_convert": ["lm_head"]}}}
    )
    assert derived(kept, HEAD) == 2 * 1024 * 256


@pytest.mark.parametrize("word", QUANTO)
def test_quanto(word: str) -> None:
    own, bits = QUANTO[word]
    tensors = own | ONE
    said = parse_quantization(
        {"quanto_qmap.json": {MODULE: {"weights": word, "activations": "none"}}, "config.json": {}}
    )
    assert said is not None and (said.method, said.file) == ("quanto", "quanto_qmap.json")
    groups = logical({f"{MODULE}.{leaf}": fact for leaf, fact in tensors.items()}, said)
    (weight,) = groups
    assert (weight.total_elements, weight.method, weight.bits) == (OUT * IN, "quanto", bits)
    assert derived(said) == size_of(tensors)
    assert derived(said, HEAD) == 2 * 1024 * IN  # the map names what is quantized
    summary = summarize(groups, said)
    assert summary is not None and summary.recognized
    section = {"quant_method": "quanto", "weights": word.removeprefix("q"), "modules_to_not_convert": None}
    assert derived(parse_quantization({"config.json": {"quantization_config": section}})) == size_of(tensors)


@pytest.mark.parametrize(
    ("inputs", "group"), [(64, 64), (128, 128), (192, 96), (256, 128), (320, 64), (1056, 96), (1000, 1000)]
)
def test_quantos_group(inputs: int, group: int) -> None:
    # 128, less 32 until the inputs divide by it; a scale a row where 128 is not exceeded or nothing divides
    weight = TensorGroup("model.layers.{}.mlp.up_proj.weight", "BF16", (64, inputs), ((range(1),),))
    said = parse_quantization({"config.json": {"quantization_config": {"quant_method": "quanto", "weights": "int4"}}})
    rows = 64 * inputs // group
    want = -(-rows // 2) * group + 2 * 2 * rows + 2 * 2
    assert derived(said, weight) == (want if inputs % 32 == 0 else 2 * 64 * inputs)
