"""vLLM's paged cache: pages, groups of layers, admission of one request, and what a pool holds, to the byte.

Read from vLLM 0.33.0 on Hopper GPUs with its defaults: the V2 model runner, asynchronous scheduling, prefix caching, chunked
prefill. `v1/core/kv_cache_planning.py` (`_max_memory_usage_bytes_from_groups`), `v1/core/kv_cache_utils.py`
(`get_max_concurrency_for_kv_cache_config`, `update_kv_cache_capacity`), `config/vllm.py` (`max_concurrent_batches`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import source_tokens, token_bytes
from hfmem.memory.engines.vllm.classes import batched_tokens, pools
from hfmem.memory.engines.vllm.groups import Group, group_layers, one_kind
from hfmem.memory.engines.vllm.layers import Plan, caches_prefixes, plan_layers
from hfmem.memory.engines.vllm.specs import HOLDS_ALL, Limits, PagedSpec, Spec, StateSpec, ceil_div, request_pages
from hfmem.memory.engines.vllm.support import (
    check_context_ranks,
    check_encoder,
    check_experts,
    check_heads,
    check_model,
    check_ranks,
    pipeline_stages,
)
from hfmem.memory.result import CacheBytes, LayerGroup, Pool, memory_of_stages
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import Cache, CrossAttention, RecurrentCache
from hfmem.records import dataclass, replace
from hfmem.units import GIB

NAME: Final = "vllm"
VERSION: Final = "0.33.0"
VENDORS: Final = frozenset({"nvidia", "amd"})
RUNTIME: Final = "server"
WEIGHT_FORMATS: Final = (("bf16", 16), ("fp8", 8), ("int4", 4))
CACHE_FORMATS: Final = ("fp8",)
OWN_CLASSES: Final = True
HALVES_FP32: Final = True
DRAFTS_IN_POOL: Final = True
#: compute capability at which its wheel begins
OLDEST: Final = 75


@dataclass(frozen=True, slots=True)
class _Grouping:
    """What of a layout neither context nor pipeline stages change. `kept` is each kind of cache with its layers and, by group, its
    specs and how many layers have them; `page_specs` are the specs of each group that may need different numbers of pages."""

    plan: Plan
    groups: tuple[Group, ...]
    page_specs: tuple[tuple[Spec, ...], ...]
    kept: tuple[tuple[Cache, tuple[int, ...], tuple[tuple[int, Spec, int], ...]], ...]


@dataclass(frozen=True, slots=True)
class _Structure:
    """A grouping over pipeline stages."""

    grouping: _Grouping
    stage_block_bytes: tuple[int, ...]
    stages: tuple[range, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A model's groups and the bytes of one block on each pipeline stage of one tensor-parallel rank."""

    structure: _Structure
    limits: Limits

    @property
    def plan(self) -> Plan:
        """Every layer's specs."""
        return self.structure.grouping.plan

    @property
    def groups(self) -> tuple[Group, ...]:
        """The layers that share page tables."""
        return self.structure.grouping.groups

    @property
    def stage_block_bytes(self) -> tuple[int, ...]:
        """Bytes of a block on each stage."""
        return self.structure.stage_block_bytes

    def group_pages(self, limits: Limits) -> tuple[int, ...]:
        """Blocks one request holds in each group."""
        return tuple(max(request_pages(spec, limits) for spec in specs) for specs in self.structure.grouping.page_specs)

    @property
    def request_blocks(self) -> int:
        """Blocks one request of `max_model_len` tokens holds, over all groups."""
        return sum(self.group_pages(self.limits))


class PoolTooSmallError(UnsupportedError):
    """One request does not fit the pool. The longest that does is searched for when somebody reads the message: a search of its
    own asks a thousand times and reads none."""

    def __init__(self, arch: Architecture, serving: Serving, held: int, block_bytes: int, needed: int) -> None:
        super().__init__(arch, serving, held, block_bytes, needed)

    def __str__(self) -> str:
        arch, serving, held, block_bytes, needed = self.args
        longest = max_model_len(arch, serving, held, block_bytes)
        hint = f"; the longest that fits is {longest}" if longest else ""
        return (
            f"one request of {serving.context} tokens needs {needed / GIB:.2f} GiB of KV cache and the pool has "
            f"{max(held - block_bytes, 0) / GIB:.2f} GiB{hint}"
        )


#: structures, and the groupings in them, by architecture (kept alive by its entry) and what else decides them: a search asks for
#: the same one again and again
_STRUCTURES: dict[tuple[object, ...], tuple[Architecture, _Structure]] = {}
_GROUPINGS: dict[tuple[object, ...], tuple[Architecture, _Grouping]] = {}
_MOST_STRUCTURES: Final = 1024
_MOST_GROUPINGS: Final = 64


