"""From an architecture to vLLM's specs: page sizes, formats, and the block size that attention and states agree on.

Read from vLLM 0.33.0 as it runs on NVIDIA GPUs, Hopper unless said: the attention modules' `get_kv_cache_spec`, the backends'
`customize_spec` and `get_supported_kernel_block_sizes`, `platforms/interface.py` (`_align_hybrid_block_size`),
`model_executor/layers/mamba/mamba_utils.py`, `models/deepseek_v4`, `models/minimax_m3`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import decoding_layers
from hfmem.memory.engines.vllm.blocks import DEFAULT_BLOCK, block_size, hybrid_block
from hfmem.memory.engines.vllm.compressed import V41, v4_specs, v41_specs
from hfmem.memory.engines.vllm.groups import Member
from hfmem.memory.engines.vllm.paged_convs import PAGED_CONVOLUTIONS, paged_members
from hfmem.memory.engines.vllm.specs import Kind, PagedSpec, Spec, StateSpec, ceil_div
from hfmem.memory.engines.vllm.states import request_states, state_bytes
from hfmem.memory.engines.vllm.step5 import STEP5, step5_specs
from hfmem.memory.engines.vllm.support import kv_heads_per_rank, pipeline_stages
from hfmem.memory.formats import GGML_BLOCKS, KV_BITS, SCALE_BYTES, resolve_kv_dtype
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

#: model types whose attention is built without the cache's settings, so that it keeps the model's dtype (`falcon.py`)
_PLAIN_CACHE: Final = frozenset({"falcon", "RefinedWeb", "RefinedWebModel"})
#: model types whose prediction layers are built without the cache's settings, so that they keep the model's dtype
#: (`exaone_moe_mtp.py`)
_PLAIN_PREDICTIONS: Final = frozenset({"exaone_moe"})

_BF16_BYTES: Final = 2
_FP32_BYTES: Final = 4
#: bytes of a packed latent row: fp8 content, scales and rotary part (FlashMLA's layout)
_FP8_DS_MLA: Final = 656
_HOPPER: Final = 90
_ADA: Final = 89
#: models whose cache is fp8 on devices 10.x unless told otherwise (`models/config.py`: `GlmMoeDsaForCausalLM`,
#: `Glm5NextModelConfig`)
_FP8_ON_BLACKWELL: Final = frozenset({"glm_moe_dsa", "glm5_next", "glm5_next_text"})
_NVFP4_DS_MLA: Final = 352
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


def model_dtype(arch: Architecture) -> str:
    """The dtype vLLM computes in by default: the config's, fp32 checkpoints in bf16 (`_resolve_auto_dtype`)."""
    return "BF16" if arch.dtype in ("F32", "F64") else arch.dtype


def caches_prefixes(arch: Architecture, serving: Serving) -> bool:
    """Whether prefixes are cached, by the user's word or vLLM's default; without, a state's page spans the whole context."""
    given = serving.enable_prefix_caching
    return arch.model_type not in _ATTENTION_FREE if given is None else given


