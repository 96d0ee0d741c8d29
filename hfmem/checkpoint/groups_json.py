"""Tensor groups as compact JSON values and back: what the fact cache and the shipped catalogue store.

A group is `[pattern, dtype, shape, boxes]`; a box is a list of ranges, a range `[start, stop]` or `[start, stop,
step]`. Reading checks everything, so that a damaged cache entry is an error and never a wrong number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod
from typing import Any, Final

from hfmem.checkpoint.tensors import Box, Checkpoint, TensorGroup
from hfmem.dtypes import is_stored
from hfmem.errors import FormatError

_MAX_TENSORS: Final = 10_000_000
_MAX_INDEX: Final = 10**18
_MAX_U64: Final = (1 << 64) - 1
_FORMATS: Final = ("safetensors", "gguf", "torch")
_FIELD: Final = r"\{\{|\}\}|\{\}|[{}]"


def dump_groups(groups: Iterable[TensorGroup]) -> list[Any]:
    """A value of lists, strings and integers that `json.dumps` takes."""
    return [
        [group.pattern, group.dtype, list(group.shape), [[_dump_range(r) for r in box] for box in group.boxes]]
        for group in groups
    ]


def dump_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """A value that `json.dumps` takes and `load_checkpoint` gives back as it was."""
    return {
        "format": checkpoint.format,
        "num_files": checkpoint.num_files,
        "file_bytes": checkpoint.file_bytes,
        "metadata": dict(checkpoint.metadata),
        "notes": list(checkpoint.notes),
        "groups": dump_groups(checkpoint.groups),
    }


def load_groups(value: Any, file: str) -> tuple[TensorGroup, ...]:
    """The groups that `dump_groups` wrote.

    Raises:
        FormatError: anything that it cannot have written.
    """
    if type(value) is not list:
        raise FormatError(f"{file}: tensor groups are not a list")
    groups = tuple(_load_group(item, file) for item in value)
    if sum(group.count for group in groups) > _MAX_TENSORS:
        raise FormatError(f"{file}: more tensors than any checkpoint has")
    return groups


def load_checkpoint(value: Any, file: str) -> Checkpoint:
    """The checkpoint that `dump_checkpoint` wrote.

    Raises:
        FormatError: anything that it cannot have written.
    """
    if type(value) is not dict:
        raise FormatError(f"{file}: checkpoint facts are not an object")
    form, num_files, file_bytes = value.get("format"), value.get("num_files"), value.get("file_bytes")
    metadata, notes = value.get("metadata"), value.get("notes")
    if form not in _FORMATS or type(num_files) is not int or num_files < 0:
        raise FormatError(f"{file}: checkpoint facts lack format or num_files")
    if file_bytes is not None and (type(file_bytes) is not int or file_bytes < 0):
        raise FormatError(f"{file}: file_bytes is no size")
    if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()):
        raise FormatError(f"{file}: metadata does not map strings to strings")
    if type(notes) is not list or not all(type(note) is str for note in notes):
        raise FormatError(f"{file}: notes are not strings")
    groups = load_groups(value.get("groups"), file)
    return Checkpoint(groups, form, num_files, file_bytes, tuple(metadata.items()), tuple(notes))


def _dump_range(r: range) -> list[int]:
    return [r.start, r.stop] if r.step == 1 else [r.start, r.stop, r.step]


def _load_group(item: Any, file: str) -> TensorGroup:
    if type(item) is not list or len(item) != 4:
        raise FormatError(f"{file}: a tensor group has not four parts")
    pattern, dtype, shape, boxes = item
    if type(pattern) is not str or type(dtype) is not str or not is_stored(dtype):
        raise FormatError(f"{file}: a tensor group lacks its pattern or dtype")
    if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape) or prod(shape) > _MAX_U64:
        raise FormatError(f"{file}: the shape of {pattern!r} is damaged")
    fields = re.findall(_FIELD, pattern)
    if "{" in fields or "}" in fields or type(boxes) is not list or not boxes:
        raise FormatError(f"{file}: the pattern {pattern!r} or its boxes are damaged")
    width = fields.count("{}")
    loaded = tuple(_load_box(box, width, pattern, file) for box in boxes)
    group = TensorGroup(pattern, dtype, tuple(shape), loaded)
    if group.count > _MAX_TENSORS or (len(loaded) > 1 and len(set(group.indices())) != group.count):
        raise FormatError(f"{file}: the boxes of {pattern!r} overlap or hold too many tensors")
    return group


def _load_box(box: Any, width: int, pattern: str, file: str) -> Box:
    if type(box) is not list or len(box) != width:
        raise FormatError(f"{file}: a box of {pattern!r} has not {width} ranges")
    ranges: list[range] = []
    for bounds in box:
        if type(bounds) is not list or len(bounds) not in (2, 3) or not all(type(b) is int for b in bounds):
            raise FormatError(f"{file}: a range of {pattern!r} is damaged")
        if bounds[0] < 0 or bounds[1] > _MAX_INDEX or (len(bounds) == 3 and bounds[2] < 1) or not range(*bounds):
            raise FormatError(f"{file}: a range of {pattern!r} is empty or negative")
        ranges.append(range(*bounds))
    return tuple(ranges)
