"""Layouts that config.json alone names: torchao's tensors, BitNet, AQLM, VPTQ. `--quant` does not offer them.

torchao: what 0.18.0 stores for each configuration class (its safetensors support flattens a weight into `_weight_qdata`,
`_weight_scale` …), and `quantize_/workflows/int4/int4_tile_packed_to_4d_tensor.py`; what 0.10.0 and 0.15.0 pickle for those of
version 1 and for the words that came before the classes. BitNet and AQLM: transformers 5.23.0
`integrations/bitnet.py` and the `aqlm` package's `QuantizedLinear`. VPTQ: 0.0.5 `vptq/layers/vqlinear.py` as transformers 5.24.0
builds it (`integrations/vptq.py`: packed indices).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hfmem.checkpoint.config_targets import Target, mapping
from hfmem.checkpoint.schemes import Scheme, groups_of, stack, up

#: leaf, dtype and shape of one stored tensor
_Stored = tuple[str, str, tuple[int, ...]]
Shape = tuple[int, ...]
_GROUP: Final = 128
#: torchao's words and the configuration classes that took their place
_TORCHAO_WORDS: Final = {
    "int4_weight_only": "Int4WeightOnlyConfig",
    "int8_weight_only": "Int8WeightOnlyConfig",
    "int8_dynamic_activation_int8_weight": "Int8DynamicActivationInt8WeightConfig",
    "int8_dynamic_activation_int4_weight": "Int8DynamicActivationInt4WeightConfig",
    "float8_weight_only": "Float8WeightOnlyConfig",
}
#: rows and columns of scales that tensor cores read together
_SCALE_TILE: Final = (128, 4)


def config_scheme(method: str, config: Mapping[str, Any]) -> Scheme | None:
    """The layout that a quantization section of one of these methods names, None where it does not say enough."""
    match method:
        case "torchao":
            return _torchao(config)
        case "bitnet":  # trained "online", a file holds the weights as they were
            offline = config.get("quantization_mode", "offline") == "offline"
            return (
                Scheme("bitnet", "bitnet", 2, None, _ternary, "BitNet, four ternary codes a byte") if offline else None
            )
        case "aqlm":
            return _aqlm(config)
        case _:
            return None


def _torchao(config: Mapping[str, Any]) -> Scheme | None:
    if config.get("include_input_output_embeddings"):
        return None
    kind = _torchao_kind(config)
    if isinstance(kind, str):  # the word of a class of version 1
        kind = {"_type": _TORCHAO_WORDS.get(kind), "_version": 1, "_data": mapping(config.get("quant_type_kwargs"))}
    return torchao_scheme(kind)


def _torchao_kind(config: Mapping[str, Any]) -> Any:
    kind = config.get("quant_type")
    return kind["default"] if isinstance(kind, Mapping) and "default" in kind else kind


def torchao_by_name(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Configurations by module name, a pattern (`re:…`) or `_default`; None where one holds for all. Null: left as it was."""
    kind = _torchao_kind(config)
    data = kind.get("_data") if isinstance(kind, Mapping) else None
    for key in ("fqn_to_config", "module_fqn_to_config"):
        named = data.get(key) if isinstance(data, Mapping) else None
        if isinstance(named, Mapping):
            return named
    return None