def plan_layers(arch: Architecture, serving: Serving) -> Plan:
    """Every layer's specs on one rank.

    Raises:
        UnsupportedError: a layer, format or layout vLLM refuses.
    """
    dtype = model_dtype(arch)
    fmt = resolve_kv_dtype(dtype, serving.kv_dtype, serving.declared_kv_dtype)
    layers = tuple(layer for layer in decoding_layers(arch) if layer.stack in ("decoder", "predict", "draft"))
    num_layers = sum(layer.stack == "decoder" for layer in layers)
    caches = tuple((index, cache) for index, layer in enumerate(layers) for cache in layer.caches)
    as_held = {cache: _as_held(arch, cache) for _, cache in caches}
    kinds = tuple(dict.fromkeys(as_held.values()))
    if fmt in GGML_BLOCKS:
        raise UnsupportedError(f"vLLM has no {fmt} cache: that is llama.cpp's")
    if fmt == "mxfp8":
        raise UnsupportedError("vLLM has no mxfp8 cache: that is SGLang's")
    whole = resolve_kv_dtype(dtype, "auto", None)
    if arch.model_type in _PLAIN_CACHE:
        fmt = whole
    if serving.compute_capability < _ADA and fmt == "fp8" and any(isinstance(kind, LatentAttention) for kind in kinds):
        raise UnsupportedError("vLLM's fp8 cache of latents needs a device of compute capability 8.9 or later")
    if fmt == "fp8_per_token_head" and serving.compute_capability < _ADA:
        raise UnsupportedError("vLLM's fp8 cache with scales for each token and head needs a device of 8.9 or later")
    compressed = any(isinstance(cache, CompressedAttention) for cache in kinds)
    if compressed and serving.kv_dtype == "auto":
        fmt = "fp8"  # the packed layout is the only one of the default backend
    sparse = any(isinstance(cache, SparseLatentAttention) for cache in kinds)
    if sparse and serving.kv_dtype == "auto" and serving.compute_capability // 10 == 12 and serving.dcp == 1:
        fmt = "fp8"  # likewise of the one sparse backend of devices 12.x
    if sparse and serving.dcp > 1 and serving.compute_capability // 10 == 9 and fmt != "fp8":
        raise UnsupportedError(
            "vLLM's decode context parallelism of sparse latent attention on Hopper needs an fp8 cache"
        )
    if sparse and serving.compute_capability < _HOPPER:
        raise UnsupportedError("vLLM's sparse latent attention needs a device of compute capability 9.0 or later")
    own = {arch.model_type, arch.text_type} & _FP8_ON_BLACKWELL
    if own and serving.kv_dtype == "auto" and serving.compute_capability // 10 == 10:
        fmt = "fp8"
    if arch.model_type in PAGED_CONVOLUTIONS:
        block = block_size(arch, kinds, fmt, serving)
        paged: dict[Cache, tuple[Spec, ...]] = {
            cache: tuple(_attention_specs(arch, cache, fmt, block, serving.tp, serving.compute_capability))
            for cache in kinds
            if _is_attention(cache)
        }
        return Plan(tuple(paged_members(layers, paged, serving.tp)), caches, num_layers, block, fmt, compressed)
    ahead = serving.speculative_tokens
    told = serving.state_dtype
    state_pages = [  # as the class tells them before its layers are asked: LFM2's leaves the draft's tokens out
        state_bytes(cache, arch, dtype, serving.tp, told, ahead=0 if isinstance(cache, ShortConvState) else ahead)
        for cache in kinds
        if isinstance(cache, RecurrentCache)
    ]
    attention = next((cache for cache in kinds if _is_attention(cache)), None)
    align = bool(state_pages) and caches_prefixes(arch, serving)
    block = block_size(arch, kinds, fmt, serving)
    state_padded = None
    if state_pages and attention is not None:
        token = _row_bytes(arch, attention, fmt, serving.tp)
        block = hybrid_block(block, max(state_pages), token, attention, arch, align, serving)
        state_padded = block * token
    apart = _stages_of_states(layers, num_layers, serving.pp) if state_padded is not None else frozenset()
    lonely = (serving.page_size or DEFAULT_BLOCK) if align else serving.context
    specs: dict[Cache, tuple[Spec, ...]] = {}
    for cache, held in as_held.items():
        if isinstance(held, RecurrentCache):
            # without prefix caching a state's page spans the whole sequence
            span = block if align else serving.context
            size = state_bytes(held, arch, dtype, serving.tp, serving.state_dtype, ahead=ahead)
            padded = state_padded if state_padded != size else None
            if padded is not None and padded < size:
                raise UnsupportedError(
                    f"vLLM's pages of {padded} bytes do not hold a state of {size} for {ahead} tokens ahead"
                )
            states = request_states(held, arch, serving.compute_capability) if serving.prefill_checkpoints else 2
            pages = ahead + (states if align else 1)
            specs[cache] = (StateSpec(span, size, pages, (held,), padded),)
        else:
            declared = serving.kv_dtype == "auto" and serving.declared_kv_dtype not in (None, "auto")
            specs[cache] = tuple(
                _attention_specs(arch, held, fmt, block, serving.tp, serving.compute_capability, declared=declared)
            )
    plain = _PLAIN_PREDICTIONS if fmt != whole else frozenset()
    members = []
    for position, (layer, cache) in enumerate(caches):
        found = specs[cache]
        if arch.model_type in plain and layers[layer].stack == "predict":
            found = tuple(_attention_specs(arch, as_held[cache], whole, block, serving.tp, serving.compute_capability))
        if layer in apart:
            found = tuple(
                replace(s, block_size=lonely, page_padded=None) if isinstance(s, StateSpec) else s for s in found
            )
        members += [Member(layer, position, spec) for spec in found]
    return Plan(_wider(members, layers, ahead), caches, num_layers, block, fmt, compressed or arch.model_type in STEP5)


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
    return isinstance(cache, FullAttention | SlidingAttention | ChunkedAttention | LatentAttention | IndexedAttention)


