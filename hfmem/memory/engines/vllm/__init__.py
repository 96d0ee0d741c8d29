"""vLLM's paged cache: pages, groups of layers, admission of one request, and what a pool holds, to the byte.

Read from vLLM 0.33.0 on Hopper GPUs with its defaults: the V2 model runner, asynchronous scheduling, prefix caching, chunked
prefill. `v1/core/kv_cache_planning.py` (`_max_memory_usage_bytes_from_groups`), `v1/core/kv_cache_utils.py`
(`get_max_concurrency_for_kv_cache_config`, `update_kv_cache_capacity`), `config/vllm.py` (`max_concurrent_batches`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import source_tokens, token_bytes
from hfmem.memory.engines.vllm.groups import Group, group_layers
from hfmem.memory.engines.vllm.layers import Plan, plan_layers
from hfmem.memory.engines.vllm.specs import Limits, PagedSpec, StateSpec, request_pages
from hfmem.memory.engines.vllm.support import check_heads, check_model, check_ranks, pipeline_stages
from hfmem.memory.result import CacheBytes, LayerGroup, Pool
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import Cache, CrossAttention
from hfmem.records import dataclass
from hfmem.units import GIB

NAME: Final = "vllm"
VERSION: Final = "0.33.0"

#: `--max-num-batched-tokens` where neither the user nor a device tells
DEFAULT_MAX_NUM_BATCHED_TOKENS: Final = 8192


@dataclass(frozen=True, slots=True)
class Layout:
    """A model's groups and the bytes of one block on each pipeline stage of one tensor-parallel rank."""

    plan: Plan
    groups: tuple[Group, ...]
    limits: Limits
    stage_block_bytes: tuple[int, ...]

    @property
    def request_blocks(self) -> int:
        """Blocks one request of `max_model_len` tokens holds, over all groups."""
        return sum(group.pages(self.limits) for group in self.groups)


def default_max_num_batched_tokens(memory_bytes: int, device: str = "") -> int:
    """The server's default by device (`engine/arg_utils.py`): 16384 from 160 GiB, 8192 from 70 GiB but on an A100, else 2048."""
    if memory_bytes >= 160 * GIB:
        return 16384
    name = device.lower()
    if memory_bytes >= 70 * GIB and "a100" not in name and "gb10" not in name:
        return 8192
    return 2048


def layout(arch: Architecture, serving: Serving) -> Layout:
    """Specs, groups and block sizes.

    Raises:
        UnsupportedError: vLLM refuses the model or the layout.
    """
    check_model(arch)
    check_ranks(arch, serving.tp, serving.pp)
    check_heads(arch, serving.tp)
    plan = plan_layers(arch, serving)
    groups = group_layers(plan.members, plan.block_outermost)
    batched = serving.max_num_batched_tokens or DEFAULT_MAX_NUM_BATCHED_TOKENS
    # asynchronous scheduling keeps one batch more in flight than there are pipeline stages
    limits = Limits(serving.context, (serving.pp + 1) * batched, batched)
    stages = pipeline_stages(plan.num_layers, serving.pp) if serving.pp > 1 else (range(plan.num_layers),)
    return Layout(plan, groups, limits, tuple(_stage_bytes(groups, stage) for stage in stages))


def _stage_bytes(groups: tuple[Group, ...], stage: range) -> int:
    """Bytes of a block on one stage: the widest group's pages of the layers that run there."""
    return max((sum(m.spec.page_bytes for m in group.members if m.layer in stage) for group in groups), default=0)


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
    )


