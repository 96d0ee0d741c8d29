"""Codes of groups of weights: AQLM, QuIP#, QTIP, EXL2, EXL3."""

from __future__ import annotations

from math import prod
from typing import Final

from hfmem.checkpoint.layout import Layout, Leaves, present
from hfmem.checkpoint.logical import Part
from hfmem.checkpoint.quantization_config import Quantization
from hfmem.dtypes import BITS

_EXL2: Final = ("q_weight", "q_scale", "q_scale_max", "q_groups", "q_group_map", "q_perm", "q_invperm")
_TRELLIS: Final = (
    *("Wscale", "codebook_id", "fuse_scales", "rescale_WH", "had_left", "had_right", "mcg", "mul1", "tlut", "rcp"),
)


def vector_codes(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """AQLM, QuIP#, QTIP, EXL2, EXL3: codes of groups of weights; row and column vectors tell the shape."""
    if "codes" in leaves and "codebooks" in leaves and len(leaves["codebooks"].shape) == 4:
        _, _, out_group, in_group = leaves["codebooks"].shape
        if len(leaves["codes"].shape) < 2:
            return None
        rows, cols = leaves["codes"].shape[:2]
        shape = (rows * out_group, cols * in_group)
        bits = _bits_each(leaves["codes"], prod(shape))
        return Layout("aqlm", prod(shape), shape, bits, None, present(leaves, "codes", "codebooks", "scales"))
    for main, row, column, method in (
        ("Qidxs", "SV", "SU", "quip"),
        ("trellis", "SV", "SU", "qtip"),
        ("trellis", "svh", "suh", "exl3"),
    ):
        if main in leaves and row in leaves and column in leaves:
            shape = (prod(leaves[row].shape), prod(leaves[column].shape))
            used = present(leaves, main, row, column, *_TRELLIS)
            return Layout(method, prod(shape), shape, _bits_each(leaves[main], prod(shape)), None, used)
    if "q_weight" in leaves and "q_invperm" in leaves and len(leaves["q_weight"].shape) == 2:
        shape = (leaves["q_weight"].shape[1], prod(leaves["q_invperm"].shape))
        bits = _bits_each(leaves["q_weight"], prod(shape))
        return Layout("exl2", prod(shape), shape, bits, None, present(leaves, *_EXL2))
    return None


def _bits_each(codes: Part, elements: int) -> int:
    return round(prod(codes.shape) * BITS.get(codes.dtype, 8) / elements) if elements else 0
