"""Which expected tensor a stored tensor is: by name and indices, whatever a wrapper class put in front of the name.

A checkpoint says `model.language_model.layers.{}.…` where the family's inventory says `model.layers.{}.…`, and quantized files
store `q_proj.qweight` and `q_proj.scales` for `q_proj.weight`. Matching never looks at shapes: comparing those is the cross-check's
task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Final

from hfmem.model.inventory import Box, TensorSpec, as_ranges
from hfmem.model.names import core
from hfmem.records import dataclass
from hfmem.remembered import remembered

_FIELD: Final = r"^(?:\{\}|0|[1-9][0-9]{0,17})$"


@dataclass(frozen=True, slots=True)
class Expected:
    """A `TensorSpec` in the spelling of checkpoint groups: integers that the spec writes out stand at `{}` too."""

    spec: TensorSpec
    pattern: str
    core: str
    boxes: tuple[Box, ...]


def folded(spec: TensorSpec) -> Expected:
    """`visual.merger.mlp.0.weight` becomes `visual.merger.mlp.{}.weight` with the index 0, as `TensorGroup`s have it."""
    parts = spec.pattern.split(".")
    literal = [None if part == "{}" else int(part) for part in parts if re.match(_FIELD, part)]
    pattern = ".".join("{}" if re.match(_FIELD, part) else part for part in parts)
    boxes = []
    for box in spec.boxes:
        given = iter(box)
        boxes.append(tuple(next(given) if value is None else range(value, value + 1) for value in literal))
    return Expected(spec, pattern, core(pattern), tuple(boxes))


@dataclass(frozen=True, slots=True)
class Match:
    """Tensors of one group (those in `boxes`) and the expected tensor that they are, None where none is expected."""

    expected: Expected | None
    boxes: tuple[Box, ...]

    @property
    def count(self) -> int:
        """How many tensors these are."""
        return count_boxes(self.boxes)


def count_boxes(boxes: Iterable[Box]) -> int:
    """How many index tuples disjoint boxes hold."""
    return sum(prod(len(r) for r in box) for box in boxes)


def intersect(a: Sequence[Box], b: Sequence[Box]) -> tuple[Box, ...]:
    """The index tuples that two lists of disjoint boxes share."""
    if tuple(a) == tuple(b):
        return tuple(a)
    out: list[Box] = []
    for left, right in product(a, b):
        if len(left) != len(right):
            continue
        axes = [_shared(r, s) for r, s in zip(left, right, strict=True)]
        out += product(*axes)
    return tuple(out)


def _shared(r: range, s: range) -> tuple[range, ...]:
    if r == s:
        return (r,)
    if r.step == s.step == 1:
        both = range(max(r.start, s.start), min(r.stop, s.stop))
        return (both,) if both else ()
    if len(s) < len(r):
        r, s = s, r
    return as_ranges(value for value in r if value in s)  # membership in a range is one division, whatever its length


def subtract(a: Sequence[Box], b: Sequence[Box]) -> tuple[Box, ...]:
    """The index tuples of `a` that are not in `b`, as disjoint boxes."""
    rest = list(a)
    for other in b:
        rest = [piece for box in rest for piece in _without(box, other)]
    return tuple(rest)


def _without(box: Box, other: Box) -> Iterator[Box]:
    """What is left of one box: axis by axis the values outside `other`, beside those inside it on the axes before."""
    if len(box) != len(other) or any(not _shared(r, s) for r, s in zip(box, other, strict=True)):
        yield box
        return
    inside: list[tuple[range, ...]] = []
    for axis, (r, s) in enumerate(zip(box, other, strict=True)):
        outside = _outside(r, s)
        for left in outside:
            for before in product(*inside):
                yield (*before, left, *box[axis + 1 :])
        inside.append(_shared(r, s))


def _outside(r: range, s: range) -> tuple[range, ...]:
    """The values of `r` that are not in `s`."""
    if r == s:
        return ()
    if r.step == s.step == 1:
        return tuple(
            left for left in (range(r.start, min(r.stop, s.start)), range(max(r.start, s.stop), r.stop)) if left
        )
    return as_ranges(value for value in r if value not in s)


class Matcher:
    """The inventory of one architecture, ready to be asked what a stored tensor is."""

    def __init__(self, specs: Iterable[TensorSpec]) -> None:
        self.expected = tuple(folded(spec) for spec in specs)
        self._exact: dict[str, list[Expected]] = {}
        self._core: dict[str, list[Expected]] = {}
        self._under: dict[str, list[Expected]] = {}
        for item in self.expected:
            self._exact.setdefault(item.pattern, []).append(item)
            self._core.setdefault(item.core, []).append(item)
            parts = item.core.split(".")
            for length in range(1, len(parts)):
                self._under.setdefault(".".join(parts[:length]), []).append(item)
        for key, items in self._core.items():
            if len({item.pattern for item in items}) > 1 and _overlap(items):
                self._core[key] = []  # without its wrapper the name is not unique: only the exact spelling counts

    def candidates(self, pattern: str) -> Sequence[Expected]:
        """Expected tensors of this name: in the exact spelling, else regardless of wrappers."""
        return self._exact.get(pattern) or self._core.get(core(pattern)) or ()

    def assign(self, pattern: str, boxes: Sequence[Box]) -> tuple[Match, ...]:
        """Deal the tensors of one group out to the expected tensors of the same name."""
        matches: list[Match] = []
        rest = tuple(boxes)
        for item in self.candidates(pattern):
            if not rest:
                break
            shared = intersect(rest, item.boxes)
            if shared:
                matches.append(Match(item, shared))
                rest = subtract(rest, shared)
        if rest:
            matches.append(Match(None, rest))
        return tuple(matches)

    def owner(self, pattern: str, boxes: Sequence[Box]) -> Expected | None:
        """The expected tensor whose module these tensors belong to: `q_proj.qweight` and `q_proj.weight.absmax` to `q_proj.weight`.

        Climbs from the name to its modules as long as everything expected there is of one component; None where the modules
        are unknown or mixed.
        """
        parts = core(pattern).split(".")
        for length in range(len(parts), 1, -1):
            name = ".".join(parts[:length])
            found = [*self._core.get(name, ()), *self._under.get(name, ())]
            here = [item for item in found if _covers(item.boxes, boxes)]
            if here:
                return here[0] if len({item.spec.component for item in here}) == 1 else None
        return None

    def owners(self, pattern: str, boxes: Sequence[Box]) -> tuple[Match, ...]:
        """Deal tensors that are none expected out to their modules' tensors, as `owner` finds them: a quantized matrix and those of
        layers that predict further tokens have one name and two owners."""
        matches: list[Match] = []
        rest = tuple(boxes)
        while rest:
            item = self.owner(pattern, rest)
            shared = intersect(rest, item.boxes) if item is not None else ()
            matches.append(Match(item, shared or rest))
            rest = subtract(rest, shared) if shared else ()
        return tuple(matches)


@remembered
def matcher_of(specs: tuple[TensorSpec, ...]) -> Matcher:
    """The matcher of an architecture's tensors, made once."""
    return Matcher(specs)


def _covers(expected: Sequence[Box], stored: Sequence[Box]) -> bool:
    """Whether leading indices of the first stored tensor lie in one of the expected boxes."""
    first = tuple(r[0] for r in stored[0])
    return any(all(value in r for value, r in zip(first, box, strict=False)) for box in expected)


def _overlap(items: Sequence[Expected]) -> bool:
    return any(
        intersect(a.boxes, b.boxes) for i, a in enumerate(items) for b in items[i + 1 :] if a.pattern != b.pattern
    )
