"""Weights with scales beside them: FP8, INT8, NVFP4, MXFP4, MLX, and what modelopt, Quark, EETQ, BitNet and DeepSeek write."""

from __future__ import annotations

from math import prod
from typing import Final, NamedTuple

from hfmem.checkpoint.layout import Layout, Leaves, group_size, present
from hfmem.checkpoint.logical import Part
from hfmem.checkpoint.quantization_config import Quantization
from hfmem.dtypes import BITS

_FP8: Final = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_INT8: Final = frozenset({"I8", "U8"})
_MICRO_SCALES: Final = frozenset({"U8", "F8_E8M0", "F8_E4M3"})


#: what a module may hold beside a weight and its scales
_BESIDE: Final = (
    *("weight_scale_2", "weight_zero_point", "weight_global_scale", "weight_shape", "weight_g_idx"),
    *("input_scale", "input_zero_point", "input_scale_ub", "input_global_scale", "activation_scale"),
    *("pre_quant_scale", "output_scale", "k_scale", "v_scale", "q_scale", "prob_scale", "k_zero_point"),
    *("v_zero_point", "biases", "tables", "tables2"),
)


class _Packing(NamedTuple):
    """`per` stored elements along `axis` hold `codes` weights of `bits` each."""

    codes: int
    per: int
    bits: int
    axis: int = -1


def scaled(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """A `weight` with scales beside it: FP8, INT8, NVFP4, MXFP4, packed INT4 of modelopt and Quark, EETQ, BitNet, DeepSeek."""
    weight = leaves.get("weight")
    scales = present(leaves, "weight_scale_inv", "weight_scale", "weight_scales", "scale", "scales")
    if weight is None or not scales or not weight.shape:  # a single number is no matrix that a scale could belong to
        return None
    scale = leaves[scales[0]]
    used = present(leaves, "weight", *scales, *_BESIDE)
    if weight.dtype == "U32":
        return _mlx(leaves, module, said)
    by_table = scales[0] == "scales"
    packing = _packed_by_table(leaves, weight, said) if by_table else _packing(weight, scale, module, said)
    if packing is None:
        return None
    method = said.method if said else _SCALED_METHODS.get((weight.dtype, scale.dtype), "fp8")
    shape = list(weight.shape)
    shape[packing.axis] = shape[packing.axis] * packing.codes // packing.per
    rows, inputs = (shape[-2] if len(shape) > 1 else 1), shape[-1]
    down, groups = _rows(scale) or 1, _groups(weight, scale)
    group = group_size(inputs, groups, said.group_size_of(module) if said else None)
    block = None
    if 1 < down < rows and groups:
        block = said.block if said and said.block else (-(-rows // down), -(-inputs // groups))
    return Layout(method, prod(shape), tuple(shape), packing.bits, None if block else group, used, block)


def _packed_by_table(leaves: Leaves, weight: Part, said: Quantization | None) -> _Packing | None:
    """HIGGS packs codes, numbers of rows of a table, along the output axis."""
    if "tables" not in leaves or not said or not said.bits:
        return None
    return _Packing(BITS[weight.dtype], said.bits, said.bits, axis=0)


def _packing(weight: Part, scale: Part, module: str, said: Quantization | None) -> _Packing | None:
    """How a weight's elements hold its codes, by their dtypes and shapes and by what the file says of the module's bits."""
    if weight.dtype in _FP8 or weight.dtype == "F4" or weight.dtype.startswith("F6"):
        return _Packing(1, 1, BITS[weight.dtype])
    bits = said.bits_of(module) if said else None
    if weight.dtype in _INT8:
        if said and said.method == "bitnet":
            return _Packing(4, 1, 2, axis=0)
        if said and said.method == "gemma" and weight.dtype == "U8" and bits in (2, 4):
            return _Packing(8 // bits, 1, bits)  # codes along a row, whose one scale tells nothing of their width
        return _packed_in_bytes(weight, scale, bits)
    if weight.dtype == "I32" and bits in (2, 4, 8):
        wide = scale.shape[-1] if scale.shape else 0
        return _Packing(32, bits, bits, axis=-1 if wide != weight.shape[-1] else -2)
    return None


def _packed_in_bytes(weight: Part, scale: Part, bits: int | None) -> _Packing:
    """How bytes hold codes: two each or four in three, where as many groups of 16 or 32 as there are scales make that, else one."""
    rows, cols = _rows(weight), weight.shape[-1]
    down, groups = _rows(scale), _groups(weight, scale)
    micro = scale.dtype in _MICRO_SCALES
    if micro and groups > 1:
        for size in (16, 32):
            if groups * size == 2 * cols:
                return _Packing(2, 1, 4)
            if groups * size * 3 == 4 * cols:  # six bits: three bytes hold four
                return _Packing(4, 3, 6)
    if rows and down == 2 * rows:  # modelopt INT4: two rows a byte
        return _Packing(2, 1, 4, axis=-2)
    if micro and down > 1 and groups == cols and 2 * rows in (16 * down, 32 * down):
        return _Packing(2, 1, 4, axis=-2)  # stacked experts stored [in / 2, out]
    if groups > 1 and bits == 4 and weight.dtype == "U8":
        return _Packing(2, 1, 4)
    return _Packing(1, 1, 8)


def _rows(tensor: Part) -> int:
    return tensor.shape[-2] if len(tensor.shape) > 1 else 0


def _groups(weight: Part, scale: Part) -> int:
    """Scales along a row of the weight."""
    return scale.shape[-1] if len(scale.shape) == len(weight.shape) else 1


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
