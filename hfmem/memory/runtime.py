"""What a rank needs beside weights and cache: activations, CUDA graphs, engine buffers, the device's context.

Nothing here is exact. Each item says what it is reckoned from and how far it may be off; the constants come from logs of real
servers, named where they stand. `flat_overhead` is the articles' rule instead: a share of weights and cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from hfmem.dtypes import BITS
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component, ExpertSplit
from hfmem.model.layers import (
    ChunkedAttention,
    CompressedAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass
from hfmem.units import GIB, MIB

#: bytes live per logit when vLLM 0.33 samples its profiling batch: logits in half precision, their fp32 copy, probabilities and one
#: work buffer. A vLLM log of September 2026 (256 sequences, 151,936 words) gives 0.57 GiB: 15.7 bytes
_BYTES_PER_LOGIT: Final = 16
#: … and while vLLM sorted all logits for top-k and top-p, with 8-byte indices. Logs of 0.11 on H100s (1024 sequences) give 38.4 of
#: 128,256 words (Llama 3.1 8B) and 38.3 of 151,936 (Qwen3 0.6B and 32B, at TP 1 and 2)
_BYTES_PER_LOGIT_SORTING: Final = 38
_SORTING_UNTIL: Final = 11
#: graphs of 67 batch sizes: logs give 0.22 GiB over 36 layers and 0.64 GiB over 40 (2026), 1.44 GiB over 28 (0.8.4)
_GRAPH_PER_LAYER: Final = (4 * MIB, 16 * MIB, 56 * MIB)
#: growth outside PyTorch while vLLM profiles: 0.13 GiB on one H100, 0.54 GiB with tensor parallelism (NCCL and its buffers)
_ENGINE_ALONE: Final = (GIB // 10, GIB * 13 // 100, GIB * 3 // 10)
_ENGINE_COMMUNICATING: Final = (GIB * 4 // 10, GIB * 54 // 100, GIB)
#: the driver's context and loaded kernels, which no allocator sees
_CONTEXT: Final = (GIB // 4, GIB * 45 // 100, GIB * 7 // 10)
#: `max_num_seqs` defaults (`engine/arg_utils.py`)
_SEQS_LARGE: Final = 1024
_SEQS_SMALL: Final = 256
_BATCHED_TOKENS: Final = 8192
#: llama.cpp's micro-batch
_UBATCH: Final = 512


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes on one rank, with the band they are expected in. `in_budget`: the engine takes it from the share of memory it was given
    (`gpu_memory_utilization`); else it lies outside."""

    bytes: int
    low: int
    high: int
    source: str
    grade: str = "estimated"
    in_budget: bool = True


