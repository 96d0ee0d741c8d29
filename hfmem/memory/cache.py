"""What a layer must keep, in bytes: the model's own need, before any engine's pages, replication or rounding."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import assert_never, assert_type

from hfmem.dtypes import num_bytes
from hfmem.memory.formats import resolve_kv_dtype, vector_bytes
from hfmem.memory.result import group_layers
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    CcaState,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    DeltaNetState,
    FullAttention,
    IndexedAttention,
    KimiDeltaState,
    LatentAttention,
    Layer,
    LinearAttentionState,
    Mamba1State,
    Mamba2State,
    MatrixMemoryState,
    NoCache,
    NoTokens,
    RecurrentCache,
    RgLruState,
    RwkvState,
    SharedCache,
    ShortConvState,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass
from hfmem.remembered import remembered


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One constant tensor of a recurrent layer: `role` "conv" or "state", its shape for one sequence, and the dtype that the
    config names for it (None: the model's)."""

    role: str
    shape: tuple[int, ...]
    dtype: str | None = None

    @property
    def elements(self) -> int:
        """Elements of the tensor."""
        total = 1
        for size in self.shape:
            total *= size
        return total


def state_tensors(cache: RecurrentCache) -> tuple[StateTensor, ...]:
    """The tensors a recurrent layer keeps for one sequence, with a convolution's history as `conv_kernel - 1` columns."""
    match cache:
        case Mamba1State(intermediate_size=width, state_size=n, conv_kernel=k, state_dtype=dtype):
            return (StateTensor("conv", (width, k - 1)), StateTensor("state", (width, n), dtype))
        case Mamba2State(num_heads=h, head_dim=d, state_size=n, num_groups=g, conv_kernel=k, state_dtype=dtype):
            return (StateTensor("conv", (h * d + 2 * g * n, k - 1)), StateTensor("state", (h, d, n), dtype))
        case DeltaNetState(
            num_k_heads=hk, num_v_heads=hv, head_k_dim=dk, head_v_dim=dv, conv_kernel=k, state_dtype=dtype
        ):
            return (StateTensor("conv", (2 * hk * dk + hv * dv, k - 1)), StateTensor("state", (hv, dk, dv), dtype))
        case KimiDeltaState(num_heads=h, head_k_dim=dk, head_v_dim=dv, conv_kernel=k, state_dtype=dtype):
            return (
                StateTensor("conv", (h * dk, k - 1)),
                StateTensor("conv", (h * dk, k - 1)),
                StateTensor("conv", (h * dv, k - 1)),
                StateTensor("state", (h, dk, dv), dtype),
            )
        case LinearAttentionState(num_heads=h, head_dim=d, state_dtype=dtype):
            return (StateTensor("state", (h, d, d), dtype),)
        case ShortConvState(hidden_size=width, conv_kernel=k):
            return (StateTensor("conv", (width, k - 1)),)
        case RgLruState(width=width, conv_kernel=k, state_dtype=dtype):
            return (StateTensor("conv", (width, k - 1)), StateTensor("state", (width,), dtype))
        case CcaState(channels=channels, history=columns, delayed=width):
            return (StateTensor("conv", (channels, columns)), StateTensor("state", (width,)))
        case MatrixMemoryState(num_heads=h, qk_head_dim=dk, v_head_dim=dv, state_dtype=dtype):
            shapes: tuple[tuple[int, ...], ...] = ((h, dk, dv), (h, dk), (h,))
            return tuple(StateTensor("state", shape, dtype) for shape in shapes)
        case RwkvState(hidden_size=width, num_vectors=n, num_heads=h, head_dim=d, state_dtype=dtype):
            vectors = StateTensor("state", (n, width), dtype)
            return (vectors, StateTensor("state", (h, d, d), dtype)) if h else (vectors,)
        case _:
            assert_never(cache)


def token_bytes(cache: Cache, kv_dtype: str) -> int:
    """Bytes one cached token takes in this layer; 0 where nothing is kept per token.

    Source: K and V of `num_kv_heads` heads, or one latent row (its compressed and rotary parts are two vectors) and, with an
    indexer, one more key. Of compressed attention it is a row of the window.
    """
    match cache:
        case FullAttention() | SlidingAttention() | ChunkedAttention():
            row = vector_bytes(kv_dtype, cache.head_dim) + vector_bytes(kv_dtype, cache.v_head_dim)
            return cache.num_kv_heads * row
        case LatentAttention():
            return vector_bytes(kv_dtype, cache.kv_lora_rank) + vector_bytes(kv_dtype, cache.qk_rope_head_dim)
        case SparseLatentAttention():
            latent = vector_bytes(kv_dtype, cache.kv_lora_rank) + vector_bytes(kv_dtype, cache.qk_rope_head_dim)
            return latent + (vector_bytes(kv_dtype, cache.index_head_dim) if cache.has_indexer else 0)
        case IndexedAttention():
            row = vector_bytes(kv_dtype, cache.head_dim) + vector_bytes(kv_dtype, cache.v_head_dim)
            return cache.num_kv_heads * row + vector_bytes(kv_dtype, cache.index_head_dim)
        case CompressedAttention():
            return vector_bytes(kv_dtype, cache.head_dim)
        case CrossAttention():
            return cache.num_kv_heads * 2 * vector_bytes(kv_dtype, cache.head_dim)
        case _:
            assert_type(cache, NoTokens)
            return 0


def held_tokens(cache: Cache, context: int) -> int:
    """How many of a sequence's `context` tokens a layer has to keep: all, the window's, or the chunk's."""
    match cache:
        case SlidingAttention(window=window) | CompressedAttention(window=window):
            return min(context, window)
        case ChunkedAttention(chunk=chunk):
            return min(context, chunk)
        case FullAttention() | LatentAttention() | SparseLatentAttention() | IndexedAttention():
            return context
        case CrossAttention():  # an encoder's positions, none of the sequence's own
            return 0
        case _:
            assert_type(cache, NoTokens)
            return 0


