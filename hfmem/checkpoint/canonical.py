"""Safetensors headers in the form that the format's own library writes, read column by column.

That form is compact JSON in ASCII: `{"__metadata__":{…},"name":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},…}`, entries in
the order of their bytes. Cut at its quotes it is a table of ten columns, six of which are constant, so that it is checked by
operations on whole columns; what comes again from layer to layer is not even cut (`runs`). Nothing is taken on trust: a column is
compared to what it must be, or each of its values is read. Whatever is unusual (white space, an escape, another order, a broken
rule) makes it None, and the general parser says what it is.
"""

from __future__ import annotations

import json
from itertools import accumulate
from operator import itemgetter
from typing import Final

from hfmem.checkpoint.runs import NEXT, Fact, Listed, Part, Runs, are_distinct
from hfmem.dtypes import BITS
from hfmem.records import dataclass

_METADATA: Final = b'{"__metadata__":{'
#: how much text is taken apart before runs that are known by then are looked for
_PIECE: Final = 1 << 16
#: how many more times runs may be looked for in vain than found, before a header is taken apart without
_TRUST: Final = 24
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
    """The tensors of one header, `count` of them in all. `end` is where the last one ends."""

    parts: list[Part]
    count: int
    metadata: tuple[tuple[str, str], ...]
    end: int
    json_bytes: int


def read_columns(text: bytes, known: Known, *, checks_names: bool = True) -> Columns | None:
    """The columns of a header's JSON, None unless it is in the library's form and keeps all rules of the format.

    `checks_names` False: that no name occurs twice is left to the caller (`are_distinct`), who has those of all headers.
    """
    if len(text) > _MAX_BYTES or not text.isascii() or b"\n" in text or not text.endswith(b"]}}"):
        return None
    at = 2
    metadata: tuple[tuple[str, str], ...] | None = ()
    if text.startswith(_METADATA):
        behind = text.find(b'"},"', len(_METADATA)) + 2
        metadata = _metadata(text[len(_METADATA) - 1 : behind])
        at = behind + 2
    if metadata is None or text[at - 1 : at] != b'"':
        return None
    parts: list[Part] = []
    end = 0
    searching = True
    trust = _TRUST
    while at < len(text):
        found: tuple[Part, int, int] | None = known.runs.again(text, at, end) if trust > 0 else None
        if found is not None:
            searching = True
            trust += 1
        else:  # what is unknown may stand before a run: it alone is taken apart then, and more of it where that was no run
            trust -= 1
            upto = known.runs.ahead(text, at) if searching and trust > 0 else None
            searching = upto is None
            found = _listed(text, at, upto, end, known, learning=trust > 0)
        if found is None:
            return None
        part, at, end = found
        parts.append(part)
        if text[at : at + 2] != b',"':
            break
        at += 2
    count = sum(map(len, parts))
    if at != len(text) - 1 or end > _MAX_U64 or (checks_names and not are_distinct(parts)):
        return None
    if any(isinstance(part, Listed) and b"__metadata__" in part.names for part in parts):
        return None
    return Columns(parts, count, metadata, end, len(text))


def _listed(
    text: bytes, at: int, upto: int | None, begin: int, known: Known, *, learning: bool
) -> tuple[Listed, int, int] | None:
    """Entries `name":{…},"name":{…}` from `at` on, taken apart; the bytes of the first one's tensor are at `begin`.

    Those before the entry at `upto`, or else a good many. With them the place behind the last one and where its bytes end.
    """
    if upto is not None:
        behind = upto - 2
    else:
        behind = text.find(NEXT, at + _PIECE) + 2
        if behind < 2:  # no more than that
            behind = len(text) - 1
    cells = text[at:behind].split(b'"')
    count = len(cells) // _WIDTH
    if len(cells) != _WIDTH * count:
        return None
    for column, constant in _CONSTANT:
        if cells[column::_WIDTH].count(constant) != count:
            return None
    names = cells[::_WIDTH]
    if b"\n".join(names).translate(None, PLAIN):
        return None
    kinds = list(zip(cells[4::_WIDTH], cells[7::_WIDTH], strict=True))
    try:
        stored = list(map(known.kinds.__getitem__, kinds))
    except ValueError:
        return None
    facts, sizes = list(map(_FACT, stored)), list(map(_SIZE, stored))
    if b"\n".join(cells[9::_WIDTH]) != _offsets(sizes, begin):
        return None
    if learning:
        known.runs.learn(names, facts, sizes, kinds)
    return Listed(names, facts), behind, begin + sum(sizes)


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


class Known:
    """What the headers of one model taught so far. Threads may share it."""

    def __init__(self) -> None:
        self.kinds = Kinds()
        self.runs = Runs()


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


def _offsets(sizes: list[int], begin: int) -> bytes:
    """What the offsets of tensors of these sizes look like, the first one's bytes at `begin`: `:[0,12]},` to `:[12,20]}`."""
    marks = [str(mark) for mark in accumulate(sizes, initial=begin)]
    middle = "".join([f"{mark}]}},\n:[{mark}," for mark in marks[1:-1]])
    return f":[{begin},{middle}{marks[-1]}]}}".encode("ascii")
