"""Speed of light: how fast decoding and prefill could be at best, from bytes, operations and links alone.

Upper bounds. A decode step reads the weights that its tokens use and every sequence's cache once: bytes over bandwidth. It costs
two operations per weight and token, and attention's over the context: operations over the dense rate of the format the weights are
in. Tensor parallelism adds two all-reduces a layer: 2 (tp − 1) / tp of the hidden states over the link. The slowest of the three
counts, as if the others were hidden behind it. Which experts a batch uses is taken as if the router chose evenly.

Where decode attention has been timed on the device (`hfmem.plan.measured`), the step is given a second time with what was reached:
weights at the measured read rate, the cache at attention's share of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from hfmem.dtypes import BITS
from hfmem.memory.formats import KV_BITS
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.plan.devices import Device
from hfmem.plan.measured import Measured, kind_of_cache, measured
from hfmem.records import dataclass
from hfmem.report import Report

#: components whose bytes no decode step reads
_UNREAD: Final = ("vision", "mtp")

Bound = Literal["memory", "compute", "link"]


@dataclass(frozen=True, slots=True)
class Roofline:
    """Upper bounds on one layout, and what they are made of.

    Bytes are of one rank and decode step, over all pipeline stages; operations of one step over all ranks. Times are in seconds.
    `measured_*`: the step at the rates that were measured on this device, by `measured_source`; None where there are none.
    """

    weights_bytes_read: int
    cache_bytes_read: int
    decode_operations: int
    decode_link_bytes: int
    decode_seconds: float
    decode_bound: Bound
    tokens_per_second_per_sequence: float
    tokens_per_second: float
    prefill_operations: int
    prefill_seconds: float | None
    prefill_bound: Bound | None
    prefill_tokens_per_second: float | None
    rate_format: str | None
    measured_decode_seconds: float | None = None
    measured_tokens_per_second: float | None = None
    measured_source: str | None = None
    grade: str = "upper bound"


def roofline(arch: Architecture, report: Report, device: Device) -> Roofline | None:
    """The bounds of `report` on `device`; None where its bandwidth is not known."""
    if device.bandwidth is None:
        return None
    layout, cache = report.parallelism, report.kv_cache
    seqs = -(-cache.num_seqs // layout.dp)
    ranks = layout.tp * layout.pp
    weights_read = _weights_read(arch, report, seqs) * layout.pp
    replicas = _replication(report)
    cache_read = -(-int((cache.ideal_bytes - _unread_cache(arch, report)) * replicas) // (layout.dp * layout.tp))
    token_operations = 2 * _active(arch, report)
    attention = sum(_attention_operations(kind, cache.context) for kind in arch.caches())
    operations = seqs * (token_operations + attention)
    link = _all_reduce_bytes(arch, seqs, layout.tp)
    fmt = _rate_format(report, device)
    rate = device.rates[fmt] if fmt else None
    computing = None if rate is None else operations / (rate * layout.tp)
    linking = _over_link(link, device)
    step, bound = _slowest(memory=(weights_read + cache_read) / device.bandwidth, compute=computing, link=linking)
    known = measured(device.name)
    reading = None if known is None else _measured_reading(arch, report, known, weights_read, cache_read)
    real = None if reading is None else _slowest(memory=reading, compute=computing, link=linking)[0]
    prefill = cache.context * token_operations + sum(
        _prefill_attention_operations(kind, cache.context) for kind in arch.caches()
    )
    first: float | None = None
    first_bound: Bound | None = None
    if rate is not None:
        first, first_bound = _slowest(
            memory=weights_read / device.bandwidth,
            compute=prefill / (rate * ranks),
            link=_over_link(_all_reduce_bytes(arch, cache.context, layout.tp), device),
        )
    return Roofline(
        weights_bytes_read=weights_read,
        cache_bytes_read=cache_read,
        decode_operations=operations,
        decode_link_bytes=link,
        decode_seconds=step,
        decode_bound=bound,
        tokens_per_second_per_sequence=1 / step,
        # stages work on different sequences at once, if there are as many
        tokens_per_second=cache.num_seqs / step * min(layout.pp, seqs),
        measured_decode_seconds=real,
        measured_tokens_per_second=None if real is None else cache.num_seqs / real * min(layout.pp, seqs),
        measured_source=known.source if known is not None and real is not None else None,
        prefill_operations=prefill,
        prefill_seconds=first,
        prefill_bound=first_bound,
        prefill_tokens_per_second=None if first is None else cache.context / first,
        rate_format=fmt,
    )


def _measured_reading(
    arch: Architecture, report: Report, known: Measured, weights_read: int, cache_read: int
) -> float | None:
    """Seconds to read weights and cache at measured rates; None where this kind of cache was not measured."""
    latent = any(isinstance(kind, LatentAttention | SparseLatentAttention) for kind in arch.caches())
    share = known.attention.get(kind_of_cache(report.kv_cache.dtype, latent=latent) or "")
    if share is None:
        return None
    return (weights_read + cache_read / share) / known.read_bytes_per_second


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


def _touched(arch: Architecture, tokens: int) -> float:
    """The share of routed experts that `tokens` tokens use, if the router chooses evenly: 1 − (1 − k/E)ⁿ."""
    if not arch.num_experts or not arch.num_experts_per_tok:
        return 1.0
    missed = 1 - min(arch.num_experts_per_tok / arch.num_experts, 1.0)
    return float(1 - missed**tokens)


def _weights_read(arch: Architecture, report: Report, tokens: int) -> int:
    """Bytes of weights that a step reads on the most loaded rank."""
    parts: Mapping[str, int] = report.weights.by_component
    stored = report.weights.bytes
    idle = sum(parts.get(name, 0) for name in _UNREAD)
    if not arch.tie_word_embeddings:
        idle += parts.get("embedding", 0)  # a few rows of it
    idle_experts = parts.get("experts", 0) * (1 - _touched(arch, tokens))
    share = (stored - idle - idle_experts) / stored if stored else 0.0
    return int(report.per_rank.weights_bytes * share)


def _replication(report: Report) -> float:
    """How often the ranks hold the cache: 1 where heads are shared out, tp where each rank has all of it."""
    alone = report.kv_cache.engines.get(report.kv_cache.engine)
    return max(report.kv_cache.bytes / alone, 1.0) if alone else 1.0


def _unread_cache(arch: Architecture, report: Report) -> int:
    """Bytes of latents that sparse attention does not select: it looks at `index_topk` tokens, by keys it reads in full."""
    cache = report.kv_cache
    bits = KV_BITS.get(cache.dtype, 16)
    return cache.num_seqs * sum(
        max(cache.context - kind.index_topk, 0) * (kind.kv_lora_rank + kind.qk_rope_head_dim) * bits // 8
        for kind in arch.caches()
        if isinstance(kind, SparseLatentAttention)
    )


def _active(arch: Architecture, report: Report) -> int:
    """Parameters that multiply each token."""
    parts = report.parameters.by_component
    idle = sum(parts.get(name, 0) for name in _UNREAD)
    if not arch.tie_word_embeddings:
        idle += parts.get("embedding", 0)
    return max(report.parameters.active - idle, 0)


def _pair_operations(kind: Cache, *, decoding: bool) -> tuple[int, int | None]:
    """Operations of one query token against one cached token in one layer, and the most cached tokens it looks at."""
    match kind:
        case FullAttention() | IndexedAttention():
            return 2 * kind.num_heads * (kind.head_dim + kind.v_head_dim), None
        case SlidingAttention():
            return 2 * kind.num_heads * (kind.head_dim + kind.v_head_dim), kind.window
        case ChunkedAttention():
            return 2 * kind.num_heads * (kind.head_dim + kind.v_head_dim), kind.chunk
        case LatentAttention() | SparseLatentAttention():
            width = 2 * kind.kv_lora_rank + kind.qk_rope_head_dim
            if not decoding:  # keys and values are unfolded once, and attention runs over heads
                width = kind.qk_nope_head_dim + kind.qk_rope_head_dim + kind.v_head_dim
            return 2 * kind.num_heads * width, kind.index_topk if isinstance(kind, SparseLatentAttention) else None
        case _:
            return 0, None


def _attention_operations(kind: Cache, context: int) -> int:
    each, window = _pair_operations(kind, decoding=True)
    return each * (context if window is None else min(context, window))


def _prefill_attention_operations(kind: Cache, context: int) -> int:
    """Causal: token t looks at t tokens, or at its window."""
    each, window = _pair_operations(kind, decoding=False)
    if window is None or window >= context:
        return each * context * (context + 1) // 2
    return each * (window * (window + 1) // 2 + (context - window) * window)


def _all_reduce_bytes(arch: Architecture, tokens: int, tp: int) -> int:
    """Bytes a rank sends in the all-reduces after attention and after the feed-forward of every layer."""
    if tp == 1:
        return 0
    width = 2 if arch.dtype in ("F32", "F64") else BITS[arch.dtype] // 8
    return arch.num_hidden_layers * 2 * tokens * arch.hidden_size * width * 2 * (tp - 1) // tp


def _rate_format(report: Report, device: Device) -> str | None:
    """The format whose rate bounds the matrix products: the weights' where the device multiplies it, else half precision."""
    by_dtype = report.weights.by_dtype
    widest = max(by_dtype, key=lambda name: by_dtype[name]) if by_dtype else ""
    method = str((report.weights.quantization or {}).get("method", ""))
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
