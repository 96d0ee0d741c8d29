"""What stored tensors stand for once unpacked, as data. How it is found out is `quantization`'s business."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Final

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.dtypes import num_bytes
from hfmem.records import dataclass

#: what a model in which nothing is packed may store: floats of 16 bits and more, and buffers of integers and flags
_PLAIN: Final = frozenset({"F64", "F32", "F16", "BF16", "I64", "BOOL"})


def is_plain(groups: Iterable[TensorGroup]) -> bool:
    """Whether the stored tensors cannot be anything but the weights themselves, so that nothing needs unpacking."""
    return all(group.dtype in _PLAIN for group in groups)


@dataclass(frozen=True, slots=True)
class Part:
    """One stored tensor of a module: the full pattern it is stored under, dtype and shape."""

    pattern: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogicalGroup(TensorGroup):
    """Weights as the unquantized model has them: name pattern, logical shape, and all that is stored for one of them.

    A `TensorGroup` whose elements are logical and whose bytes are those of `parts`: the codes first, then scales,
    zeros, indices. `dtype` is what the codes are stored as. Where the file does not hold the shape (bitsandbytes 4
    bit) it is `(elements,)` and `shape_known` is False. `method` and `bits` are None for a tensor stored as it is;
    `parameter` is False for buffers and for scales beside no weight, whose shape is then `(0,)`.
    """

    parts: tuple[Part, ...]
    method: str | None = None
    bits: int | None = None
    group_size: int | None = None
    block: tuple[int, int] | None = None
    shape_known: bool = True
    parameter: bool = True

    @property
    def tensor_bytes(self) -> int:
        """Stored bytes of one weight, scales and indices included."""
        return sum(num_bytes(part.dtype, prod(part.shape)) for part in self.parts)

    @property
    def total_bytes(self) -> int:
        """Stored bytes of all."""
        return self.count * self.tensor_bytes

    @property
    def code_bytes(self) -> int:
        """Bytes of one weight's codes alone."""
        return num_bytes(self.parts[0].dtype, prod(self.parts[0].shape))

    def bytes_by_dtype(self) -> dict[str, int]:
        """Bytes of all, by the dtype they are stored in."""
        out: dict[str, int] = {}
        for part in self.parts:
            out[part.dtype] = out.get(part.dtype, 0) + self.count * num_bytes(part.dtype, prod(part.shape))
        return out
