"""Safetensors headers in the form that the format's own library writes, read column by column.

That form is compact JSON in ASCII: `{"__metadata__":{…},"name":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},…}`, entries in
the order of their bytes. Cut at its quotes it is a table of ten columns, six of which are constant: a header of 90,000 tensors is
checked by operations on whole columns, and no object is made for a tensor. Nothing is taken on trust: a column is compared to what
it must be, or each of its values is read. Whatever is unusual (white space, an escape, another order, a broken rule) makes it None,
and the general parser says what it is.
"""

from __future__ import annotations

import json
from itertools import accumulate
from operator import itemgetter
from typing import Final

from hfmem.checkpoint.grouping import Fact
from hfmem.dtypes import BITS
from hfmem.records import dataclass

_METADATA: Final = b'{"__metadata__":{'
#: longer ones are the general parser's, which counts their values before it makes any
_MAX_BYTES: Final = 32 << 20
_WIDTH: Final = 10
#: the columns that are the same in every entry; 0 is the name, 4 the dtype, 7 the shape, 9 the offsets
_CONSTANT: Final = ((1, b":{"), (2, b"dtype"), (3, b":"), (5, b","), (6, b"shape"), (8, b"data_offsets"))
#: what a JSON string may hold as it is, and line feeds to put between strings
PLAIN: Final = bytes(byte for byte in range(32, 128) if byte not in b'"\\') + b"\n"
_MAX_U64: Final = (1 << 64) - 1
_FACT, _SIZE = itemgetter(0), itemgetter(1)


@dataclass(frozen=True, slots=True)
class Columns:
    """The tensors of one header: their names, and of each its dtype and shape. `end` is where the last one ends."""

    names: list[bytes]
    facts: list[Fact]
    metadata: tuple[tuple[str, str], ...]
    end: int
    json_bytes: int


def read_columns(text: bytes, known: Kinds) -> Columns | None:
    """The columns of a header's JSON, None unless it is in the library's form and keeps all rules of the format but one.

    Whether the names are right is left to `has_good_names`, or to who folds them.
    """
    if len(text) > _MAX_BYTES or not text.isascii() or b"\n" in text or not text.endswith(b"]}}"):
        return None
    start = 2
    metadata: tuple[tuple[str, str], ...] | None = ()
    if text.startswith(_METADATA):
        end = text.find(b'"},"', len(_METADATA)) + 2
        metadata = _metadata(text[len(_METADATA) - 1 : end])
        start = end + 2
    if metadata is None or text[start - 1 : start] != b'"':
        return None
    parts = text[start:].split(b'"')
    count = len(parts) // _WIDTH
    if len(parts) != _WIDTH * count:
        return None
    for column, constant in _CONSTANT:
        if parts[column::_WIDTH].count(constant) != count:
            return None
    names = parts[::_WIDTH]
    if b"__metadata__" in names:
        return None
    try:
        stored = list(map(known.__getitem__, zip(parts[4::_WIDTH], parts[7::_WIDTH], strict=True)))
    except ValueError:
        return None
    offsets, last = _offsets(list(map(_SIZE, stored)))
    if b"\n".join(parts[9::_WIDTH]) != offsets or last > _MAX_U64:
        return None
    return Columns(names, list(map(_FACT, stored)), metadata, last, len(text))


def has_good_names(names: list[bytes]) -> bool:
    """Whether names are what JSON strings may hold, and none occurs twice."""
    return len(set(names)) == len(names) and not b"\n".join(names).translate(None, PLAIN)


def plain_text(text: bytes) -> str | None:
    """The text of a JSON string that is written as it is; None where it has an escape, or a byte that no string has."""
    return None if not text.isascii() or b"\n" in text or text.translate(None, PLAIN) else text.decode("ascii")


def _metadata(text: bytes) -> tuple[tuple[str, str], ...] | None:
    """Pairs of an object of strings in which no key occurs twice."""
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    if type(pairs) is not tuple or not all(type(value) is str for _, value in pairs) or len(dict(pairs)) != len(pairs):
        return None
    return pairs


class Kinds(dict[tuple[bytes, bytes], tuple[Fact, int]]):
    """Dtype and shape of a tensor and the bytes that it takes, by `BF16` and `:[2,3],`; read when first met."""

    def __missing__(self, kind: tuple[bytes, bytes]) -> tuple[Fact, int]:
        dtype, shape = kind[0].decode("ascii"), kind[1]
        if dtype not in BITS or not shape.startswith(b":[") or not shape.endswith(b"],"):
            raise ValueError(kind)
        sizes: list[int] = []
        bits = BITS[dtype]
        for text in shape[2:-2].split(b",") if len(shape) > 4 else ():
            if not text.isdigit() or (len(text) > 1 and text.startswith(b"0")) or len(text) > 20:
                raise ValueError(kind)
            sizes.append(int(text))
            bits *= sizes[-1]
            if max(sizes[-1], bits) > _MAX_U64:
                raise ValueError(kind)
        if bits % 8:
            raise ValueError(kind)
        self[kind] = found = ((dtype, tuple(sizes)), bits // 8)
        return found


def _offsets(sizes: list[int]) -> tuple[bytes, int]:
    """What the offsets of tensors of these sizes look like, `:[0,12]},` to `:[12,20]}}`, and where the last one ends."""
    ends = list(accumulate(sizes))
    middle = "".join([f"{end}]}},\n:[{end}," for end in map(str, ends[:-1])])
    return f":[0,{middle}{ends[-1]}]}}}}".encode("ascii"), ends[-1]