def torchao_scheme(kind: Any) -> Scheme | None:
    """The layout of one torchao configuration as config.json writes it: `{"_type": …, "_data": {…}}`."""
    if not isinstance(kind, Mapping):
        return None
    name, data = kind.get("_type"), kind.get("_data")
    data = data if isinstance(data, Mapping) else {}
    first = kind.get("_version") == 1
    match name:
        case "Int4WeightOnlyConfig":
            packing = "tile_packed_to_4d" if first else _word(data.get("int4_packing_format")) or "plain"
            layout = {"plain": _int4, "tile_packed_to_4d": _int4_tiled}.get(packing)
            group = data.get("group_size", _GROUP)
            known = layout is not None and type(group) is int and group > 0
            return Scheme(f"torchao-{packing}", "torchao", 4, group, layout, "INT4") if known and layout else None
        case "Int8WeightOnlyConfig" | "Int8DynamicActivationInt8WeightConfig" if first and not data.get("group_size"):
            zeros = name == "Int8WeightOnlyConfig"
            return Scheme(
                f"torchao-int8-{zeros}", "torchao", 8, None, _int8_first if zeros else _scaled_rows("I8"), "INT8"
            )
        case "Int8DynamicActivationInt4WeightConfig":
            group = data.get("group_size", 32)
            known = type(group) is int and group > 0
            return Scheme("torchao-8da4w", "torchao", 8, group, _int4_in_bytes, "INT4, a byte each") if known else None
        case "Float8WeightOnlyConfig" if first:
            return Scheme("torchao-fp8-first", "torchao", 8, None, _scaled_rows("F8_E4M3"), "FP8")
        case "Int8WeightOnlyConfig" | "Int8DynamicActivationInt8WeightConfig" if not first and not data.get(
            "group_size"
        ):
            per_row = _granularity(data.get("granularity"), "PerRow") == "PerRow"
            return Scheme("torchao-int8", "torchao", 8, None, _int8, "INT8") if per_row else None
        case "Float8WeightOnlyConfig" | "Float8DynamicActivationFloat8WeightConfig":
            usual = "PerRow" if name == "Float8WeightOnlyConfig" else "PerTensor"
            layouts = {"PerRow": _fp8_rows, "PerTensor": _fp8_tensor}
            said = _granularity(data.get("granularity"), usual)
            return Scheme(f"torchao-{said}", "torchao", 8, None, layouts[said], "FP8") if said in layouts else None
        case "IntxWeightOnlyConfig" | "Int8DynamicActivationIntxWeightConfig":
            grain = data.get("weight_granularity", data.get("granularity"))
            inner = grain.get("_data") if isinstance(grain, Mapping) else None
            group = inner.get("group_size") if isinstance(inner, Mapping) else None
            packing = _word(data.get("intx_packing_format")) or "unpacked_to_int8"
            if packing != "unpacked_to_int8" or not (group is None or (type(group) is int and group > 0)):
                return None
            return Scheme("torchao-intx", "torchao", 8, group, _intx, "codes of any width, a byte each")
        case "NVFP4WeightOnlyConfig" | "NVFP4DynamicActivationNVFP4WeightConfig":
            return Scheme("torchao-nvfp4", "torchao", 4, 16, _nvfp4, "NVFP4")
        case "MXDynamicActivationMXWeightConfig" if data.get("block_size", 32) == 32:
            dtype = data.get("weight_dtype")
            eight = "float8_e4m3" in str(dtype.get("_data") if isinstance(dtype, Mapping) else dtype or "float8_e4m3fn")
            return Scheme("torchao-mxfp8", "torchao", 8, 32, _mxfp8, "MXFP8") if eight else None
        case _:
            return None


def _word(value: Any) -> str | None:
    """A value of an enum, written plainly or as `{"_type": …, "_data": …}`."""
    value = value.get("_data") if isinstance(value, Mapping) else value
    return value.lower() if isinstance(value, str) else None


def _granularity(value: Any, usual: str) -> str:
    """The class of a weight's granularity; a pair is that of inputs and that of weights."""
    value = value[-1] if isinstance(value, list) and value else value
    kind = value.get("_type") if isinstance(value, Mapping) else value
    return kind if isinstance(kind, str) else usual


