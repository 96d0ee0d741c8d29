"""The layouts quantizers write: which stored tensors make a weight, and how many logical elements it has.

Each rule looks at one module's leaves. Shapes decide wherever they can (a packed axis against its scales); the
configuration is asked for bits or a group size only where two readings of the shapes remain. A rule that does not fit
says so by returning None, and the tensors then count as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from hfmem.checkpoint.modules import Part
from hfmem.checkpoint.quantization_config import Quantization
from hfmem.dtypes import BITS, num_bytes

Leaves = Mapping[str, Part]

_FP8: Final = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_INT8: Final = frozenset({"I8", "U8"})
_MICRO_SCALES: Final = frozenset({"U8", "F8_E8M0", "F8_E4M3"})
_HQQ: Final = (
    *("W_q", "scale", "zero", "shape", "nbits", "group_size", "axis", "packing", "view_as_float", "unpack_view_dtype"),
    *("quant_scale", "quant_zero", "compute_dtype", "offload_meta", "encoded_state_dict", "channel_wise"),
    *("stores_quant_config", "optimize", "round_zero", "meta"),
)
_EXL2: Final = ("q_weight", "q_scale", "q_scale_max", "q_groups", "q_group_map", "q_perm", "q_invperm")
_TRELLIS: Final = (
    *("Wscale", "codebook_id", "fuse_scales", "rescale_WH", "had_left", "had_right", "mcg", "mul1", "tlut", "rcp"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """One weight of a module: `elements` are logical; `shape` is None where the file does not hold it.

    `leaves` are the stored tensors that make it up, the packed weight first. `bits` are of the packed codes alone.
    `group_size` is how many weights share a scale along the input axis, `block` rows × columns, None for a scale a
    row or a tensor.
    """

    method: str
    elements: int
    shape: tuple[int, ...] | None
    bits: int
    group_size: int | None
    leaves: tuple[str, ...]
    block: tuple[int, int] | None = None


def recognize(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """The quantized weight that the tensors of `module` make up, None where they are none."""
    if len(leaves) < 2:
        return None
    for rule in _RULES:
        layout = rule(leaves, module, said)
        if layout is not None:
            return layout
    return None


def _present(leaves: Leaves, *names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name in leaves)


def _gptq_awq(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """GPTQ packs codes along the input axis, AWQ along the output; `scales` [groups, out] tells which axis is whole."""
    if "qweight" not in leaves or "scales" not in leaves:
        return None
    weight, scales = leaves["qweight"], leaves["scales"]
    if len(weight.shape) < 2 or len(scales.shape) < 2:
        return None
    used = _present(leaves, "qweight", "scales", "qzeros", "g_idx", "workspace", "weight_bias")
    stack, (rows, cols) = weight.shape[:-2], weight.shape[-2:]
    shape: tuple[int, ...]
    if weight.dtype == "U8":  # FP-Quant: two 4-bit floats a byte, along the input axis
        extra = _present(leaves, "forward_hadamard_matrix", "backward_hadamard_matrix", "act_global_scale")
        shape = (*stack, rows, 2 * cols)
        group = 2 * cols // scales.shape[-1] if scales.shape[-1] else None
        others = (*extra, *_present(leaves, "weight_global_scale", "dqweight"))
        return Layout("fp_quant", prod(shape), shape, 4, group, used + others)
    zeros = leaves.get("qzeros")
    word = BITS.get(weight.dtype, 0)
    groups, out = scales.shape[-2:]
    bits = None
    if zeros is not None and len(zeros.shape) >= 2 and out and zeros.dtype == weight.dtype:
        bits = zeros.shape[-1] * word // out
    if bits not in (2, 3, 4, 5, 6, 8):
        bits = said.bits_of(module) if said else None
    indexed: int = prod(leaves["g_idx"].shape) if "g_idx" in leaves else 0
    if not bits and indexed:
        bits = rows * word // indexed
    if not bits or not word or bits > word:
        return None
    if cols == out:  # GPTQ
        fits = not stack and indexed > 0 and indexed * bits <= rows * word
        inputs = indexed if fits else rows * word // bits
        method, shape = "gptq", (*stack, out, inputs)
    elif cols * word // bits == out:  # AWQ "gemm"
        method, shape, inputs = "awq", (*stack, out, rows), rows
    elif rows == groups:  # AWQ "gemv": [out, in / pack], scales [out, groups]
        inputs = cols * word // bits
        method, shape, groups = "awq", (*stack, rows, inputs), out
    elif word == 16:  # AWQ "gemv_fast": rows of four outputs interleaved
        method, inputs = "awq", cols
        shape = (*stack, rows * 16 // bits, cols)
    else:
        return None
    group = _group(inputs, groups, said.group_size_of(module) if said else None)
    return Layout(method, prod(shape), shape, bits, group, used)


def _group(inputs: int, groups: int, said: int | None) -> int | None:
    """Weights a scale; one group is a scale a row, and what the file says holds where it gives that number of groups."""
    if groups <= 1 or not inputs:
        return None
    if said and -(-inputs // said) == groups:
        return said
    return -(-inputs // groups)


def _bitsandbytes(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """4 bit: two codes a byte of whatever dtype the bytes are stored as; the shape is inside the quant_state blob. 8 bit: plain."""
    weight = leaves.get("weight")
    if weight is None:
        return None
    if "weight.absmax" in leaves or any(leaf.startswith("weight.quant_state.") for leaf in leaves):
        elements = 2 * num_bytes(weight.dtype, prod(weight.shape))
        blocks = prod(leaves["weight.absmax"].shape) if "weight.absmax" in leaves else 0
        used = tuple(sorted(leaf for leaf in leaves if leaf.startswith("weight.")))
        return Layout("bitsandbytes", elements, None, 4, _group(elements, blocks, None), ("weight", *used))
    if "SCB" in leaves and weight.dtype in _INT8:
        used = _present(leaves, "weight", "SCB", "weight_format")
        return Layout("bitsandbytes", prod(weight.shape), weight.shape, 8, None, used)
    return None


def _compressed(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """compressed-tensors `pack-quantized` (int32 words), `nvfp4`/`mxfp4` (two codes a byte), and their sparse forms."""
    used = _present(
        leaves,
        *(
            "compressed",
            "weight_packed",
            "weight_scale",
            "weight_zero_point",
            "weight_shape",
            "weight_g_idx",
            "weight_global_scale",
        ),
        *("input_global_scale", "input_scale", "input_zero_point", "scale_packed", "meta", "bitmask"),
        *("shape", "row_offsets", "output_scale", "activation_scale"),
    )
    if "compressed" in leaves and "bitmask" in leaves:
        codes = leaves["compressed"]
        if len(codes.shape) >= 2:  # 2:4: half of each row is kept
            shape: tuple[int, ...] | None = (*codes.shape[:-1], 2 * codes.shape[-1])
            elements = 2 * prod(codes.shape)
        else:
            mask = leaves["bitmask"].shape
            shape, elements = (*mask[:-1], 8 * mask[-1]) if mask else None, 8 * prod(mask)
        return Layout("compressed-tensors", elements, shape, BITS.get(codes.dtype, 8), None, used)
    if "weight_packed" not in leaves:
        return None
    packed, scale = leaves["weight_packed"], leaves.get("weight_scale") or leaves.get("scale_packed")
    if not packed.shape or scale is None:
        return None
    *lead, cols = packed.shape
    if packed.dtype in ("U8", "I8", "F4"):
        shape = (*lead, cols if packed.dtype == "F4" else 2 * cols)
        group = _group(shape[-1], scale.shape[-1] if scale.shape else 1, None)
        return Layout("compressed-tensors", prod(shape), shape, 4, group, used)
    word = BITS[packed.dtype]
    bits, size = (said.bits_of(module), said.group_size_of(module)) if said else (None, None)
    groups = scale.shape[-1] if scale.shape else 1
    if "meta" in leaves:  # Marlin 2:4: half of the codes, tiled; only the number is to be had
        bits = bits or 4
        return Layout("compressed-tensors", 2 * prod(packed.shape) * word // bits, None, bits, size, used)
    if size and groups > 1:
        inputs = groups * size
        bits = bits or cols * word // inputs
    elif bits:
        inputs = cols * (word // bits)
    else:
        return None
    if not bits or bits > word:
        return None
    if -(-inputs // (word // bits)) != cols:  # only the last word may be part empty
        inputs = cols * (word // bits)
    shape = (*lead, inputs)
    return Layout("compressed-tensors", prod(shape), shape, bits, _group(inputs, groups, size), used)


def _scaled(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """A `weight` with scales beside it: FP8, INT8, NVFP4, MXFP4, packed INT4 of modelopt and Quark, EETQ, BitNet, DeepSeek."""
    weight = leaves.get("weight")
    name = next(
        (leaf for leaf in ("weight_scale_inv", "weight_scale", "weight_scales", "scale", "scales") if leaf in leaves),
        "",
    )
    if weight is None or not name:
        return None
    scale = leaves[name]
    used = _present(
        leaves,
        *("weight", name, "weight_scale_2", "weight_zero_point", "weight_global_scale", "weight_shape", "weight_g_idx"),
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
        group = _group(inputs, groups, said.group_size_of(module) if said else None)
        down = scale.shape[-2] if len(scale.shape) > 1 else 1
        block = None
        if 1 < down < rows and groups:
            block = said.block if said and said.block else (-(-rows // down), -(-inputs // groups))
        return Layout(method, prod(shape), tuple(shape), bits, None if block else group, used, block)

    if name == "scales" and weight.dtype != "U32":
        if "tables" in leaves and said and said.bits:  # HIGGS packs along the output axis
            used += _present(leaves, "tables", "tables2")
            return layout(BITS[weight.dtype], said.bits, said.bits, axis=0)
        return None
    if weight.dtype == "U32":
        return _mlx(leaves, module, said)
    if weight.dtype in _FP8 or weight.dtype == "F4" or weight.dtype.startswith("F6"):
        return layout(1, 1, BITS[weight.dtype])
    if weight.dtype in _INT8 and weight.shape:
        if said and said.method == "bitnet":
            return layout(4, 1, 2, axis=0)
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
    return Layout("mlx", prod(shape), shape, bits, size, _present(leaves, "weight", "scales", "biases"))


def _mxfp4_blocks(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """gpt-oss: `blocks` [..., groups, 16] of two codes a byte, `scales` [..., groups]."""
    blocks, scales = leaves.get("blocks"), leaves.get("scales")
    if blocks is None or scales is None or blocks.dtype != "U8" or len(blocks.shape) < 2:
        return None
    *lead, groups, size = blocks.shape
    shape = (*lead, 2 * groups * size)
    return Layout("mxfp4", prod(shape), shape, 4, 2 * size, ("blocks", "scales"))


def _hqq(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """HQQ: one scale and zero for each group, so groups × group size are the weights, however they are packed."""
    if "W_q" not in leaves or "scale" not in leaves:
        return None
    size = said.group_size_of(module) if said else None
    bits = (said.bits_of(module) if said else None) or 4
    codes = leaves["W_q"]
    elements = prod(leaves["scale"].shape) * size if size else prod(codes.shape) * BITS.get(codes.dtype, 8) // bits
    return Layout("hqq", elements, None, bits, size, _present(leaves, *_HQQ))


def _vector_codes(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """AQLM, QuIP#, QTIP, EXL2, EXL3: codes of groups of weights; row and column vectors tell the shape."""
    if "codes" in leaves and "codebooks" in leaves and len(leaves["codebooks"].shape) == 4:
        _, _, out_group, in_group = leaves["codebooks"].shape
        if len(leaves["codes"].shape) < 2:
            return None
        rows, cols = leaves["codes"].shape[:2]
        shape = (rows * out_group, cols * in_group)
        bits = _bits_each(leaves["codes"], prod(shape))
        return Layout("aqlm", prod(shape), shape, bits, None, _present(leaves, "codes", "codebooks", "scales"))
    for main, row, column, method in (
        ("Qidxs", "SV", "SU", "quip"),
        ("trellis", "SV", "SU", "qtip"),
        ("trellis", "svh", "suh", "exl3"),
    ):
        if main in leaves and row in leaves and column in leaves:
            shape = (prod(leaves[row].shape), prod(leaves[column].shape))
            used = _present(leaves, main, row, column, *_TRELLIS)
            return Layout(method, prod(shape), shape, _bits_each(leaves[main], prod(shape)), None, used)
    if "q_weight" in leaves and "q_invperm" in leaves and len(leaves["q_weight"].shape) == 2:
        shape = (leaves["q_weight"].shape[1], prod(leaves["q_invperm"].shape))
        bits = _bits_each(leaves["q_weight"], prod(shape))
        return Layout("exl2", prod(shape), shape, bits, None, _present(leaves, *_EXL2))
    return None


def _bits_each(codes: Part, elements: int) -> int:
    return round(prod(codes.shape) * BITS.get(codes.dtype, 8) / elements) if elements else 0


def _torchao(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """torchao: `qdata` holds whole values (int8, fp8), two 4-bit codes a byte, or eight in tiled int32 words."""
    for stem in ("_weight_", "weight:"):
        codes = leaves.get(f"{stem}qdata")
        if codes is None:
            continue
        used = (f"{stem}qdata", *sorted(leaf for leaf in leaves if leaf.startswith(stem) and leaf != f"{stem}qdata"))
        each = {"I32": 8, "U8": 2}.get(codes.dtype, 1)
        bits = 4 if each > 1 else BITS.get(codes.dtype, 8)
        shape = (*codes.shape[:-1], each * codes.shape[-1]) if codes.shape and len(codes.shape) < 4 else None
        return Layout("torchao", each * prod(codes.shape), shape, bits, None, used)
    return None


_RULES: Final[tuple[Callable[[Leaves, str, Quantization | None], Layout | None], ...]] = (
    _mxfp4_blocks,
    _gptq_awq,
    _bitsandbytes,
    _compressed,
    _hqq,
    _vector_codes,
    _torchao,
    _scaled,
)
