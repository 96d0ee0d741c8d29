"""The layout that one group of a compressed-tensors section names: which tensors its compressor leaves of a weight.

Source: compressed-tensors 0.20 `compressors/{pack_quantized,naive_quantized,nvfp4,mxfp4,mxfp6,mxfp8}/base.py` (names and codes) and
`quantization/lifecycle/initialize.py` (scales: one a tensor, row, group or block, in the model's dtype; a zero point where the
weights are not symmetric; scales of inputs where these are static). Weights of which two in four are zero: 0.9.4
`compressors/sparse_quantized_compressors/marlin_24.py` and `compressors/sparse_compressors/sparse_24_bitmask.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from hfmem.checkpoint.schemes import Scheme, stack, up

_Stored = tuple[str, str, tuple[int, ...]]
Shape = tuple[int, ...]
_PACKED: Final = "pack-quantized"
#: the first release whose codes follow one another over the ends of words
_DENSE: Final = (0, 18)
#: floats of less than a byte, packed: their bits and the dtype of their scales
_FLOATS: Final = {
    "nvfp4-pack-quantized": (4, "F8_E4M3"),
    "mxfp4-pack-quantized": (4, "U8"),
    "mxfp6-pack-quantized": (6, "U8"),
}
_WHOLE: Final = ("float-quantized", "int-quantized", "naive-quantized", "mxfp8-quantized")


def compressed_scheme(group: Mapping[str, Any], section: Mapping[str, Any], *, sparse: bool = False) -> Scheme | None:
    """The layout of a group's weights. None: a format that is not known, or too little said of it.

    Args:
        group: an entry of `config_groups`.
        section: its `format` holds for groups that name none; its `version` tells how codes of 3, 5, 6 and 7 bits are packed.
        sparse: the section's sparsity is `sparse-24-bitmask`.
    """
    weights, inputs, outputs = (group.get(key) for key in ("weights", "input_activations", "output_activations"))
    own = group.get("format")
    word = own if isinstance(own, str) else section.get("format")
    if not isinstance(weights, Mapping) or not isinstance(word, str):
        return None
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    strategy, size = _strategy(weights)
    if word == "marlin-24":
        symmetric = weights.get("symmetric") is not False
        usable = bits in (4, 8) and symmetric and (strategy, size) in (("group", 128), ("channel", None)) and not sparse
        return _marlin_24(bits, size) if usable else None
    if sparse and word not in ("float-quantized", "int-quantized", "naive-quantized"):
        return None
    known = word == _PACKED or word in _FLOATS or word in _WHOLE
    if type(bits) is not int or not 1 <= bits <= 8 or not known or strategy is None:
        return None
    if kind == "float" and bits != (_FLOATS[word][0] if word in _FLOATS else 8):
        return None
    symmetric, order = weights.get("symmetric") is not False, weights.get("actorder")
    spaced = _spaced(section)
    grouped = order is True or (isinstance(order, str) and order.lower() == "group")

    def layout(shape: Shape, group_size: int | None) -> tuple[_Stored, ...]:
        out = [*_codes(word, bits, kind, shape, spaced=spaced)]
        if sparse:
            out = [*_bitmask(out[0][1], shape)]
        scales = _scales(strategy, shape, size)
        exponent = _FLOATS[word][1] if word in _FLOATS else "U8" if word == "mxfp8-quantized" else "BF16"
        out.append(("weight_scale", exponent, scales))
        if strategy == "tensor_group":
            out.append(("weight_global_scale", "F32", stack(shape, 1)))
        if not symmetric and word == _PACKED:
            if strategy in ("group", "channel"):
                out.append(
                    ("weight_zero_point", "I32", stack(shape, _words(shape[-2], bits, spaced=spaced), scales[-1]))
                )
        elif not symmetric:
            out.append(("weight_zero_point", "I8", scales))
        if grouped:
            out.append(("weight_g_idx", "I32", stack(shape, shape[-1])))
        return (*out, *_of_inputs(inputs, shape), *_of_outputs(outputs, shape))

    name = f"compressed-{word}-{bits}-{spaced}-{strategy}-{symmetric}-{grouped}-{sparse}-{bool(_of_outputs(outputs, (1, 1)))}"
    what = "the layout that compressed-tensors names"
    span = size if isinstance(size, int) else None
    return Scheme(name, "compressed-tensors", bits, span, layout, what, head=True)


def halved(config: Mapping[str, Any]) -> bool | None:
    """Whether a section's weights are stored as the two in four that are not zero; None: where it does not say it of all alike."""
    said = config.get("sparsity_config")
    if not isinstance(said, Mapping) or said.get("format") in (None, "dense"):
        return False
    names, left = said.get("targets"), said.get("ignore")
    whole = isinstance(names, list) and "Linear" in names
    alike = (
        not config.get("config_groups")
        or not left
        or sorted(map(str, left)) == sorted(map(str, config.get("ignore") or ()))
    )
    return True if said.get("format") == "sparse-24-bitmask" and whole and alike else None