def layout(arch: Architecture, serving: Serving) -> Layout:
    """Specs, groups and block sizes.

    Raises:
        UnsupportedError: vLLM refuses the model or the layout.
    """
    batched = batched_tokens(arch, serving)
    # asynchronous scheduling, of all but models that pool, keeps one batch more in flight than there are pipeline stages
    steps = serving.steps_in_flight or serving.pp + (not serving.synchronous and not pools(arch, serving))
    limits = Limits(serving.context, steps * batched, batched, serving.dcp)
    return Layout(_structure(arch, serving), limits)


def _structure(arch: Architecture, serving: Serving) -> _Structure:
    spans = None if caches_prefixes(arch, serving) else serving.context
    held = (
        serving.kv_dtype,
        serving.declared_kv_dtype,
        serving.page_size,
        serving.compute_capability,
        serving.state_dtype,
        serving.dcp,
        serving.one_kind_of_page,
        serving.prefill_checkpoints,
    )
    key = (id(arch), *held, serving.speculative_tokens, serving.tp, spans, serving.language_model_only)
    whole = (*key, serving.pp, serving.ep)
    if whole not in _STRUCTURES:
        if len(_STRUCTURES) >= _MOST_STRUCTURES:
            _STRUCTURES.clear()
        check_model(arch)
        check_ranks(arch, serving.tp, serving.pp)
        check_heads(arch, serving.tp)
        if not serving.language_model_only:
            check_encoder(arch, serving.tp)
        if serving.ep:
            check_experts(arch)
        check_context_ranks(arch, serving)
        staged = serving.pp if any(isinstance(cache, RecurrentCache) for cache in arch.kinds()) else None
        _STRUCTURES[whole] = (arch, _over_stages(_grouping(arch, serving, (*key, staged)), serving.pp))
    return _STRUCTURES[whole][1]


def _grouping(arch: Architecture, serving: Serving, key: tuple[object, ...]) -> _Grouping:
    if key not in _GROUPINGS:
        if len(_GROUPINGS) >= _MOST_GROUPINGS:
            _GROUPINGS.clear()
        _GROUPINGS[key] = (arch, _read_grouping(arch, serving))
    return _GROUPINGS[key][1]


def _read_grouping(arch: Architecture, serving: Serving) -> _Grouping:
    plan = plan_layers(arch, serving)
    members = one_kind(plan.members) if serving.one_kind_of_page else plan.members
    groups = group_layers(members, plan.block_outermost)
    layers: dict[Cache, dict[int, None]] = {}
    counts: dict[Cache, dict[tuple[int, Spec], int]] = {}
    for index, group in enumerate(groups):
        for member in group.members:
            layer, kind = plan.caches[member.cache]
            layers.setdefault(kind, {})[layer] = None
            held = counts.setdefault(kind, {})
            held[index, member.spec] = held.get((index, member.spec), 0) + 1
    return _Grouping(
        plan,
        groups,
        tuple(tuple(dict.fromkeys(member.spec for member in group.members)) for group in groups),
        tuple(
            (kind, tuple(sorted(layers[kind])), tuple((*key, count) for key, count in counts[kind].items()))
            for kind in layers
        ),
    )


def _over_stages(grouping: _Grouping, pp: int) -> _Structure:
    """Bytes of a block on each stage: the widest group's pages of the layers that run there, in whole strides."""
    stages = _stages(grouping.plan, pp)
    widest, strides = [0] * len(stages), [1] * len(stages)
    stage_of = [index for index, stage in enumerate(stages) for _ in stage]
    for group in grouping.groups:
        here = [0] * len(stages)
        for member in group.members:
            stage, spec = stage_of[member.layer], member.spec
            here[stage] += spec.page_bytes
            if isinstance(spec, PagedSpec) and spec.stride > 1:
                strides[stage] = lcm(strides[stage], spec.stride)
        widest = [max(pair) for pair in zip(widest, here, strict=True)]
    sizes = (ceil_div(size, stride) * stride for size, stride in zip(widest, strides, strict=True))
    return _Structure(grouping, tuple(sizes), stages)


def _stages(plan: Plan, pp: int) -> tuple[range, ...]:
    """Layers of each pipeline stage, those that draft on the last."""
    *stages, last = pipeline_stages(plan.num_layers, pp) if pp > 1 else (range(plan.num_layers),)
    end = max((layer for layer, _ in plan.caches), default=0) + 1
    return (*stages, range(last.start, end))


