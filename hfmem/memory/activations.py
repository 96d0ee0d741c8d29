"""The peak of activations in vLLM's profiling run: the forward pass over one full step, sampling, or the vision encoder.

Each is what is live at its widest place. vLLM 0.33's compiled forward keeps, in one block, residual and normed input beside
gate, up
and their product; logs of a bf16 Qwen2.5-32B at TP 4 give 2 × 31,800 bytes a token over 28,672 tokens, the rule 2 × 31,000.
Attention does not run in it. Experts keep the workspaces of `fused_moe/modular_kernel.py` (`workspace13`, `workspace2`).
"""

from __future__ import annotations

from typing import Final

from hfmem.dtypes import BITS
from hfmem.memory.encoder import EncoderProfile
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
from hfmem.remembered import remembered

#: tokens that a kernel for experts takes at once (`VLLM_FUSED_MOE_CHUNK_SIZE`)
_EXPERT_CHUNK: Final = 32768


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes, how far they may be off as factors, and what they are reckoned from."""

    bytes: int
    low: float
    high: float
    source: str


def peak(
    arch: Architecture,
    *,
    tokens: int,
    seqs: int,
    tp: int,
    bytes_per_logit: int,
    encoder: EncoderProfile | None = None,
    packed_experts: bool = False,
) -> Peak:
    """The highest of the three peaks on one rank.

    Args:
        tokens, seqs: tokens of one step, and sequences whose last tokens are sampled from it.
        packed_experts: experts in 4 bits, whose kernels keep one workspace less (Marlin).
    """
    width = element_bytes(arch)
    forward = forward_bytes(arch, tokens, tp, packed_experts=packed_experts)
    sampling = tokens * arch.hidden_size * width + seqs * arch.vocab_size * bytes_per_logit
    text = Peak(forward, 0.6, 1.6, f"forward pass: {tokens} tokens × widest live tensors")
    if sampling >= forward:
        text = Peak(sampling, 0.65, 1.4, f"sampling: {seqs} sequences × {arch.vocab_size} logits × {bytes_per_logit} B")
    if encoder is None:
        return text
    kept = encoder.tokens * arch.hidden_size * width
    seen = encoder.live_bytes(tp)
    if seen <= kept + text.bytes:
        high = text.high if encoder.known else 2.5
        return Peak(kept + text.bytes, text.low, high, f"{text.source}; {encoder.tokens} tokens from the encoder")
    return Peak(
        seen, 0.5 if encoder.known else 0.1, 1.6, f"vision encoder: {encoder.patches} patches × widest live tensors"
    )


def element_bytes(arch: Architecture) -> int:
    """Bytes of an activation: half precision also for fp32 checkpoints."""
    return 2 if arch.dtype in ("F32", "F64") else BITS[arch.dtype] // 8


def forward_bytes(arch: Architecture, tokens: int, tp: int, *, packed_experts: bool = False) -> int:
    """Bytes live at the widest place of one block: residual and normed input, and what attention or feed-forward adds."""
    dense = 2 * arch.hidden_size + max(_attention_width(arch) // tp, _mlp_width(arch) // tp)
    chosen = _experts_width(arch, tp, packed_experts)
    routed = 3 * arch.hidden_size * tokens + chosen * min(tokens, _EXPERT_CHUNK) if chosen else 0
    return max(tokens * dense, routed) * element_bytes(arch)


def _attention_width(arch: Architecture) -> int:
    """Elements a token has in q, k, v and the output of the widest attention layer."""
    widest = 0
    for cache in arch.kinds():
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


def query_width(arch: Architecture) -> int:
    """Elements of a token's queries in the widest attention layer; 0 where there is none."""
    widest = 0
    for cache in arch.kinds():
        match cache:
            case FullAttention() | SlidingAttention() | ChunkedAttention() | IndexedAttention() | CompressedAttention():
                widest = max(widest, cache.num_heads * cache.head_dim)
            case LatentAttention() | SparseLatentAttention():
                widest = max(widest, cache.num_heads * (cache.kv_lora_rank + cache.qk_rope_head_dim))
            case _:
                pass
    return widest


def _mlp_width(arch: Architecture) -> int:
    """Gate, up and their product in a dense feed-forward."""
    return 3 * (arch.intermediate_size or 4 * arch.hidden_size)


@remembered
def _experts_width(arch: Architecture, tp: int, packed: bool) -> int:
    """Elements a token has in the two workspaces of its chosen experts; 0 where there are none."""
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
    second = inner if packed else max(inner, arch.hidden_size)
    return chosen * (max(2 * inner, arch.hidden_size) + second)
