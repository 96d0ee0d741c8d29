"""Bytes that a decode step moves on one rank: the weights that its tokens use, and every sequence's cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import assert_type

from hfmem.memory.cache import constant_bytes, decoding_layers, layer_bytes
from hfmem.memory.formats import vector_bytes
from hfmem.memory.placement import BY_LAYER
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    NoTokens,
    SharedCache,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.remembered import remembered


def touched(arch: Architecture, tokens: int) -> Fraction:
    """The share of routed experts that `tokens` tokens use, if the router chooses evenly: 1 − (1 − k/E)ⁿ."""
    if not arch.num_experts or not arch.num_experts_per_tok:
        return Fraction(1)
    missed = 1 - min(arch.num_experts_per_tok / arch.num_experts, 1.0)
    return Fraction(1 - missed**tokens)


def weights_read(arch: Architecture, serving: Serving, ranks: RankWeights, tokens: int) -> int:
    """Bytes of weights that one rank of each stage reads for `tokens` tokens of its replica, all stages together."""
    met = tokens * (
        serving.dp if serving.engine == "vllm" else 1
    )  # replicas of vLLM share the experts, and meet all their tokens
    plain = sum(ranks.stage_bytes) + ranks.offloaded_bytes - ranks.routed_bytes - ranks.idle_bytes
    return plain + int(ranks.routed_bytes * touched(arch, met))


def cache_moved(arch: Architecture, serving: Serving, kv_dtype: str) -> tuple[int, int]:
    """Bytes of one sequence's cache that one rank of each stage reads and writes in a step, all stages together.

    Recurrent states are read and written back. Sparse attention reads the latents it selects, by keys it reads in full. Ranks of
    decode context parallelism each read the tokens that they hold, and one of them writes the new one.
    """
    tp = 1 if serving.engine in BY_LAYER else serving.attn_tp
    read = written = Fraction(0)
    for (kind, own), count in attended(arch).items():
        share = count * _rank_share(kind, tp)
        size = layer_bytes(kind, serving.context, kv_dtype, arch.dtype, serving.source_tokens)
        shared_out = 1 if isinstance(kind, NoTokens | CrossAttention) else serving.dcp
        read += share * (size - _unselected(kind, serving.context, kv_dtype)) / shared_out
        if own and not isinstance(kind, CrossAttention):
            written += share * constant_bytes(kind, kv_dtype, arch.dtype, serving.source_tokens)
    return -(-read.numerator // read.denominator), -(-written.numerator // written.denominator)


@remembered
def attended(arch: Architecture) -> Mapping[tuple[Cache, bool], int]:
    """What decoder layers look at, whether it is their own (a layer that shares another's cache reads it once more), and how many
    of them do."""
    return Counter(_attended(arch))


def _attended(arch: Architecture) -> Iterator[tuple[Cache, bool]]:
    layers = decoding_layers(arch)
    for layer in layers:
        for kind in layer.caches:
            if not isinstance(kind, SharedCache):
                yield kind, True
            elif kind.source_layer < len(layers):
                yield from ((shared, False) for shared in layers[kind.source_layer].caches)


def _rank_share(kind: Cache, tp: int) -> Fraction:
    """How much of a layer's cache each of `tp` ranks holds: whole heads, one at least; latents whole."""
    match kind:
        case FullAttention() | SlidingAttention() | ChunkedAttention() | IndexedAttention() | CrossAttention():
            return Fraction(-(-kind.num_kv_heads // tp), kind.num_kv_heads)
        case LatentAttention() | SparseLatentAttention() | CompressedAttention():
            return Fraction(1)
        case _:
            assert_type(kind, NoTokens)
            return Fraction(1, tp)


def _unselected(kind: Cache, context: int, kv_dtype: str) -> int:
    """Bytes that sparse attention does not look at; where the architecture does not say how much it selects, all but the
    indexer's keys (a bound stays a bound)."""
    match kind:
        case SparseLatentAttention():
            row = vector_bytes(kv_dtype, kind.kv_lora_rank) + vector_bytes(kv_dtype, kind.qk_rope_head_dim)
            return max(context - kind.index_topk, 0) * row
        case IndexedAttention():
            row = vector_bytes(kv_dtype, kind.head_dim) + vector_bytes(kv_dtype, kind.v_head_dim)
            return max(context - (kind.index_topk or 0), 0) * kind.num_kv_heads * row
        case CompressedAttention(ratio=ratio):
            if not ratio or not (kind.index_head_dim or kind.index_topk):
                return 0
            unread = max(context // ratio - (kind.index_topk or 0), 0)
            return unread * vector_bytes(kv_dtype, kind.head_dim)
        case FullAttention() | SlidingAttention() | ChunkedAttention() | LatentAttention() | CrossAttention():
            return 0
        case _:
            assert_type(kind, NoTokens)
            return 0