def _content(fmt: str, head: int, head_v: int) -> tuple[int, int]:
    """Slots a head takes in a page and bytes of each: K and V side by side, with an fp32 scale each in per-token-head formats."""
    match fmt:
        case "int8" | "fp8_per_token_head":
            return 1, head + head_v + 2 * SCALE_BYTES
        case "int4":
            return 1, head // 2 + head_v // 2 + 2 * SCALE_BYTES
        case "nvfp4":
            if head != head_v:
                raise UnsupportedError("vLLM's nvfp4 cache takes keys and values of one size only")
            return 2, head // 2 + head // 16
        case _:
            return 1, (head + head_v) * KV_BITS[fmt] // 8


def _latent_row(fmt: str, size: int) -> int:
    """Bytes of a latent row: what the dense backends on NVIDIA GPUs take (their `supported_kv_cache_dtypes`)."""
    if fmt not in ("bf16", "fp16", "fp8"):
        raise UnsupportedError(f"vLLM has no {fmt} cache for dense latent attention")
    return size * KV_BITS[fmt] // 8


def _sparse_row(cache: SparseLatentAttention, fmt: str, capability: int, declared: bool) -> int:
    """Bytes of a latent row under sparse attention: plain, or packed with its scales.

    An fp8 row is plain where FlashInfer's kernel for devices 10.x serves it (`platforms/cuda.py`, `flashinfer_mla_sparse.py`), and
    packed by FlashMLA's and by FlashInfer's for devices 12.x. What ModelOpt declares is `fp8_e4m3` to vLLM, a word that on Hopper
    FlashMLA's does not take (`flashmla_sparse.py`) and FlashInfer's does, in plain rows (`flashinfer_mla_sparse_sm90.py`).
    """
    size = cache.kv_lora_rank + cache.qk_rope_head_dim
    match fmt:
        case "bf16" | "fp16":
            return size * _BF16_BYTES
        case "fp8":
            plain = _flashinfer_takes(cache) if capability // 10 == 10 else declared and capability // 10 == 9
            return size if plain else _FP8_DS_MLA
        case "nvfp4":
            return _NVFP4_DS_MLA
        case _:
            raise UnsupportedError(f"vLLM has no {fmt} cache for sparse latent attention")


def _flashinfer_takes(cache: SparseLatentAttention) -> bool:
    """Whether FlashInfer's sparse kernel for devices 10.x has the head's shape (`supports_combination`)."""
    if cache.qk_rope_head_dim:
        return cache.qk_nope_head_dim in (128, 192)
    return (cache.qk_nope_head_dim, cache.kv_lora_rank) == (256, 512)


def _row_bytes(arch: Architecture, cache: Cache, fmt: str, tp: int) -> int:
    """Bytes one token takes in an attention layer on one rank: what a hybrid's block size is reckoned with."""
    spec = next(iter(_attention_specs(arch, cache, fmt, 1, tp)))
    assert isinstance(spec, PagedSpec)
    return spec.content_page_bytes


