"""What a layout is: one weight of a module, its logical shape, and the stored tensors that make it up."""

from __future__ import annotations

from collections.abc import Mapping

from hfmem.checkpoint.logical import Part
from hfmem.records import dataclass

Leaves = Mapping[str, Part]


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


def present(leaves: Leaves, *names: str) -> tuple[str, ...]:
    """Those of `names` that the module has, in this order."""
    return tuple(name for name in names if name in leaves)


def group_size(inputs: int, groups: int, said: int | None) -> int | None:
    """Weights a scale; one group is a scale a row, and what the file says holds where it gives that number of groups."""
    if groups <= 1 or not inputs:
        return None
    if said and -(-inputs // said) == groups:
        return said
    return -(-inputs // groups)
