"""Safetensors headers: the JSON at the front of a file in, validated facts out.

The rules are those of the format's own library (Rust, `tensor.rs`): eight bytes of little-endian length, at most 100
MB of JSON that starts with `{` and may end in white space, each tensor's bytes equal to shape × bits of its dtype,
offsets that start at 0 and leave no hole and no overlap, and an end that is the file's end. Two rules are stricter: a
key may not occur twice (the library keeps the last), and the number of JSON values is bounded, so that no header
costs gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hfmem.checkpoint.canonical import Known, read_columns
from hfmem.checkpoint.runs import Fact, Listed, Part
from hfmem.checkpoint.safetensors_entries import MAX_U64, check, check_text, load
from hfmem.errors import ContradictionError, FormatError
from hfmem.records import dataclass

#: the format's own cap on the JSON's length
MAX_HEADER_BYTES: Final = 100_000_000
#: bytes in front of the JSON
PREFIX_BYTES: Final = 8

_METADATA: Final = "__metadata__"


@dataclass(frozen=True, slots=True)
class Header:
    """One file's facts; `parts` list its tensors in file order.

    `data_bytes` is where the last tensor ends; the file takes `PREFIX_BYTES + header_bytes + data_bytes`.
    `header_bytes` is None when the header came from an endpoint that had parsed it.
    """

    file: str
    parts: Sequence[Part]
    metadata: tuple[tuple[str, str], ...]
    header_bytes: int | None
    data_bytes: int

    @property
    def tensors(self) -> dict[str, Fact]:
        """Dtype code and shape by name, in file order; made anew at each look."""
        return dict(zip(self.text_names(), self.facts, strict=True))

    @property
    def names(self) -> list[bytes]:
        """The names in UTF-8; made anew at each look."""
        return [name for part in self.parts for name in part.names]

    @property
    def facts(self) -> list[Fact]:
        """Of each tensor its dtype code and shape; made anew at each look."""
        return [fact for part in self.parts for fact in part.facts]

    def text_names(self) -> list[str]:
        """The names as strings."""
        return [name for part in self.parts for name in part.text_names()]

    @property
    def file_bytes(self) -> int | None:
        """Size of the whole file, None where the header's length is not known."""
        return None if self.header_bytes is None else PREFIX_BYTES + self.header_bytes + self.data_bytes


def header_length(prefix: bytes, file: str, file_size: int | None = None) -> int:
    """Length of the JSON, from the first eight bytes of a file.

    Raises:
        FormatError: fewer than eight bytes, a length of zero or beyond the format's cap, or past the file's end.
    """
    if len(prefix) < PREFIX_BYTES:
        size = len(prefix)
        raise FormatError(f"{file}: {size} bytes are too few for a safetensors file (8 bytes of length come first)")
    length = int.from_bytes(prefix[:PREFIX_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        hint = _looks_like(prefix)
        raise FormatError(
            f"{file}: not a safetensors file{hint}: its header would take {length:,} bytes (limit 100 MB)"
        )
    if length < 2:
        raise FormatError(f"{file}: not a safetensors file: its header has a length of {length}")
    if file_size is not None and PREFIX_BYTES + length > file_size:
        raise FormatError(f"{file}: truncated: the header takes {length:,} bytes and the file has {file_size:,}")
    return length


def _looks_like(prefix: bytes) -> str:
    for magic, what in (
        (b"PK\x03\x04", " but a zip archive (torch.save)"),
        (b"version ", " but a Git LFS pointer (run `git lfs pull`)"),
        (b"<!DOCTYP", " but an HTML page"),
        (b"<html", " but an HTML page"),
        (b"GGUF", " but a GGUF file"),
        (b"\x80\x02", " but a Python pickle"),
    ):
        if prefix.startswith(magic):
            return what
    return ""


def parse_header(data: bytes, file_size: int | None = None, *, file: str, known: Known | None = None) -> Header:
    """Facts of the header whose JSON is `data`; `file_size` is the size of the whole file where it is known.

    `known` is what the model's other headers taught.

    Raises:
        FormatError: not JSON, not UTF-8, or not a safetensors header.
        ContradictionError: a header that lies: overlaps, holes, wrong sizes, overflow, duplicate keys, an end that is
            not the file's.
        UnsupportedError: a dtype that the format does not have.
    """
    if len(data) > MAX_HEADER_BYTES:
        raise FormatError(f"{file}: the header takes {len(data):,} bytes (limit 100 MB)")
    if not data.startswith(b"{"):
        raise FormatError(f"{file}: not a safetensors header: it starts with {data[:1]!r}, not '{{'")
    columns = read_columns(data.rstrip(b" "), Known() if known is None else known)
    size = len(data)
    if columns is None:
        header = header_of(load(data, file), file, size)
    else:
        header = Header(file, columns.parts, columns.metadata, size, columns.end)
    if file_size is not None:
        room = file_size - PREFIX_BYTES - len(data)
        if header.data_bytes > room:
            raise ContradictionError(
                f"{file}: its tensors end {header.data_bytes - room:,} bytes past the file's end (truncated download?)"
            )
        if header.data_bytes < room:
            raise ContradictionError(f"{file}: {room - header.data_bytes:,} bytes after the last tensor belong to none")
    return header


def header_of(root: Any, file: str, header_bytes: int | None) -> Header:
    """Facts of a header that `load` has read.

    Raises:
        FormatError, ContradictionError, UnsupportedError: as `parse_header`.
    """
    if not isinstance(root, dict):
        raise FormatError(f"{file}: not a safetensors header: no object of tensors by name")
    metadata = _metadata(root.pop(_METADATA, None), file)
    tensors: dict[str, Fact] = {}
    begins: list[int] = []
    ends: list[int] = []
    for name, entry in root.items():
        fact, begin, end = entry if type(entry) is tuple else check(name, entry, file)
        tensors[name] = fact
        begins.append(begin)
        ends.append(end)
    for name in () if "".join(tensors).isascii() else tensors:
        check_text(name, "a tensor's name", file)
    if begins and not (begins[0] == 0 and begins[1:] == ends[:-1]):
        _check_layout(list(tensors), begins, ends, file)
    data_bytes = max(ends, default=0)
    if data_bytes > MAX_U64:
        raise ContradictionError(f"{file}: its tensors take more than 2^64 bytes")
    names = [name.encode("utf-8") for name in tensors]
    return Header(file, [Listed(names, list(tensors.values()))], metadata, header_bytes, data_bytes)


def _metadata(value: Any, file: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(type(text) is str for text in value.values()):
        raise FormatError(f"{file}: __metadata__ must map strings to strings")
    for key, text in value.items():
        check_text(key + text, "__metadata__", file)
    return tuple(value.items())


def _check_layout(names: list[str], begins: list[int], ends: list[int], file: str) -> None:
    """Byte ranges in any order: sorted, they must start at 0 and each begin where the one before ends."""
    at = 0
    before = ""
    for begin, end, name in sorted(zip(begins, ends, names, strict=True)):
        if begin > at:
            raise ContradictionError(f"{file}: a hole of {begin - at:,} bytes before tensor {name!r}")
        if begin < at:
            raise ContradictionError(f"{file}: tensor {name!r} overlaps {before!r} by {at - begin:,} bytes")
        at, before = end, name
