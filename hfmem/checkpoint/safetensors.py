"""Safetensors headers: the JSON at the front of a file in, validated facts out.

The rules are those of the format's own library (Rust, `tensor.rs`): eight bytes of little-endian length, at most 100
MB of JSON that starts with `{` and may end in white space, each tensor's bytes equal to shape × bits of its dtype,
offsets that start at 0 and leave no hole and no overlap, and an end that is the file's end. Two rules are stricter: a
key may not occur twice (the library keeps the last), and the number of JSON values is bounded, so that no header
costs gigabytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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

# how a JSON value can start that equals a count and is none: a bool, a negative zero. A hyphen in a name is not it
_NOT_COUNTS: Final = (b"true", b"false", b"[-", b",-", b":-", b" -", b"\n-", b"\t-", b"\r-")

_METADATA: Final = "__metadata__"
_KEYS: Final = ("dtype", "shape", "data_offsets")


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
    header = _header(_load(data, file), file, len(data))
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
    root = _load(payload, what)
    headers = root.get("headers") if isinstance(root, dict) else None
    if not isinstance(headers, dict) or not headers:
        raise FormatError(f"{what}: the response holds no headers")
    index = root.get("index")
    metadata = index.get("metadata") if isinstance(index, dict) else None
    return {shard: _header(header, shard, None) for shard, header in headers.items()}, metadata


def _load(data: bytes, what: str) -> Any:
    """The JSON value, with tensor entries as `_Good` tuples or, where anything is unusual about them, as `_Raw`."""
    brackets = data.count(b"[") + data.count(b"{")
    if data.count(b",") > _MAX_COMMAS or brackets > _MAX_BRACKETS:
        raise FormatError(f"{what}: the JSON holds more values than any checkpoint ({brackets:,} lists and objects)")
    strict = any(word in data for word in _NOT_COUNTS)

    def parse_constant(text: str) -> Any:
        raise FormatError(f"{what}: not JSON: it holds {text}")

    def parse_int(text: str) -> int | float:
        return _Float(text) if text == "-0" else int(text)

    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object_hook(what, strict),
            parse_float=_Float,
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


class _Float(float):
    """A float of the JSON: equal to nothing, so that `1.0` is never taken for a size of 1 seen before."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class _Raw:
    """An object with the three keys of a tensor entry, not yet checked."""

    __slots__ = ("dtype", "offsets", "shape")

    def __init__(self, dtype: Any, shape: Any, offsets: Any) -> None:
        self.dtype, self.shape, self.offsets = dtype, shape, offsets


#: fact, begin, end of an entry whose size was right
_Good = tuple[Fact, int, int]


def _object_hook(what: str, strict: bool) -> Callable[[list[tuple[str, Any]]], Any]:
    """Entries are judged here, as the scanner meets them, by looking up sizes seen before: nothing per tensor stays alive.

    With `strict` the text may hold a `true`, which equals 1: then none may be judged by comparison.
    """
    strange = 0
    known: dict[tuple[Any, ...], tuple[Fact, int]] = {}

    def learn(dtype: Any, shape: Any) -> None:
        with suppress(HfmemError):  # an entry that breaks a rule is reported later, when its name is known
            known[dtype, *shape] = _size("", _Raw(dtype, shape, None))

    def hook(pairs: list[tuple[str, Any]]) -> Any:
        nonlocal strange
        if len(pairs) == 3:
            (a, dtype), (b, shape), (c, offsets) = pairs
            if a == "dtype" and b == "shape" and c == "data_offsets":
                try:
                    begin, end = offsets
                    fact, size = known[dtype, *shape]
                    if end - begin == size and type(shape) is list and type(begin) is type(end) is int and not strict:
                        return fact, begin, end
                except KeyError:
                    if not strict:
                        learn(dtype, shape)
                except (TypeError, ValueError):
                    pass
                return _Raw(dtype, shape, offsets)
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ContradictionError(f"{what}: the key {twice!r} occurs twice")
        if all(key in found for key in _KEYS):
            return _Raw(found["dtype"], found["shape"], found["data_offsets"])
        strange += 1
        if strange > _MAX_STRANGE_OBJECTS:
            raise FormatError(f"{what}: holds thousands of objects that are no tensor entries")
        return found

    return hook


def _header(root: Any, file: str, header_bytes: int | None) -> Header:
    if not isinstance(root, dict):
        raise FormatError(f"{file}: not a safetensors header: no object of tensors by name")
    metadata = _metadata(root.pop(_METADATA, None), file)
    tensors: dict[str, Fact] = {}
    begins: list[int] = []
    ends: list[int] = []
    for name, entry in root.items():
        fact, begin, end = entry if type(entry) is tuple else _check(name, entry, file)
        tensors[name] = fact
        begins.append(begin)
        ends.append(end)
    for name in () if "".join(tensors).isascii() else tensors:
        _check_text(name, "a tensor's name", file)
    if begins and not (begins[0] == 0 and begins[1:] == ends[:-1]):
        _check_layout(list(tensors), begins, ends, file)
    data_bytes = max(ends, default=0)
    if data_bytes > _MAX_U64:
        raise ContradictionError(f"{file}: its tensors take more than 2^64 bytes")
    return Header(file, tensors, metadata, header_bytes, data_bytes)


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


def _check(name: str, entry: Any, file: str) -> _Good:
    """One entry, every rule, with the message that fits."""
    _check_text(name, "a tensor's name", file)
    where = f"{file}: tensor {name!r}"
    if not isinstance(entry, _Raw):
        missing = [key for key in _KEYS if not isinstance(entry, dict) or key not in entry]
        raise FormatError(f"{where} lacks {', '.join(missing)}")
    (dtype, shape), size = _size(where, entry)
    offsets = entry.offsets
    if type(offsets) is not list or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise FormatError(f"{where}: data_offsets are not two integers")
    begin, end = offsets
    if not 0 <= begin <= end <= _MAX_U64:
        raise ContradictionError(f"{where}: data_offsets {_short(offsets)} are no range of bytes")
    if end - begin != size:
        raise ContradictionError(
            f"{where}: data_offsets span {end - begin:,} bytes, {dtype} {_short(shape)} takes {size:,}"
        )
    return (dtype, shape), begin, end


def _size(where: str, entry: _Raw) -> tuple[Fact, int]:
    """Dtype and shape, and the bytes they take."""
    dtype, shape = entry.dtype, entry.shape
    if type(dtype) is not str:
        raise FormatError(f"{where}: dtype is not a string")
    if dtype not in BITS:
        raise UnsupportedError(f"{where}: dtype {dtype[:40]!r} is not one that safetensors knows")
    if type(shape) is not list or not all(type(size) is int for size in shape):
        raise FormatError(f"{where}: shape is not a list of integers")
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
    return (dtype, tuple(shape)), bits // 8


def _short(values: Sequence[int]) -> str:
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
