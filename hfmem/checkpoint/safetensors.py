"""Safetensors headers: the JSON at the front of a file in, validated facts out.

The rules are those of the format's own library (Rust, `tensor.rs`): eight bytes of little-endian length, at most 100
MB of JSON that starts with `{` and may end in white space, each tensor's bytes equal to shape × bits of its dtype,
offsets that start at 0 and leave no hole and no overlap, and an end that is the file's end. Two rules are stricter: a
key may not occur twice (the library keeps the last), and the number of JSON values is bounded, so that no header
costs gigabytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hfmem.checkpoint.grouping import Fact
from hfmem.dtypes import BITS
from hfmem.errors import ContradictionError, FormatError, HfmemError, UnsupportedError

#: the format's own cap on the JSON's length
MAX_HEADER_BYTES: Final = 100_000_000
#: bytes in front of the JSON
PREFIX_BYTES: Final = 8

_MAX_U64: Final = (1 << 64) - 1
# 90,000 tensors take 0.7 million commas and 0.3 million brackets; these bounds keep what the JSON expands to below a
# gigabyte
_MAX_COMMAS: Final = 5_000_000
_MAX_BRACKETS: Final = 2_000_000
_MAX_STRANGE_OBJECTS: Final = 10_000

_METADATA: Final = "__metadata__"
_KEYS: Final = ("dtype", "shape", "data_offsets")

_Entry = tuple[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """One file's facts. `tensors` maps a name to its dtype code and shape, in file order; do not change it.

    `data_bytes` is where the last tensor ends; the file takes `PREFIX_BYTES + header_bytes + data_bytes`.
    `header_bytes` is None when the header came from an endpoint that had parsed it.
    """

    file: str
    tensors: Mapping[str, Fact]
    metadata: tuple[tuple[str, str], ...]
    header_bytes: int | None
    data_bytes: int

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


def parse_header(data: bytes, file_size: int | None = None, *, file: str) -> Header:
    """Facts of the header whose JSON is `data`; `file_size` is the size of the whole file where it is known.

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
    root, strict = _load(data, file)
    header = _header(root, strict, file, len(data))
    if file_size is not None:
        room = file_size - PREFIX_BYTES - len(data)
        if header.data_bytes > room:
            raise ContradictionError(
                f"{file}: its tensors end {header.data_bytes - room:,} bytes past the file's end (truncated download?)"
            )
        if header.data_bytes < room:
            raise ContradictionError(f"{file}: {room - header.data_bytes:,} bytes after the last tensor belong to none")
    return header


def parse_metadata_endpoint(payload: bytes, *, what: str = "safetensors-metadata") -> tuple[dict[str, Header], Any]:
    """Headers by shard and the index's `metadata`, from the Hub's `safetensors-metadata` response.

    The response is `{"headers": {shard: header}, "index": {"metadata": …}}`, as
    `HfApi.get_sharded_safetensors_metadata` reads it. The file sizes are not in it, so that an end past the file's
    end cannot show here.

    Raises:
        FormatError, ContradictionError, UnsupportedError: as `parse_header`, for any of the headers.
    """
    root, strict = _load(payload, what)
    headers = root.get("headers") if isinstance(root, dict) else None
    if not isinstance(headers, dict) or not headers:
        raise FormatError(f"{what}: the response holds no headers")
    index = root.get("index")
    metadata = index.get("metadata") if isinstance(index, dict) else None
    return {shard: _header(header, strict, shard, None) for shard, header in headers.items()}, metadata


def _load(data: bytes, what: str) -> tuple[Any, bool]:
    """The JSON value, tensor entries as `(dtype, shape, data_offsets)`, and whether entries must be checked one by one.

    A `true` equals 1, and a float or `-0` may equal an integer: where the text can hold one, no entry may be judged
    by comparing it with one that was checked before.
    """
    brackets = data.count(b"[") + data.count(b"{")
    if data.count(b",") > _MAX_COMMAS or brackets > _MAX_BRACKETS:
        raise FormatError(f"{what}: the JSON holds more values than any checkpoint ({brackets:,} lists and objects)")
    strict = any(word in data for word in (b"true", b"false", b"-"))
    floats: list[str] = []

    def parse_float(text: str) -> float:
        floats.append(text)
        return float(text)

    def parse_constant(text: str) -> Any:
        raise FormatError(f"{what}: not JSON: it holds {text}")

    def parse_int(text: str) -> int | float:
        return -0.0 if text == "-0" else int(text)

    try:
        root = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object_hook(what),
            parse_float=parse_float,
            parse_int=parse_int if strict else None,
            parse_constant=parse_constant,
        )
    except HfmemError:
        raise
    except RecursionError:
        raise FormatError(f"{what}: the JSON is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{what}: not JSON at character {error.pos}: {error.msg}") from None
    except ValueError:  # an integer of more digits than Python converts
        raise ContradictionError(f"{what}: holds an integer of thousands of digits") from None
    return root, strict or bool(floats)


