"""The tensors that a family's inventory expects, as a checkpoint's groups: what stands in where no headers can be read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from hfmem.checkpoint.tensors import Box, TensorGroup
from hfmem.dtypes import canonical, num_bytes
from hfmem.model.architecture import Architecture
from hfmem.model.matching import Matcher, matcher_of
from hfmem.model.stored_fp32 import stored_code

if TYPE_CHECKING:
    from hfmem.checkpoint.index import Index

_FLOATS: Final = ("F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E5M2")


def synthesise(
    architecture: Architecture, dtype: str | None = None, names: Iterable[TensorGroup] | None = None
) -> tuple[TensorGroup, ...]:
    """The tensors that the inventory expects, as a checkpoint's groups at `dtype` (default: the config's), or in fp32.

    With `names` (groups of which only pattern and boxes count) exactly the expected tensors among them, in their spelling; without,
    one of each set of tied tensors and no optional buffers.
    """
    code = canonical(dtype) if dtype is not None else architecture.dtype
    found: dict[tuple[str, tuple[int, ...]], list[Box]] = {}
    matcher = matcher_of(architecture.tensors)
    if names is None:
        for item in matcher.expected:
            if item.spec.tied_to is None and not (item.spec.buffer and item.spec.optional):
                found.setdefault((item.pattern, item.spec.shape), []).extend(item.boxes)
    else:
        for group in names:
            for match in matcher.assign(group.pattern, group.boxes):
                if match.expected is not None:
                    found.setdefault((group.pattern, match.expected.spec.shape), []).extend(match.boxes)
    return tuple(
        TensorGroup(pattern, stored_code(architecture, pattern, code), shape, tuple(boxes))
        for (pattern, shape), boxes in found.items()
    )


def index_names(index: Index) -> tuple[TensorGroup, ...]:
    """The index's tensor names as groups; dtype and shape are placeholders that mean nothing."""
    from hfmem.checkpoint.grouping import group_facts  # most models' headers are read, and grouped by who reads them

    names = list(index.weight_map)
    return group_facts(names, [("U8", (0,))] * len(names))


def expected_groups(architecture: Architecture, matcher: Matcher, size: int | None) -> tuple[TensorGroup, ...]:
    """The inventory, and of what a file may leave out or repeat as much as makes up a total size of `size` bytes."""
    everything = synthesise(architecture)
    if size is None:
        return everything
    optional = frozenset(i.pattern for i in matcher.expected if i.spec.optional and i.spec.tied_to is None)
    tied = tuple(
        TensorGroup(i.pattern, architecture.dtype, i.spec.shape, i.boxes)
        for i in matcher.expected
        if i.spec.tied_to is not None
    )
    plain = tuple(group for group in everything if group.pattern not in optional)
    for candidate in (everything, plain, (*everything, *tied), (*plain, *tied)):
        if uniform_dtype(candidate, size, architecture.dtype) or sum(g.total_bytes for g in candidate) == size:
            return candidate
    return everything


def uniform_dtype(groups: Iterable[TensorGroup], total_size: int, config_dtype: str) -> str | None:
    """The dtype in which all the expected tensors take exactly `total_size`; the config's where that fits."""
    elements = sum(group.total_elements for group in groups)
    for code in (config_dtype, *_FLOATS):
        if elements and num_bytes(code, elements) == total_size:
            return code
    return None
