"""Speed of light: how fast decoding and prefill could be at best, from bytes, operations and links alone.

Upper bounds. A decode step reads the weights that its tokens use and every sequence's cache once: bytes over bandwidth. It costs
two operations per weight and token, and attention's over the context: operations over the dense rate of the format the weights are
in. Ranks exchange what `collectives` counts: bytes over the link. The slowest of the three counts, as if the others were hidden
behind it. Which experts a batch uses is taken as if the router chose evenly.

Pipeline stages work on different sequences at once where there are several: a step is then one batch's way through all stages.
llama.cpp's devices take turns.

Where decode attention has been timed on the device (`hfmem.plan.measured`), the step is given a second time with what was reached:
weights and states at the measured read rate, the cache at attention's share of it.
"""

from __future__ import annotations

from typing import Final, Literal, assert_type

from hfmem.memory.cache import source_tokens
from hfmem.memory.formats import resolve_kv_dtype
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
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.plan.collectives import link_bytes
from hfmem.plan.devices import Device
from hfmem.plan.measured import Measured, kind_of_cache, measured
from hfmem.plan.traffic import attended, cache_moved, weights_read
from hfmem.records import dataclass
from hfmem.report import Parameters, Weights

#: components of which no decode step multiplies a token
_UNUSED: Final = ("vision", "mtp")

Bound = Literal["memory", "compute", "link"]


@dataclass(frozen=True, slots=True)
class Roofline:
    """Upper bounds on one layout, and what they are made of.

    Bytes are of one rank of each stage and one decode step of one of `batches` batches; operations of that step over the ranks of a
    replica. Times are in seconds. `measured_*`: the step at the rates that were measured on this device, by `measured_source`; None
    where there are none.
    """

    batches: int
    weights_bytes_read: int
    cache_bytes_read: int
    cache_bytes_written: int
    decode_operations: int
    decode_link_bytes: int
    decode_seconds: float
    decode_bound: Bound
    tokens_per_second_per_sequence: float
    tokens_per_second: float
    prefill_operations: int
    prefill_link_bytes: int
    prefill_seconds: float | None
    prefill_bound: Bound | None
    prefill_tokens_per_second: float | None
    rate_format: str | None
    measured_decode_seconds: float | None = None
    measured_tokens_per_second: float | None = None
    measured_source: str | None = None
    grade: str = "upper bound"


