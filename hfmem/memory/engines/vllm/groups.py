"""vLLM's grouping of layers: layers of one group share a page table, all groups share one pool of equal blocks.

Read from vLLM 0.33.0, `v1/core/kv_cache_planning.py`: `get_kv_cache_groups`, `unify_kv_cache_spec_page_size`,
`_get_kv_cache_groups_uniform_page_size`, `_get_packed_kv_cache_groups`, `_approximate_gcd`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.specs import (
    HOLDS_ALL,
    Kind,
    Limits,
    PagedSpec,
    Spec,
    StateSpec,
    ceil_div,
    request_pages,
    same_uniform_type,
)
from hfmem.records import dataclass, replace

#: kinds that keep a window of the tokens
_WINDOWED: Final = frozenset({Kind.SLIDING, Kind.SLIDING_MLA, Kind.CHUNKED})


@dataclass(frozen=True, slots=True)
class Member:
    """One layer's spec in a group. `layer` is the layer's index in the model, `cache` the position of the cache it belongs to."""

    layer: int
    cache: int
    spec: Spec


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that share a page table; a request holds `pages(limits)` blocks for each group."""

    members: tuple[Member, ...]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of this group: a page of each member."""
        return sum(member.spec.page_bytes for member in self.members)

    def pages(self, limits: Limits) -> int:
        """Blocks one request holds in this group."""
        return max(request_pages(member.spec, limits) for member in self.members)


def group_layers(members: Sequence[Member], block_outermost: bool) -> tuple[Group, ...]:
    """Deal layers out to groups.

    One group where all layers need the same number of pages. Else pages of unequal size are packed side by side
    (`block_outermost` layouts), or made equal first and the layers dealt into groups of equal length. Latents that cannot be made
    equal with windowed layers' pages have these keep every token.

    Raises:
        UnsupportedError: pages that cannot be made equal.
    """
    if not members:
        return ()
    if all(same_uniform_type(members[0].spec, member.spec) for member in members):
        return (Group(tuple(members)),)
    if block_outermost and len({member.spec.page_bytes for member in members}) > 1:
        return _packed_groups(members)
    try:
        unified = _unify_pages(members)
    except UnsupportedError:
        promoted = _windows_held_whole(members)
        if promoted is None:
            raise
        return (Group(promoted),)
    return _equal_groups(unified)


def one_kind(members: Sequence[Member]) -> tuple[Member, ...]:
    """Members without the hybrid cache manager: where not all need the same pages, windowed and chunked layers beside full ones
    keep every token (`unify_hybrid_kv_cache_specs`).

    Raises:
        UnsupportedError: pages that are of several kinds even then.
    """
    if all(same_uniform_type(members[0].spec, member.spec) for member in members):
        return tuple(members)
    blocks = {member.spec.block_size for member in members if member.spec.kind in HOLDS_ALL}
    promoted = tuple(_held_whole(member, blocks) for member in members) if blocks else tuple(members)
    if not all(same_uniform_type(promoted[0].spec, member.spec) for member in promoted):
        raise UnsupportedError(
            "vLLM needs its hybrid cache manager for this model: its layers keep several kinds of pages"
        )
    return promoted


def _windows_held_whole(members: Sequence[Member]) -> tuple[Member, ...] | None:
    """The fallback for windows beside latents whose pages cannot be made equal: windowed layers keep every token, so that all share
    one group; None where that does not help (`_try_get_full_allocation_fallback_groups`)."""
    kinds = {member.spec.kind for member in members}
    if kinds & {Kind.SLIDING_MLA, Kind.CHUNKED} or not {Kind.MLA, Kind.SLIDING} <= kinds:
        return None
    blocks = {member.spec.block_size for member in members if member.spec.kind in HOLDS_ALL}
    promoted = tuple(_held_whole(member, blocks) for member in members)
    return promoted if all(same_uniform_type(promoted[0].spec, member.spec) for member in promoted) else None


def _held_whole(member: Member, blocks: set[int]) -> Member:
    spec = member.spec
    if not isinstance(spec, PagedSpec) or spec.kind not in _WINDOWED:
        return member
    block = next(iter(blocks)) if len(blocks) == 1 else spec.block_size
    kind = Kind.MLA if spec.kind is Kind.SLIDING_MLA else Kind.FULL
    whole = replace(spec, kind=kind, block_size=block, page_padded=None)
    if spec.page_padded is not None:
        whole = replace(whole, page_padded=max(spec.page_padded, whole.content_page_bytes))
    return replace(member, spec=whole)


def _unify_pages(members: Sequence[Member]) -> list[Member]:
    """Give every layer the largest page: states are padded, pages that divide it get more tokens, other pages are padded."""
    largest = max(member.spec.page_bytes for member in members)
    return [
        member if member.spec.page_bytes == largest else replace(member, spec=_with_page(member.spec, largest))
        for member in members
    ]


def _with_page(spec: Spec, page: int) -> Spec:
    if isinstance(spec, StateSpec):
        return replace(spec, page_padded=page)
    if page % spec.page_bytes == 0:
        scaled = replace(spec, block_size=spec.block_size * (page // spec.page_bytes))
        if scaled.page_bytes == page:
            return scaled
    if spec.kind is not Kind.MLA:
        return replace(spec, page_padded=page)
    raise UnsupportedError(f"vLLM cannot give latent pages of {spec.page_bytes} bytes the size {page}")


def _equal_groups(members: Sequence[Member]) -> tuple[Group, ...]:
    """Buckets of one spec, each dealt round robin into groups of at most the smallest bucket's length.

    Where the largest bucket is less than 1.5 times the smallest, the largest sets the length: one group a bucket.
    """
    buckets: dict[Spec, list[Member]] = defaultdict(list)
    for member in members:
        buckets[_bucket_key(member.spec)].append(member)
    lengths = [len(bucket) for bucket in buckets.values()]
    size = max(lengths) if max(lengths) < min(lengths) * 1.5 else min(lengths)
    groups: list[Group] = []
    for bucket in buckets.values():
        count = ceil_div(len(bucket), size)
        groups.extend(Group(tuple(bucket[index::count])) for index in range(count))
    return tuple(groups)


def _bucket_key(spec: Spec) -> Spec:
    """What two specs must share to be merged: everything but, for full attention, a window its layers only compute with."""
    if isinstance(spec, PagedSpec) and spec.kind is Kind.FULL:
        return replace(spec, window=None)
    return spec


def _packed_groups(members: Sequence[Member]) -> tuple[Group, ...]:
    """Groups whose pages of unequal size lie side by side in a block, sized so that no group makes the block wider than need be."""
    buckets: list[list[Member]] = []
    for member in members:
        for bucket in buckets:
            if same_uniform_type(bucket[0].spec, member.spec):
                bucket.append(member)
                break
        else:
            buckets.append([member])
    sized = [_by_page(bucket) for bucket in buckets]
    balanced = [len({len(layers) for layers in pages.values()}) == 1 for pages in sized]
    even = [pages for pages, is_even in zip(sized, balanced, strict=True) if is_even]
    # buckets that mix page sizes in a repeating pattern stay whole: the longest of them is the least length of a group
    mixed = [_repeats(pages) for pages in even if len(pages) > 1]
    repeats = _approximate_gcd([_repeats(pages) for pages in even], max(mixed)) if mixed else None

    def split(index: int) -> int:
        return ceil_div(_repeats(sized[index]), repeats) if balanced[index] and repeats else 1

    def is_state(index: int) -> bool:
        spec = buckets[index][0].spec
        return isinstance(spec, StateSpec) or (repeats is None and spec.kind in (Kind.SLIDING, Kind.SLIDING_MLA))

    def widest(index: int, count: int) -> int:
        return sum(ceil_div(len(layers), count) * page for page, layers in sized[index].items())

    anchor = max(
        widest(index, len(bucket) if is_state(index) else split(index)) for index, bucket in enumerate(buckets)
    )
    groups: list[Group] = []
    for index, bucket in enumerate(buckets):
        count = split(index)
        if is_state(index):
            fitting = max(anchor // bucket[0].spec.page_bytes, 1)
            count = max(count, ceil_div(len(bucket), fitting))
        if count == 1:
            groups.append(Group(tuple(bucket)))
            continue
        if not balanced[index]:
            raise UnsupportedError(
                "vLLM cannot split windowed layers with unequal numbers of pages of each size into groups"
            )
        rounds = list(zip(*sized[index].values(), strict=True))
        groups.extend(Group(tuple(m for turn in rounds[i::count] for m in turn)) for i in range(count))
    return tuple(groups)


def _by_page(bucket: Sequence[Member]) -> dict[int, list[Member]]:
    pages: dict[int, list[Member]] = defaultdict(list)
    for member in bucket:
        pages[member.spec.page_bytes].append(member)
    return pages


def _repeats(pages: dict[int, list[Member]]) -> int:
    """The most layers that share one page size."""
    return max(len(layers) for layers in pages.values())


def _approximate_gcd(values: Sequence[int], least: int) -> int:
    """The length from `least` up to the largest value that rounds all values up with the least padding; the larger of equals."""
    candidates = range(max(least, 1), max(max(values), least) + 1)
    return min(candidates, key=lambda d: (sum(-value % d for value in values), -d))
