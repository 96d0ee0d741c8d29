"""CUDA graphs that vLLM captures: memory of the first, largest one, and what each further one adds in every layer.

vLLM captures each batch size in pieces around attention and, from 0.11 on, whole for decoding. The pieces share one pool, so that
the largest size decides what is live in it; what else a graph takes are its nodes, in the driver. Logs that print both ("100.00 MiB
first-capture + (51-1) × 6.00 MiB per-graph", 0.19, 20 models on H100s) give the first capture by the rules below to a tenth; what a
node takes depends on kernels and driver, and is the mean of logs.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hfmem.memory.activations import forward_bytes
from hfmem.memory.engines.vllm.releases import GraphSizes, Release
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    CompressedAttention,
    FullAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.units import GIB, MIB

#: the first capture of the largest batch, beside what is live in it: 70 to 105 MiB at 512 tokens, in proportion to them
_TOKEN: Final = MIB * 17 // 100
#: splits of a sequence's keys for which FlashAttention 3 keeps partial results in whole graphs
#: (`flash_attn_max_num_splits_for_cuda_graph`): 134 MiB of 32 heads × 64, 262 of 32 × 128, 328 of 40 × 128, 522 of 16 latent × 512
_SPLITS: Final = 32
#: … which is Hopper's kernel, but not of models whose images attend both ways (`is_mm_prefix_lm`)
_PREFIX_IMAGES: Final = frozenset({"gemma3", "paligemma", "molmo2", "bagel", "moondream3"})
_HOPPER: Final = 9
#: KiB of one layer in one graph, by the releases up to which they hold: 0.8 to 0.10 (H100, L40S, RTX 4090: 170 to 210, 230 to 320
#: on several ranks), 0.11 to 0.19 (110 to 240; 150 to 190 of the 20 models), later (85 to 150)
_NODES: Final = ((10, 190), (19, 150), (1 << 30, 115))
#: … and as many times that: on several ranks until 0.10, with experts (0.19: 2 to 2.5, else 0.5 to 2)
_RANKS, _EXPERTS = 1.4, 1.5
#: … of compressed attention (DeepSeek V4 Flash: 3.9 GiB of 43 layers and 86 graphs), and at least of latent attention at large (R1:
#: 1.8 to 2.6 of 61 and 86)
_COMPRESSED, _LATENT, _MANY_HEADS = 1024, 400, 64


class Graphs(NamedTuple):
    """Bytes, the band they are expected in, and what they are reckoned from."""

    bytes: int
    low: int
    high: int
    source: str


def graph_memory(
    arch: Architecture,
    release: Release,
    sizes: GraphSizes,
    *,
    tp: int = 1,
    pp: int = 1,
    compute_capability: int = 90,
) -> Graphs:
    """What capturing takes on one rank. `sizes` is what is captured (`Release.graph_sizes`, or what a log says)."""
    layers, count = -(-arch.num_hidden_layers // pp), sizes.pieces + sizes.whole
    if not count:
        return Graphs(0, 0, 0, "no graphs are captured")
    first = sizes.largest_piece * _TOKEN + forward_bytes(arch, max(sizes.largest_piece, 1), tp)
    if compute_capability // 10 == _HOPPER and arch.model_type not in _PREFIX_IMAGES:
        first += _SPLITS * sizes.largest_whole * -(-_output_width(arch) // tp) * 4
    nodes = layers * max(count - (sizes.pieces > 0) - (sizes.whole > 0), 0) * _node_bytes(arch, release, tp)
    size = first + nodes
    low, high = min(size // 3, 32 * MIB), int(max(first + nodes * 3, GIB * 3 // 4))
    return Graphs(size, low, high, f"{count} captured batches × {layers} layers, from server logs; the largest in full")


def _output_width(arch: Architecture) -> int:
    """Elements of one token's attention before its last projection, in the widest layer."""
    widest = 0
    for cache in arch.kinds():
        match cache:
            case FullAttention() | SlidingAttention():
                widest = max(widest, cache.num_heads * cache.v_head_dim)
            case LatentAttention():
                widest = max(widest, cache.num_heads * cache.kv_lora_rank)
            case _:
                pass
    return widest


def _node_bytes(arch: Architecture, release: Release, tp: int) -> int:
    """Bytes of one layer in one graph."""
    size = float(next(size for last, size in _NODES if release.minor <= last))
    if tp > 1 and release.minor <= _NODES[0][0]:
        size *= _RANKS
    if arch.num_experts:
        size *= _EXPERTS
    for cache in arch.kinds():
        match cache:
            case CompressedAttention():
                size = max(size, _COMPRESSED)
            case LatentAttention() | SparseLatentAttention() if cache.num_heads > _MANY_HEADS:
                size = max(size, _LATENT)
            case _:
                pass
    return int(size * 1024)