def _layer_groups(found: Layout, serving: Serving) -> tuple[LayerGroup, ...]:
    """Bytes of one request by cache: pages held × page bytes over all ranks; blocks that groups leave unused are not in it."""
    by_cache: dict[Cache, LayerGroup] = {}
    for group in found.groups:
        pages = group.pages(found.limits)
        for member in group.members:
            layer, kind = found.plan.caches[member.cache]
            spec = member.spec
            entry = by_cache.get(kind) or LayerGroup(kind, (), 0, 0, 0)
            layers = tuple(sorted({*entry.layers, layer}))
            size = entry.bytes + serving.tp * pages * spec.page_bytes
            state = entry.state_bytes + serving.tp * (spec.state_bytes if isinstance(spec, StateSpec) else 0)
            tokens = entry.tokens
            if isinstance(spec, PagedSpec):
                tokens = max(
                    tokens, min(request_pages(spec, found.limits) * spec.block_size, found.limits.max_model_len)
                )
            by_cache[kind] = LayerGroup(kind, layers, entry.bytes_per_token, tokens, size, state)
    return tuple(_finish(entry, found, serving) for entry in by_cache.values())


def _finish(entry: LayerGroup, found: Layout, serving: Serving) -> LayerGroup:
    kind = entry.cache
    specs = [member.spec for member in found.plan.members if found.plan.caches[member.cache][1] == kind]
    own = specs[: len(specs) // max(entry.count, 1)]
    per_token = serving.tp * sum(
        spec.slots * spec.content_bytes // spec.tokens_per_state for spec in own if isinstance(spec, PagedSpec)
    )
    if isinstance(kind, CrossAttention):
        held = source_tokens(kind, serving.source_tokens)
        return replace(
            entry,
            bytes_per_token=per_token,
            tokens=found.limits.encoder_tokens,
            state_bytes=held * entry.count * token_bytes(kind, found.plan.kv_dtype),
        )
    return replace(entry, bytes_per_token=per_token)


def pool(arch: Architecture, serving: Serving, memory_bytes_per_rank: int) -> Pool:
    """What a pool of that size on each rank holds, as vLLM logs it at start.

    All ranks take as many blocks as the rank with the fewest. Capacity is concurrency × context, rounded down.

    Raises:
        UnsupportedError: vLLM refuses the model or the layout, has no pool for it, or one request does not fit.
    """
    found = layout(arch, serving)
    if not found.groups:
        raise UnsupportedError(f"{arch.model_type} models keep no cache between tokens: vLLM makes no pool")
    widest = max(found.stage_block_bytes)
    num_blocks = memory_bytes_per_rank // widest
    usable = memory_bytes_per_rank - widest  # one block stays empty: the null block
    needed = found.request_blocks * widest
    if needed > usable:
        longest = max_model_len(arch, serving, memory_bytes_per_rank)
        hint = f"; the longest that fits is {longest}" if longest else ""
        raise UnsupportedError(
            f"one request of {serving.context} tokens needs {needed / GIB:.2f} GiB of KV cache and the pool has "
            f"{max(usable, 0) / GIB:.2f} GiB{hint}"
        )
    concurrency = num_blocks / found.request_blocks
    capacity = int(concurrency * serving.context)
    lines = (
        f"GPU KV cache size: {capacity:,} tokens, Maximum concurrency for {serving.context:,} tokens per request: "
        f"{concurrency:.2f}x",
    )
    return Pool(memory_bytes_per_rank, found.plan.block_size, widest, num_blocks, capacity, concurrency, lines)


def max_model_len(arch: Architecture, serving: Serving, memory_bytes_per_rank: int) -> int:
    """The longest context up to `serving.context` of which one request fits the pool (`_estimate_max_model_len_from_groups`);
    0 where none does. Page sizes stay those of the given context, as in vLLM."""
    found = layout(arch, serving)
    if not found.groups:
        return serving.context
    widest = max(found.stage_block_bytes)
    blocks = (memory_bytes_per_rank - widest) // widest

    def fits(length: int) -> bool:
        limits = replace(found.limits, max_model_len=length)
        return sum(group.pages(limits) for group in found.groups) <= blocks

    low, high, best = 1, serving.context, 0
    while low <= high:
        middle = (low + high) // 2
        if fits(middle):
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best
