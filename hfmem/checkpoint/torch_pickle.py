"""`.bin`, `.pt`, `.pth`: files of `torch.save`, by two or three ranged reads of the zip's directory and of one pickle.

Storages are never read. Their sizes stand in the zip's directory and must agree with what the pickle says of them.
Files from before torch 1.6 are one long pickle with the weights inside it and are refused, as are zips that hold
compressed weights.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any, Final

from hfmem.checkpoint.grouping import group_facts
from hfmem.checkpoint.pickle_facts import Unpickler
from hfmem.checkpoint.pickle_values import Name, Storage, Tensor
from hfmem.checkpoint.runs import Fact
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.dtypes import num_bytes
from hfmem.errors import ContradictionError, FormatError
from hfmem.records import dataclass

#: bytes `offset` to `offset + length` of the file; fewer only at its end
Read = Callable[[int, int], bytes]

_TAIL: Final = 1 << 16
_MAX_DIRECTORY: Final = 64 << 20
_MAX_PICKLE: Final = 32 << 20
_MAX_NODES: Final = 1_000_000
_MAX_PATH: Final = 4096

_LEGACY_MAGIC: Final = bytes.fromhex("8a0a6cfc9c46f920 6aa850 19".replace(" ", ""))
_LEGACY: Final = (
    "saved by torch before 1.6, with the weights inside the pickle; load it and save it anew to read it here"
)
_PLAIN_NAMES: Final = (
    "torch._utils.",
    "torch.",
    "collections.OrderedDict",
    "torch.storage.",
    "torch._tensor.",
)
#: where training code keeps the weights in a checkpoint that holds more than them
_STATE_KEYS: Final = ("state_dict", "model_state_dict", "model", "module", "params", "weights", "net")


class LegacyTorchError(FormatError):
    """A file from before torch 1.6: one long pickle with the weights inside it."""


@dataclass(frozen=True, slots=True)
class TorchFile:
    """One file's facts. `tensors` maps a name to dtype and shape, one name for each tensor that has bytes of its own.

    `shared` are names whose tensor is another's (tied weights), `unused_bytes` storage that no tensor shows.
    """

    file: str
    tensors: Mapping[str, Fact]
    shared: tuple[str, ...]
    unused_bytes: int
    file_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    method: int
    compressed: int
    size: int
    offset: int


def read_torch(read: Read, size: int, *, file: str) -> TorchFile:
    """The facts of a file of `size` bytes, through `read`.

    Raises:
        FormatError: no file of `torch.save`, one from before torch 1.6, or a damaged one.
        ContradictionError: the pickle and the zip's directory exclude each other.
    """
    entries = _directory(read, size, file)
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise FormatError(f"{file}: a zip archive, but not of torch.save (it holds {len(pickles)} data.pkl)")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in entries:
        raise FormatError(f"{file}: a TorchScript program, not a file of weights")
    machine = Unpickler(_contents(read, size, entries[pickles[0]], file), file)
    found = _tensors(machine.load(), file)
    return _facts(found, entries, prefix, machine.names, size, file)


def merge_torch(files: Sequence[TorchFile]) -> Checkpoint:
    """All shards of one model.

    Raises:
        ContradictionError: two shards store a tensor of one name.
    """
    names = [name for part in files for name in part.tensors]
    facts = [fact for part in files for fact in part.tensors.values()]
    return Checkpoint(
        groups=group_facts(names, facts),
        format="torch",
        num_files=len(files),
        file_bytes=sum(part.file_bytes for part in files),
        notes=tuple(note for part in files for note in part.notes),
    )


# ---------------------------------------------------------------------------------------------------- zip


def _directory(read: Read, size: int, file: str) -> dict[str, _Entry]:
    start = max(0, size - _TAIL)
    tail = read(start, size - start)
    if len(tail) != size - start:
        raise FormatError(f"{file}: ends at {start + len(tail):,} of {size:,} bytes")
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + 22 > len(tail):
        head = read(0, 64)
        if _LEGACY_MAGIC in head:
            raise LegacyTorchError(f"{file}: {_LEGACY}")
        raise FormatError(f"{file}: {_what_else(head)}")
    count, length, offset = struct.unpack_from("<HII", tail, at + 10)
    if 0xFFFFFFFF in (length, offset) or count == 0xFFFF:
        locator = at - 20
        if locator < 0 or tail[locator : locator + 4] != b"PK\x06\x07":
            raise FormatError(f"{file}: its zip directory is damaged")
        (where,) = struct.unpack_from("<Q", tail, locator + 8)
        record = _slice(read, tail, start, where, 56, size, file)
        if record[:4] != b"PK\x06\x06":
            raise FormatError(f"{file}: its zip directory is damaged")
        count, length, offset = struct.unpack_from("<QQQ", record, 32)
    if length > _MAX_DIRECTORY or count * 46 > length:
        raise FormatError(f"{file}: its zip directory claims {count:,} entries in {length:,} bytes")
    return _entries(_slice(read, tail, start, offset, length, size, file), count, file)


def _slice(read: Read, tail: bytes, start: int, offset: int, length: int, size: int, file: str) -> bytes:
    """Bytes of the file, from the tail that was read already where they lie in it."""
    if offset + length > size:
        raise FormatError(f"{file}: its zip directory lies past the file's end")
    if offset >= start:
        return tail[offset - start : offset - start + length]
    data = read(offset, length)
    if len(data) != length:
        raise FormatError(f"{file}: ends inside its zip directory")
    return data


def _entries(data: bytes, count: int, file: str) -> dict[str, _Entry]:
    out: dict[str, _Entry] = {}
    at = 0
    for _ in range(count):
        if data[at : at + 4] != b"PK\x01\x02" or at + 46 > len(data):
            raise FormatError(f"{file}: its zip directory is damaged")
        method, _, _, _, compressed, size, name_len, extra_len, note_len = struct.unpack_from(
            "<HHHIIIHHH", data, at + 10
        )
        (offset,) = struct.unpack_from("<I", data, at + 42)
        name = data[at + 46 : at + 46 + name_len].decode("utf-8", errors="replace")
        extra = data[at + 46 + name_len : at + 46 + name_len + extra_len]
        size, compressed, offset = _wide(extra, size, compressed, offset)
        if name in out:
            raise ContradictionError(f"{file}: the archive holds {name!r} twice")
        out[name] = _Entry(method, compressed, size, offset)
        at += 46 + name_len + extra_len + note_len
    return out


def _wide(extra: bytes, *values: int) -> tuple[int, ...]:
    """The zip64 forms, in the order they are written, of those values that are all ones."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            return tuple(next(wide, value) if value == 0xFFFFFFFF else value for value in values)
        at += 4 + length
    return values