def flat_overhead(weights_bytes: int, cache_bytes: int, share: Fraction) -> Estimate:
    """The articles' rule: `share` of weights and cache together (10 % as a rule), for everything else."""
    size = (weights_bytes + cache_bytes) * share
    value = -(-size.numerator // size.denominator)
    return Estimate(value, value, value, f"flat rule: {float(share):.0%} of weights and cache")


def estimate_runtime(
    arch: Architecture,
    serving: Serving,
    *,
    max_num_seqs: int | None = None,
    device_memory_bytes: int | None = None,
    device: str = "",
    ubatch: int | None = None,
    vllm_minor: int | None = None,
) -> dict[str, Estimate]:
    """Runtime memory of the most loaded rank, by name.

    Args:
        max_num_seqs: sequences the engine is set to run at once; left out, vLLM's default for the device.
        device_memory_bytes, device: the device's memory and name, which decide defaults.
        ubatch: llama.cpp's micro-batch.
        vllm_minor: N of vLLM 0.N where it is an older one.
    """
    match serving.engine:
        case "llama.cpp":
            return {
                "activations_bytes": _compute_buffer(arch, ubatch or _UBATCH),
                "context_bytes": _item(_CONTEXT, "CUDA context", outside=True),
            }
        case "transformers":
            forward = _forward_bytes(arch, serving.context * serving.num_seqs_per_replica, 1)
            return {
                "activations_bytes": _band(
                    forward, 0.6, 2.5, "prefill of the whole prompt: tokens × widest live tensors"
                ),
                "context_bytes": _item(_CONTEXT, "CUDA context", outside=True),
            }
        case "ideal":
            return {}
        case _:
            pass
    seqs = max_num_seqs or default_max_num_seqs(device_memory_bytes, device)
    tokens = serving.max_num_batched_tokens or _BATCHED_TOKENS
    communicating = serving.tp * serving.pp > 1
    layers = -(-arch.num_hidden_layers // serving.pp)
    return {
        "activations_bytes": _activations(arch, tokens, min(seqs, tokens), serving.tp, vllm_minor),
        "cuda_graph_bytes": _item(
            tuple(layers * size for size in _GRAPH_PER_LAYER), "graphs per layer, from server logs", outside=True
        ),
        "engine_bytes": _item(
            _ENGINE_COMMUNICATING if communicating else _ENGINE_ALONE,
            "NCCL and library buffers, from server logs" if communicating else "library buffers, from server logs",
        ),
        "context_bytes": _item(_CONTEXT, "CUDA context and kernels", outside=True),
    }


def default_max_num_seqs(device_memory_bytes: int | None, device: str = "") -> int:
    """vLLM's `max_num_seqs`: 1024 on devices from 70 GiB that are no A100, else 256."""
    large = device_memory_bytes is None or device_memory_bytes >= 70 * GIB
    return _SEQS_LARGE if large and "a100" not in device.lower() else _SEQS_SMALL


def rotary_table_bytes(config: Mapping[str, Any], arch: Architecture) -> int:
    """Bytes of the table of cosines and sines that vLLM and SGLang keep beside the weights, shared by all layers.

    One row of rotary width a position, in the model's dtype (`layers/rotary_embedding/base.py`); vLLM counts it as loaded weights.
    0 where the config names no rotary embedding.
    """
    parts = (config, *(value for value in config.values() if isinstance(value, Mapping)))
    if not any(part.get(key) for part in parts for key in ("rope_theta", "rope_parameters", "rope_scaling")):
        return 0
    partial = next((v for part in parts if isinstance(v := part.get("partial_rotary_factor"), int | float)), 1)
    for cache in arch.caches():
        match cache:
            case FullAttention() | SlidingAttention() | ChunkedAttention() | IndexedAttention():
                return int((arch.max_position_embeddings or 0) * cache.head_dim * partial) * _width(arch)
            case LatentAttention() | SparseLatentAttention():
                return (arch.max_position_embeddings or 0) * cache.qk_rope_head_dim * _width(arch)
            case _:
                continue
    return 0


def _activations(arch: Architecture, tokens: int, seqs: int, tp: int, vllm_minor: int | None) -> Estimate:
    """The higher of two peaks: the forward pass over the profiling batch, and sampling from its last tokens' logits."""
    forward = _forward_bytes(arch, tokens, tp)
    hidden = tokens * arch.hidden_size * _width(arch)
    each = _BYTES_PER_LOGIT_SORTING if vllm_minor is not None and vllm_minor <= _SORTING_UNTIL else _BYTES_PER_LOGIT
    sampling = hidden + seqs * arch.vocab_size * each
    vision = any(spec.component is Component.VISION for spec in arch.tensors)
    # the encoder's profiling run on the largest image or video is not reckoned: Mistral Small 3.2 24B peaked at 2.12 GiB with it
    wider, more = (1.7, "; the vision encoder may need more") if vision else (1.0, "")
    if sampling >= forward:
        source = f"sampling: {seqs} sequences × {arch.vocab_size} logits × {each} B{more}"
        return _band(sampling, 0.75, 1.5 * wider, source)
    return _band(forward, 0.6, 1.8 * wider, f"forward pass: {tokens} tokens × widest live tensors{more}")


def _width(arch: Architecture) -> int:
    return 2 if arch.dtype in ("F32", "F64") else BITS[arch.dtype] // 8


def _forward_bytes(arch: Architecture, tokens: int, tp: int) -> int:
    """Bytes live at the widest place of one block: residual and normed input, and what attention or feed-forward adds."""
    per_token = 2 * arch.hidden_size + max(_attention_width(arch) // tp, _mlp_width(arch) // tp, _moe_width(arch, tp))
    return tokens * per_token * _width(arch)


def _attention_width(arch: Architecture) -> int:
    """Elements a token has in q, k, v and the output of the widest attention layer."""
    widest = 0
    for cache in arch.caches():
        match cache:
            case FullAttention() | SlidingAttention() | ChunkedAttention() | IndexedAttention():
                heads, kv = cache.num_heads, cache.num_kv_heads
                width = heads * (cache.head_dim + cache.v_head_dim) + kv * (cache.head_dim + cache.v_head_dim)
            case LatentAttention() | SparseLatentAttention():
                query = cache.qk_nope_head_dim + cache.qk_rope_head_dim
                width = cache.num_heads * (2 * query + 2 * cache.v_head_dim)
            case CompressedAttention():
                width = 2 * cache.num_heads * cache.head_dim
            case _:
                width = 0
        widest = max(widest, width)
    return widest


def _mlp_width(arch: Architecture) -> int:
    """Gate, up and their product in a dense feed-forward."""
    return 3 * (arch.intermediate_size or 4 * arch.hidden_size)


def _moe_width(arch: Architecture, tp: int) -> int:
    """Elements a token has in the workspaces of its chosen experts: gate and up or the output, and input or product."""
    chosen = arch.num_experts_per_tok
    if not chosen or not arch.num_experts:
        return 0
    inner = max(
        (
            min(spec.shape[-2:])
            for spec in arch.tensors
            if spec.component is Component.EXPERTS and isinstance(spec.split, ExpertSplit) and len(spec.shape) >= 2
        ),
        default=0,
    )
    inner = -(-inner // tp)
    return chosen * (max(2 * inner, arch.hidden_size) + max(inner, arch.hidden_size))


def _compute_buffer(arch: Architecture, ubatch: int) -> Estimate:
    """llama.cpp: fp32 logits and hidden states of one micro-batch (flash attention). Qwen2.5-3B logs 300.75 MiB."""
    size = ubatch * (arch.vocab_size + arch.hidden_size) * 4
    return _band(size, 0.9, 1.5, f"{ubatch} tokens × (vocabulary + hidden size) in fp32")


def _band(size: int, low: float, high: float, source: str) -> Estimate:
    return Estimate(size, int(size * low), int(size * high), source)


def _item(sizes: tuple[int, ...], source: str, *, outside: bool = False) -> Estimate:
    low, middle, high = sizes
    return Estimate(middle, low, high, source, in_budget=not outside)
