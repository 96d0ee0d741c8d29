"""Layouts that smaller dialects name: MLX's modes, blocks of FP8 files, Quark, HIGGS, FP-Quant, SpQR, Gemma, Metal, HQQ.

Source: mlx 0.29 `mx.quantize` (scales and biases of affine modes, scales alone of the others); transformers 5.23.0
`integrations/{finegrained_fp8,fbgemm_fp8,higgs,gemma_quant,metal_quantization}.py`; `fp_quant` 0.3.2 `module/linear.py`;
`spqr_quant` 0.2.0 `inference.py`; vLLM 0.33.0 `quantization/quark/schemes`; AutoRound's `qlinear_torch_zp.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any, Final

from hfmem.checkpoint.config_targets import Target, integer, mapping, positive, text
from hfmem.checkpoint.schemes import SCHEMES, Scheme, gptq_layout, groups_of, stack, up
from hfmem.records import replace

_Stored = tuple[str, str, tuple[int, ...]]
Shape = tuple[int, ...]
#: bits and group of MLX's modes that need no more than their name
_MLX_MODES: Final = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
_SPQR: Final = {"dense_weights": "I64", "row_offsets": "I32", "col_vals": "I32", "in_perm": "I32"}


def mlx(bits: int | None, group: int | None, mode: str | None) -> Scheme | None:
    """MLX: affine codes with a scale and a bias a group, or a floating-point mode, whose scales are bytes."""
    if mode in _MLX_MODES:
        own_bits, own_group = _MLX_MODES[mode]

        def layout(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
            codes = (*shape[:-1], up(shape[-1] * own_bits, 32))
            return ("weight", "U32", codes), ("scales", "U8", groups_of(shape, own_group))

        return Scheme(f"mlx-{mode}", "mlx", own_bits, own_group, layout, f"MLX {mode}", everything=True)
    if mode not in (None, "affine") or bits not in (2, 3, 4, 5, 6, 8):
        return None

    def affine(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
        scale = groups_of(shape, group or 64)
        codes = ("weight", "U32", (*shape[:-1], up(shape[-1] * bits, 32)))
        return codes, ("scales", "BF16", scale), ("biases", "BF16", scale)

    return Scheme(f"mlx-{bits}bit-{group}", "mlx", bits, group or 64, affine, f"MLX, {bits} bit", everything=True)


def fp8(config: Mapping[str, Any], block: tuple[int, int] | None) -> Scheme | None:
    """An FP8 file's scales where they are not the usual blocks of 128 × 128 or a matrix's with its static inputs'.

    Of other blocks DeepSeek V4.1 stores the exponents that `scale_fmt` says; V3.1's and V3.2's files say the same and hold FP32.
    """
    if block == (128, 128) or (block is None and config.get("activation_scheme") == "static"):
        return None
    kind = "F8_E8M0" if config.get("scale_fmt") == "ue8m0" else "F32"

    def layout(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
        codes = ("weight", "F8_E4M3", shape)
        if block is None:
            return codes, ("weight_scale_inv", "F32", shape[:-2])
        return codes, ("weight_scale_inv", kind, stack(shape, up(shape[-2], block[0]), up(shape[-1], block[1])))

    return Scheme(f"fp8-{block}", "fp8", 8, None, layout, "FP8")


def _fbgemm(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
    return ("weight", "F8_E4M3", shape), ("weight_scale", "F32", (*shape[:-1], 1))


FBGEMM: Final = Scheme("fbgemm", "fbgemm_fp8", 8, None, _fbgemm, "FP8, one fp32 scale a row")


def quark_word(config: Mapping[str, Any]) -> str | None:
    """Quark's format of weights in the word that reports use: `fp8`, `mxfp4`; else its dtype."""
    weight = mapping(mapping(config.get("global_quant_config")).get("weight"))
    kind = (text(weight.get("dtype")) or "").lower()
    if kind == "fp4" and weight.get("group_size") == 32 and weight.get("scale_format") == "e8m0":
        return "mxfp4"
    return "fp8" if kind.startswith("fp8") and weight.get("qscheme") == "per_tensor" else kind or None


