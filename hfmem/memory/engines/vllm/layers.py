"""From an architecture to vLLM's specs: page sizes, formats, and the block size that attention and states agree on.

Read from vLLM 0.33.0 as it runs on NVIDIA GPUs, Hopper unless said: the attention modules' `get_kv_cache_spec`, the backends'
`customize_spec` and `get_supported_kernel_block_sizes`, `platforms/interface.py` (`_align_hybrid_block_size`),
`model_executor/layers/mamba/mamba_utils.py`, `models/deepseek_v4`, `models/minimax_m3`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import decoding_layers
from hfmem.memory.engines.vllm.blocks import DEFAULT_BLOCK, block_size, hybrid_block
from hfmem.memory.engines.vllm.cache_formats import (
    BF16_BYTES,
    cache_format,
    head_bytes,
    latent_row_bytes,
    model_dtype,
    sparse_row_bytes,
)
from hfmem.memory.engines.vllm.compressed import V41, v4_specs, v41_specs
from hfmem.memory.engines.vllm.glm5_next import glm5_next_specs, pools_index
from hfmem.memory.engines.vllm.groups import Member
from hfmem.memory.engines.vllm.paged_convs import PAGED_CONVOLUTIONS, paged_members
from hfmem.memory.engines.vllm.qwen4_exp import QWEN4, index_specs
from hfmem.memory.engines.vllm.specs import Kind, PagedSpec, Spec, StateSpec, ceil_div
from hfmem.memory.engines.vllm.states import is_replicated, request_states, state_bytes
from hfmem.memory.engines.vllm.step5 import STEP5, step5_specs
from hfmem.memory.engines.vllm.support import kv_heads_per_rank, pipeline_stages
from hfmem.memory.formats import SCALE_BYTES, resolve_kv_dtype
from hfmem.memory.model_classes import through_transformers
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    Layer,
    NoCache,
    RecurrentCache,
    SharedCache,
    ShortConvState,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass, replace

#: Cohere's window is that of the tokens before the current one, which vLLM counts in (`commandr.py`, `cohere2_moe.py`)
_WINDOW_WITHOUT_SELF: Final = frozenset({"cohere2", "cohere2_moe", "cohere2_vision"})
#: latent models whose vLLM class expands the latent and caches full heads (`minicpm3.py`)
_EXPANDS_LATENT: Final = frozenset({"minicpm3"})

#: models of classes without attention, which cache prefixes only where the user asks (`is_prefix_caching_supported`)
_ATTENTION_FREE: Final = frozenset({"mamba", "mamba2", "falcon_mamba"})

#: model types whose prediction layers are built without the cache's settings, so that they keep the model's dtype
#: (`exaone_moe_mtp.py`)
_PLAIN_PREDICTIONS: Final = frozenset({"exaone_moe"})

#: one indexer key with its fp32 scale for each 128 elements (DeepSeek V3.2)
_INDEX_SCALE_GROUP: Final = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """A model's specs on one rank, before grouping. Layers from `num_layers` on draft, on the last pipeline stage."""

    members: tuple[Member, ...]
    caches: tuple[tuple[int, Cache], ...]
    num_layers: int
    block_size: int
    kv_dtype: str
    block_outermost: bool


def caches_prefixes(arch: Architecture, serving: Serving) -> bool:
    """Whether prefixes are cached, by the user's word or vLLM's default; without, a state's page spans the whole context."""
    given = serving.enable_prefix_caching
    return arch.model_type not in _ATTENTION_FREE if given is None else given


def plan_layers(arch: Architecture, serving: Serving) -> Plan:
    """Every layer's specs on one rank.

    Raises:
        UnsupportedError: a layer, format or layout vLLM refuses.
    """
    layers = tuple(layer for layer in decoding_layers(arch) if layer.stack in ("decoder", "predict", "draft"))
    num_layers = sum(layer.stack == "decoder" for layer in layers)
    caches = tuple((index, cache) for index, layer in enumerate(layers) for cache in layer.caches)
    as_held = {cache: _as_held(arch, cache) for _, cache in caches}
    kinds = tuple(dict.fromkeys(as_held.values()))
    fmt = cache_format(arch, serving, kinds)
    declared = serving.kv_dtype == "auto" and serving.declared_kv_dtype not in (None, "auto")
    block = block_size(arch, kinds, fmt, serving)
    pages = _Pages(arch, fmt, block, serving, declared)
    outermost = arch.model_type in STEP5 | QWEN4 or any(
        isinstance(k, CompressedAttention) or pools_index(k) for k in kinds
    )
    if arch.model_type in PAGED_CONVOLUTIONS:
        paged = {cache: tuple(pages.specs(cache)) for cache in kinds if _is_attention(cache)}
        return Plan(tuple(paged_members(layers, paged, serving.tp)), caches, num_layers, block, fmt, outermost)
    state_page = None
    largest = max(_told_state_bytes(arch, serving, kinds), default=0)
    attention = next((cache for cache in kinds if _is_attention(cache)), None)
    align = largest > 0 and caches_prefixes(arch, serving)
    if largest and attention is not None:
        token = pages.token_bytes(attention)
        block = hybrid_block(block, largest, token, attention, arch, align, serving)
        pages, state_page = replace(pages, block=block), block * token
    specs = {
        cache: (_state_spec(arch, serving, held, block if align else None, state_page),)
        if isinstance(held, RecurrentCache)
        else tuple(pages.specs(held))
        for cache, held in as_held.items()
    }
    alone = _stages_of_states(layers, num_layers, serving.pp) if state_page is not None else frozenset()
    own_block = (serving.page_size or DEFAULT_BLOCK) if align else serving.context
    plain = replace(pages, fmt=resolve_kv_dtype(model_dtype(arch), "auto", None))
    members = []
    for position, (layer, cache) in enumerate(caches):
        found: Iterable[Spec] = specs[cache]
        if arch.model_type in _PLAIN_PREDICTIONS and layers[layer].stack == "predict":
            found = plain.specs(as_held[cache])
        if layer in alone:
            found = (
                replace(s, block_size=own_block, page_padded=None) if isinstance(s, StateSpec) else s for s in found
            )
        members += [Member(layer, position, spec) for spec in found]
    wider = _wider(members, layers, serving.speculative_tokens)
    return Plan(wider, caches, num_layers, block, fmt, outermost)


