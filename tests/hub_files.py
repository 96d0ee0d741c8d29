"""What the local Hub holds: files whose weights are never in memory, repositories of them, safetensors files made of shapes.

A file is its first bytes and a size, and what lies beyond reads as zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BITS = {"F64": 64, "F32": 32, "BF16": 16, "F16": 16, "F8_E4M3": 8, "I8": 8, "U8": 8, "I32": 32, "I64": 64}


@dataclass(frozen=True)
class Blob:
    """A file: its first bytes and its size."""

    front: bytes
    size: int

    def read(self, first: int, end: int) -> bytes:
        part = self.front[first:end]
        return part + b"\0" * (min(end, self.size) - first - len(part))


@dataclass
class Repo:
    """A repository: its files, and who may see it. `branches` maps further revisions to commits (same files)."""

    files: dict[str, Blob]
    commit: str = ""
    gated: bool = False
    private: bool = False
    disabled: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    #: answers of the safetensors-metadata route, by index: made once, so that what is measured is the client
    metadata: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.commit:
            names = repr(sorted((name, blob.front, blob.size) for name, blob in self.files.items()))
            self.commit = hashlib.sha1(names.encode()).hexdigest()


def header_bytes(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], *, pad_to: int | None = None
) -> tuple[bytes, int]:
    """A safetensors file's front (length and JSON) and the file's size. `pad_to` makes the JSON exactly that long."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape in tensors:
        size = BITS[dtype] // 8
        for extent in shape:
            size *= extent
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    length = pad_to if pad_to is not None else -(-len(text) // 8) * 8
    assert length >= len(text), (length, len(text))
    return length.to_bytes(8, "little") + text.ljust(length), 8 + length + at


def shard(tensors: Iterable[tuple[str, str, tuple[int, ...]]], *, pad_to: int | None = None) -> Blob:
    """A safetensors file whose data is zeros that no one stores."""
    return Blob(*header_bytes(tensors, pad_to=pad_to))


def sharded(shards: Mapping[str, list[tuple[str, str, tuple[int, ...]]]]) -> dict[str, Any]:
    """The index and the shards of a sharded model."""
    files: dict[str, Any] = {name: shard(tensors) for name, tensors in shards.items()}
    total = sum(blob.size - len(blob.front) for blob in files.values())
    weight_map = {tensor[0]: name for name, tensors in shards.items() for tensor in tensors}
    return {"model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map}, **files}