def _bitmask(code: str, shape: Shape) -> tuple[_Stored, ...]:
    masks = (*shape[:-1], up(shape[-1], 8))
    return (
        ("compressed", code, (*shape[:-1], shape[-1] // 2)),
        ("bitmask", "U8", masks),
        ("shape", "I64", stack(shape, 2, 1)),
    )


def _halves(shape: Shape, group_size: int | None) -> tuple[_Stored, ...]:
    return _bitmask("BF16", shape)


#: weights that are pruned and not quantized
HALVES: Final = Scheme("compressed-halves", "compressed-tensors", 16, None, _halves, "two weights in four", head=True)


def _marlin_24(bits: Any, size: Any) -> Scheme:
    """Codes of the half that is not zero in tiles of 16 inputs, where they stand in two bits each, scales in half precision."""
    span = size if isinstance(size, int) else None

    def layout(shape: Shape, group_size: int | None) -> tuple[_Stored, ...]:
        rows, columns = shape[-2:]
        return (
            ("weight_packed", "I32", stack(shape, columns // 32, rows * 16 * bits // 32)),
            ("scale_packed", "F16", stack(shape, up(columns, span or columns), rows)),
            ("meta", "I16", stack(shape, columns // 32, rows * 2)),
        )

    return Scheme(
        f"marlin-24-{bits}", "compressed-tensors", bits, span, layout, "Marlin's, two weights in four", head=True
    )


def _strategy(weights: Mapping[str, Any]) -> tuple[str | None, int | tuple[int, int] | None]:
    """How many weights share a scale, and the group or block where it is one; absent, by the keys that only one has."""
    size, block = weights.get("group_size"), weights.get("block_structure")
    grouped = size if type(size) is int and size > 0 else None
    said = weights.get("strategy")
    if said is None:
        said = "block" if block else "group" if grouped else "channel" if size == -1 else "tensor"
    if said == "block":
        pair = isinstance(block, list) and len(block) == 2 and all(type(v) is int and v > 0 for v in block)
        return ("block", (block[0], block[1])) if pair and isinstance(block, list) else (None, None)
    if said in ("group", "tensor_group"):
        return (said, grouped) if grouped else (None, None)
    return (said, None) if said in ("tensor", "channel") else (None, None)


def _spaced(section: Mapping[str, Any]) -> bool:
    """Whether a code never lies in two words: the packing of releases before 0.18, and of those that did not name themselves."""
    version = section.get("version")
    found = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    return found is None or (int(found[1]), int(found[2])) < _DENSE


def _words(codes: int, bits: int, *, spaced: bool) -> int:
    """Words of 32 bits that a row of codes takes."""
    return up(codes, 32 // bits) if spaced else up(codes * bits, 32)


def _codes(word: str, bits: int, kind: Any, shape: Shape, *, spaced: bool) -> tuple[_Stored, ...]:
    if word == _PACKED:
        packed = (*shape[:-1], _words(shape[-1], bits, spaced=spaced))
        return ("weight_packed", "I32", packed), ("weight_shape", "I64", stack(shape, 2))
    if word in _FLOATS:
        return (("weight_packed", "U8", (*shape[:-1], up(shape[-1] * bits, 8))),)
    return (("weight", "F8_E4M3" if kind == "float" else "I8", shape),)


def _scales(strategy: str, shape: Shape, size: int | tuple[int, int] | None) -> Shape:
    match size:
        case int():
            return (*shape[:-1], up(shape[-1], size))
        case (rows, columns):
            return stack(shape, up(shape[-2], rows), up(shape[-1], columns))
        case _:
            return stack(shape, 1) if strategy == "tensor" else (*shape[:-1], 1)


def _of_inputs(inputs: Any, shape: Shape) -> tuple[_Stored, ...]:
    """Scales of inputs that were calibrated; those measured at run time leave none, but for the whole tensor's beside groups'."""
    if not isinstance(inputs, Mapping) or inputs.get("dynamic") is True:
        return ()
    one = stack(shape, 1)
    if inputs.get("strategy") == "tensor_group":
        return (("input_global_scale", "F32", one),)
    zero = (("input_zero_point", "I8", one),) if inputs.get("symmetric") is False else ()
    return (("input_scale", "BF16", one), *zero)


def _of_outputs(outputs: Any, shape: Shape) -> tuple[_Stored, ...]:
    """Scales of outputs that were calibrated."""
    static = isinstance(outputs, Mapping) and outputs.get("dynamic") is not True
    zero = (("output_zero_point", "I8", stack(shape, 1)),) if static and outputs.get("symmetric") is False else ()
    return (("output_scale", "BF16", stack(shape, 1)), *zero) if static else ()
