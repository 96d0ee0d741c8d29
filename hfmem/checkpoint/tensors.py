"""Tensor facts, grouped: what every checkpoint parser returns and everything later reads.

A 161-shard model has 90,000 tensors of some sixty kinds. Later stages never look at one tensor at a time, so parsers
fold names that differ in their numbers alone into one `TensorGroup`; what an estimate costs then depends on the
kinds, not on the number of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

from hfmem.dtypes import num_bytes
from hfmem.records import dataclass

#: one cartesian block of index values: the product of its ranges, one range for each `{}` of the pattern
Box = tuple[range, ...]


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """Tensors with one dtype and shape whose names differ only in the integers that stand at `{}` in `pattern`.

    `pattern` is `"model.layers.{}.self_attn.q_proj.weight"`; `boxes` list the integers, e.g. `((range(0, 32),),)`.
    Boxes of one group are disjoint, and a range may have a step. A pattern without `{}` has the single box `()`. A
    brace of the name itself is doubled, so that `pattern.format(*indices)` is the name. Two groups may share a
    pattern when dtype or shape differ.
    """

    pattern: str
    dtype: str
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]

    @property
    def count(self) -> int:
        """How many tensors the group holds."""
        return sum(prod(len(r) for r in box) for box in self.boxes)

    @property
    def elements(self) -> int:
        """Stored elements of one tensor."""
        return prod(self.shape)

    @property
    def total_elements(self) -> int:
        """Stored elements of all its tensors."""
        return self.count * self.elements

    @property
    def tensor_bytes(self) -> int:
        """Bytes of one tensor."""
        return num_bytes(self.dtype, self.elements)

    @property
    def total_bytes(self) -> int:
        """Bytes of all its tensors."""
        return self.count * self.tensor_bytes

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Every tuple of integers, in box order."""
        for box in self.boxes:
            yield from product(*box)

    def names(self) -> Iterator[str]:
        """Every tensor's full name, in box order."""
        for values in self.indices():
            yield self.pattern.format(*values)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All tensors of one coherent set of weight files.

    `file_bytes` is the size of the files that hold them (headers included), None where no size is known. `metadata`
    merges the `__metadata__` of the headers (first file wins). `format` says which parser made it. `notes` are
    oddities worth a warning.
    """

    groups: tuple[TensorGroup, ...]
    format: str  # "safetensors" | "gguf" | "torch"
    num_files: int
    file_bytes: int | None
    metadata: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(group.total_bytes for group in self.groups)

    @property
    def num_tensors(self) -> int:
        """How many tensors there are."""
        return sum(group.count for group in self.groups)
