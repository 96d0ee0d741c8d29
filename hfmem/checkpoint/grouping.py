"""Folds tensor names that differ in whole numeric components alone into `TensorGroup`s.

`model.layers.3.mlp.experts.7.w2.weight` becomes the pattern `model.layers.{}.mlp.experts.{}.w2.weight` with the
integers (3, 7): a component of digits only is an index, digits inside a word (`w2`, `fc1`) are part of the word. A
component that an integer would not give back (`007`, twenty digits) stays as it is, and braces of a name are doubled,
so that `pattern.format(*indices)` is the name.

Ninety thousand names are folded by operations on all of them at once: with every run of digits written as `0` the names
of one kind are one key, and what the digits were is looked at kind by kind.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, product
from math import prod
from operator import itemgetter
from typing import Final

from hfmem.checkpoint.runs import Again, Fact, Listed, Part, Run
from hfmem.checkpoint.tensors import Box, TensorGroup
from hfmem.errors import ContradictionError
from hfmem.records import dataclass

_DIGITS: Final = b"0123456789"
_AS_ZEROS: Final = bytes.maketrans(_DIGITS, b"0" * 10)
_AS_SPACES: Final = bytes(byte if byte in _DIGITS else 32 for byte in range(256))
#: an index of more digits is taken for a word
_MAX_DIGITS: Final = 18


def group_tensors(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[TensorGroup, ...]:
    """Groups of `(name, dtype, shape)`, kinds in order of first appearance.

    Raises:
        ContradictionError: a name occurs twice.
    """
    names: list[str] = []
    facts: list[Fact] = []
    for name, dtype, shape in tensors:
        names.append(name)
        facts.append((dtype, shape))
    return group_facts(names, facts)


def group_facts(names: Sequence[str], facts: Iterable[Fact]) -> tuple[TensorGroup, ...]:
    """`group_tensors` over two parallel sequences.

    Raises:
        ContradictionError: a name occurs twice.
    """
    same: dict[Fact, Fact] = {}
    return group_names([_encoded(name) for name in names], [same.setdefault(fact, fact) for fact in facts])


class Fold:
    """Tensors folded batch by batch, each batch the tensors of a file: of their names only the digits are kept."""

    def __init__(self) -> None:
        #: by kind of name and fact: how many there are, and of each run of digits the column of what it was
        self._kinds: dict[tuple[bytes, Fact], _Members] = {}
        #: the same of runs that were met before, by their identity
        self._runs: dict[int, tuple[Run, list[_Kind]]] = {}

    def add(self, names: Sequence[bytes], facts: Sequence[Fact]) -> None:
        """Names in UTF-8 with their facts; quick where equal facts are one object.

        Raises:
            ContradictionError: a name occurs twice in the batch; then nothing was added.
        """
        if len(set(names)) != len(names):
            raise _stored_twice(names)
        self.add_parts([Listed(names, facts)])

    def add_parts(self, parts: Iterable[Part]) -> None:
        """The tensors of a header."""
        for part in parts:
            if isinstance(part, Again):
                self._add_again(part)
            else:
                self._add(_kinds_of(part.names, part.facts))

    def _add(self, kinds: Iterable[_Kind]) -> None:
        for kind in kinds:
            self._members(kind).add(len(kind.places), kind.digits)

    def _add_again(self, again: Again) -> None:
        run = again.run
        if id(run) not in self._runs:
            self._runs[id(run)] = (run, _kinds_of(run.rests, run.facts))
        (head_key,) = _keys([again.head])
        head = again.head.translate(_AS_SPACES).split()
        found: list[tuple[int, _Kind]] = []
        for kind in self._runs[id(run)][1]:
            first, end = bisect_left(kind.places, again.first), bisect_left(kind.places, again.end)
            if first < end:
                digits = [[value] * (end - first) for value in head] + [column[first:end] for column in kind.digits]
                found.append(
                    (kind.places[first], _Kind(head_key + kind.key, kind.fact, kind.places[first:end], digits))
                )
        found.sort(key=itemgetter(0))  # by first appearance in this part of the run
        self._add(kind for _, kind in found)

    def _members(self, kind: _Kind) -> _Members:
        try:
            return self._kinds[kind.key, kind.fact]
        except KeyError:
            made = self._kinds[kind.key, kind.fact] = _Members(0, [[] for _ in kind.digits])
            return made

    def groups(self, *, unique: bool = False) -> tuple[TensorGroup, ...]:
        """All that was added, kinds in order of first appearance. `unique`: that no name occurs twice is known.

        Raises:
            ContradictionError: a name occurs twice.
        """
        if not unique:
            of_key: dict[bytes, list[_Members]] = {}
            for (key, _), members in self._kinds.items():
                of_key.setdefault(key, []).append(members)
            for key, parts in of_key.items():
                _check_rows(key, parts)
        return tuple(
            TensorGroup(pattern, dtype, shape, _boxes_of_columns(indices))
            for (key, (dtype, shape)), members in self._kinds.items()
            for pattern, indices in _patterns(key, members.columns)
        )


@dataclass(slots=True)
class _Members:
    """How many tensors of one kind there are, and the digits of their names, column by column."""

    count: int
    columns: list[list[bytes]]

    def add(self, count: int, digits: Sequence[Sequence[bytes]]) -> None:
        """More of them."""
        self.count += count
        for column, more in zip(self.columns, digits, strict=True):
            column += more


@dataclass(frozen=True, slots=True)
class _Kind:
    """Those of some names that differ in digits alone and have one fact: their places among them, and their columns of digits."""

    key: bytes
    fact: Fact
    places: list[int]
    digits: list[list[bytes]]


def _kinds_of(names: Sequence[bytes], facts: Sequence[Fact]) -> list[_Kind]:
    """Kinds in order of first appearance."""
    # by the identity of the fact first: hashing it for each name would cost more than all the rest
    places: dict[tuple[bytes, int], list[int]] = {}
    for place, kind in enumerate(zip(_keys(names), map(id, facts), strict=True)):
        try:
            places[kind].append(place)
        except KeyError:
            places[kind] = [place]
    found: list[_Kind] = []
    for (key, _), here in places.items():
        digits = b"\n".join([names[place] for place in here]).translate(_AS_SPACES).split() if b"0" in key else []
        width = key.count(b"0")
        found.append(_Kind(key, facts[here[0]], here, [digits[at::width] for at in range(width)]))
    return found


def group_names(names: Sequence[bytes], facts: Sequence[Fact]) -> tuple[TensorGroup, ...]:
    """`group_facts` over names in UTF-8; quick where equal facts are one object.

    Raises:
        ContradictionError: a name occurs twice.
    """
    fold = Fold()
    fold.add(names, facts)
    return fold.groups(unique=True)


def _check_rows(key: bytes, parts: Sequence[_Members]) -> None:
    """Raises for a name that occurs twice among the names of one key."""
    count = sum(members.count for members in parts)
    if not parts[0].columns:
        if count > 1:
            raise _stored_twice([key, key])
        return
    if len(set(_rows(parts))) != count:
        pieces = key.split(b"0")
        raise _stored_twice(
            [b"".join(x for pair in zip(pieces, (*row, b""), strict=True) for x in pair) for row in _rows(parts)]
        )


def _rows(parts: Sequence[_Members]) -> Iterator[tuple[bytes, ...]]:
    return chain.from_iterable(zip(*members.columns, strict=True) for members in parts)


def _stored_twice(names: Sequence[bytes]) -> ContradictionError:
    seen: set[bytes] = set()
    twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    return ContradictionError(f"tensor {_decoded(twice)!r} is stored twice")


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _keys(names: Sequence[bytes]) -> list[bytes]:
    """Each name with every run of digits as one `0`."""
    text = b"\n".join(names).translate(_AS_ZEROS)
    while b"00" in text:
        text = text.replace(b"000", b"0").replace(b"00", b"0")
    keys = text.split(b"\n") if names else []
    if len(keys) != len(names):  # a name holds a line feed: nothing real does
        return [re.sub(rb"[0-9]+", b"0", name) for name in names]
    return keys


def _patterns(key: bytes, columns: list[list[bytes]]) -> list[tuple[str, list[list[bytes]]]]:
    """The patterns of the names of one key, whose digits are `columns`: each with a column for each `{}`."""
    if not columns:
        return [(_text(key, []), [])]
    whole: list[bool] = []  # of each run of digits: whether it is a whole component
    for part in key.split(b"."):
        whole += [part == b"0"] * part.count(b"0")
    values = [set(column) for column in columns]
    odd = [any(map(_is_word, found)) for found in values]
    index = [is_whole and not strange for is_whole, strange in zip(whole, odd, strict=True)]
    if all(plain or len(found) == 1 for plain, found in zip(index, values, strict=True)):
        words = [None if plain else column[0] for plain, column in zip(index, columns, strict=True)]
        return [(_text(key, words), [column for plain, column in zip(index, columns, strict=True) if plain])]
    told = [
        [value if _is_word(value) else None for value in column] if is_whole else column
        for plain, is_whole, column in zip(index, whole, columns, strict=True)
        if not plain
    ]
    places: dict[tuple[bytes | None, ...], list[int]] = {}  # of the names with the same words
    for place, row in enumerate(zip(*told, strict=True)):
        places.setdefault(row, []).append(place)
    patterns: list[tuple[str, list[list[bytes]]]] = []
    for row, here in places.items():
        given = iter(row)
        words = [None if plain else next(given) for plain in index]
        indices = [
            [column[place] for place in here] for word, column in zip(words, columns, strict=True) if word is None
        ]
        patterns.append((_text(key, words), indices))
    return patterns


def _is_word(digits: bytes) -> bool:
    """Whether an integer would not give these digits back."""
    return len(digits) > _MAX_DIGITS or (len(digits) > 1 and digits.startswith(b"0"))


def _text(key: bytes, words: Sequence[bytes | None]) -> str:
    """The pattern: `{}` for each run of digits without a word."""
    parts = key.replace(b"{", b"{{").replace(b"}", b"}}").split(b"0")
    filled = [parts[0]]
    for part, word in zip(parts[1:], words, strict=True):
        filled += [b"{}" if word is None else word, part]
    return _decoded(b"".join(filled))


def _boxes_of_columns(columns: Sequence[Sequence[bytes]]) -> tuple[Box, ...]:
    """Disjoint boxes that hold exactly the rows of `columns` of digits, no two of which are equal."""
    if not columns:
        return ((),)
    values = [sorted(map(int, set(column))) for column in columns]
    if prod(map(len, values)) == len(columns[0]):  # all combinations: no row need be looked at
        return tuple(product(*map(ranges_of, values)))
    return tuple(_boxes(sorted(zip(*(map(int, column) for column in columns), strict=True))))


def boxes_of(flat: Sequence[int], width: int) -> tuple[Box, ...]:
    """Disjoint boxes that hold exactly the distinct tuples of `width` integers listed one after another in `flat`.

    One box where the tuples are a full product of ranges (the usual case, found without sorting); else first indices
    with the same rest are put together, dimension by dimension.
    """
    if width == 0:
        return ((),)
    columns = [flat[i::width] for i in range(width)]
    full = tuple(range(min(column), max(column) + 1) for column in columns)
    if prod(len(r) for r in full) == len(columns[0]):
        return (full,)
    return tuple(_boxes(sorted(zip(*columns, strict=True))))


def _boxes(tuples: Sequence[tuple[int, ...]]) -> list[Box]:
    if len(tuples[0]) == 1:
        return [(r,) for r in ranges_of([value for (value,) in tuples])]
    rests: dict[int, list[tuple[int, ...]]] = {}
    for first, *rest in tuples:
        rests.setdefault(first, []).append(tuple(rest))
    same: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for first, rest_tuples in rests.items():
        same.setdefault(tuple(rest_tuples), []).append(first)
    boxes: list[Box] = []
    for rest_key, firsts in same.items():
        inner = _boxes(rest_key)
        boxes += [(outer, *box) for outer in ranges_of(firsts) for box in inner]
    return boxes


def ranges_of(values: Sequence[int]) -> list[range]:
    """Ranges that hold exactly the ascending `values`; three or more at one distance become one stepped range."""
    out: list[range] = []
    at = 0
    while at < len(values):
        end = at + 1
        if end < len(values):
            step = values[end] - values[at]
            while end < len(values) and values[end] - values[end - 1] == step:
                end += 1
            if step > 1 and end - at < 3:
                end = at + 1  # two far apart are two singles: 3, 9, 10, 11 is 3 and 9–11
        last = values[end - 1]
        step = values[at + 1] - values[at] if end - at > 1 else 1
        out.append(range(values[at], last + 1, step))
        at = end
    return out
