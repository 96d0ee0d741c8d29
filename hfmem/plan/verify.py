"""A server's own log against the prediction, line by line, and which assumption explains a difference.

What the engine printed is compared with what the same rules answer under the settings that the log names. A line that differs is
tried again under the assumptions that most often differ (`_alternatives`); the first that meets it is its explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final

from hfmem.errors import HfmemError, UnsupportedError
from hfmem.memory import engines
from hfmem.memory.runtime import default_max_num_seqs, estimate_runtime, rotary_table_bytes
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.plan.log_llama import llama_checks
from hfmem.plan.logs import LogFacts, Reading
from hfmem.plan.verify_types import Check, Measure, Verification, check
from hfmem.units import GIB

if TYPE_CHECKING:
    from hfmem.plan.devices import Device
    from hfmem.reading import Model

#: `gpu_memory_utilization` where it is not told: 0.9 until vLLM 0.20, 0.92 in 0.33
_UTILIZATION_OLD: Final = Fraction(9, 10)
_UTILIZATION: Final = Fraction(92, 100)
#: from this minor version on, vLLM logs concurrency × context as "KV cache size" and takes CUDA graphs from its share
_NEW_CAPACITY: Final = 21
#: a number this near needs no explanation
_NEAR: Final = 0.01
#: how far ranks of one engine differ in the memory that is left to them
_OTHER_RANK: Final = 0.05
#: a device whose kernels export no states during prefill (`hfmem.memory.engines.vllm.states`)
_NO_CHECKPOINTS: Final = 89
_SIZES: Final = (2, 4, 8, 16)
_FORMATS: Final = ("bf16", "fp8", "int8", "int4", "nvfp4")
#: runtime estimate → what its line is called
_RUNTIME: Final[dict[str, str]] = {
    "activations_bytes": "peak activation",
    "engine_bytes": "non-torch memory",
    "cuda_graph_bytes": "CUDA graphs",
}


def verify(read: Model, log: LogFacts, *, device: Device | None = None) -> Verification:
    """What the log says against what `read` predicts under the log's settings.

    Args:
        device: what it ran on. The log's own figure of its memory comes first.

    Raises:
        UnsupportedError: the engine's rules do not cover the model or the layout.
    """
    serving = _serving(read, log)
    if device is not None and device.compute_capability is not None:
        serving = replace(serving, compute_capability=device.compute_capability)
    checks: list[Check]
    match log.engine:
        case "vllm":
            checks = _vllm_checks(read, log, serving, device)
        case "sglang":
            checks = _sglang_checks(read, log, serving)
        case "llama.cpp":
            checks = llama_checks(read.architecture, log, serving)
    return Verification(
        model=read.facts.repo_id,
        engine=log.engine,
        version=log.version,
        context=serving.context,
        tp=serving.tp,
        pp=serving.pp,
        kv_dtype=serving.kv_dtype,
        checks=tuple(checks),
        flags=_flags(log, serving, checks),
        assumptions=tuple(_assumptions(log)),
    )


def _serving(read: Model, log: LogFacts) -> Serving:
    told = log.settings
    context = told.context
    for name in ("concurrency_context", "needed_context"):
        if context is None and (reading := log.first(name)):
            context = int(reading.value)
    if context is None:
        context = read.architecture.max_position_embeddings or 8192
    kv_dtype = told.kv_dtype if told.kv_dtype not in (None, "fp8_ds_mla") else "auto"
    return Serving(
        context=context,
        kv_dtype=kv_dtype or "auto",
        engine=log.engine,
        tp=told.tp,
        pp=told.pp,
        dp=told.dp,
        ep=told.ep,
        max_num_batched_tokens=told.max_num_batched_tokens,
        page_size=told.page_size,
        declared_kv_dtype=read.declared_kv_dtype,
        enable_prefix_caching=told.prefix_caching,
    )


def _minor(version: str | None) -> int | None:
    """The minor number of a release `0.N…`; None of a development build or no version."""
    parts = (version or "").split(".")
    return (
        int(parts[1]) if len(parts) > 2 and parts[0] == "0" and parts[1].isdigit() and "dev" not in parts[2] else None
    )


def _vllm_checks(read: Model, log: LogFacts, serving: Serving, device: Device | None) -> list[Check]:
    found = [_weights(read, log, serving)]
    found.append(_needed(read, log, serving))
    pool = log.smallest("available_bytes")
    old = _old_capacity(log)
    if pool is not None and log.first("override_blocks") is None:
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
            item = _explained(name, "count", reading, compute, serving, _alternatives(log, serving), share)
            if _other_rank(item, log, serving):
                item = replace(item, reason="another rank, whose line is not here, had less memory: the least counts")
            found.append(item)
    found += _budget(read, log, serving, device)
    return [item for item in found if item is not None]


def _other_rank(item: Check, log: LogFacts, serving: Serving) -> bool:
    """Whether a pool a little smaller than its line is that of a rank the log does not show."""
    few = len(log.readings.get("available_bytes", ())) < serving.tp * serving.pp
    return item.verdict == "differs" and few and item.difference is not None and 0 < item.difference < _OTHER_RANK


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
        blocks = memory // max(found.stage_block_bytes)
        return blocks if kind == "blocks" else blocks // len(found.groups) * found.plan.block_size * dcp
    held = pool(read.architecture, serving, memory)
    return held.capacity_tokens if kind == "tokens" else held.max_concurrency


def _weights(read: Model, log: LogFacts, serving: Serving) -> Check | None:
    logged = log.largest("weights_bytes")
    if logged is None:
        return None

    def compute(tried: Serving, model: Model = read) -> float:
        ranks = rank_weights(model.architecture, model.parameters.groups, tried)
        return ranks.bytes + rotary_table_bytes(model.facts.config, model.architecture)

    from hfmem.reading import in_format

    stored = read.quantization is not None or read.packing is not None
    told = log.settings.quantization
    if told and not stored:  # quantized while loading
        name = {"bitsandbytes": "nf4"}.get(told, told)
        try:
            read = in_format(read, name)
        except HfmemError:
            name = ""
        if name:
            return _explained("weights", "bytes", logged, lambda s: compute(s, read), serving, iter(()))
    result = _explained("weights", "bytes", logged, compute, serving, _sizes(log, serving))
    if result.verdict != "differs":
        return result
    for name in _FORMATS:
        try:
            value = compute(serving, in_format(read, name))
        except HfmemError:
            continue
        if abs(value - logged.value) <= 2 * _NEAR * logged.value:
            return replace(result, reason=f"fits if the weights loaded are {name}: --quant {name}", met=value)
    if log.settings.speculative:
        return replace(result, reason="a draft model or prediction layers are loaded with it")
    if log.settings.other:
        return replace(result, reason=f"{', '.join(log.settings.other)} is on, which is not computed here")
    return result


def _needed(read: Model, log: LogFacts, serving: Serving) -> Check | None:
    """The cache that one request of the whole context needs, as a refusal prints it."""
    logged, context = log.first("needed_bytes"), log.first("needed_context")
    if logged is None or context is None:
        return None
    at = replace(serving, context=int(context.value))

    def compute(tried: Serving) -> float:
        return engines.engine("vllm").cache(read.architecture, tried).bytes_per_rank

    return _explained(
        f"KV cache of {int(context.value):,} tokens", "bytes", logged, compute, at, _alternatives(log, at)
    )


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


def _sglang_checks(read: Model, log: LogFacts, serving: Serving) -> list[Check]:
    found = [_weights(read, log, serving)]
    tokens = log.smallest("pool_tokens")
    if tokens is not None:
        from hfmem.memory.engines.sglang import token_pool_bytes

        for name, part in (("key_bytes", 0), ("value_bytes", 1), ("cache_bytes", 2)):
            logged = log.first(name)
            if logged is None:
                continue

            def compute(tried: Serving, part: int = part, held: int = int(tokens.value)) -> float:
                return token_pool_bytes(read.architecture, tried, held)[part]

            title = ("K of the token pool", "V of the token pool", "token pool")[part]
            found.append(_explained(title, "bytes", logged, compute, serving, _alternatives(log, serving)))
    return [item for item in found if item is not None]


def _sizes(log: LogFacts, serving: Serving) -> Iterator[tuple[str, Serving]]:
    """Layouts that the log does not name."""
    if log.settings.tp == 1:
        for size in _SIZES:
            yield f"fits if it ran on {size} ranks: --tp {size}", replace(serving, tp=size)
    if log.settings.pp == 1:
        yield "fits if it ran in 2 stages: --pp 2", replace(serving, pp=2)
    if not serving.ep and serving.num_ranks > 1:
        yield "fits if experts are dealt out whole: --ep", replace(serving, ep=True)


def _alternatives(log: LogFacts, serving: Serving) -> Iterator[tuple[str, Serving]]:
    """Assumptions to try where a line differs, the likely first."""
    if serving.kv_dtype == "auto":
        for name in ("fp8", "bf16"):
            yield f"fits if the cache is {name}: --kv-dtype {name}", replace(serving, kv_dtype=name)
    else:
        yield "fits if the cache is in the model's dtype: --kv-dtype auto", replace(serving, kv_dtype="auto")
    if serving.compute_capability > _NO_CHECKPOINTS:
        reason = "fits without the states' prefill checkpoints, as in earlier releases and before Hopper"
        yield reason, replace(serving, compute_capability=_NO_CHECKPOINTS)
    for on in (False, True):
        if serving.enable_prefix_caching is None:
            word = "on" if on else "off"
            yield (
                f"prefix caching is {word}, which changes what states keep",
                replace(serving, enable_prefix_caching=on),
            )
    if serving.max_num_batched_tokens is None:
        for tokens in (2048, 16384):
            yield (
                f"fits with steps of {tokens} tokens: --max-num-batched-tokens {tokens}",
                replace(serving, max_num_batched_tokens=tokens),
            )
    yield from _sizes(log, serving)
    if serving.page_size is None:
        for page in (32, 64, 128):
            yield f"fits with pages of {page} tokens: --page-size {page}", replace(serving, page_size=page)


def _explained(
    name: str,
    measure: Measure,
    logged: Reading,
    compute: Callable[[Serving], float],
    serving: Serving,
    alternatives: Iterator[tuple[str, Serving]],
    share: float = 0.0,
) -> Check:
    """The check under `serving`; where it differs, the first alternative that meets the line is its reason."""
    refusal = ""
    try:
        result = check(name, measure, logged, compute(serving), share=share)
    except UnsupportedError as error:
        result, refusal = check(name, measure, logged, None), error.message
    if result.verdict not in ("differs", "unknown"):
        return result
    for reason, tried in alternatives:
        try:
            value = compute(tried)
        except HfmemError:
            continue
        if abs(value - logged.value) <= max(_NEAR * abs(logged.value), logged.slack):
            return replace(result, reason=reason, met=value)
    return replace(result, reason=refusal or None)


def _assumptions(log: LogFacts) -> Iterator[str]:
    """What the comparison took for granted."""
    if log.version is None:
        yield f"the log names no version: {log.engine}'s rules of {engines.engine(log.engine).VERSION}"
    else:
        yield f"rules of {log.engine} {engines.engine(log.engine).VERSION}; the log is of {log.version}"
    if log.settings.context is None:
        yield "the context is not among the settings: the log's own lines or the model's positions"
    if log.starts > 1:
        yield f"{log.starts} starts are in the log: the last that printed sizes"
    if log.settings.speculative:
        yield "speculative decoding is on: its layers' cache and weights are not in the prediction"
    for name in log.settings.other:
        yield f"{name} is on: it is not computed"


def _flags(log: LogFacts, serving: Serving, checks: list[Check]) -> Mapping[str, str]:
    """Flags that make the next estimate meet this log."""
    flags: dict[str, str] = {"--ctx": str(serving.context)}
    for size, name in ((serving.tp, "--tp"), (serving.pp, "--pp")):
        if size > 1:
            flags[name] = str(size)
    if serving.kv_dtype != "auto":
        flags["--kv-dtype"] = serving.kv_dtype
    if log.engine != "vllm":
        flags["--engine"] = log.engine
    for item in checks:
        if item.reason and " --" in f" {item.reason.rpartition(': ')[2]}":
            name, _, value = item.reason.rpartition(": ")[2].partition(" ")
            flags[name] = value
    available, weights = log.smallest("available_bytes"), log.largest("weights_bytes")
    if available is not None and available.value > 0:
        flags["--kv-memory"] = f"{available.value / GIB:.2f}GiB"
    budget = log.first("budget_bytes")
    if budget is None and log.settings.utilization and (memory := log.first("device_bytes")):
        budget = Reading(float(memory.value * log.settings.utilization), 0, 0)
    if available is not None and weights is not None and budget is not None and available.value > 0:
        rest = budget.value - weights.value - available.value
        flags["--overhead"] = f"{max(rest, 0) / (weights.value + available.value):.1%}"
    return flags
