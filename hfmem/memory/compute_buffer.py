"""llama.cpp's compute buffer: what one micro-batch of a prompt needs at its widest, with flash attention.

Read from llama.cpp as vendored in llama-cpp-python 0.3.36: `src/llama-context.cpp` (`n_outputs_max`: rows of logits that are
reserved; a server asks for one a slot, `common/speculative.cpp`), `src/llama-graph.cpp` (the mask of attention in 16 bit).
Logs: 495.00 MiB of Qwen3.5-27B at 512 tokens and 824.02 with 262,144 cells (build 8193), 796.75 of gpt-oss-20b at 1024 tokens;
447.38 of Qwen3.5-9B at 2048 (build 9849); 154.02 of Qwen3.8-27B at 512 and 32,768 cells (autumn of 2026).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hfmem.memory.activations import query_width
from hfmem.memory.expert_workspaces import expert_width
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture

#: from about this build on (of May 2026) logits are reserved for the slots alone, not for every token of a micro-batch
_OUTPUTS_BUILD: Final = 9300
#: from about this build on (of summer 2026) the mask is in 16 bit; before, in fp32 with a copy in 16 bit
_NARROW_MASK_BUILD: Final = 10500
_WIDE_MASK, _NARROW_MASK = 6, 2


class Buffer(NamedTuple):
    """The middle, its band as shares of it, and what it is reckoned from."""

    bytes: int
    low: float
    high: float
    source: str


def compute_buffer(
    arch: Architecture, serving: Serving, ubatch: int, build: int | None = None, outputs: int | None = None
) -> Buffer:
    """Bytes on the device that has the output layer.

    Args:
        ubatch: tokens of a micro-batch.
        build: llama.cpp's number; None: today's.
        outputs: rows of logits, where a log says it (`n_outputs_max`).
    """
    told = serving.llama_cpp
    seqs = serving.num_seqs_per_replica
    cells = serving.context * (seqs if told.unified else 1)
    tokens = min(ubatch, serving.context * seqs)
    few = outputs is not None or build is None or build >= _OUTPUTS_BUILD
    mask = _NARROW_MASK if build is None or build >= _NARROW_MASK_BUILD else _WIDE_MASK
    rows = min(outputs or seqs, tokens) if few else tokens
    logits = rows * (arch.vocab_size + arch.hidden_size) * 4
    widths = 2 * arch.hidden_size + 3 * query_width(arch)
    low = 0.6
    if few:  # else logits are wider as a rule, and what was seen of long contexts is attention
        widths = max(widths, 2 * arch.hidden_size + _feed_forward(arch))
        low = 0.3 if arch.num_experts else low
    inner = tokens * (cells * mask + 4 * widths)
    high = 2.5 if arch.num_experts and few else 1.5
    if serving.tp * serving.pp > 1:  # copies of what passes between devices
        high = 2.5
    if told.cpu_moe_layers or told.gpu_layers is not None:  # weights of the host that a large batch copies over
        high = 3.5
    if inner > logits:
        return Buffer(inner, low, high, f"{tokens:,} tokens × activations and mask of {cells:,} cells")
    return Buffer(logits, 0.9, high, f"{rows:,} tokens × (vocabulary + hidden size) in fp32")


def _feed_forward(arch: Architecture) -> int:
    """Elements that a token has in gate, up and their product, or in its chosen experts' and in their outputs before and after
    these are weighted (`build_moe_ffn`)."""
    chosen = arch.num_experts_per_tok or 0
    if arch.num_experts and chosen:
        inner = expert_width(arch)
        return chosen * max(3 * inner, 2 * arch.hidden_size)
    return 3 * (arch.intermediate_size or 4 * arch.hidden_size)
