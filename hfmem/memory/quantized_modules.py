"""The stored tensors of one quantized matrix: its codes, and what stands beside them."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Final

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.memory.shares import block_size
from hfmem.model.inventory import TensorSpec
from hfmem.model.names import core

#: names of a matrix's codes, and of its scales
_CODES: Final = ("weight", "qweight", "weight_packed")
_SCALES: Final = ("scales", "weight_scale")


class QuantizedModules:
    """Codes and scales by the module that they belong to."""

    def __init__(self, groups: Iterable[TensorGroup]) -> None:
        self._stored: dict[str, list[TensorGroup]] = {}
        for group in groups:
            name = core(group.pattern)
            if name.rpartition(".")[2] in (*_CODES, *_SCALES):
                self._stored.setdefault(name, []).append(group)

    def codes(self, group: TensorGroup) -> TensorGroup | None:
        """The codes that a tensor stands beside, or is."""
        return self._of(group, _CODES)

    def group_size(self, spec: TensorSpec, group: TensorGroup) -> int | None:
        """How many elements of a row share a scale in the matrix `spec` that a tensor belongs to; -1: all; None: no scales."""
        scales = self._of(group, _SCALES)
        if scales is None or len(spec.shape) < 2 or not scales.elements:
            return None
        rows, columns = spec.shape[-2:]
        groups = prod(scales.shape[-2:]) // rows
        return block_size(columns, groups) if groups > 1 else -1

    def _of(self, group: TensorGroup, leaves: tuple[str, ...]) -> TensorGroup | None:
        """Layers of two kinds have matrices of two shapes under one name: the one with the same boxes, else the first."""
        module = core(group.pattern).rpartition(".")[0]
        found = next((found for leaf in leaves if (found := self._stored.get(f"{module}.{leaf}"))), [])
        return next((own for own in found if own.boxes == group.boxes), found[0] if found else None)