def roofline(
    arch: Architecture,
    parameters: Parameters,
    weights: Weights,
    serving: Serving,
    ranks: RankWeights,
    device: Device,
) -> Roofline | None:
    """The bounds of `serving` on `device`; None where its bandwidth is not known, or the host computes some of the layers, or
    holds some of their weights, whose link is not known; and where a step moves and computes nothing.

    Args:
        parameters, weights: as in the model's report.
    """
    if device.bandwidth is None or _on_host(serving) or ranks.offloaded_bytes:
        return None
    by_layer = serving.engine in BY_LAYER
    replica_seqs = -(-serving.num_seqs // serving.dp)
    batches = 1 if by_layer else min(serving.pp, replica_seqs)
    tokens = -(-replica_seqs // batches)
    own = -(-tokens // serving.attn_dp)
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, serving.declared_kv_dtype)
    moved = weights_read(arch, serving, ranks, tokens)
    read, written = (own * each for each in cache_moved(arch, serving, fmt))
    per_token = 2 * _active(arch, parameters)
    attention = sum(count * _attention_operations(kind, serving) for (kind, _), count in attended(arch).items())
    operations = tokens * (per_token + attention)
    rate_format = _rate_format(weights, device)
    rate = device.rates[rate_format] if rate_format else None
    link = link_bytes(arch, serving, tokens, tokens)
    together = 1 if by_layer else serving.tp  # ranks that multiply at the same time
    computing = None if rate is None else operations / (rate * together)
    linking = _over_link(link, device)
    step, bound = _slowest(memory=(moved + read + written) / device.bandwidth, compute=computing, link=linking)
    if not step:  # no tensor of the files takes part: nothing bounds it
        return None
    known = measured(device.name)
    reading = None if known is None else _measured_reading(arch, known, fmt, moved + written, read)
    real = None if reading is None else _slowest(memory=reading, compute=computing, link=linking)[0]
    prompt = _prefill_operations(arch, parameters, serving)
    prompt_link = link_bytes(arch, serving, serving.context, 1)
    first: float | None = None
    first_bound: Bound | None = None
    # replicas compute prompts of their own, but for vLLM's experts, which all of them share
    replicas = serving.dp if serving.engine == "vllm" and arch.num_experts else 1
    if rate is not None:
        first, first_bound = _slowest(
            memory=weights_read(arch, serving, ranks, serving.context) / device.bandwidth,
            compute=prompt / (rate * serving.tp * serving.pp * replicas),
            link=_over_link(prompt_link, device),
        )
    return Roofline(
        batches=batches,
        weights_bytes_read=moved,
        cache_bytes_read=read,
        cache_bytes_written=written,
        decode_operations=operations,
        decode_link_bytes=link,
        decode_seconds=step,
        decode_bound=bound,
        tokens_per_second_per_sequence=1 / step,
        tokens_per_second=serving.num_seqs / step,
        prefill_operations=prompt,
        prefill_link_bytes=prompt_link,
        prefill_seconds=first,
        prefill_bound=first_bound,
        prefill_tokens_per_second=None if first is None else serving.context / first,
        rate_format=rate_format,
        measured_decode_seconds=real,
        measured_tokens_per_second=None if real is None else serving.num_seqs / real,
        measured_source=known.source if known is not None and real is not None else None,
    )


def _on_host(serving: Serving) -> bool:
    """Whether llama.cpp leaves layers or experts to the host, whose speed is not known."""
    return serving.llama_cpp.gpu_layers is not None or serving.llama_cpp.cpu_moe_layers > 0


def _measured_reading(arch: Architecture, known: Measured, fmt: str, plain: int, cache_read: int) -> float | None:
    """Seconds to read `plain` bytes and the cache at measured rates; None where this kind of cache was not measured."""
    latent = any(isinstance(kind, LatentAttention | SparseLatentAttention) for kind in arch.kinds())
    share = known.attention.get(kind_of_cache(fmt, latent=latent) or "")
    return None if share is None else (plain + cache_read / share) / known.read_bytes_per_second


def _slowest(*, memory: float, compute: float | None, link: float | None) -> tuple[float, Bound]:
    found: tuple[float, Bound] = (memory, "memory")
    if compute is not None and compute > found[0]:
        found = (compute, "compute")
    if link is not None and link > found[0]:
        found = (link, "link")
    return found


def _over_link(num_bytes: int, device: Device) -> float | None:
    if not num_bytes or device.interconnect is None:
        return None
    return num_bytes / device.interconnect.bytes_per_second


def _active(arch: Architecture, parameters: Parameters) -> int:
    """Parameters that multiply each token."""
    parts = parameters.by_component
    idle = sum(parts.get(name, 0) for name in _UNUSED)
    if not arch.tie_word_embeddings:
        idle += parts.get("embedding", 0)
    return max(parameters.active - idle, 0)


def _prefill_operations(arch: Architecture, parameters: Parameters, serving: Serving) -> int:
    """Operations of one prompt: every weight for each token, the head for the last one alone, attention over what came before."""
    head = parameters.by_component.get("embedding" if arch.tie_word_embeddings else "lm_head", 0)
    active = _active(arch, parameters)
    head = min(head, active)
    weights = 2 * (serving.context * (active - head) + head)
    return weights + sum(count * _prefill_attention(kind, serving) for (kind, _), count in attended(arch).items())


def _pair_operations(kind: Cache, *, decoding: bool) -> tuple[int, int | None]:
    """Operations of one query token against one cached token in one layer, and the most cached tokens it looks at. Sparse attention
    of which the architecture does not say how much it selects counts as nothing."""
    match kind:
        case FullAttention():
            return 2 * kind.num_heads * (kind.head_dim + kind.v_head_dim), None
        case SlidingAttention():
            return 2 * kind.num_heads * (kind.head_dim + kind.v_head_dim), kind.window
        case ChunkedAttention():
            return 2 * kind.num_heads * (kind.head_dim + kind.v_head_dim), kind.chunk
        case IndexedAttention(index_topk=None):
            return 0, None
        case IndexedAttention():
            return 2 * kind.num_heads * (kind.head_dim + kind.v_head_dim), kind.index_topk
        case CompressedAttention():
            return 4 * kind.num_heads * kind.head_dim, kind.window
        case LatentAttention() | SparseLatentAttention():
            width = 2 * kind.kv_lora_rank + kind.qk_rope_head_dim
            if not decoding:  # keys and values are unfolded once, and attention runs over heads
                width = kind.qk_nope_head_dim + kind.qk_rope_head_dim + kind.v_head_dim
            return 2 * kind.num_heads * width, kind.index_topk if isinstance(kind, SparseLatentAttention) else None
        case CrossAttention():
            raise AssertionError("an encoder's positions are no tokens of the sequence")
        case _:
            assert_type(kind, NoTokens)
            return 0, None


def _attention_operations(kind: Cache, serving: Serving) -> int:
    if isinstance(kind, CrossAttention):
        return 4 * kind.num_heads * kind.head_dim * source_tokens(kind, serving.source_tokens)
    each, window = _pair_operations(kind, decoding=True)
    return each * (serving.context if window is None else min(serving.context, window))


def _prefill_attention(kind: Cache, serving: Serving) -> int:
    """Causal: token t looks at t tokens, or at its window; chunks of tokens at their own chunk alone."""
    context = serving.context
    if isinstance(kind, CrossAttention):
        return context * _attention_operations(kind, serving)
    each, window = _pair_operations(kind, decoding=False)
    if window is None or window >= context:
        return each * context * (context + 1) // 2
    if isinstance(kind, ChunkedAttention):
        whole, rest = divmod(context, window)
        return each * (whole * window * (window + 1) + rest * (rest + 1)) // 2
    return each * (window * (window + 1) // 2 + (context - window) * window)


def _rate_format(weights: Weights, device: Device) -> str | None:
    """The format whose rate bounds the matrix products: the weights' where the device multiplies it, else half precision."""
    by_dtype = weights.by_dtype
    widest = max(by_dtype, key=lambda name: by_dtype[name]) if by_dtype else ""
    method = str((weights.quantization or {}).get("method", ""))
    wanted = []
    if "fp4" in method and "fp4" in device.rates:
        wanted.append("fp4")
    if widest.startswith("F8"):
        wanted.append("fp8")
    if widest == "I8":
        wanted.append("int8")
    for name in (*wanted, "bf16", "fp16"):
        if name in device.rates:
            return name
    return None
