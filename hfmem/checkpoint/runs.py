"""Runs of tensors that come again: what a header lists of one layer, the next layers list in the same order.

A model of 90,000 tensors has the same 1,500 in each of its 60 layers. Once the entries of a layer were read, those of another one
are not taken apart: what they must be, the layer's number and the offsets apart, is written down and compared with the text in one
step. Nothing is guessed by that, for text that equals a right header's is right; where it differs, reading goes on as usual.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from hfmem.records import dataclass

#: a name's dtype code and shape
Fact = tuple[str, tuple[int, ...]]

#: what stands before the rest of a name: up to its first whole number
_HEAD: Final = rb"[A-Za-z_.]+\.(?:0|[1-9][0-9]{0,17})\."
#: between two entries
NEXT: Final = b']},"'
_OFFSETS: Final = b',"data_offsets":['
#: a run shorter than this is not worth its while
_SHORTEST: Final = 16
#: how many entries are looked at for the start of a run, where so much text is left that it pays
_AHEAD: Final = 8
_MUCH: Final = 1 << 13
#: more entries than any layer has; a text that is made up could have a run of everything
_MOST_KNOWN: Final = 100_000
#: up to how many starts of names are compared one by one
_FEW: Final = 8


@dataclass(frozen=True, slots=True)
class Run:
    """Tensors that follow each other in a header and whose names start alike. `rests` and `texts` are the names behind that start.

    `tails` are their entries' text from there to the offsets, `sizes` their bytes.
    """

    rests: Sequence[bytes]
    texts: Sequence[str]
    tails: Sequence[str]
    facts: Sequence[Fact]
    sizes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Listed:
    """Tensors one by one: their names in UTF-8, and of each its fact."""

    names: Sequence[bytes]
    facts: Sequence[Fact]

    def __len__(self) -> int:
        return len(self.names)

    def text_names(self) -> Sequence[str]:
        """The names as strings."""
        # none holds a line feed unless its JSON had an escape
        together = b"\n".join(self.names).decode("utf-8").split("\n") if self.names else []
        return together if len(together) == len(self.names) else [name.decode("utf-8") for name in self.names]


@dataclass(frozen=True, slots=True)
class Again:
    """Tensors of a run, from `first` to before `end`, met with another `head` of their names."""

    head: bytes
    run: Run
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    @property
    def names(self) -> Sequence[bytes]:
        """Their names, made anew at each look; as `Listed` has them."""
        head = self.head
        return [head + rest for rest in self.run.rests[self.first : self.end]]

    @property
    def facts(self) -> Sequence[Fact]:
        """As `Listed` has them."""
        return self.run.facts[self.first : self.end]

    def text_names(self) -> Sequence[str]:
        """The names as strings."""
        head = self.head.decode("ascii")
        return [head + text for text in self.run.texts[self.first : self.end]]


Part = Listed | Again


class Runs:
    """The runs seen so far. Threads may share it."""

    def __init__(self) -> None:
        self._at: dict[str, tuple[Run, int]] = {}
        self._head = re.compile(_HEAD)

    def learn(
        self,
        names: Sequence[bytes],
        facts: Sequence[Fact],
        sizes: Sequence[int],
        kinds: Sequence[tuple[bytes, bytes]],
    ) -> None:
        """Remember the runs among the tensors of a header; `kinds` are dtype and shape as it writes them: `BF16`, `:[2,3],`."""
        at = 0
        while at + _SHORTEST <= len(names) and len(self._at) < _MOST_KNOWN:
            head = self._head.match(names[at])
            if head is None or not names[at + _SHORTEST - 1].startswith(head[0]):
                at += 1
                continue
            end = at + 1
            while end < len(names) and names[end].startswith(head[0]):
                end += 1
            rests = [name[head.end() :] for name in names[at:end]]
            tails = [
                b'%b":{"dtype":"%b","shape"%b"data_offsets":[' % (rest, *kind)
                for rest, kind in zip(rests, kinds[at:end], strict=True)
            ]
            found = _as_texts(tails)
            known, first = self._at.get(found[0], (None, 0))
            if known is None or known.tails[first : first + len(found)] != found:
                run = Run(rests, _as_texts(rests), found, facts[at:end], sizes[at:end])
                self._at.update((tail, (run, place)) for place, tail in enumerate(found))
            at = end

    def again(self, text: bytes, at: int, begin: int) -> tuple[Again, int, int] | None:
        """The tensors of a known run that the text lists from `at` on, where a name starts, their bytes from `begin` on.

        With them the place behind the last one's entry and where its bytes end. None where they are too few to matter.
        """
        head = self._head.match(text, at)
        where = head and self._where(text, head.end())
        if head is None or where is None:
            return None
        run, first = where
        start, done, step = head.end(), first, _SHORTEST
        place = start
        between = f']}},"{head[0].decode("ascii")}'
        separator = between[2:].encode("ascii")
        # in growing steps, so that what is written in vain is not much longer than what was right, or than what is left
        while done < len(run.tails):
            entry = len(run.tails[done]) + len(between) + 2 * len(str(begin))
            upto = done + min(step, (len(text) - start) // entry + 2)
            marks = tuple(accumulate(run.sizes[done:upto], initial=begin))
            same = len(marks) - 1
            offsets = ("%d\n" * len(marks) % marks).split("\n")  # thrice as fast as one by one
            cells = [","] * (5 * same)
            cells[::5], cells[1::5], cells[3::5] = run.tails[done:upto], offsets[:-2], offsets[1:-1]
            cells[4::5] = [*[between] * (same - 1), "]}"]
            expected = "".join(cells).encode("ascii")
            if not text.startswith(expected, start):
                same, expected = _equal(text, start, expected, separator)
            if not same:
                break
            begin = marks[same]
            place = start + len(expected)
            done += same
            if same < len(marks) - 1 or not text.startswith(separator, place):
                break
            start = place + len(separator)
            step *= 4
        if done == first or (done - first < _SHORTEST and done < len(run.tails)):
            return None
        return Again(head[0], run, first, done), place, begin

    def ahead(self, text: bytes, at: int) -> int | None:
        """Where one of the next entries after that at `at` starts that belongs to a known run; None where none of them does."""
        for _ in range(_AHEAD if len(text) - at > _MUCH else 0):
            at = text.find(NEXT, at) + len(NEXT)
            if at < len(NEXT):
                return None
            head = self._head.match(text, at)
            if head is not None and self._where(text, head.end()) is not None:
                return at
        return None

    def _where(self, text: bytes, start: int) -> tuple[Run, int] | None:
        """The run that the entry is of whose name's rest starts there, and its place in it."""
        return self._at.get(text[start : text.find(_OFFSETS, start) + len(_OFFSETS)].decode("ascii"))


