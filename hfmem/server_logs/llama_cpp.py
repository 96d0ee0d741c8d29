"""llama.cpp's and its forks' lines: the cache that a context was given, and the compute buffer.

Forks and older releases differ from today's rules in two ways that a log shows: latent attention kept as full keys and values
(before MLA, `mla = 0`) or as the latent with a transposed copy (`mla = 1`), and windowed layers that keep every token (before
`llama-kv-cache-iswa`).
"""

from __future__ import annotations

from collections.abc import Iterator

from hfmem.memory.engines.llama_cpp import cell_bytes
from hfmem.memory.runtime import UBATCH, estimate_runtime
from hfmem.memory.serving import LlamaCpp, Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import LatentAttention, SparseLatentAttention
from hfmem.records import replace
from hfmem.server_logs.checks import Check, check
from hfmem.server_logs.parse import LogFacts


def llama_checks(arch: Architecture, log: LogFacts, serving: Serving) -> list[Check]:
    """The cache's size, and the compute buffer against its band."""
    found = []
    logged = log.first("cache_bytes")
    if logged is not None and log.settings.context is not None:
        told = log.settings
        key, value = told.key_type or "f16", told.value_type or told.key_type or "f16"
        variants = list(_variants(told.latent))
        ubatch = told.ubatch or UBATCH
        sizes = [
            cell_bytes(
                arch,
                serving.context,
                key,
                value,
                latent=how,
                windows=windows,
                slots=told.slots,
                unified=told.unified,
                ubatch=ubatch,
            )
            for _, how, windows in variants
        ]
        result = check("KV cache", "bytes", logged, sizes[0])
        if result.verdict == "differs":
            for (reason, _, _), size in zip(variants[1:], sizes[1:], strict=True):
                if abs(size - logged.value) <= max(logged.slack, logged.value // 1000):
                    result = replace(result, reason=reason, met=size)
                    break
        found.append(result)
    buffer = log.largest("compute_buffer_bytes")
    latent = any(isinstance(cache, LatentAttention | SparseLatentAttention) for cache in arch.caches())
    # without flash attention the scores are in it; under latent attention what `-mla` and `-amb` say: no estimate here
    if buffer is not None and not latent and log.settings.flash_attention is not False:
        slots = log.settings.slots
        load = replace(
            serving,
            context=max(serving.context // slots, 1),
            num_seqs=slots,
            llama_cpp=LlamaCpp(unified=log.settings.unified),
        )
        estimate = estimate_runtime(arch, load, ubatch=log.settings.ubatch)["activations_bytes"]
        found.append(
            check(
                "compute buffer", "bytes", buffer, estimate.bytes, low=estimate.low, high=estimate.high, estimated=True
            )
        )
    return found


def _variants(latent: str | None) -> Iterator[tuple[str, str, bool]]:
    yield "", latent or "compressed", True
    yield "this release keeps every token in windowed layers", latent or "compressed", False
    if latent is None:
        yield "this release keeps the latents a second time as values", "transposed", False
        yield "this release keeps full keys and values of latent attention (no MLA)", "full", False
