"""vLLM's pool of DeepSeek V4 until 0.25: a tensor for each page size and place in the groups, which all groups share.

Read from 0.20 to 0.25 `v1/core/kv_cache_utils.py`: `_get_kv_cache_config_deepseek_v4`, `_max_memory_usage_bytes_from_groups`,
`get_max_concurrency_for_kv_cache_config`. Logs of 0.23 and 0.25 give these blocks to the digit. The first group is that of layers
that keep every token; its pages are those of the tensors, and other groups' are padded to them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hfmem.memory.engines.vllm.specs import HOLDS_ALL, Kind, Limits, ceil_div
from hfmem.records import dataclass, replace

if TYPE_CHECKING:
    from hfmem.memory.engines.vllm import Layout

#: N of the last release 0.N with it
LAST = 25


@dataclass(frozen=True, slots=True)
class EarlierPool:
    """Bytes of a block; the blocks that concurrency reckons one request with, its pages by bytes in whole blocks of the first
    group; the bytes that admission asks for it, each page of which takes a place in every tensor."""

    block_bytes: int
    request_blocks: int
    admitted_bytes: int


def earlier_pool(found: Layout, limits: Limits | None = None) -> EarlierPool | None:
    """The pool of `found`'s groups, None where no release packed such a model's pages in this way."""
    kinds = {member.spec.kind for group in found.groups for member in group.members}
    first = next(
        (at for at, group in enumerate(found.groups) if all(m.spec.kind in HOLDS_ALL for m in group.members)), None
    )
    if Kind.SLIDING_MLA not in kinds or first is None:
        return None
    sizes = sorted({member.spec.page_bytes for member in found.groups[first].members})
    counts = [
        Counter(min((size for size in sizes if size >= m.spec.page_bytes), default=0) for m in group.members)
        for group in found.groups
    ]
    if any(count[0] for count in counts):
        return None  # a page that no tensor holds
    pages = found.group_pages(limits or found.limits)
    bytes_of = [sum(size * number for size, number in count.items()) for count in counts]
    places = max(max(count.values()) for count in counts)
    return EarlierPool(
        sum(size * max(count[size] for count in counts) for size in sizes),
        ceil_div(sum(number * size for number, size in zip(pages, bytes_of, strict=True)), bytes_of[first]),
        sum(pages) * sum(sizes) * places,
    )


def earlier_max_model_len(found: Layout, memory_bytes: int) -> int:
    """The longest context up to the layout's own that admission lets into the memory (`_estimate_max_model_len_from_groups`)."""
    low, high, best = 1, found.limits.max_model_len, 0
    while low <= high:
        middle = (low + high) // 2
        pool = earlier_pool(found, replace(found.limits, max_model_len=middle))
        if pool is not None and pool.admitted_bytes <= memory_bytes:
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best
