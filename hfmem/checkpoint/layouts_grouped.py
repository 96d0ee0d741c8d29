"""Codes packed over rows of one group each: SINQ and quanto."""

from __future__ import annotations

from math import prod

from hfmem.checkpoint.layout import Layout, Leaves, group_size, present
from hfmem.checkpoint.quantization_config import Quantization
from hfmem.dtypes import BITS

_SINQ_BITS = (8, 6, 5, 4, 3, 2, 1)


def sinq(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """SINQ: a zero for each group, so groups × the width of a row of codes are the weights; a second scale tells the inputs."""
    zeros = next((leaves[name] for name in ("meta.zero.x", "meta.zero", "meta.scale") if name in leaves), None)
    if "W_q" not in leaves or zeros is None or len(leaves["W_q"].shape) < 2:
        return None
    codes = leaves["W_q"]
    groups, wide = prod(zeros.shape), codes.shape[-1]
    elements = groups * wide
    each = -(-groups // codes.shape[-2]) if codes.shape[-2] else 0
    bits = said.bits_of(module) if said else None
    bits = bits or next((b for b in _SINQ_BITS if BITS.get(codes.dtype, 8) // b == each), BITS.get(codes.dtype, 8))
    second = leaves.get("meta.scale2")
    inputs = second.shape[-1] if second is not None and len(second.shape) == 2 else 0
    shape = (elements // inputs, inputs) if inputs and elements % inputs == 0 else None
    used = ("W_q", *sorted(leaf for leaf in leaves if leaf.startswith("meta.")))
    return Layout("sinq", elements, shape, bits, wide, used)


def quanto(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """quanto: whole codes beside a scale a row, or codes of 4 and 2 bits packed over rows of a group, with a scale for each."""
    scale = leaves.get("weight._scale")
    whole, packed = leaves.get("weight._data"), leaves.get("weight._data._data")
    used = present(
        leaves,
        *("weight._data._data", "weight._data", "weight._scale", "weight._shift", "input_scale", "output_scale"),
    )
    if whole is not None and scale is not None:
        return Layout("quanto", prod(whole.shape), whole.shape, BITS.get(whole.dtype, 8), None, used)
    if packed is None or scale is None or len(packed.shape) != 2 or not packed.shape[0]:
        return None
    rows, wide = prod(scale.shape), packed.shape[1]
    bits = 8 // -(-rows // packed.shape[0]) if rows else 0
    return Layout("quanto", rows * wide, None, bits, group_size(wide, 2, wide), used) if bits in (2, 4) else None
