"""transformers' caches: what the dynamic one holds during decoding, and the static and offloaded ones.

Read from transformers 5.24.0: `cache_utils.py` (`DynamicLayer`, `DynamicSlidingWindowLayer`, `DynamicIndexedLayer`, `StaticLayer`
and kin, `LinearAttentionLayer`, `EncoderDecoderCache`, `Cache.prefetch`) and the models' own states
(`modeling_recurrent_gemma.py`, `modeling_rwkv.py`, `modeling_minimax.py`, `modeling_falcon.py`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, assert_never, assert_type

from hfmem.dtypes import num_bytes
from hfmem.errors import UnsupportedError
from hfmem.memory.cache import (
    StateTensor,
    compressed_bytes,
    constant_bytes,
    decoding_kinds,
    num_dealt_layers,
    source_tokens,
    state_tensors,
    token_bytes,
)
from hfmem.memory.engines.ideal import open_source_notes
from hfmem.memory.formats import resolve_kv_dtype
from hfmem.memory.result import CacheBytes, LayerGroup, count_in
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture, Note
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

NAME: Final = "transformers"
VERSION: Final = "5.24.0"
VENDORS: Final = frozenset({"nvidia", "amd", "apple", "intel"})
RUNTIME: Final = "forward"
WEIGHT_FORMATS: Final = (("bf16", 16), ("int8", 8), ("nf4", 4))
CACHE_FORMATS: Final[tuple[str, ...]] = ()
OWN_CLASSES: Final = False
HALVES_FP32: Final = False
DRAFTS_IN_POOL: Final = False
OLDEST: Final = None

_WINDOW_IS_A_MASK: Final = frozenset({"gpt_neo"})
#: text models whose short convolutions run in fp32 (`modeling_inkling.py`, `modeling_inkling2.py`, `modeling_inkling2_loop.py`)
_FP32_CONV: Final = frozenset({"inkling", "inkling_text", "inkling2_text", "inkling2_loop_text"})
_DTYPES: Final = frozenset({"bf16", "fp16", "fp32"})


def cache(arch: Architecture, serving: Serving) -> CacheBytes:
    """Bytes of the cache of `num_seqs` sequences of `context` tokens, one decode step after the prompt.

    A static cache has room for `context` tokens, and in windowed layers for a window's. An offloaded one has all attention layers
    but two on the host (of a static one those that keep every token): the one that runs and the next. Tensor parallelism shards
    the KV heads (a head is never split); pipeline stages are even runs of layers, as `device_map` does.

    Raises:
        UnsupportedError: a type that there is no code for, a KV dtype that the dynamic cache does not hold, or KV heads that `tp`
            does not divide.
    """
    if arch.code == "elsewhere":
        raise UnsupportedError(
            f"transformers {VERSION} has no model of the type {arch.model_type}, and the repository brings no code of its own "
            "(auto_map)"
        )
    # a declared cache format is an engine's business: the dynamic cache holds what the attention layers compute in
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, None)
    if fmt not in _DTYPES:
        raise UnsupportedError(f"transformers' dynamic cache holds the model's dtype, not {fmt}")
    static, offloads = "static" in serving.cache_implementation, "offloaded" in serving.cache_implementation
    groups = []
    stages = [0] * serving.pp
    moved: list[dict[int, int]] = [{} for _ in stages]
    with_states = {
        index for kind, ids in decoding_kinds(arch).items() if isinstance(kind, RecurrentCache) for index in ids
    }
    count = max(num_dealt_layers(arch), 1)
    runs = [range(-(-s * count // serving.pp), -(-(s + 1) * count // serving.pp)) for s in range(serving.pp)]
    for kind, layers in decoding_kinds(arch).items():
        held = _as_cached(arch, kind)
        tokens = decode_tokens(held, serving.context, serving.source_tokens, static=static)
        per_token = token_bytes(held, fmt)
        state = _state_bytes(held, "F32" if (arch.text_type or arch.model_type) in _FP32_CONV else arch.dtype)
        constant = tokens * per_token if isinstance(held, CrossAttention) else state
        growing = 0 if isinstance(held, CrossAttention) else tokens * per_token
        if isinstance(held, CompressedAttention):
            if static:
                raise UnsupportedError(f"transformers has no static cache for {arch.model_type} models")
            # a layer of the window alone stores the row twice, as keys and as values
            growing *= 1 if held.ratio else 2
            growing += compressed_bytes(held, serving.context, fmt, arch.dtype)
        shards = _shards(held, serving.tp)
        copies = len(layers) * serving.tp // shards
        whole, on_rank = copies * (growing + constant), (growing + constant) // shards
        groups.append(
            LayerGroup(
                kind, layers, per_token, tokens, whole, copies * constant, on_rank * serving.num_seqs_per_replica
            )
        )
        moves = offloads and tokens and not (static and isinstance(held, SlidingAttention | ChunkedAttention))
        for stage, run in enumerate(runs):
            away = [index for index in layers if index in run and index not in with_states] if moves else []
            moved[stage] |= {index: moved[stage].get(index, 0) + on_rank for index in away}
            stages[stage] += (count_in(layers, run) - len(away)) * on_rank
    here = [_two_at_once(rows) for rows in moved]
    for stage, pair in enumerate(here):
        stages[stage] += sum(moved[stage][index] for index in pair)
    per_seq = sum(group.bytes for group in groups)
    return CacheBytes(
        engine=NAME,
        kv_dtype=fmt,
        bytes=per_seq * serving.num_seqs,
        bytes_per_rank=max(stages) * serving.num_seqs_per_replica,
        host_bytes=per_seq * serving.num_seqs - sum(stages) * serving.tp * serving.num_seqs if offloads else 0,
        bytes_per_seq=per_seq,
        state_bytes_per_seq=sum(group.state_bytes for group in groups),
        layer_groups=tuple(groups),
        notes=(*open_source_notes(arch, serving), *_remote_notes(arch)),
        stage_bytes=tuple(size * serving.num_seqs_per_replica for size in stages),
        stage_layers=tuple(
            tuple(range(index, index + 1) for index in run if index not in rows or index in pair)
            if offloads
            else (run,)
            for run, rows, pair in zip(runs, moved, here, strict=True)
        ),
    )


def _two_at_once(layers: dict[int, int]) -> tuple[int, ...]:
    """The two neighbours among offloaded layers (the last's is the first) that take most together."""
    order = sorted(layers)
    if len(order) < 3:
        return tuple(order)
    return max(pairwise([*order, order[0]]), key=lambda pair: sum(layers[index] for index in pair))


def _remote_notes(arch: Architecture) -> tuple[Note, ...]:
    if arch.code != "remote":
        return ()
    text = (
        f"transformers {VERSION} has no model of the type {arch.model_type}: the repository's own code runs (auto_map), which may "
        "cache otherwise"
    )
    return (Note("remote_code", text),)


def _as_cached(arch: Architecture, kind: Cache) -> Cache:
    """Where a model's code caches otherwise than its layer says.

    Falcon's new decoder broadcasts K and V to every query head before it caches them (`modeling_falcon.py`). GPT-Neo's local
    layers mask what lies outside their window and keep it (no `layer_types` tells the cache).
    """
    if arch.model_type in _WINDOW_IS_A_MASK and isinstance(kind, SlidingAttention):
        return FullAttention(kind.num_heads, kind.num_kv_heads, kind.head_dim, kind.v_head_dim)
    if arch.model_type in ("falcon", "RefinedWeb") and isinstance(kind, FullAttention) and kind.num_kv_heads > 1:
        return FullAttention(kind.num_heads, kind.num_heads, kind.head_dim, kind.v_head_dim)
    return kind


def decode_tokens(kind: Cache, context: int, given_source_tokens: int | None, *, static: bool = False) -> int:
    """Tokens a layer's tensors hold during decoding: windows and chunks alike keep one less than their size, static ones all.

    A window of 1 keeps everything: the slice `[-window + 1:]` is then the whole.
    """
    match kind:
        case SlidingAttention(window=size) | ChunkedAttention(chunk=size) | CompressedAttention(window=size):
            return min(context, size - (not static)) if size > 1 or static else context
        case FullAttention() | LatentAttention() | SparseLatentAttention() | IndexedAttention():
            return context
        case CrossAttention():
            return source_tokens(kind, given_source_tokens)
        case _:
            assert_type(kind, NoTokens)
            return 0


def _state_bytes(kind: Cache, model_dtype: str) -> int:
    """Constant bytes of one sequence in a recurrent layer: convolutions hold the full kernel width, states are fp32.

    RecurrentGemma keeps K - 1 columns; RWKV's first two vectors, MiniMax's matrix, Zaya's and xLSTM's states are in the
    model's dtype.
    """
    match kind:
        case (
            FullAttention()
            | SlidingAttention()
            | ChunkedAttention()
            | LatentAttention()
            | SparseLatentAttention()
            | IndexedAttention()
            | CrossAttention()
            | SharedCache()
            | NoCache()
        ):
            return 0
        case CompressedAttention():
            return constant_bytes(kind, "bf16", model_dtype)
        case LinearAttentionState() | CcaState() | MatrixMemoryState():
            return sum(num_bytes(model_dtype, t.elements) for t in state_tensors(kind))
        case RwkvState(hidden_size=width, num_vectors=n):
            split = min(n, 2)
            matrix = state_tensors(kind)[1:]
            vectors = num_bytes(model_dtype, split * width) + num_bytes("F32", (n - split) * width)
            return vectors + sum(num_bytes("F32", t.elements) for t in matrix)
        case _:
            return sum(_tensor_bytes(kind, t, model_dtype) for t in state_tensors(kind))


def _tensor_bytes(kind: RecurrentCache, tensor: StateTensor, model_dtype: str) -> int:
    if tensor.role == "state":
        return num_bytes("F32", tensor.elements)
    columns = tensor.shape[1]
    match kind:
        case RgLruState():
            width = columns
        case Mamba1State() | Mamba2State() | DeltaNetState() | KimiDeltaState() | ShortConvState():
            width = columns + 1
        case LinearAttentionState() | RwkvState() | CcaState() | MatrixMemoryState():
            raise AssertionError("no convolution")
        case _:
            assert_never(kind)
    return num_bytes(model_dtype, tensor.shape[0] * width)


def _shards(kind: Cache, tp: int) -> int:
    """How many ranks share one layer's cache: KV heads are split, latents and states are not."""
    match kind:
        case FullAttention() | SlidingAttention() | ChunkedAttention() | IndexedAttention() | CrossAttention():
            if kind.num_kv_heads % tp:
                raise UnsupportedError(
                    f"transformers does not split {kind.num_kv_heads} KV heads over {tp} tensor-parallel ranks"
                )
            return tp
        case LatentAttention() | SparseLatentAttention() | CompressedAttention():
            return 1
        case _:
            assert_type(kind, NoTokens)
            return 1
