"""The peak of activations in vLLM's profiling run: the forward pass over one full step, sampling, or the vision encoder.

Each is what is live at its widest place, by the tensors that the source makes there. Logs of vLLM 0.19 on H100s (20 models, 1 to 4
ranks) are met to the third digit where sampling is the widest. Attention does not run in the forward pass. Experts keep the
workspaces of `fused_moe/modular_kernel.py` (`workspace13`, `workspace2`), from 0.14 also while the rest runs.
"""

from __future__ import annotations

from typing import Final, assert_type

from hfmem.memory.encoder import EncoderProfile
from hfmem.memory.expert_workspaces import ExpertFormat, element_bytes, workspace_bytes
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    NoTokens,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass
from hfmem.units import MIB, counted, format_bytes

#: hidden states live beside gate, up and their product: attention's output, the residual before and after it, and the normed input
#: (a bf16 CodeLlama 7B and Granite 3.3 8B on H100s under 0.19, a Llama 3.1 8B on an A100); where ranks add up, two (Qwen2.5-32B at
#: TP 4)
_HIDDEN, _HIDDEN_RANKS = 4, 2
#: multiprocessors of an H100, each with a row of logits of its own while they are masked
_PROCESSORS: Final = 132
#: the workspace that PyTorch gives cuBLAS: 32 MiB from Hopper on, 8.1 before (`getChosenWorkspaceSize`)
_BLAS: Final = (8_519_680, 32 * MIB)
_HOPPER: Final = 90


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes, how far they may be off as factors, and what they are reckoned from."""

    bytes: int
    low: float
    high: float
    source: str


@dataclass(frozen=True, slots=True)
class Sampler:
    """How a profiling batch is sampled: bytes live per logit (0: not at all), and whether rows of logits are masked beside them
    (`Release.bytes_per_logit`, `Release.masks`)."""

    bytes_per_logit: int
    masks: bool = False

    def live_bytes(self, arch: Architecture, seqs: int) -> int:
        """Bytes live at its widest place, the hidden states of the last tokens (twice: a random copy) among them."""
        if not self.bytes_per_logit:
            return 0
        rows = min(1 << (min(_PROCESSORS, seqs) - 1).bit_length(), _PROCESSORS) if self.masks else 0
        last = 2 * seqs * arch.hidden_size * element_bytes(arch)
        return last + seqs * arch.vocab_size * self.bytes_per_logit + rows * arch.vocab_size * 4


def peak(
    arch: Architecture,
    *,
    tokens: int,
    seqs: int,
    tp: int,
    sampler: Sampler,
    encoder: EncoderProfile | None = None,
    experts: ExpertFormat = "plain",
    keeps_workspaces: bool = True,
    expert_chunk: int | None = None,
    compute_capability: int = _HOPPER,
) -> Peak:
    """The highest of the three peaks on one rank.

    Args:
        tokens, seqs: tokens of one step, and sequences whose last tokens are sampled from it.
        experts: how routed experts are stored.
        keeps_workspaces: the workspaces of experts stay when their layer has run (`keeps_workspaces`).
        expert_chunk: tokens that a kernel for experts takes at once, None for all of a step.
        compute_capability: the device's, which decides cuBLAS's workspace.
    """
    width = element_bytes(arch)
    blas = _BLAS[compute_capability >= _HOPPER]
    forward = forward_bytes(arch, tokens, tp, experts=experts, expert_chunk=expert_chunk) + blas
    kept = workspace_bytes(arch, tokens, tp, experts=experts, chunk=expert_chunk) if keeps_workspaces else 0
    sampling = tokens * arch.hidden_size * width + sampler.live_bytes(arch, seqs) + kept + blas
    text = Peak(forward, 0.75, 1.5, f"forward pass: {tokens:,} tokens × widest live tensors")
    if sampling >= forward:
        text = Peak(sampling, 0.8, 1.25, _sampling_words(arch, seqs, sampler, sampling, kept))
    if encoder is None:
        return text
    inputs = encoder.output_bytes(arch.hidden_size) + encoder.pixel_bytes  # both are alive until the run ends
    seen = encoder.live_bytes(tp) + encoder.pixel_bytes + blas
    if seen <= inputs + text.bytes:
        high = text.high if encoder.known else 2.5
        source = f"{text.source}; {counted(encoder.tokens, 'token')} and {encoder.patches:,} patches of the encoder"
        return Peak(inputs + text.bytes, text.low, high, source)
    return Peak(
        seen, 0.5 if encoder.known else 0.1, 1.6, f"vision encoder: {encoder.patches:,} patches × widest live tensors"
    )


def _sampling_words(arch: Architecture, seqs: int, sampler: Sampler, total: int, kept: int) -> str:
    """What the bytes live while tokens are sampled are, so that they add up."""
    logits = seqs * arch.vocab_size * sampler.bytes_per_logit
    words = f"sampling: {seqs:,} sequences × {arch.vocab_size:,} logits × {sampler.bytes_per_logit} B"
    workspaces = f", {format_bytes(kept)} of workspaces of experts" if kept else ""
    return f"{words}{workspaces}, {format_bytes(total - logits - kept)} of hidden states and masks"


def forward_bytes(
    arch: Architecture, tokens: int, tp: int, *, experts: ExpertFormat = "plain", expert_chunk: int | None = None
) -> int:
    """Bytes live at the widest place of one block: hidden states, and what attention or feed-forward adds."""
    states = _HIDDEN if tp == 1 else _HIDDEN_RANKS
    dense = max(2 * arch.hidden_size + _attention_width(arch) // tp, states * arch.hidden_size + _mlp_width(arch) // tp)
    workspaces = workspace_bytes(arch, tokens, tp, experts=experts, chunk=expert_chunk)
    routed = 3 * arch.hidden_size * tokens * element_bytes(arch) + workspaces if workspaces else 0
    return max(tokens * dense * element_bytes(arch), routed)


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
            case CrossAttention():  # no wider than the self attention beside it
                width = 0
            case _:
                assert_type(cache, NoTokens)
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
            case CrossAttention():
                pass
            case _:
                assert_type(cache, NoTokens)
    return widest


def _mlp_width(arch: Architecture) -> int:
    """Gate, up and their product in a dense feed-forward."""
    return 3 * (arch.intermediate_size or 4 * arch.hidden_size)
