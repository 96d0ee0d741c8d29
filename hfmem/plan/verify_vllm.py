"""vLLM's lines: weights, the pool's blocks, tokens and concurrency by the rules of the log's release, and the memory profile."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final

from hfmem.errors import UnsupportedError
from hfmem.memory import engines
from hfmem.memory.runtime import default_max_num_seqs, estimate_runtime
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.plan.logs import LogFacts
from hfmem.plan.verify_reasons import alternatives, explained, weights_check
from hfmem.plan.verify_types import Check, check
from hfmem.records import replace

if TYPE_CHECKING:
    from hfmem.plan.devices import Device
    from hfmem.reading import Model

#: `gpu_memory_utilization` where it is not told: 0.9 until vLLM 0.20, 0.92 in 0.33
_UTILIZATION_OLD: Final = Fraction(9, 10)
_UTILIZATION: Final = Fraction(92, 100)
#: from this minor version on, vLLM logs concurrency × context as "KV cache size" and takes CUDA graphs from its share
_NEW_CAPACITY: Final = 21
#: how far ranks of one engine differ in the memory that is left to them
_OTHER_RANK: Final = 0.05
#: runtime estimate → what its line is called
_RUNTIME: Final[dict[str, str]] = {
    "activations_bytes": "peak activation",
    "engine_bytes": "non-torch memory",
    "cuda_graph_bytes": "CUDA graphs",
}


def vllm_checks(read: Model, log: LogFacts, serving: Serving, device: Device | None) -> list[Check]:
    """Every line of vLLM's that can be compared, weights first."""
    found = [weights_check(read, log, serving)]
    found.append(_needed(read, log, serving))
    pool = log.smallest("available_bytes")
    old = _old_capacity(log)
    if pool is not None and pool.value > 0 and log.first("override_blocks") is None:
        memory = int(pool.value)
        blocks, capacity = log.smallest("num_blocks"), log.smallest("capacity_tokens")
        concurrency, longest = log.smallest("max_concurrency"), log.first("max_context")
        share = pool.slack / max(memory, 1)
        for name, reading, kind in (
            ("GPU blocks", blocks, "blocks"),
            ("KV cache tokens", capacity, "old tokens" if old else "tokens"),
            ("maximum concurrency", concurrency, "concurrency"),
            ("longest context", longest, "context"),
        ):
            if reading is None:
                continue
            compute = partial(_pool, read, memory=memory, kind=kind, dcp=log.settings.dcp)
            item = explained(name, "count", reading, compute, serving, alternatives(log, serving), share)
            if _other_rank(item, log, serving):
                item = replace(item, reason="another rank, whose line is not here, had less memory: the least counts")
            found.append(item)
    found += _budget(read, log, serving, device)
    return [item for item in found if item is not None]


def _other_rank(item: Check, log: LogFacts, serving: Serving) -> bool:
    """Whether a pool a little smaller than its line is that of a rank the log does not show."""
    few = len(log.readings.get("available_bytes", ())) < serving.tp * serving.pp
    return item.verdict == "differs" and few and item.difference is not None and 0 < item.difference < _OTHER_RANK


def _minor(version: str | None) -> int | None:
    """The minor number of a release `0.N…`; None of a development build or no version."""
    parts = (version or "").split(".")
    return (
        int(parts[1]) if len(parts) > 2 and parts[0] == "0" and parts[1].isdigit() and "dev" not in parts[2] else None
    )


def _old_capacity(log: LogFacts) -> bool:
    """Whether "KV cache size" is blocks × page over groups, as before vLLM 0.21; without a version, by the number's own form."""
    minor = _minor(log.version)
    if minor is not None:
        return minor < _NEW_CAPACITY
    tokens, concurrency, context = (
        log.smallest(name) for name in ("capacity_tokens", "max_concurrency", "concurrency_context")
    )
    if tokens is None or concurrency is None or context is None:
        return True
    return abs(concurrency.value * context.value - tokens.value) > context.value * (concurrency.slack + 0.01)