def source_tokens(cache: CrossAttention, given: int | None) -> int:
    """Encoder positions a cross attention layer keeps: the given length, else the model's maximum, else none."""
    return given if given is not None else cache.source_tokens or 0


def constant_bytes(cache: Cache, kv_dtype: str, model_dtype: str, given_source_tokens: int | None = None) -> int:
    """Bytes one sequence takes in this layer whatever its context: a recurrent state, or cross attention's keys and values."""
    match cache:
        case CrossAttention():
            return source_tokens(cache, given_source_tokens) * token_bytes(cache, kv_dtype)
        case CompressedAttention():
            # the overlapped group: values and gates of `ratio` tokens, for the rows and for the indexer's keys
            width = cache.head_dim + (cache.index_head_dim or 0)
            return num_bytes(model_dtype, 2 * cache.ratio * width) if cache.overlap else 0
        case (
            FullAttention()
            | SlidingAttention()
            | ChunkedAttention()
            | LatentAttention()
            | SparseLatentAttention()
            | IndexedAttention()
            | SharedCache()
            | NoCache()
        ):
            return 0
        case _:
            return sum(num_bytes(t.dtype or model_dtype, t.elements) for t in state_tensors(cache))


def layer_bytes(
    cache: Cache, context: int, kv_dtype: str, model_dtype: str, given_source_tokens: int | None = None
) -> int:
    """Bytes one sequence of `context` tokens takes in one layer's cache, as the model needs it."""
    growing = held_tokens(cache, context) * token_bytes(cache, kv_dtype)
    if isinstance(cache, CompressedAttention):
        growing += compressed_bytes(cache, context, kv_dtype, model_dtype)
    return growing + constant_bytes(cache, kv_dtype, model_dtype, given_source_tokens)


def compressed_bytes(cache: CompressedAttention, context: int, kv_dtype: str, model_dtype: str) -> int:
    """The compressed rows and index keys of `context` tokens, and the unfinished group's values and gates."""
    if not cache.ratio:
        return 0
    rows, pending = divmod(context, cache.ratio)
    index = cache.index_head_dim
    row = vector_bytes(kv_dtype, cache.head_dim) + (vector_bytes(kv_dtype, index) if index else 0)
    width = (cache.head_dim + (0 if cache.keys_from_rows else index or 0)) * (2 if cache.overlap else 1)
    return rows * row + num_bytes(model_dtype, 2 * pending * width)


def peak_contexts(arch: Architecture, context: int) -> tuple[int, ...]:
    """`context`, and the lengths that a sequence passes on its way there at which it may keep more: just before a group of tokens
    is compressed into one row, its values and gates are all there."""
    ratios = {cache.ratio for cache in arch.kinds() if isinstance(cache, CompressedAttention) and cache.ratio > 1}
    before = {(context + 1) // ratio * ratio - 1 for ratio in ratios}
    return (context, *sorted(length for length in before if 0 < length < context))


def growth_per_token(cache: Cache, kv_dtype: str) -> Fraction:
    """What each further token adds to a layer that keeps every token, compressed or not; 0 where a window or a state bounds it."""
    match cache:
        case FullAttention() | LatentAttention() | SparseLatentAttention() | IndexedAttention():
            return Fraction(token_bytes(cache, kv_dtype))
        case CompressedAttention(head_dim=row, ratio=ratio, index_head_dim=index):
            kept = vector_bytes(kv_dtype, row) + (vector_bytes(kv_dtype, index) if index else 0)
            return Fraction(kept, ratio) if ratio else Fraction(0)
        case SlidingAttention() | ChunkedAttention() | CrossAttention():
            return Fraction(0)
        case _:
            assert_type(cache, NoTokens)
            return Fraction(0)


@remembered
def decoding_layers(arch: Architecture) -> tuple[Layer, ...]:
    """The layers that run in plain decoding: multi-token-prediction layers draft tokens and have no cache without speculation."""
    return tuple(layer for layer in arch.layers if layer.stack != "mtp")


@remembered
def num_dealt_layers(arch: Architecture) -> int:
    """How many of these layers are dealt out to devices in runs: those up to the decoder's last; towers come after it."""
    decoder = [index for index, layer in enumerate(decoding_layers(arch)) if layer.stack == "decoder"]
    return decoder[-1] + 1 if decoder else len(decoding_layers(arch))


@remembered
def decoding_kinds(arch: Architecture) -> Mapping[Cache, tuple[int, ...]]:
    """Each distinct cache of these layers, and the layers that have it."""
    return group_layers(tuple(layer.caches for layer in decoding_layers(arch)))


def bytes_per_token(arch: Architecture, kv_dtype: str = "auto") -> int:
    """Growth per token of the layers that keep every token, over all layers: `kv_cache.bytes_per_token` of the contract."""
    fmt = resolve_kv_dtype(arch.dtype, kv_dtype, None)
    kinds = decoding_kinds(arch).items()
    return int(sum((len(layers) * growth_per_token(kind, fmt) for kind, layers in kinds), Fraction(0)))


def state_bytes_per_seq(
    arch: Architecture, kv_dtype: str = "auto", declared: str | None = None, given_source_tokens: int | None = None
) -> int:
    """Constant bytes of one sequence, as the model needs it: recurrent states and cross attention."""
    fmt = resolve_kv_dtype(arch.dtype, kv_dtype, declared)
    caches = (cache for layer in decoding_layers(arch) for cache in layer.caches)
    return sum(constant_bytes(cache, fmt, arch.dtype, given_source_tokens) for cache in caches)