def _int4(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    scale = stack(shape, groups_of(shape, group)[-1], shape[-2])
    codes = (*shape[:-1], up(shape[-1], 2))
    return ("_weight_qdata", "U8", codes), ("_weight_scale", "BF16", scale), ("_weight_zero_point", "BF16", scale)


def _int4_tiled(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    rows, inputs = up(shape[-2], 8) * 8, up(shape[-1], 1024) * 1024
    codes = stack(shape, rows // 8, inputs // 128, 32, 4)
    return ("_weight_qdata", "I32", codes), (
        "_weight_scale_and_zero",
        "BF16",
        stack(shape, up(inputs, group or _GROUP), rows, 2),
    )


def _int8(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    rows = (*shape[:-1], 1)
    return ("_weight_qdata", "I8", shape), ("_weight_scale", "F32", rows), ("_weight_zero_point", "I8", rows)


def _int8_first(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    rows = shape[:-1]
    return ("_weight_qdata", "I8", shape), ("_weight_scale", "BF16", rows), ("_weight_zero_point", "I64", rows)


def _scaled_rows(code: str) -> Any:
    def layout(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
        return ("_weight_qdata", code, shape), ("_weight_scale", "BF16", shape[:-1])

    return layout


def _int4_in_bytes(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    scale = groups_of(shape, group)
    return ("_weight_qdata", "I8", shape), ("_weight_scale", "BF16", scale), ("_weight_zero_point", "BF16", scale)


def _fp8_rows(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    return ("_weight_qdata", "F8_E4M3", shape), ("_weight_scale", "F32", (*shape[:-1], 1))


def _fp8_tensor(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    return ("_weight_qdata", "F8_E4M3", shape), ("_weight_scale", "F32", stack(shape, 1, 1))


def _intx(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    scale = groups_of(shape, group)
    return ("_weight_qdata", "I8", shape), ("_weight_scale", "BF16", scale), ("_weight_zero_point", "I8", scale)


def _tiles(shape: Shape, group: int) -> Shape:
    rows, columns = _SCALE_TILE
    return stack(shape, up(shape[-2], rows) * rows, up(up(shape[-1], group), columns) * columns)


def _nvfp4(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    codes = (*shape[:-1], up(shape[-1], 2))
    scales = ("_weight_scale", "F8_E4M3", _tiles(shape, 16))
    return ("_weight_qdata", "U8", codes), scales, ("_weight_per_tensor_scale", "F32", shape[:-2])


def _mxfp8(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    return ("_weight_qdata", "F8_E4M3", shape), ("_weight_scale", "F8_E8M0", _tiles(shape, 32))


def _ternary(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
    return ("weight", "U8", stack(shape, up(shape[-2], 4), shape[-1])), ("weight_scale", "BF16", stack(shape, 1))


def _aqlm(config: Mapping[str, Any]) -> Scheme | None:
    keys = ("in_group_size", "out_group_size", "num_codebooks", "nbits_per_codebook")
    values = [config.get(key) for key in keys]
    if not all(type(value) is int and 0 < value <= 1 << 16 for value in values):
        return None
    wide, high, books, bits = (int(value) for value in values if isinstance(value, int))
    if bits > 16:  # codes have two bytes at most
        return None

    def layout(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
        rows, columns = up(shape[-2], high), up(shape[-1], wide)
        return (
            ("codes", "I8" if bits <= 8 else "I16", stack(shape, rows, columns, books)),
            ("codebooks", "F16", stack(shape, books, 1 << bits, high, wide)),
            ("scales", "F16", stack(shape, rows, 1, 1, 1)),
        )

    return Scheme(f"aqlm-{books}x{bits}g{wide}x{high}", "aqlm", bits, None, layout, "AQLM")


def vptq_targets(config: Mapping[str, Any]) -> tuple[Target, ...]:
    """VPTQ's section has an entry for each module by name; what it does not name stayed as it was."""
    entries = mapping(config.get("config_for_layers"))
    schemes: dict[str, Scheme | None] = {}
    out = []
    for name, said in entries.items():
        key = repr(sorted(mapping(said).items(), key=str))
        scheme = schemes.setdefault(key, _vptq(mapping(said)))
        out.append(Target(name, scheme.bits if scheme else None, None, None, scheme))
    return tuple(out)


def _vptq(said: Mapping[str, Any]) -> Scheme | None:
    """Indices of centroids of vectors along the outputs, a residual's beside them in one code; columns that stand out apart.

    Pairs are those of the outlying columns and of the rest.
    """
    pairs = [said.get(key) for key in ("vector_lens", "num_centroids", "num_res_centroids")]
    if not all(isinstance(p, list) and len(p) == 2 and all(type(v) is int and v >= -1 for v in p) for p in pairs):
        return None
    (far_length, length), (far, near), (_, residual) = (pair for pair in pairs if isinstance(pair, list))
    sizes = [said.get(key) for key in ("group_num", "group_size", "outlier_size")]
    if not all(type(v) is int and v >= 0 for v in sizes) or length < 1 or near < 1:
        return None
    groups, span, apart = (value for value in sizes if isinstance(value, int))
    codes = near.bit_length() - 1 + (residual.bit_length() - 1 if residual > 0 else 0)

    def layout(shape: Shape, group: int | None) -> tuple[_Stored, ...]:
        rows, columns = shape[-2:]
        out: list[_Stored] = [("indices", "I32", stack(shape, groups, up(rows, length), up(span * codes, 32)))]
        tables = [("centroids", (groups, near * length))]
        if residual > 0:
            tables.append(("res_centroids", (groups, residual * length)))
        if far_length > 1 and far > 0:
            tables.append(("outlier_centroids", (1, far * far_length)))
            out.append(("outlier_indices", "I16", stack(shape, 1, up(rows, far_length), apart)))
        out += [(f"{name}.weight", "BF16", stack(shape, *size)) for name, size in tables]
        if said.get("enable_norm") is True:
            out += [(name, "BF16", stack(shape, columns)) for name in ("weight_scale", "weight_bias")]
        if said.get("enable_perm") is True:
            out.append(("perm", "I16", stack(shape, columns)))
        return tuple(out)

    bits = max(codes // length, 1)
    return Scheme(f"vptq-{sorted(map(str, said.items()))}", "vptq", bits, None, layout, "VPTQ")