def _contents(read: Read, size: int, entry: _Entry, file: str) -> bytes:
    if entry.size > _MAX_PICKLE or entry.compressed > _MAX_PICKLE:
        raise FormatError(f"{file}: its data.pkl claims {max(entry.size, entry.compressed):,} bytes")
    # the local header repeats name and extra fields, of lengths of its own; room for them saves a request
    data = read(entry.offset, min(size - entry.offset, 30 + 1024 + entry.compressed)) if entry.offset < size else b""
    if len(data) < 30 or data[:4] != b"PK\x03\x04":
        raise FormatError(f"{file}: its data.pkl is not where the zip directory says")
    name_len, extra_len = struct.unpack_from("<HH", data, 26)
    begin = 30 + name_len + extra_len
    if begin + entry.compressed > len(data):
        data += read(entry.offset + len(data), begin + entry.compressed - len(data))
    raw = data[begin : begin + entry.compressed]
    if len(raw) != entry.compressed:
        raise FormatError(f"{file}: ends inside its data.pkl")
    if entry.method == 8:
        try:
            raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, entry.size + 1)
        except zlib.error:
            raise FormatError(f"{file}: its data.pkl is damaged") from None
    elif entry.method != 0:
        raise FormatError(f"{file}: its data.pkl is compressed in a way not known ({entry.method})")
    if len(raw) != entry.size:
        raise FormatError(f"{file}: its data.pkl has not the {entry.size:,} bytes its directory says")
    return raw


def _what_else(head: bytes) -> str:
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive cut short (truncated download?)"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file (run `git lfs pull`)"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a plain pickle, not a file of torch.save"
    return "not a file of torch.save" if head else "empty"


# ---------------------------------------------------------------------------------------------------- tensors


