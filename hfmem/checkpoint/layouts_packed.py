"""Codes packed into words: GPTQ, AWQ, bitsandbytes, compressed-tensors, HQQ, torchao."""

from __future__ import annotations

from math import prod
from typing import Final

from hfmem.checkpoint.layout import Layout, Leaves, group_size, present
from hfmem.checkpoint.modules import TORCHAO_CODES, TORCHAO_STEMS
from hfmem.checkpoint.quantization_config import Quantization
from hfmem.dtypes import BITS, num_bytes

_HQQ: Final = (
    *("W_q", "scale", "zero", "shape", "nbits", "group_size", "axis", "packing", "view_as_float", "unpack_view_dtype"),
    *("quant_scale", "quant_zero", "compute_dtype", "offload_meta", "encoded_state_dict", "channel_wise"),
    *("stores_quant_config", "optimize", "round_zero", "meta"),
)
#: of what the inputs of a large model's matrices are a multiple
_USUAL_WIDTH: Final = 128
_INT8: Final = frozenset({"I8", "U8"})


def gptq_awq(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """GPTQ packs codes along the input axis, AWQ along the output; `scales` [groups, out] tells which axis is whole."""
    if "qweight" not in leaves or "scales" not in leaves:
        return None
    weight, scales = leaves["qweight"], leaves["scales"]
    if len(weight.shape) < 2 or len(scales.shape) < 2:
        return None
    used = present(leaves, "qweight", "scales", "qzeros", "g_idx", "workspace", "weight_bias")
    stack, (rows, cols) = weight.shape[:-2], weight.shape[-2:]
    shape: tuple[int, ...]
    if weight.dtype == "U8":  # FP-Quant: two 4-bit floats a byte, along the input axis
        extra = present(leaves, "forward_hadamard_matrix", "backward_hadamard_matrix", "act_global_scale")
        shape = (*stack, rows, 2 * cols)
        group = 2 * cols // scales.shape[-1] if scales.shape[-1] else None
        others = (*extra, *present(leaves, "weight_global_scale", "dqweight"))
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
    group = group_size(inputs, groups, said.group_size_of(module) if said else None)
    return Layout(method, prod(shape), shape, bits, group, used)


def bitsandbytes(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """4 bit: two codes a byte of whatever dtype the bytes are stored as; the shape is inside the quant_state blob. 8 bit: plain."""
    weight = leaves.get("weight")
    if weight is None:
        return None
    if "weight.absmax" in leaves or any(leaf.startswith("weight.quant_state.") for leaf in leaves):
        elements = 2 * num_bytes(weight.dtype, prod(weight.shape))
        blocks = prod(leaves["weight.absmax"].shape) if "weight.absmax" in leaves else 0
        used = tuple(sorted(leaf for leaf in leaves if leaf.startswith("weight.")))
        return Layout("bitsandbytes", elements, None, 4, group_size(elements, blocks, None), ("weight", *used))
    if "SCB" in leaves and weight.dtype in _INT8:
        used = present(leaves, "weight", "SCB", "weight_format")
        return Layout("bitsandbytes", prod(weight.shape), weight.shape, 8, None, used)
    return None


def compressed(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """compressed-tensors `pack-quantized` (int32 words), `nvfp4`/`mxfp4` (two codes a byte), and their sparse forms."""
    used = present(
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
        *("shape", "row_offsets", "output_scale", "output_zero_point", "activation_scale"),
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
        groups = scale.shape[-1] if scale.shape else 1
        six = packed.dtype == "U8" and groups * 32 * 3 == 4 * cols  # MXFP6: three bytes hold four codes
        shape = (*lead, cols if packed.dtype == "F4" else cols * 4 // 3 if six else 2 * cols)
        return Layout(
            "compressed-tensors", prod(shape), shape, 6 if six else 4, group_size(shape[-1], groups, None), used
        )
    word = BITS[packed.dtype]
    bits, size = (said.bits_of(module), said.group_size_of(module)) if said else (None, None)
    groups = scale.shape[-1] if scale.shape else 1
    if "meta" in leaves:  # Marlin 2:4: half of the codes, tiled; only the number is to be had
        bits = bits or 4
        return Layout("compressed-tensors", 2 * prod(packed.shape) * word // bits, None, bits, size, used)
    if size and groups > 1:
        inputs = groups * size
        bits = bits or cols * word // inputs
    if not bits or bits > word:
        return None
    # codes follow one another over the ends of words; releases before 0.18 left the bits that hold no whole code unused
    dense, spaced = cols * word // bits, cols * (word // bits)
    if not (size and groups > 1) or cols not in (-(-inputs * bits // word), -(-inputs // (word // bits))):
        inputs = dense if dense % _USUAL_WIDTH == 0 else spaced  # only the last word may be part empty
    shape = (*lead, inputs)
    return Layout("compressed-tensors", prod(shape), shape, bits, group_size(inputs, groups, size), used)


def hqq(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """HQQ: one scale and zero for each group, so groups × group size are the weights, however they are packed."""
    if "W_q" not in leaves or "scale" not in leaves:
        return None
    size = said.group_size_of(module) if said else None
    bits = (said.bits_of(module) if said else None) or 4
    codes = leaves["W_q"]
    elements = prod(leaves["scale"].shape) * size if size else prod(codes.shape) * BITS.get(codes.dtype, 8) // bits
    return Layout("hqq", elements, None, bits, size, present(leaves, *_HQQ))


def torchao(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """torchao: its codes hold whole values (int8, fp8), two 4-bit codes a byte, or eight in tiled int32 words."""
    for stem in TORCHAO_STEMS:
        name = next((f"{stem}{word}" for word in TORCHAO_CODES if f"{stem}{word}" in leaves), None)
        if name is None:
            continue
        codes = leaves[name]
        used = (name, *sorted(leaf for leaf in leaves if leaf.startswith(stem) and leaf != name))
        each = {"I32": 8, "U8": 2}.get(codes.dtype, 1)
        bits = 4 if each > 1 else BITS.get(codes.dtype, 8)
        shape = (*codes.shape[:-1], each * codes.shape[-1]) if codes.shape and len(codes.shape) < 4 else None
        return Layout("torchao", each * prod(codes.shape), shape, bits, None, used)
    return None