def _as_texts(lines: Sequence[bytes]) -> list[str]:
    return b"\n".join(lines).decode("ascii").split("\n")


def _equal(text: bytes, start: int, expected: bytes, separator: bytes) -> tuple[int, bytes]:
    """How many of the entries in `expected`, with `separator` between them, the text has from `start` on, where it has not all of
    them; and these entries."""
    low, high = 0, len(expected)
    while low < high:
        middle = (low + high + 1) // 2
        if text.startswith(expected[:middle], start):
            low = middle
        else:
            high = middle - 1
    # with its quote the separator stands between two entries only; what was equal may end in the midst of one
    end = expected.rfind(separator, 0, low + len(separator))
    return (0, b"") if end < 0 else (expected.count(separator, 0, end) + 1, expected[:end])


def are_distinct(parts: Iterable[Part]) -> bool:
    """Whether no name occurs twice in `parts`. Names that start differently differ, and of the others the rests are compared: a run
    has them once for all its stretches, so that hardly anything is made anew."""
    rests: dict[bytes, list[bytes]] = {}
    names: list[bytes] = []
    for part in parts:
        if isinstance(part, Again):
            rests.setdefault(part.head, []).extend(part.run.rests[part.first : part.end])
        else:
            names += part.names
    if len(set(names)) != len(names):
        return False
    heads = tuple(rests)
    if len(heads) < _FEW:
        names = [name for name in names if name.startswith(heads)] if heads else []
    for name, head in zip(names, map(re.compile(_HEAD).match, names), strict=True):
        if head is not None and head[0] in rests:
            rests[head[0]].append(name[head.end() :])
    return all(len(set(found)) == len(found) for found in rests.values())
