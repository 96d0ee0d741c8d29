"""Folds tensor names that differ in whole numeric components alone into `TensorGroup`s, in one pass.

`model.layers.3.mlp.experts.7.w2.weight` becomes the pattern `model.layers.{}.mlp.experts.{}.w2.weight` with the
integers (3, 7): a component of digits only is an index, digits inside a word (`w2`, `fc1`) are part of the word. A
component that an integer would not give back (`007`, twenty digits) stays as it is, and braces of a name are doubled,
so that `pattern.format(*indices)` is the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Final

from hfmem.checkpoint.tensors import Box, TensorGroup
from hfmem.errors import ContradictionError
from hfmem.patterns import pattern

#: a name's dtype code and shape
Fact = tuple[str, tuple[int, ...]]

# every name is given a leading "." and a trailing "\n", so that one literal character starts each candidate: that is
# what lets the regular expression run over all names at once at the speed of memchr
_INDEX: Final = pattern(r"\.(0|[1-9][0-9]{0,17})(?=[.\n])")
_WHOLE_INDEX: Final = pattern(r"0|[1-9][0-9]{0,17}")


def split_names(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The patterns of `names` and, in one flat list, the integers that stand at their `{}`."""
    if not names:
        return [], []
    text = "\n.".join(names)
    if text.count("\n") != len(names) - 1:  # a name holds a line feed: nothing real does
        return _split_slowly(names)
    if "{" in text or "}" in text:
        text = text.replace("{", "{{").replace("}", "}}")
    text = f".{text}\n"
    patterns = _INDEX.sub(".{}", text)[1:-1].split("\n.")
    return patterns, list(map(int, _INDEX.findall(text)))


def _split_slowly(names: Sequence[str]) -> tuple[list[str], list[int]]:
    patterns: list[str] = []
    numbers: list[int] = []
    for name in names:
        parts = name.replace("{", "{{").replace("}", "}}").split(".")
        for i, part in enumerate(parts):
            if _WHOLE_INDEX.fullmatch(part):
                numbers.append(int(part))
                parts[i] = "{}"
        patterns.append(".".join(parts))
    return patterns, numbers


def group_tensors(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[TensorGroup, ...]:
    """Groups of `(name, dtype, shape)`, in order of first appearance.

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
    """`group_tensors` over two parallel sequences, which is what a header holds.

    Raises:
        ContradictionError: a name occurs twice.
    """
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ContradictionError(f"tensor {twice!r} is stored twice")
    patterns, numbers = split_names(names)
    arity = {pattern: _placeholders(pattern) for pattern in dict.fromkeys(patterns)}
    found: dict[tuple[str, Fact], list[int]] = {}
    at = 0
    for key in zip(patterns, facts, strict=True):
        indices = found.get(key)
        if indices is None:
            indices = found[key] = []
        if width := arity[key[0]]:
            indices += numbers[at : at + width]
            at += width
    return tuple(
        TensorGroup(pattern, dtype, shape, boxes_of(indices, arity[pattern]))
        for (pattern, (dtype, shape)), indices in found.items()
    )


def _placeholders(pattern: str) -> int:
    return pattern.replace("{{", "").replace("}}", "").count("{}")


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