def _told_state_bytes(arch: Architecture, serving: Serving, kinds: Iterable[Cache]) -> Iterator[int]:
    """Bytes of states as the class tells them before its layers are asked: LFM2's leaves the draft's tokens out."""
    for kind in kinds:
        if isinstance(kind, RecurrentCache):
            untold = isinstance(kind, ShortConvState) and not is_replicated(kind, arch)
            ahead = 0 if untold else serving.speculative_tokens
            yield state_bytes(kind, arch, model_dtype(arch), serving.tp, serving.state_dtype, ahead=ahead)


def _state_spec(
    arch: Architecture, serving: Serving, state: RecurrentCache, block: int | None, page: int | None
) -> StateSpec:
    """The spec of a recurrent layer.

    Args:
        block: tokens of a page that keeps states of prefixes; None: prefixes are not cached, a page spans the whole sequence.
        page: bytes of the pages of attention that states fill, None where there are none.

    Raises:
        UnsupportedError: the state does not fit that page.
    """
    ahead = serving.speculative_tokens
    size = state_bytes(state, arch, model_dtype(arch), serving.tp, serving.state_dtype, ahead=ahead)
    if page is not None and page < size:
        raise UnsupportedError(f"vLLM's pages of {page} bytes do not hold a state of {size} for {ahead} tokens ahead")
    states = request_states(state, arch, serving.compute_capability) if serving.prefill_checkpoints else 2
    span, pages = (serving.context, ahead + 1) if block is None else (block, ahead + states)
    return StateSpec(span, size, pages, (state,), page if page != size else None, is_replicated(state, arch))


def _stages_of_states(layers: Sequence[Layer], num_layers: int, pp: int) -> frozenset[int]:
    """Layers of pipeline stages without attention, whose worker has no page to fit its states to: they keep their own size
    (`update_block_size_for_backend` returns early there)."""
    if pp == 1:
        return frozenset()
    *stages, last = pipeline_stages(num_layers, pp)
    found = (*stages, range(last.start, len(layers)))
    return frozenset(
        index
        for stage in found
        if not any(_is_attention(cache) for index in stage for cache in layers[index].caches)
        for index in stage
    )


def _wider(members: Sequence[Member], layers: Sequence[Layer], ahead: int) -> tuple[Member, ...]:
    """`members`; where several prediction layers run after each other, windows keep the tokens that these look ahead
    (`extra_retained_tokens`, of `get_global_kv_cache_groups`)."""
    steps = min(sum(layer.stack == "predict" for layer in layers), ahead)
    if steps < 2:
        return tuple(members)
    return tuple(
        replace(member, spec=replace(member.spec, window=member.spec.window + ahead - 1))
        if isinstance(member.spec, PagedSpec) and member.spec.kind is Kind.SLIDING and member.spec.window is not None
        else member
        for member in members
    )


def _as_held(arch: Architecture, cache: Cache) -> Cache:
    """Where a vLLM class caches otherwise than its layer says: expanded heads for a latent, a latent without its indexer's keys."""
    match cache:
        case LatentAttention(num_heads=heads, qk_nope_head_dim=nope, qk_rope_head_dim=rope):
            if arch.model_type in _EXPANDS_LATENT:
                return FullAttention(heads, heads, nope + rope, nope + rope)
        case SparseLatentAttention(num_heads=heads, kv_lora_rank=rank, qk_rope_head_dim=rope):
            if through_transformers(arch):
                return LatentAttention(heads, rank, rope, cache.qk_nope_head_dim, cache.v_head_dim)
        case _:
            pass
    return cache