def _object_hook(what: str) -> Callable[[list[tuple[str, Any]]], Any]:
    strange = 0

    def hook(pairs: list[tuple[str, Any]]) -> Any:
        nonlocal strange
        if len(pairs) == 3:
            (a, dtype), (b, shape), (c, offsets) = pairs
            if (a, b, c) == _KEYS:
                return dtype, shape, offsets
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ContradictionError(f"{what}: the key {twice!r} occurs twice")
        if all(key in found for key in _KEYS):
            return tuple(found[key] for key in _KEYS)
        strange += 1
        if strange > _MAX_STRANGE_OBJECTS:
            raise FormatError(f"{what}: holds thousands of objects that are no tensor entries")
        return found

    return hook


def _header(root: Any, strict: bool, file: str, header_bytes: int | None) -> Header:
    if not isinstance(root, dict):
        raise FormatError(f"{file}: not a safetensors header: no object of tensors by name")
    metadata = _metadata(root.pop(_METADATA, None), file)
    tensors: dict[str, Fact] = {}
    known: dict[tuple[Any, ...], tuple[Fact, int]] = {}
    begins: list[int] = []
    ends: list[int] = []
    for name, entry in root.items():
        try:
            dtype, shape, (begin, end) = entry
            fact, size = known[dtype, *shape]
            good = not strict and type(shape) is list and end - begin == size
        except (TypeError, ValueError, KeyError):
            good = False
        if not good:
            fact, size, begin, end = _check(name, entry, file)
            known[fact[0], *fact[1]] = fact, size
        tensors[name] = fact
        begins.append(begin)
        ends.append(end)
    if begins and not (begins[0] == 0 and begins[1:] == ends[:-1]):
        _check_layout(list(tensors), begins, ends, file)
    return Header(file, tensors, metadata, header_bytes, max(ends, default=0))


def _metadata(value: Any, file: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(type(text) is str for text in value.values()):
        raise FormatError(f"{file}: __metadata__ must map strings to strings")
    for key, text in value.items():
        _check_text(key + text, "__metadata__", file)
    return tuple(value.items())


def _check_text(text: str, what: str, file: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{file}: {what} holds an unpaired surrogate") from None


def _check(name: str, entry: Any, file: str) -> tuple[Fact, int, int, int]:
    """One entry, every rule, with the message that fits."""
    _check_text(name, "a tensor's name", file)
    where = f"{file}: tensor {name!r}"
    if not isinstance(entry, tuple):
        missing = [key for key in _KEYS if not isinstance(entry, dict) or key not in entry]
        raise FormatError(f"{where} lacks {', '.join(missing)}")
    dtype, shape, offsets = entry
    if type(dtype) is not str:
        raise FormatError(f"{where}: dtype is not a string")
    if dtype not in BITS:
        raise UnsupportedError(f"{where}: dtype {dtype[:40]!r} is not one that safetensors knows")
    if type(shape) is not list or not all(type(size) is int for size in shape):
        raise FormatError(f"{where}: shape is not a list of integers")
    if type(offsets) is not list or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise FormatError(f"{where}: data_offsets are not two integers")
    if any(size < 0 for size in shape):
        raise ContradictionError(f"{where}: shape {_short(shape)} has a negative size")
    elements = 1
    for size in shape:
        elements *= size
        if size > _MAX_U64 or elements > _MAX_U64:
            raise ContradictionError(f"{where}: shape {_short(shape)} overflows 64 bits")
    bits = elements * BITS[dtype]
    if bits > _MAX_U64:
        raise ContradictionError(f"{where}: {dtype} {_short(shape)} overflows 64 bits")
    if bits % 8:
        raise ContradictionError(f"{where}: {dtype} {_short(shape)} does not fill whole bytes")
    begin, end = offsets
    if not 0 <= begin <= end <= _MAX_U64:
        raise ContradictionError(f"{where}: data_offsets {_short(offsets)} are no range of bytes")
    if end - begin != bits // 8:
        raise ContradictionError(
            f"{where}: data_offsets span {end - begin:,} bytes, {dtype} {_short(shape)} takes {bits // 8:,}"
        )
    return (dtype, tuple(shape)), bits // 8, begin, end


def _short(values: list[int]) -> str:
    text = ", ".join(map(str, values[:8])) if all(abs(v) <= 1 << 70 for v in values[:8]) else "…"
    return f"[{text}, …]" if len(values) > 8 else f"[{text}]"


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
