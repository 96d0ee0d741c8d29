"""Files of `torch.save` through ranged reads: their sizes first, then the zip's directory and one pickle, never a weight."""

from __future__ import annotations

from collections.abc import Callable

from hfmem.checkpoint.torch_pickle import TorchFile, read_torch
from hfmem.errors import FormatError

#: reads of one file: its tail, its directory where that is longer, the pickle and the pickle's end
_MAX_READS = 8


def read_torch_file(
    name: str, size: int | None, read: Callable[[str, int, int], tuple[bytes, int | None]], label: str
) -> TorchFile:
    """The facts of one file; a size that no listing told is read with its first byte.

    Raises:
        FormatError, ContradictionError: as `read_torch`.
    """
    if size is None:
        _, size = read(name, 0, 1)
        if size is None:
            raise FormatError(f"{label}: the server does not say how long it is")
    if size == 0:
        raise FormatError(f"{label} is empty (0 bytes)")
    reads = 0

    def part(offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        if reads > _MAX_READS:
            raise FormatError(f"{label}: its directory leads in circles")
        return read(name, offset, length)[0] if length > 0 else b""

    return read_torch(part, size, file=label)
