"""The JSON of a safetensors header, tensor entry by tensor entry: the size of each checked against its offsets.

Entries are judged inside the JSON scan, so that a header of 90,000 tensors leaves nothing per tensor behind but its offsets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from hfmem.checkpoint.runs import Fact
from hfmem.dtypes import BITS
from hfmem.errors import ContradictionError, FormatError, HfmemError, UnsupportedError

MAX_U64: Final = (1 << 64) - 1
# 90,000 tensors take 0.7 million commas and 0.3 million brackets; these bounds keep what the JSON expands to below a
# gigabyte
_MAX_COMMAS: Final = 5_000_000
_MAX_BRACKETS: Final = 2_000_000
_MAX_STRANGE_OBJECTS: Final = 10_000

# how a JSON value can start that equals a count and is none: a bool, a negative zero. A hyphen in a name is not it
_NOT_COUNTS: Final = (b"true", b"false", b"[-", b",-", b":-", b" -", b"\n-", b"\t-", b"\r-")

_KEYS: Final = ("dtype", "shape", "data_offsets")


def load(data: bytes, what: str, skipped: int = 0) -> Any:
    """The JSON value, with tensor entries as `_Good` tuples or, where anything is unusual about them, as `_Raw`.

    `skipped` characters came before the place of an error and are not in `data`: messages count them.
    """
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
        raise FormatError(f"{what}: not JSON at character {error.pos + skipped}: {error.msg}") from None
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


def check_text(text: str, what: str, file: str) -> None:
    """Raises FormatError naming `what` where a name cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{file}: {what} holds an unpaired surrogate") from None


def check(name: str, entry: Any, file: str) -> _Good:
    """One entry, every rule, with the message that fits."""
    check_text(name, "a tensor's name", file)
    where = f"{file}: tensor {name!r}"
    if not isinstance(entry, _Raw):
        missing = [key for key in _KEYS if not isinstance(entry, dict) or key not in entry]
        raise FormatError(f"{where} lacks {', '.join(missing)}")
    (dtype, shape), size = _size(where, entry)
    offsets = entry.offsets
    if type(offsets) is not list or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise FormatError(f"{where}: data_offsets are not two integers")
    begin, end = offsets
    if not 0 <= begin <= end <= MAX_U64:
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
        if size > MAX_U64 or elements > MAX_U64:
            raise ContradictionError(f"{where}: shape {_short(shape)} overflows 64 bits")
    bits = elements * BITS[dtype]
    if bits > MAX_U64:
        raise ContradictionError(f"{where}: {dtype} {_short(shape)} overflows 64 bits")
    if bits % 8:
        raise ContradictionError(f"{where}: {dtype} {_short(shape)} does not fill whole bytes")
    return (dtype, tuple(shape)), bits // 8


def _short(values: Sequence[int]) -> str:
    text = ", ".join(map(str, values[:8])) if all(abs(v) <= 1 << 70 for v in values[:8]) else "…"
    return f"[{text}, …]" if len(values) > 8 else f"[{text}]"