def cache(arch: Architecture, serving: Serving) -> CacheBytes:
    """What admission asks of the pool for one request of `context` tokens, times `num_seqs`.

    Raises:
        UnsupportedError: vLLM refuses the model or the layout.
    """
    found = layout(arch, serving)
    blocks = found.request_blocks
    per_seq = serving.tp * blocks * sum(found.stage_block_bytes)
    per_rank = blocks * max(found.stage_block_bytes)
    layers = _layer_groups(found, serving)
    return CacheBytes(
        engine=NAME,
        kv_dtype=found.plan.kv_dtype,
        bytes=per_seq * serving.num_seqs,
        bytes_per_rank=per_rank * serving.num_seqs_per_replica,
        bytes_per_seq=per_seq,
        state_bytes_per_seq=sum(group.state_bytes for group in layers),
        layer_groups=layers,
        page_size=found.plan.block_size if found.groups else None,
        stage_bytes=tuple(blocks * size * serving.num_seqs_per_replica for size in found.stage_block_bytes),
        stage_layers=tuple((layers,) for layers in found.structure.stages),
        decoder_first=True,
    )


def _layer_groups(found: Layout, serving: Serving) -> tuple[LayerGroup, ...]:
    """Bytes of one request by cache: pages held × page bytes over all ranks; blocks that groups leave unused are not in it."""
    pages = found.group_pages(found.limits)
    return tuple(_layer_group(*entry, pages, found, serving) for entry in found.structure.grouping.kept)


def _layer_group(
    kind: Cache,
    layers: tuple[int, ...],
    specs: tuple[tuple[int, Spec, int], ...],
    pages: tuple[int, ...],
    found: Layout,
    serving: Serving,
) -> LayerGroup:
    limits = found.limits
    size = sum(count * pages[group] * spec.page_bytes for group, spec, count in specs)
    state = sum(count * spec.state_bytes for _, spec, count in specs if isinstance(spec, StateSpec))
    paged = [(spec, count) for _, spec, count in specs if isinstance(spec, PagedSpec)]
    ranks = {spec: limits.dcp if spec.kind in HOLDS_ALL else 1 for spec, _ in paged}
    held = (min(request_pages(spec, limits) * spec.block_size * ranks[spec], limits.max_model_len) for spec, _ in paged)
    tokens = max(held, default=0)
    # every layer of the kind has the same specs, whatever groups they lie in
    rows = sum(count * (spec.slots * spec.content_bytes // spec.tokens_per_state) for spec, count in paged)
    state *= serving.tp
    if isinstance(kind, CrossAttention):
        tokens = limits.encoder_tokens
        state = source_tokens(kind, serving.source_tokens) * len(layers) * token_bytes(kind, found.plan.kv_dtype)
    count = max(len(layers), 1)
    return LayerGroup(
        kind,
        layers,
        serving.tp // serving.dcp * rows // count,
        tokens,
        serving.tp * size,
        state,
        size // count * serving.num_seqs_per_replica,
    )


def pool(arch: Architecture, serving: Serving, memory_bytes_per_rank: int | Sequence[int]) -> Pool:
    """What a pool of that size on each rank (of each pipeline stage, or of all alike) holds, as vLLM logs it at start.

    All ranks take as many blocks as the rank with the fewest. Capacity is concurrency × context, rounded down.

    Raises:
        UnsupportedError: vLLM refuses the model or the layout, has no pool for it, or one request does not fit.
    """
    found = layout(arch, serving)
    if not found.groups:
        raise UnsupportedError(f"{arch.model_type} models keep no cache between tokens: vLLM makes no pool")
    memory = memory_of_stages(memory_bytes_per_rank, len(found.stage_block_bytes))
    pages = found.request_blocks
    for of_stage, size in zip(memory, found.stage_block_bytes, strict=True):
        if pages * size > of_stage - size:  # one block stays empty: the null block
            raise PoolTooSmallError(arch, serving, of_stage, size, pages * size)
    # the stage that holds the fewest blocks; stages without a cache hold any number
    num_blocks, held, widest = min(
        (m // size, m, size) for m, size in zip(memory, found.stage_block_bytes, strict=True) if size
    )
    concurrency = num_blocks / pages
    capacity = int(concurrency * serving.context)
    lines = (
        f"GPU KV cache size: {capacity:,} tokens, Maximum concurrency for {serving.context:,} tokens per request: "
        f"{concurrency:.2f}x",
    )
    return Pool(held, found.plan.block_size, widest, num_blocks, capacity, concurrency, lines, pages)


def max_model_len(
    arch: Architecture, serving: Serving, memory_bytes_per_rank: int, block_bytes: int | None = None
) -> int:
    """The longest context up to `serving.context` of which one request fits the pool (`_estimate_max_model_len_from_groups`);
    0 where none does. Page sizes stay those of the given context, as in vLLM. `block_bytes`: of the stage whose memory it is."""
    found = layout(arch, serving)
    if not found.groups:
        return serving.context
    widest = block_bytes or max(found.stage_block_bytes)
    blocks = (memory_bytes_per_rank - widest) // widest

    def fits(length: int) -> bool:
        limits = replace(found.limits, max_model_len=length)
        return sum(found.group_pages(limits)) <= blocks

    low, high, best = 1, serving.context, 0
    while low <= high:
        middle = (low + high) // 2
        if fits(middle):
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best
