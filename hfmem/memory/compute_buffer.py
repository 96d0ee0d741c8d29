"""llama.cpp's compute buffer: what one micro-batch of a prompt needs at its widest, with flash attention or without.

Read from llama.cpp as vendored in llama-cpp-python 0.3.36: `src/llama-context.cpp` (`n_outputs_max`: rows of logits that are
reserved; a server asks for one a slot, `common/speculative.cpp`), `src/llama-graph.cpp` (the mask of attention in 16 bit),
and of attention itself what `flash` says.
Logs: 495.00 MiB of Qwen3.5-27B at 512 tokens and 824.02 with 262,144 cells (build 8193), 796.75 of gpt-oss-20b at 1024 tokens;
447.38 of Qwen3.5-9B at 2048 (build 9849); 154.02 of Qwen3.8-27B at 512 and 32,768 cells (autumn of 2026).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hfmem.dtypes import num_bytes
from hfmem.memory.activations import query_width
from hfmem.memory.cache import decoding_kinds
from hfmem.memory.engines.llama_cpp.cells import UBATCH, Seen, formats_of, seen, uses_windows
from hfmem.memory.engines.llama_cpp.flash import copies_bytes, heads_of, runs_flash, scores_bytes
from hfmem.memory.expert_workspaces import expert_width
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import Cache, ChunkedAttention, CompressedAttention, IndexedAttention, SlidingAttention

#: from about this build on (of May 2026) logits are reserved for the slots alone, not for every token of a micro-batch
_OUTPUTS_BUILD: Final = 9300
#: from about this build on (of summer 2026) the mask is in 16 bit; before, in fp32 with a copy in 16 bit
_NARROW_MASK_BUILD: Final = 10500
_WIDE_MASK, _NARROW_MASK = 6, 2
#: kinds of attention with a mask of their own
_WINDOWED: Final = (SlidingAttention, ChunkedAttention, CompressedAttention)
#: … and without flash attention in fp32 alone
_PLAIN_MASK: Final = 4
_SCHEDULED: Final = 4
#: from this build on (of June 2026) CUDA's copies of the cache in 16 bit are in the buffer; before, in a pool that no log names
_COPIES_BUILD: Final = 9489


class Buffer(NamedTuple):
    """The middle, its band as shares of it, and what it is reckoned from."""

    bytes: int
    low: float
    high: float
    source: str


def compute_buffer(
    arch: Architecture,
    serving: Serving,
    build: int | None = None,
    outputs: int | None = None,
    *,
    cuda: bool = True,
) -> Buffer:
    """Bytes on the device that has the output layer.

    Args:
        build: llama.cpp's number; None: today's.
        outputs: rows of logits, where a log says it (`n_outputs_max`).
        cuda: the kernels are CUDA's, or the same for AMD's devices.
    """
    told = serving.llama_cpp
    seqs = serving.num_seqs_per_replica
    tokens = min(told.ubatch or UBATCH, serving.context * seqs)
    few = outputs is not None or build is None or build >= _OUTPUTS_BUILD
    attention = _attention(arch, serving, tokens, build, cuda)
    rows = min(outputs or seqs, tokens) if few else tokens
    logits = rows * (arch.vocab_size + arch.hidden_size) * 4
    widths = 2 * arch.hidden_size + 3 * query_width(arch)
    low = 0.6
    if few:  # else logits are wider as a rule, and what was seen of long contexts is attention
        widths = max(widths, 2 * arch.hidden_size + _feed_forward(arch))
        low = 0.3 if arch.num_experts else low
    copies = _input_copies(serving)
    inner = copies * attention.masks + max(tokens * 4 * widths, attention.bytes)
    inner += copies * tokens * 4 * arch.hidden_size if copies > 1 else 0  # what the device before passes on
    high = 2.5 if arch.num_experts and few else 1.5
    if attention.bytes > tokens * 4 * widths:
        low, high = 0.9, 1.2
    if serving.tp * serving.pp > 1:  # no log of them was at hand
        high = max(high, 2.0)
    if told.cpu_moe_layers or told.gpu_layers is not None:  # weights of the host that a large batch copies over
        high = 3.5
    if inner > logits:
        return Buffer(inner, low, high, f"{tokens:,} tokens × activations{attention.words}")
    return Buffer(logits, 0.9, high, f"{rows:,} tokens × (vocabulary + hidden size) in fp32")


def _input_copies(serving: Serving) -> int:
    """How often a device holds what it gets from others: once, or for four micro-batches under way where whole layers of all kinds
    are on several devices (pipeline parallelism, `GGML_SCHED_MAX_COPIES`)."""
    told = serving.llama_cpp
    alone = told.gpu_layers is not None or told.cpu_moe_layers or not told.kv_offload
    return 1 if alone or serving.tp * serving.pp == 1 else _SCHEDULED


class _Attention(NamedTuple):
    """What attention takes: `masks` all the time, `bytes` while the widest layer's runs; 0: its inputs and outputs alone."""

    masks: int
    bytes: int
    words: str