def _attention_specs(
    arch: Architecture,
    cache: Cache,
    fmt: str,
    block: int,
    tp: int,
    capability: int = _HOPPER,
    *,
    declared: bool = False,
) -> Iterator[Spec]:
    """The specs of one layer's cache, in the order in which vLLM's modules register them. `declared`: the checkpoint, not the user,
    says `fmt`."""
    match cache:
        case FullAttention(num_kv_heads=heads, head_dim=d, v_head_dim=dv):
            yield _head_spec(Kind.FULL, heads, d, dv, fmt, block, tp)
        case SlidingAttention(num_kv_heads=heads, head_dim=d, v_head_dim=dv, window=window):
            window += arch.model_type in _WINDOW_WITHOUT_SELF
            yield _head_spec(Kind.SLIDING, heads, d, dv, fmt, _windowed_block(block, fmt, capability), tp, window)
        case ChunkedAttention(num_kv_heads=heads, head_dim=d, v_head_dim=dv, chunk=chunk):
            yield _head_spec(Kind.CHUNKED, heads, d, dv, fmt, block, tp, chunk)
        case CrossAttention(num_kv_heads=heads, head_dim=d):
            yield _head_spec(Kind.CROSS, heads, d, d, fmt, block, tp)
        case IndexedAttention() if arch.model_type in STEP5:
            yield from step5_specs(cache, _content(fmt, cache.head_dim, cache.v_head_dim)[1], block, tp)
        case IndexedAttention(num_kv_heads=heads, head_dim=d, v_head_dim=dv, index_head_dim=index):
            yield _head_spec(Kind.FULL, heads, d, dv, fmt, block, tp)
            yield PagedSpec(Kind.MLA, block, 1, index * _BF16_BYTES, ("index", index))
        case LatentAttention(kv_lora_rank=rank, qk_rope_head_dim=rope):
            yield PagedSpec(Kind.MLA, block, 1, _latent_row(fmt, rank + rope), ("latent", rank + rope, fmt))
        case SparseLatentAttention(kv_lora_rank=rank, qk_rope_head_dim=rope, index_head_dim=index):
            if cache.has_indexer:
                key = index + ceil_div(index, _INDEX_SCALE_GROUP) * SCALE_BYTES
                yield PagedSpec(Kind.MLA, block, 1, key, ("index", index))
            shape = ("latent", rank + rope, fmt, cache.has_indexer)
            yield PagedSpec(Kind.MLA, block, 1, _sparse_row(cache, fmt, capability, declared), shape)
        case CompressedAttention():
            if arch.model_type in V41:
                yield from v41_specs(cache, fmt, block)
            else:
                yield from v4_specs(cache, fmt, block)
        case SharedCache() | NoCache():
            return
        case _:
            _assert_recurrent(cache)


def _windowed_block(block: int, fmt: str, capability: int) -> int:
    """Tokens of a windowed layer's page: those asked for, or the largest block of FlashInfer's within them, which are powers of
    two; others divide any page of whole 16 (`_largest_kernel_block_within`). A page that is none is FlashInfer's only where no
    other backend has the format: FlashAttention has fp8 on Hopper."""
    flashinfer = fmt in ("fp8_e5m2", "nvfp4") or (fmt == "fp8" and capability // 10 != 9)
    if not flashinfer or block < 16 or block & (block - 1) == 0:
        return block
    return min(1 << (block.bit_length() - 1), 64)


def _assert_recurrent(cache: RecurrentCache) -> None:
    raise AssertionError(f"{cache} has no pages")


def _head_spec(
    kind: Kind, num_kv_heads: int, head: int, head_v: int, fmt: str, block: int, tp: int, window: int | None = None
) -> PagedSpec:
    heads = kv_heads_per_rank(num_kv_heads, tp)
    slots, content = _content(fmt, head, head_v)
    return PagedSpec(kind, block, heads * slots, content, (heads, head, head_v, fmt), window=window)