def _tensors(root: Any, file: str) -> dict[str, Tensor]:
    """Tensors by name: of the dict that is the state, or of everything below the root, joined by dots."""
    if isinstance(root, dict) and not any(isinstance(value, Tensor) for value in root.values()):
        for key in _STATE_KEYS:
            inner = root.get(key)
            if isinstance(inner, dict) and any(isinstance(value, Tensor) for value in inner.values()):
                root = inner
                break
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("", root)]
    nodes = 0
    while pending:
        path, value = pending.pop()
        nodes += 1
        if nodes > _MAX_NODES or len(path) > _MAX_PATH:
            raise FormatError(f"{file}: its pickle holds millions of values, or names of thousands of characters")
        if isinstance(value, Tensor):
            out[path or "tensor"] = value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
            pending += reversed([(_below(path, key), item) for key, item in items])
    if not out:
        raise FormatError(f"{file}: its pickle holds no tensor")
    return out


def _below(path: str, key: Any) -> str:
    """The name one level down; a module that was saved whole, and a tensor of many devices, keep tensors in attributes that no
    name shows."""
    if key in ("_modules", "_parameters", "_buffers", "_local_tensor"):
        return path
    return f"{path}.{key}" if path else str(key)


def _facts(
    found: Mapping[str, Tensor],
    entries: Mapping[str, _Entry],
    prefix: str,
    names: Iterable[Name],
    size: int,
    file: str,
) -> TorchFile:
    tensors: dict[str, Fact] = {}
    shared: list[str] = []
    views: set[tuple[Any, ...]] = set()
    storages: dict[str, int] = {}
    shown = 0
    for name, tensor in found.items():
        extent = _check(name, tensor, file)
        if tensor.storage is not None:
            storages[tensor.storage.key] = _storage_bytes(tensor.storage, entries, prefix, file)
            needed = num_bytes(tensor.dtype, extent)
            if needed > storages[tensor.storage.key]:
                raise ContradictionError(f"{file}: tensor {name!r} reaches past the end of its storage")
            view = (tensor.storage.key, tensor.offset, tensor.shape, tensor.stride, tensor.dtype)
            if view in views:
                shared.append(name)
                continue
            views.add(view)
        tensors[name] = tensor.dtype, tensor.shape
        shown += num_bytes(tensor.dtype, prod(tensor.shape))
    strange = [str(name) for name in names if not str(name).startswith(_PLAIN_NAMES)]
    notes = []
    if shared:
        notes.append(f"{file}: {len(shared):,} names share another's tensor ({shared[0]}, …) and count once")
    if strange:
        notes.append(f"{file}: its pickle names {', '.join(strange[:4])}, which was not run; torch would run it")
    unused = max(0, sum(storages.values()) - shown)
    return TorchFile(file, tensors, tuple(shared), unused, size, tuple(notes))


def _check(name: str, tensor: Tensor, file: str) -> int:
    """Elements of the storage, from its start, that the tensor needs."""
    if any(value < 0 for value in (*tensor.shape, *tensor.stride)) or tensor.offset < 0:
        raise ContradictionError(f"{file}: tensor {name!r} has a negative size")
    if prod(tensor.shape) >= 1 << 63:
        raise ContradictionError(f"{file}: tensor {name!r} overflows 64 bits")
    if tensor.storage is None or 0 in tensor.shape:
        return 0
    if len(tensor.stride) != len(tensor.shape):
        raise ContradictionError(f"{file}: tensor {name!r} has not one stride a dimension")
    return tensor.offset + 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride, strict=True))


def _storage_bytes(storage: Storage, entries: Mapping[str, _Entry], prefix: str, file: str) -> int:
    entry = entries.get(f"{prefix}data/{storage.key}")
    if entry is None:
        raise ContradictionError(f"{file}: the archive lacks data/{storage.key[:40]}, which its pickle names")
    if entry.method != 0:
        raise FormatError(f"{file}: data/{storage.key[:40]} is compressed, which torch.save never does")
    said = num_bytes(storage.dtype, storage.num_elements)
    if entry.size != said or entry.compressed != said:
        raise ContradictionError(f"{file}: data/{storage.key[:40]} has {entry.size:,} bytes, its pickle says {said:,}")
    return said
