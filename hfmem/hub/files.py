"""What every place that holds a model offers, and the small helpers for reading through it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from hfmem.checkpoint.file_size import ENTRY
from hfmem.checkpoint.pointer import refuse_pointer
from hfmem.checkpoint.safetensors import PREFIX_BYTES, Header
from hfmem.errors import FormatError

if TYPE_CHECKING:
    from hfmem.checkpoint.gguf import GgufHeader
    from hfmem.checkpoint.torch_pickle import TorchFile

#: bytes of a file's front read when nothing tells how long its header is: 97 % of the Hub's headers are shorter than 100 kB
DEFAULT_GUESS: Final = 128 << 10
MAX_CONFIG_BYTES: Final = 32 << 20

#: what a tensor adds to a header besides its name, with a long dtype, two dimensions and offsets of tens of gigabytes
_ENTRY_GUESS: Final = len(ENTRY) + 7 + 12 + 2 * 11


class Files(Protocol):
    """A folder of model files, on the Hub or on a disk. `label` names it in messages."""

    @property
    def label(self) -> str: ...

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """The whole file; None where there is none."""

    def headers(self, sizes: Mapping[str, int]) -> dict[str, Header]:
        """The safetensors header of each file of `sizes`, which maps it to the bytes its front is guessed to take.

        Raises:
            MissingFileError: one of them is not there.
        """

    def listing(self) -> dict[str, int | None]:
        """The files at the top of the folder, with their sizes where known."""

    def tree(self) -> dict[str, int | None]:
        """All files by their paths in the folder, with their sizes where known."""

    def read_range(self, name: str, offset: int, length: int) -> tuple[bytes, int | None]:
        """Bytes of a file (fewer at its end), and its size.

        Raises:
            MissingFileError: it is not there.
        """

    def gguf_headers(self, sizes: Mapping[str, int | None]) -> list[GgufHeader]:
        """The GGUF header of each file of `sizes` (its size, None where not known), in order."""

    def torch_files(self, sizes: Mapping[str, int | None]) -> list[TorchFile]:
        """The tensors of each file of `torch.save`, in order."""


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object of a config file. Python's `NaN` and `Infinity` are taken: published configs hold them.

    Raises:
        FormatError: empty, a pointer of Git LFS, not JSON, or not an object.
    """
    if not data.strip():
        raise FormatError(f"{what} is empty ({len(data)} bytes)")
    refuse_pointer(data, what)
    try:
        value = json.loads(data)
    except RecursionError:
        raise FormatError(f"{what}: the JSON is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{what}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError:
        raise FormatError(f"{what}: holds an integer of thousands of digits") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what}: not a JSON object but a {type(value).__name__}")
    return value


def guess_front(names: Sequence[str]) -> int:
    """Bytes that reach past the header of a file that holds tensors of these names."""
    size = PREFIX_BYTES + 512 + sum(map(len, names)) + len(names) * _ENTRY_GUESS
    return -(-size // 4096) * 4096