def quark(weight: Mapping[str, Any], inputs: Mapping[str, Any]) -> Scheme | None:
    """Quark's format of weights: FP8 a tensor or a row, INT8 a row, MXFP4. `inputs`: what it says of them, static or not."""
    kind, grain = (text(weight.get("dtype")) or "").lower(), weight.get("qscheme")
    if kind == "fp4" and weight.get("group_size") == 32 and weight.get("scale_format") == "e8m0":
        return replace(SCHEMES["mxfp4"], experts_only=False, head=True)
    codes = "F8_E4M3" if kind.startswith("fp8") else "I8" if kind == "int8" else None
    if codes is None or grain not in ("per_tensor", "per_channel"):
        return None
    static = bool(inputs) and inputs.get("is_dynamic") is not True

    def layout(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
        scale = ("weight_scale", "F32", shape[:-2] if grain == "per_tensor" else shape[:-1])
        weights = (("weight", codes, shape), scale)
        return (*weights, ("input_scale", "F32", shape[:-2])) if static else weights

    return Scheme(f"quark-{kind}-{grain}-{static}", "quark", 8, None, layout, "Quark", head=True)


def quark_targets(config: Mapping[str, Any]) -> tuple[Target, ...]:
    """Modules for which Quark's section has a format of their own."""
    out = []
    for name, value in mapping(config.get("layer_quant_config")).items():
        weight = mapping(mapping(value).get("weight"))
        scheme = quark(weight, mapping(mapping(value).get("input_tensors"))) if weight else None
        out.append(Target(name, scheme.bits if scheme else None, None, None, scheme, plain=not weight))
    return tuple(out)


def higgs(config: Mapping[str, Any]) -> Scheme | None:
    """HIGGS: codes of 2 to 4 bits in 16-bit words, a scale a group, two tables of a matrix."""
    bits, group = config.get("bits", 4), config.get("group_size", 256)
    if bits not in (2, 3, 4) or group not in (64, 128, 256):
        return None

    def layout(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
        return (
            ("weight", "I16", stack(shape, shape[-2] * bits // 16, shape[-1])),
            ("scales", "BF16", groups_of(shape, group)),
            ("tables", "BF16", stack(shape, 2**bits)),
            ("tables2", "BF16", stack(shape, 2**bits, 2**bits, 2)),
        )

    return Scheme(f"higgs-{bits}", "higgs", bits, group, layout, "HIGGS")


def fp_quant(config: Mapping[str, Any]) -> Scheme | None:
    """FP-Quant: MXFP4 or NVFP4 codes and scales, two global scales and two Hadamard matrices of a module."""
    kind = config.get("forward_dtype", "nvfp4")
    if kind not in ("mxfp4", "nvfp4") or config.get("store_master_weights") or config.get("pseudoquantization"):
        return None
    group = 32 if kind == "mxfp4" else 16
    side = positive(config.get("hadamard_group_size")) or group

    def layout(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
        codes = (("qweight", "U8", (*shape[:-1], up(shape[-1], 2))), ("scales", "U8", groups_of(shape, group)))
        rest = (("weight_global_scale", (1,)), ("act_global_scale", (1,)))
        turns = ((f"{way}_hadamard_matrix", (side, side)) for way in ("forward", "backward"))
        return (*codes, *((leaf, "BF16", stack(shape, *dims)) for leaf, dims in (*rest, *turns)))

    return Scheme(f"fp-quant-{kind}", "fp_quant", 4, group, layout, "FP-Quant")


def spqr_targets(config: Mapping[str, Any]) -> tuple[Target, ...]:
    """SpQR's section gives the sizes of each module's tensors: `model.layers.0.mlp.up_proj.col_vals.shape`."""
    found: dict[str, dict[str, int]] = {}
    for key, value in mapping(config.get("shapes")).items():
        module, _, leaf = key.removesuffix(".shape").rpartition(".")
        size = value[0] if isinstance(value, list) and value else value
        if leaf in _SPQR and type(size) is int and size >= 0:
            found.setdefault(module, {})[leaf] = size

    def scheme(sizes: Mapping[str, int]) -> Scheme:
        stored = tuple((leaf, _SPQR[leaf], (size,)) for leaf, size in sizes.items())
        return Scheme(f"spqr-{stored}", "spqr", 3, 16, lambda shape, size: stored, "SpQR")

    return tuple(
        Target(module, 3, 16, None, scheme(sizes)) for module, sizes in found.items() if len(sizes) == len(_SPQR)
    )


def _gemma(bits: int) -> Scheme:
    def layout(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
        codes = ("weight", "U8", (*shape[:-1], up(shape[-1] * bits, 8))) if bits < 8 else ("weight", "I8", shape)
        one = shape[:-2]
        scale = ("weight_scale", "F32", (*shape[:-1], 1))
        return codes, scale, ("input_activation_scale", "F32", one), ("output_activation_scale", "F32", one)

    return Scheme(f"gemma-{bits}", "gemma", bits, None, layout, "Gemma's own")


def gemma(config: Mapping[str, Any]) -> tuple[Scheme | None, tuple[Target, ...]]:
    """Gemma's pre-quantized files: one width for all modules, others by pattern."""
    usual = config.get("num_bits", 4)
    if usual not in (2, 4, 8) or config.get("quantize_embeddings"):  # an embedding's tensors are others
        return None, ()
    own = []
    for pattern, value in mapping(config.get("module_quant_configs")).items():
        bits = mapping(value).get("num_bits", usual)
        scheme = _gemma(bits) if bits in (2, 4, 8) else None
        own.append(Target(f"re:.*(?:{pattern})", integer(bits), None, None, scheme))
    return _gemma(usual), tuple(own)


def hqq(bits: int | None, group: int | None) -> Scheme | None:
    """HQQ's codes of 8, 3, 2 and 1 bits, packed along the groups; 4 bits are `--quant`'s own."""
    if bits not in (1, 2, 3, 8) or not group:
        return None

    def layout(shape: Shape, size: int | None) -> tuple[_Stored, ...]:
        groups = up(prod(shape), group)
        rows = up(groups, 10) if bits == 3 else up(groups * bits, 8)
        codes = ("W_q", "I32" if bits == 3 else "U8", (rows, group))
        return codes, ("scale", "F16", (groups, 1)), ("zero", "F16", (groups, 1))

    return Scheme(f"hqq-{bits}", "hqq", bits, group, layout, "HQQ")


def packed_without_index(bits: int | None, group: int | None) -> Scheme | None:
    """AutoRound's packing of GPTQ's codes: no `g_idx`, inputs are in their order."""
    if bits not in (2, 3, 4, 8):
        return None
    return Scheme(
        f"auto-round-{bits}-{group}", "auto-round", bits, group, gptq_layout(bits, index=False), "GPTQ's codes in order"
    )


def has_float_codes(config: Mapping[str, Any]) -> bool:
    """Whether AutoRound's codes are floating-point numbers, which are packed in other ways than its integers."""
    return not (text(config.get("data_type")) or "int").startswith("int")


def blocks_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """AutoRound's `block_name_to_quantize`: prefixes of what it quantized; empty where it says nothing usable."""
    said = config.get("block_name_to_quantize")
    names = said.split(",") if isinstance(said, str) else said if isinstance(said, list) else []
    flat = [name for item in names for name in (item if isinstance(item, list) else [item])]
    return tuple(
        dict.fromkeys(re.sub(r"\.\d+$", "", name.strip()) for name in flat if isinstance(name, str) and name.strip())
    )
