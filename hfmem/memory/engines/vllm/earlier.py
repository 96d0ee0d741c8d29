"""vLLM's pool of DeepSeek V4 until 0.26: a tensor for each page size and place in the groups, which all groups share.

Read from `v1/core/kv_cache_utils.py` of 0.20.0, 0.22.0, 0.25.1 to 0.29.0: `_pool_bytes_per_block`, `_bucket_layers_by_page_size`,
`get_max_concurrency_for_kv_cache_config`, `_max_memory_usage_bytes_from_groups`. Logs of 0.23 and 0.25 give these blocks exactly.
The first group is that of the layers that keep every token; its pages are those of the tensors, and others' are padded to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hfmem.memory.engines.vllm.specs import HOLDS_ALL, Kind, ceil_div
from hfmem.records import dataclass, replace

if TYPE_CHECKING:
    from hfmem.memory.engines.vllm import Layout

#: N of the last release 0.N that has as many tensors of every size as of the most frequent; whose pool this is; that admits by it
_LAST_EVEN: Final = 22
_LAST: Final = 26
_LAST_ADMITTED: Final = 28


@dataclass(frozen=True, slots=True)
class EarlierPool:
    """Bytes of a block; the blocks that concurrency reckons one request with: its pages by bytes, in whole blocks of the first
    group."""

    block_bytes: int
    request_blocks: int


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Page sizes, how many pages of each a group has, and which group is the first."""

    sizes: tuple[int, ...]
    counts: tuple[Counter[int], ...]
    first: int

    @property
    def even_bytes(self) -> int:
        """Bytes of a block with as many pages of every size as of the most frequent."""
        return sum(self.sizes) * max(max(count.values()) for count in self.counts)


def earlier_pool(found: Layout, minor: int) -> EarlierPool | None:
    """The pool of `found`'s groups in vLLM 0.`minor`, None where it is as today's."""
    tensors = _tensors(found) if minor <= _LAST else None
    if tensors is None:
        return None
    block = sum(size * max(count[size] for count in tensors.counts) for size in tensors.sizes)
    bytes_of = [sum(size * number for size, number in count.items()) for count in tensors.counts]
    pages = found.group_pages(found.limits)
    held = sum(number * size for number, size in zip(pages, bytes_of, strict=True))
    return EarlierPool(tensors.even_bytes if minor <= _LAST_EVEN else block, ceil_div(held, bytes_of[tensors.first]))


def earlier_admitted_bytes(found: Layout, minor: int) -> int | None:
    """What admission asks for one request: each of its pages takes a place in every tensor. None where it is as today."""
    tensors = _tensors(found) if minor <= _LAST_ADMITTED else None
    return None if tensors is None else sum(found.group_pages(found.limits)) * tensors.even_bytes


def earlier_max_model_len(found: Layout, minor: int, memory_bytes: int) -> int | None:
    """The longest context up to the layout's own that is admitted (`_estimate_max_model_len_from_groups`); None: as today."""
    tensors = _tensors(found) if minor <= _LAST_ADMITTED else None
    if tensors is None:
        return None
    low, high, best = 1, found.limits.max_model_len, 0
    while low <= high:
        middle = (low + high) // 2
        pages: Sequence[int] = found.group_pages(replace(found.limits, max_model_len=middle))
        if sum(pages) * tensors.even_bytes <= memory_bytes:
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best


def _tensors(found: Layout) -> _Tensors | None:
    """The tensors that all groups share; None for models whose pages were packed in no such way."""
    kinds = {member.spec.kind for group in found.groups for member in group.members}
    whole = [at for at, group in enumerate(found.groups) if all(m.spec.kind in HOLDS_ALL for m in group.members)]
    if Kind.SLIDING_MLA not in kinds or not whole:
        return None
    first = whole[0]
    sizes = sorted({member.spec.page_bytes for member in found.groups[first].members})
    counts = tuple(
        Counter(min((size for size in sizes if size >= m.spec.page_bytes), default=0) for m in group.members)
        for group in found.groups
    )
    return None if any(count[0] for count in counts) else _Tensors(tuple(sizes), counts, first)
