"""A folder inside a model's place, as a place of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hfmem.checkpoint.safetensors import Header
from hfmem.hub.files import Files
from hfmem.records import dataclass

if TYPE_CHECKING:
    from hfmem.checkpoint.gguf import GgufHeader
    from hfmem.checkpoint.torch_pickle import TorchFile


@dataclass(frozen=True, slots=True)
class Below:
    """`Files` of `folder` in `files`; names are relative to it."""

    files: Files
    folder: str

    @property
    def label(self) -> str:
        return f"{self.files.label}/{self.folder}"

    def _at(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def read(self, name: str, max_bytes: int) -> bytes | None:
        return self.files.read(self._at(name), max_bytes)

    def headers(self, sizes: Mapping[str, int]) -> dict[str, Header]:
        found = self.files.headers({self._at(name): size for name, size in sizes.items()})
        return {name: found[self._at(name)] for name in sizes}

    def listing(self) -> dict[str, int | None]:
        return {name: size for name, size in self.tree().items() if "/" not in name}

    def tree(self) -> dict[str, int | None]:
        start = f"{self.folder}/"
        return {name.removeprefix(start): size for name, size in self.files.tree().items() if name.startswith(start)}

    def read_range(self, name: str, offset: int, length: int) -> tuple[bytes, int | None]:
        return self.files.read_range(self._at(name), offset, length)

    def gguf_headers(self, sizes: Mapping[str, int | None]) -> list[GgufHeader]:
        return self.files.gguf_headers({self._at(name): size for name, size in sizes.items()})

    def torch_files(self, sizes: Mapping[str, int | None]) -> list[TorchFile]:
        return self.files.torch_files({self._at(name): size for name, size in sizes.items()})
