"""Weights with scales beside them: FP8, INT8, NVFP4, MXFP4, MLX, and what modelopt, Quark, EETQ, BitNet and DeepSeek write."""

from __future__ import annotations

from math import prod
from typing import Final

from hfmem.checkpoint.layout import Layout, Leaves, group_size, present
from hfmem.checkpoint.quantization_config import Quantization
from hfmem.dtypes import BITS

_FP8: Final = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_INT8: Final = frozenset({"I8", "U8"})
_MICRO_SCALES: Final = frozenset({"U8", "F8_E8M0", "F8_E4M3"})


def scaled(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """A `weight` with scales beside it: FP8, INT8, NVFP4, MXFP4, packed INT4 of modelopt and Quark, EETQ, BitNet, DeepSeek."""
    weight = leaves.get("weight")
    scales = present(leaves, "weight_scale_inv", "weight_scale", "weight_scales", "scale", "scales")
    if weight is None or not scales:
        return None
    name, scale = scales[0], leaves[scales[0]]
    used = present(
        leaves,
        *(
            "weight",
            *scales,
            "weight_scale_2",
            "weight_zero_point",
            "weight_global_scale",
            "weight_shape",
            "weight_g_idx",
        ),
        *("input_scale", "input_zero_point", "input_scale_ub", "input_global_scale", "activation_scale"),
        *("pre_quant_scale", "output_scale", "k_scale", "v_scale", "q_scale", "prob_scale", "k_zero_point"),
        *("v_zero_point", "biases"),
    )
    method = said.method if said else _SCALED_METHODS.get((weight.dtype, scale.dtype), "fp8")
    cols = weight.shape[-1] if weight.shape else 0
    groups = scale.shape[-1] if len(scale.shape) == len(weight.shape) > 0 else 1

    def layout(factor: int, per: int, bits: int, axis: int = -1) -> Layout:
        shape = list(weight.shape)
        shape[axis] = shape[axis] * factor // per
        rows, inputs = (shape[-2] if len(shape) > 1 else 1), shape[-1]
        group = group_size(inputs, groups, said.group_size_of(module) if said else None)
        down = scale.shape[-2] if len(scale.shape) > 1 else 1
        block = None
        if 1 < down < rows and groups:
            block = said.block if said and said.block else (-(-rows // down), -(-inputs // groups))
        return Layout(method, prod(shape), tuple(shape), bits, None if block else group, used, block)

    if not weight.shape:  # a single number is no matrix that a scale could belong to
        return None
    if name == "scales" and weight.dtype != "U32":
        if "tables" in leaves and said and said.bits:  # HIGGS packs along the output axis
            used += present(leaves, "tables", "tables2")
            return layout(BITS[weight.dtype], said.bits, said.bits, axis=0)
        return None
    if weight.dtype == "U32":
        return _mlx(leaves, module, said)
    if weight.dtype in _FP8 or weight.dtype == "F4" or weight.dtype.startswith("F6"):
        return layout(1, 1, BITS[weight.dtype])
    if weight.dtype in _INT8 and weight.shape:
        if said and said.method == "bitnet":
            return layout(4, 1, 2, axis=0)
        if said and said.method == "gemma" and weight.dtype == "U8" and (own := said.bits_of(module)) in (2, 4):
            return layout(8 // own, 1, own)  # codes along a row, whose one scale tells nothing of their width
        rows = weight.shape[-2] if len(weight.shape) > 1 else 0
        if scale.dtype in _MICRO_SCALES and groups > 1:
            for size in (16, 32):
                if groups * size == 2 * cols:
                    return layout(2, 1, 4)
                if groups * size * 3 == 4 * cols:  # six bits: three bytes hold four
                    return layout(4, 3, 6)
        down = scale.shape[-2] if len(scale.shape) > 1 else 0
        if rows and down == 2 * rows:  # modelopt INT4: two rows a byte
            return layout(2, 1, 4, axis=-2)
        if scale.dtype in _MICRO_SCALES and down > 1 and groups == cols and 2 * rows in (16 * down, 32 * down):
            return layout(2, 1, 4, axis=-2)  # stacked experts stored [in / 2, out]
        if groups > 1 and said and said.bits_of(module) == 4 and weight.dtype == "U8":
            return layout(2, 1, 4)
        return layout(1, 1, 8)
    if weight.dtype == "I32" and said and (bits := said.bits_of(module)) in (2, 4, 8):
        wide = scale.shape[-1] if scale.shape else 0
        return layout(32, bits, bits, axis=-1 if wide != cols else -2)
    return None


# what to call a weight and scale of these dtypes where no file says
_SCALED_METHODS: Final = {
    **{(dtype, "F8_E4M3"): "nvfp4" for dtype in ("U8", "F4")},
    **{(dtype, scale): "mxfp4" for dtype in ("U8", "F4", "I8") for scale in ("U8", "F8_E8M0")},
    **{(dtype, scale): "int8" for dtype in ("I8", "U8") for scale in ("F32", "F16", "BF16")},
}


def _mlx(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """MLX: `bits`-wide codes packed along the last axis of uint32, scales (and biases) a group."""
    weight, scales = leaves["weight"], leaves.get("scales")
    if scales is None or not weight.shape or not scales.shape:
        return None
    size = (said.group_size_of(module) if said else None) or (64 if "biases" in leaves else 32)
    inputs = scales.shape[-1] * size
    bits = weight.shape[-1] * 32 // inputs if inputs else 0
    if not 2 <= bits <= 8 or weight.shape[-1] * 32 != inputs * bits:
        if not said or not (bits := said.bits_of(module) or 0):
            return None
        inputs = weight.shape[-1] * 32 // bits
    shape = (*weight.shape[:-1], inputs)
    return Layout("mlx", prod(shape), shape, bits, size, present(leaves, "weight", "scales", "biases"))


def mxfp4_blocks(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """gpt-oss: `blocks` [..., groups, 16] of two codes a byte, `scales` [..., groups]."""
    blocks, scales = leaves.get("blocks"), leaves.get("scales")
    if blocks is None or scales is None or blocks.dtype != "U8" or len(blocks.shape) < 2:
        return None
    *lead, groups, size = blocks.shape
    shape = (*lead, 2 * groups * size)
    return Layout("mxfp4", prod(shape), shape, 4, 2 * size, ("blocks", "scales"))