def _attention(arch: Architecture, serving: Serving, tokens: int, build: int | None, cuda: bool) -> _Attention:
    told = serving.llama_cpp
    if not told.kv_offload:  # it runs on the host
        return _Attention(0, 0, "")
    formats = formats_of(serving)
    flash = runs_flash(arch, told.flash_attention, formats.key, formats.value)
    width = _PLAIN_MASK
    if flash:
        width = _NARROW_MASK if build is None or build >= _NARROW_MASK_BUILD else _WIDE_MASK
    copied = flash and cuda and (build is None or build >= _COPIES_BUILD)
    reads = _reads(arch, serving, tokens)
    beside = 0
    for kind, read in reads.items():
        cells = read.cells + read.rows
        size = copies_bytes(kind, cells * read.streams, formats.key, formats.value) if copied else 0
        if not flash:
            size += scores_bytes(kind, tokens, cells)
        elif isinstance(kind, IndexedAttention):  # a mask of the chosen blocks for each KV head, a stream at a time
            size += num_bytes("F32", kind.num_kv_heads * tokens // read.streams * cells)
        beside = max(beside, size, num_bytes("F32", tokens * read.scored))
    masked = _masked(arch, reads)
    words = f" and mask of {masked:,} cells"
    if beside:
        words += "; a layer's cache in 16 bits or an indexer's scores" if flash else "; scores without flash attention"
        beside += tokens * 4 * _attention_width(arch)
    more = _NARROW_MASK * max((read.scored for read in reads.values()), default=0)
    if flash and any(
        isinstance(kind, IndexedAttention) for kind in reads
    ):  # the mask once more, and one by positions, in fp32
        more += 2 * _PLAIN_MASK * masked
    return _Attention(tokens * (width * masked + more), beside, words)


def _reads(arch: Architecture, serving: Serving, tokens: int) -> dict[Cache, Seen]:
    """What each kind of attention reads: in models without a cache the micro-batch itself."""
    kinds = [kind for kind in decoding_kinds(arch) if heads_of(kind) is not None]
    if any(layer.stack == "decoder" for layer in arch.layers):
        return {kind: seen(kind, arch, serving) for kind in kinds}
    return {kind: Seen(tokens, 0, 0, 1) for kind in kinds}


def _masked(arch: Architecture, reads: dict[Cache, Seen]) -> int:
    """Cells of a token's masks: of layers that see every cell, of those with a window, and of compressed rows by their number."""
    apart = uses_windows(arch)
    near = [read.cells for kind, read in reads.items() if apart and isinstance(kind, _WINDOWED)]
    full = [read.cells for kind, read in reads.items() if not (apart and isinstance(kind, _WINDOWED))]
    return max(full, default=0) + max(near, default=0) + sum({read.rows for read in reads.values()})


def _attention_width(arch: Architecture) -> int:
    """Elements that a token has while attention runs: the residual, queries and their output, new keys and values."""
    shapes = [shape for kind in arch.kinds() if (shape := heads_of(kind)) is not None]
    rows = (heads * (key + value) + kv_heads * (key + value) for heads, kv_heads, key, value in shapes)
    return arch.hidden_size + max(rows, default=0)


def _feed_forward(arch: Architecture) -> int:
    """Elements that a token has in gate, up and their product, or in its chosen experts' and in their outputs before and after
    these are weighted (`build_moe_ffn`)."""
    chosen = arch.num_experts_per_tok or 0
    if arch.num_experts and chosen:
        inner = expert_width(arch)
        return chosen * max(3 * inner, 2 * arch.hidden_size)
    return 3 * (arch.intermediate_size or 4 * arch.hidden_size)
