"""Layouts of SINQ and quanto, which cut weights into rows of one group before they pack them.

Source: `sinq` 0.2.0 `quantizer.py`, `bitpack.py` (codes, and scales and zeros in 8 bits) and transformers 5.24.0
`quantizer_sinq.py`; `optimum-quanto` 0.2.7 `nn/qmodule.py` (the group's size), `tensor/packed.py`, and the `quanto_qmap.json`
that its `QuantizedTransformersModel` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Final

from hfmem.checkpoint.config_targets import Target, mapping, text
from hfmem.checkpoint.schemes import Scheme, stack, up

_Stored = tuple[str, str, tuple[int, ...]]
Shape = tuple[int, ...]
#: SINQ's words by width of a code: their dtype and how many codes, of as many groups, each holds
_SINQ_WORDS: Final = {
    8: ("U8", 1),
    6: ("I32", 5),
    5: ("I32", 6),
    4: ("U8", 2),
    3: ("I32", 10),
    2: ("U8", 4),
    1: ("U8", 8),
}
#: scales that share a scale of their own
_SINQ_TILE: Final = 32
#: quanto's words for weights: bits of a code, and the dtype of those that are not packed
_QUANTO: Final = {"int2": (2, "U8"), "int4": (4, "U8"), "int8": (8, "I8"), "float8": (8, "F8_E4M3")}
_QUANTO_FLOATS: Final = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ"}
_QUANTO_GROUP: Final = 128


def sinq(config: Mapping[str, Any]) -> Scheme | None:
    """SINQ: packed codes, scales and zeros of 8 bits with theirs, a second scale for each input (in two dimensions: of a tile)."""
    bits, group, tiling = config.get("nbits", 4), config.get("group_size", 64), config.get("tiling_mode", "1D")
    known = config.get("method", "sinq") in ("sinq", "asinq") and tiling in ("1D", "2D")
    if type(bits) is not int or bits not in _SINQ_WORDS or type(group) is not int or group <= 0 or not known:
        return None
    word, each = _SINQ_WORDS[bits]

    def layout(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
        groups = up(prod(shape[-2:]), group)
        scale = (stack(shape, _SINQ_TILE, up(groups, _SINQ_TILE)), stack(shape, 1, up(groups, _SINQ_TILE)))
        one = stack(shape, 1, 1)
        second = stack(shape, 1, shape[-1]) if tiling == "1D" else stack(shape, up(groups, group), 1, group)
        return (
            ("W_q", word, stack(shape, up(groups, each), group)),
            *(("meta.scale.x", "U8", scale[0]), ("meta.scale.s", "F16", scale[1]), ("meta.scale.m", "F16", scale[1])),
            *(("meta.zero.x", "U8", stack(shape, groups, 1)), ("meta.zero.s", "F16", one), ("meta.zero.m", "F16", one)),
            ("meta.scale2", "F16", second),
        )

    return Scheme(f"sinq-{bits}-{group}-{tiling}", "sinq", bits, group, layout, "SINQ", head=True)


def quanto(word: str | None) -> Scheme | None:
    """quanto: int8 and float8 with a scale a row; int4 and int2 packed over rows of a group each, with a scale and a shift.

    Args:
        word: `int4`, `qint4`, `qfloat8_e4m3fn` …
    """
    name = (word or "").removeprefix("q")
    bits, code = _QUANTO.get(name, (8, _QUANTO_FLOATS.get(name)))
    if code is None:
        return None

    def layout(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
        one = shape[:-2]
        rest = (("input_scale", "BF16", one), ("output_scale", "BF16", one))
        if bits == 8:
            return ("weight._data", code, shape), ("weight._scale", "BF16", (*shape[:-1], 1)), *rest
        group = quanto_group(shape[-1])
        rows = prod(shape[-2:]) // group
        scale = stack(shape, rows, 1)
        codes = ("weight._data._data", code, stack(shape, up(rows * bits, 8), group))
        return codes, ("weight._scale", "BF16", scale), ("weight._shift", "BF16", scale), *rest

    return Scheme(f"quanto-{name}", "quanto", bits, None, layout, "quanto")


def quanto_group(inputs: int) -> int:
    """Weights that share a scale: 128, or as many of 96, 64 and 32 as divide the inputs; a whole row where none does."""
    fitting = (size for size in range(_QUANTO_GROUP, 0, -32) if inputs % size == 0)
    return next(fitting, inputs) if inputs > _QUANTO_GROUP else inputs


def quanto_map(config: Mapping[str, Any]) -> tuple[Target, ...]:
    """The modules that a `quanto_qmap.json` names, each with its format."""
    schemes: dict[str | None, Scheme | None] = {}
    out = []
    for name, value in config.items():
        word = text(mapping(value).get("weights"))
        scheme = schemes.setdefault(word, quanto(word))
        out.append(Target(name, scheme.bits if scheme else None, None, None, scheme, plain=word in (None, "none")))
    return tuple(out)


def is_quanto_map(config: Mapping[str, Any]) -> bool:
    """Whether a file's object maps modules to quanto's formats."""
    first = next(iter(config.values()), None)
    return isinstance(first, Mapping) and "weights" in first