def _pool(read: Model, serving: Serving, *, memory: int, kind: str, dcp: int = 1) -> float:
    from hfmem.memory.engines.vllm import layout, max_model_len, pool

    if kind == "context":
        return max_model_len(read.architecture, serving, memory)
    if kind in ("blocks", "old tokens"):
        found = layout(read.architecture, serving)
        if not found.groups or not max(found.stage_block_bytes):
            raise UnsupportedError(f"{read.architecture.model_type} models keep no cache between tokens")
        blocks = memory // max(found.stage_block_bytes)
        return blocks if kind == "blocks" else blocks // len(found.groups) * found.plan.block_size * dcp
    held = pool(read.architecture, serving, memory)
    return held.capacity_tokens if kind == "tokens" else held.max_concurrency


def _needed(read: Model, log: LogFacts, serving: Serving) -> Check | None:
    """The cache that one request of the whole context needs, as a refusal prints it."""
    logged, context = log.first("needed_bytes"), log.first("needed_context")
    if logged is None or context is None:
        return None
    at = replace(serving, context=int(context.value))

    def compute(tried: Serving) -> float:
        return engines.engine("vllm").cache(read.architecture, tried).bytes_per_rank

    return explained(f"KV cache of {int(context.value):,} tokens", "bytes", logged, compute, at, alternatives(log, at))


def _budget(read: Model, log: LogFacts, serving: Serving, device: Device | None) -> Iterator[Check]:
    """The runtime estimates against their lines, and the memory they leave for the cache."""
    if log.first("num_blocks") is not None and log.first("capacity_tokens") is None:
        return  # V0, whose profiling run these estimates do not describe
    memory, name = (device.memory_bytes, device.name) if device is not None else (None, "")
    if reading := log.first("device_bytes"):
        memory = int(reading.value)
    seqs = log.settings.max_num_seqs or default_max_num_seqs(memory, name)
    if serving.max_num_batched_tokens is None and memory is not None:
        from hfmem.memory.engines.vllm import default_max_num_batched_tokens

        serving = replace(serving, max_num_batched_tokens=default_max_num_batched_tokens(memory, name))
    minor = _minor(log.version)
    estimates = estimate_runtime(
        read.architecture, serving, max_num_seqs=seqs, device_memory_bytes=memory, device=name, vllm_minor=minor
    )
    if log.settings.eager:
        estimates.pop("cuda_graph_bytes")
    for name, title in _RUNTIME.items():
        logged, estimate = log.first(name), estimates.get(name)
        if logged is not None and estimate is not None:
            yield check(title, "bytes", logged, estimate.bytes, low=estimate.low, high=estimate.high, estimated=True)
    available = log.smallest("available_bytes")
    budget = log.first("budget_bytes")
    share = log.settings.utilization
    if budget is None and (memory is None or not (share or log.settings.complete)):
        return
    new = minor >= _NEW_CAPACITY if minor is not None else not _old_capacity(log)
    share = share or (_UTILIZATION if new else _UTILIZATION_OLD)
    room = budget.value if budget is not None else (memory or 0) * share
    weights = rank_weights(read.architecture, read.parameters.groups, serving).bytes
    taken = [e for name, e in estimates.items() if name in ("activations_bytes", "engine_bytes")]
    if new and "cuda_graph_bytes" in estimates:
        taken.append(estimates["cuda_graph_bytes"])
    left, low, high = (
        int(room - weights - sum(sizes))
        for sizes in ([e.bytes for e in taken], [e.high for e in taken], [e.low for e in taken])
    )
    if available is not None:
        yield check("memory left for the cache", "bytes", available, left, low=low, high=high, estimated=True)
        return
    tokens = log.smallest("capacity_tokens")
    if tokens is None or log.first("override_blocks") or low <= 0:
        return
    kind = "old tokens" if _old_capacity(log) else "tokens"
    try:
        held, least, most = (
            _pool(read, serving, memory=size, kind=kind, dcp=log.settings.dcp) for size in (left, low, high)
        )
    except UnsupportedError:
        return
    yield check("cache tokens by the device", "count", tokens, held, low=int(least), high=int(most), estimated=True)