def _is_attention(cache: Cache) -> bool:
    kinds = FullAttention | SlidingAttention | ChunkedAttention | LatentAttention | IndexedAttention
    return isinstance(cache, kinds) or pools_index(cache)


@dataclass(frozen=True, slots=True)
class _Pages:
    """What pages of attention have in common on one rank. `declared`: the checkpoint, not the user, names the format."""

    arch: Architecture
    fmt: str
    block: int
    serving: Serving
    declared: bool

    def specs(self, cache: Cache) -> Iterator[Spec]:
        """The specs of one layer's cache, in the order in which vLLM's modules register them."""
        match cache:
            case FullAttention(num_kv_heads=heads, head_dim=d, v_head_dim=dv):
                yield self._heads(Kind.FULL, heads, d, dv)
            case SlidingAttention(num_kv_heads=heads, head_dim=d, v_head_dim=dv, window=window):
                window += self.arch.model_type in _WINDOW_WITHOUT_SELF
                yield self._heads(Kind.SLIDING, heads, d, dv, window)
            case ChunkedAttention(num_kv_heads=heads, head_dim=d, v_head_dim=dv, chunk=chunk):
                yield self._heads(Kind.CHUNKED, heads, d, dv, chunk)
            case CrossAttention(num_kv_heads=heads, head_dim=d):
                yield self._heads(Kind.CROSS, heads, d, d)
            case IndexedAttention() if self.arch.model_type in STEP5:
                content = head_bytes(self.fmt, cache.head_dim, cache.v_head_dim)[1]
                yield from step5_specs(cache, content, self.block, self.serving.tp)
            case IndexedAttention(num_kv_heads=heads, head_dim=d, v_head_dim=dv) if self.arch.model_type in QWEN4:
                yield from index_specs(cache, self.arch, self.serving, self.block)
                yield self._heads(Kind.FULL, heads, d, dv)
            case IndexedAttention(num_kv_heads=heads, head_dim=d, v_head_dim=dv, index_head_dim=index):
                yield self._heads(Kind.FULL, heads, d, dv)
                yield self._rows(index * BF16_BYTES, "index", index)
            case LatentAttention(kv_lora_rank=rank, qk_rope_head_dim=rope):
                yield self._rows(latent_row_bytes(self.fmt, rank + rope), "latent", rank + rope, self.fmt)
            case SparseLatentAttention() if pools_index(cache):
                yield from glm5_next_specs(cache, self.fmt, self.block)
            case SparseLatentAttention(kv_lora_rank=rank, qk_rope_head_dim=rope, index_head_dim=index):
                if cache.has_indexer:
                    key = index + ceil_div(index, _INDEX_SCALE_GROUP) * SCALE_BYTES
                    yield self._rows(key, "index", index)
                row = sparse_row_bytes(cache, self.fmt, self.serving.compute_capability, declared=self.declared)
                yield self._rows(row, "latent", rank + rope, self.fmt, cache.has_indexer)
            case CompressedAttention():
                if self.arch.model_type in V41:
                    yield from v41_specs(cache, self.fmt, self.block)
                else:
                    yield from v4_specs(cache, self.fmt, self.block)
            case SharedCache() | NoCache():
                return
            case _:
                _assert_recurrent(cache)

    def token_bytes(self, cache: Cache) -> int:
        """Bytes one token takes in an attention layer: what a hybrid's block size is reckoned with."""
        specs = replace(self, block=1).specs(cache)
        return max(spec.content_page_bytes for spec in specs if isinstance(spec, PagedSpec))

    def _heads(self, kind: Kind, num_kv_heads: int, head: int, head_v: int, window: int | None = None) -> PagedSpec:
        heads = kv_heads_per_rank(num_kv_heads, self.serving.tp)
        slots, content = head_bytes(self.fmt, head, head_v)
        block = self._windowed_block() if kind is Kind.SLIDING else self.block
        return PagedSpec(kind, block, heads * slots, content, (heads, head, head_v, self.fmt), window=window)

    def _rows(self, row_bytes: int, *shape: int | str | bool) -> PagedSpec:
        return PagedSpec(Kind.MLA, self.block, 1, row_bytes, shape)

    def _windowed_block(self) -> int:
        """Tokens of a windowed layer's page: those asked for, or the largest block of FlashInfer's within them, which are powers of
        two; others divide any page of whole 16 (`_largest_kernel_block_within`). A page that is none is FlashInfer's only where no
        other backend has the format: FlashAttention has fp8 on Hopper."""
        block, fmt = self.block, self.fmt
        flashinfer = fmt in ("fp8_e5m2", "nvfp4") or (fmt == "fp8" and self.serving.compute_capability // 10 != 9)
        if not flashinfer or block < 16 or block & (block - 1) == 0:
            return block
        return min(1 << (block.bit_length() - 1), 64)


def _assert_recurrent(cache: RecurrentCache) -> None:
    raise AssertionError(f"{cache} has no pages")
