"""What each layer takes a token and a request in SGLang's pools, on one rank.

Read from SGLang 0.5.23: `srt/model_executor/pool_configurator.py` (bytes per token), `srt/mem_cache/kv_cache_configurator.py`
(latents, states), `srt/configs/mamba_utils.py` (states in fp32 unless `mamba_ssm_dtype` says otherwise, convolutions in 16 bits).
"""

from __future__ import annotations

from typing import Final, assert_type

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.sglang import kernels, support
from hfmem.memory.engines.vllm.states import state_bytes
from hfmem.memory.formats import KV_BITS, resolve_kv_dtype, vector_bytes
from hfmem.memory.result import group_layers
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import (
    Cache,
    CcaState,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    DeltaNetState,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    NoCache,
    NoTokens,
    RecurrentCache,
    RgLruState,
    RwkvState,
    SharedCache,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass
from hfmem.remembered import remembered

_FP8_SCALE_GROUP: Final = 128
#: the first capability of the devices that `--kv-cache-dtype mxfp8` runs on
_BLACKWELL: Final = 100
#: formats with scales beside the elements
_SCALED: Final = ("nvfp4", "mxfp8", "fp4_mx_block16")
_FORMATS: Final = frozenset({"bf16", "fp16", "fp32", "fp8", "fp8_e5m2", *_SCALED})
#: models whose index keys are pooled or compressed in a way that the layers here do not tell
_POOLED_INDEX: Final = frozenset({"glm5_next", "glm5_next_text", "qwen4_exp", "qwen4_exp_text"})
_HOPPER: Final = range(90, 100)
#: Whisper numbers its attention layers through the encoder, and the pool has rows for all of them
_NUMBERS_ENCODER: Final = frozenset({"whisper"})

#: kinds of cache, each with its layers
Kinds = tuple[tuple[Cache, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Each kind of cache with its layers, and what decides their bytes on one rank. `drafts`: the same of layers that draft, which
    come after the model's `num_layers`."""

    arch: Architecture
    fmt: str
    page: int
    tp: int
    num_layers: int
    capability: int
    kinds: Kinds
    split: bool
    drafts: Kinds = ()
    state_dtype: str | None = None

    def token_bytes(self, kind: Cache) -> int:
        """Bytes one token takes in one layer; 0 for states and layers without a cache."""
        match kind:
            case FullAttention() | SlidingAttention() | ChunkedAttention():
                return self._heads(kind.num_kv_heads) * (self.vector(kind.head_dim) + self.vector(kind.v_head_dim))
            case CrossAttention():
                return self._heads(kind.num_kv_heads) * 2 * self.vector(kind.head_dim)
            case IndexedAttention():
                row = self._heads(kind.num_kv_heads) * (self.vector(kind.head_dim) + self.vector(kind.v_head_dim))
                narrow = self.fmt == "fp8" and self.capability in _HOPPER
                return row + kind.index_head_dim * (1 if narrow else 2)
            case LatentAttention():
                return self.vector(kind.kv_lora_rank + kind.qk_rope_head_dim)
            case SparseLatentAttention():
                return self._sparse(kind)
            case CompressedAttention():  # refused by `layout`
                return 0
            case _:
                assert_type(kind, NoTokens)
                return 0

    def _heads(self, num_kv_heads: int) -> int:
        return support.kv_heads_per_rank(num_kv_heads, self.tp)

    def _sparse(self, kind: SparseLatentAttention) -> int:
        rank, rope = kind.kv_lora_rank, kind.qk_rope_head_dim
        key = index_bytes(kind)
        if self.fmt == "fp8" and kernels.packs_latents(self.arch, self.capability):  # and fp32 scales, bf16 rotary
            return rank + rank // _FP8_SCALE_GROUP * 4 + rope * 2 + key
        return self.vector(rank + rope) + key

    def vector(self, size: int) -> int:
        """Bytes of `size` elements of a token."""
        return vector_bytes(self.fmt, size) if self.fmt in _SCALED else size * KV_BITS[self.fmt] // 8

    def state(self, kind: Cache) -> int:
        """Bytes of one state slot in one layer."""
        if not isinstance(kind, RecurrentCache):
            return 0
        named = kind.state_dtype if isinstance(kind, DeltaNetState) else None  # the others' keys are not read
        return state_bytes(kind, self.arch, "BF16", self.tp, self.state_dtype or named or "F32")

    def windowed(self, kind: Cache) -> bool:
        """Whether the layer's tokens live in the windowed pool."""
        return self.split and isinstance(kind, SlidingAttention | ChunkedAttention)

    def rows(self, serving: Serving) -> int:
        """Rows of one sequence: its tokens, and an encoder's output where cross attention caches it in the pool (not Whisper's)."""
        if self.arch.model_type == "whisper" or not any(isinstance(kind, CrossAttention) for kind, _ in self.kinds):
            return serving.context
        return serving.context + (serving.source_tokens or 0)

    def stages(self, pp: int) -> tuple[range, ...]:
        """Layers of each pipeline stage, those that draft on the last."""
        *stages, last = support.pipeline_stages(self.num_layers, pp) if pp > 1 else (range(self.num_layers),)
        return (*stages, range(last.start, last.stop + sum(len(ids) for _, ids in self.drafts)))


def pages(tokens: int, page: int) -> int:
    """`tokens` rounded up to whole pages."""
    return -(-tokens // page) * page


def index_bytes(kind: SparseLatentAttention) -> int:
    """Bytes of one token's key of an indexer, with its fp32 scales; 0 where the layer has none."""
    return kind.index_head_dim + kind.index_head_dim // _FP8_SCALE_GROUP * 4 if kind.has_indexer else 0


def layout(arch: Architecture, serving: Serving) -> Layout:
    """How SGLang lays the model's cache out.

    Raises:
        UnsupportedError: a model, format or tensor-parallel size that it does not have.
    """
    return _layout(
        arch,
        serving.attn_tp,
        serving.compute_capability,
        serving.kv_dtype,
        serving.declared_kv_dtype,
        serving.page_size,
        serving.state_dtype,
        drafts=serving.speculative_tokens > 0,
        radix=serving.enable_prefix_caching is not False,
    )


@remembered
def _layout(
    arch: Architecture,
    tp: int,
    capability: int,
    kv_dtype: str,
    declared: str | None,
    page_size: int | None,
    state_dtype: str | None,
    *,
    drafts: bool,
    radix: bool,
) -> Layout:
    caches = _decoder_caches(arch)
    kinds = tuple(group_layers(caches).items())
    if arch.model_type in _POOLED_INDEX or any(
        isinstance(kind, CompressedAttention | CcaState | RgLruState | RwkvState) for kind, _ in kinds
    ):
        raise UnsupportedError(f"SGLang's cache of {arch.model_type} models is not known here")
    states = any(isinstance(kind, RecurrentCache) for kind, _ in kinds)
    encoding = any(isinstance(kind, CrossAttention) for kind, _ in kinds)
    latent = any(isinstance(kind, LatentAttention | SparseLatentAttention) for kind, _ in kinds)
    support.check_model(arch, states=states, cross=encoding, latent=latent)
    support.check_heads(arch, tp)
    split = support.windows_apart(arch) and any(isinstance(k, SlidingAttention | ChunkedAttention) for k, _ in kinds)
    if not split and not states:
        kinds = tuple(group_layers(_uniform(caches)).items())
    attention = _attention(kinds)
    if attention.sparse:
        fmt = kernels.sparse_latent_dtype(arch, kv_dtype, capability)
    else:
        model_dtype = "F16" if arch.dtype in ("F32", "F64") else arch.dtype  # fp32 checkpoints run in half precision
        fmt = resolve_kv_dtype(model_dtype, kernels.kv_dtype_default(arch, kv_dtype), declared)
    if fmt not in _FORMATS:
        raise UnsupportedError(f"SGLang has no {fmt} cache")
    if fmt == "mxfp8" and (capability < _BLACKWELL or attention.latent or attention.sparse):
        raise UnsupportedError("SGLang's mxfp8 cache is one of keys and values, on Blackwell GPUs (SM100 and later)")
    if "fp4" in fmt and split:  # `_build_hybrid_swa_kv_pool` gets no quantization method, unlike the other pools
        raise UnsupportedError(f"SGLang packs no {fmt} where windowed layers have a pool of their own")
    page = kernels.page_size(arch, page_size, capability, attention, drafts=drafts, radix=radix)
    drafting = _drafts(arch, len(caches))
    return Layout(arch, fmt, page, tp, len(caches), capability, kinds, split, drafting, state_dtype)


def _attention(kinds: Kinds) -> kernels.Attention:
    found = [kind for kind, _ in kinds]
    return kernels.Attention(
        latent=any(isinstance(kind, LatentAttention) for kind in found),
        sparse=any(isinstance(kind, SparseLatentAttention) for kind in found),
        indexed=any(isinstance(kind, IndexedAttention) for kind in found),
        uneven=any(
            isinstance(kind, FullAttention | SlidingAttention | ChunkedAttention) and kind.head_dim != kind.v_head_dim
            for kind in found
        ),
    )


def _drafts(arch: Architecture, first: int) -> Kinds:
    """What the layers that draft keep of every token, one pool entry a layer; `first` is their first index."""
    own = [layer.caches for layer in arch.layers if layer.stack in ("predict", "draft")]
    rows = tuple(tuple(cache for cache in caches if not isinstance(cache, NoCache | RecurrentCache)) for caches in own)
    return tuple((kind, tuple(first + index for index in ids)) for kind, ids in group_layers(rows).items())


def _decoder_caches(arch: Architecture) -> tuple[tuple[Cache, ...], ...]:
    """Each decoder layer's caches. A layer that attends over another's cache has rows of its own all the same."""
    caches = [
        tuple(
            own
            for cache in layer.caches
            for own in (arch.layers[cache.source_layer].caches if isinstance(cache, SharedCache) else (cache,))
        )
        for layer in arch.layers
        if layer.stack == "decoder"
    ]
    if not caches:
        return _encoder_rows(arch)
    if arch.model_type in _NUMBERS_ENCODER:
        encoder = sum(layer.stack == "encoder" for layer in arch.layers)
        own = next(cache for cache in caches[0] if isinstance(cache, FullAttention))
        caches += [(own,)] * encoder
    return tuple(caches)


def _encoder_rows(arch: Architecture) -> tuple[tuple[Cache, ...], ...]:
    """Rows of a text encoder's layers: the pool is sized by heads and layers, whether attention reads it again or not, and every
    token of a request takes a row of it until the request is done. Nothing for other encoders."""
    heads, kv_heads, head_dim = arch.num_attention_heads, arch.num_kv_heads, arch.head_dim
    text = any(s.component is Component.EMBEDDING and s.shape[:1] == (arch.vocab_size,) for s in arch.tensors)
    if not text or heads is None or kv_heads is None or head_dim is None:
        return ()
    rows = (FullAttention(heads, kv_heads, head_dim, head_dim),)
    return (rows,) * sum(layer.stack == "encoder" for layer in arch.layers)


def _uniform(caches: tuple[tuple[Cache, ...], ...]) -> tuple[tuple[Cache, ...], ...]:
    """Without states and a windowed pool every layer has the first one's rows, those without attention too."""
    kept = [cache for layer in caches for cache in layer if not isinstance(cache, NoCache)]
    if not kept or any(isinstance(cache, SparseLatentAttention | IndexedAttention) for cache in kept):
        return caches
    wide = first = kept[0]
    if isinstance(first, SlidingAttention | ChunkedAttention):
        wide = FullAttention(first.num_heads, first.num_kv_heads, first.head_dim, first.v_head_dim)
    return tuple(
        tuple(cache if isinstance(cache, CrossAttention) else wide for cache in layer) or (wide,) for layer in caches
    )
