"""vLLM's lines: weights, the pool's blocks, tokens and concurrency by the rules of the log's release, and the memory profile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from hfmem.api.assembly import runtime_estimates
from hfmem.errors import UnsupportedError
from hfmem.memory import engines
from hfmem.memory.engines.vllm.releases import LATEST, Release, release_of
from hfmem.memory.runtime import Estimate, together
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.layers import Cache, ChunkedAttention, FullAttention, RecurrentCache, SlidingAttention
from hfmem.records import replace
from hfmem.server_logs.checks import Check, check
from hfmem.server_logs.parse import LogFacts, Reading
from hfmem.server_logs.reasons import (
    NO_CHECKPOINTS,
    alternatives,
    as_loaded,
    assumed,
    explained,
    explained_further,
    weights_check,
)

if TYPE_CHECKING:
    from hfmem.api.reading import Model
    from hfmem.plan.devices import Device

#: from this minor version on, and this patch of the one before, vLLM logs concurrency × context as "KV cache size"
_NEW_CAPACITY: Final = 21
_NEW_CAPACITY_PATCH: Final = 2
_PATCHED: Final = re.compile(r"v?0\.20\.([1-9])")
#: the first minor version whose V1 engine is the default
_V1: Final = 8
#: tokens of a block where nothing asks for more
_BLOCK: Final = 16
#: what a log that counts tokens as before 0.21 is taken for, where nothing else tells its release
_OLD: Final = 19
#: how far ranks of one engine differ in the memory that is left to them
_OTHER_RANK: Final = 0.05
#: runtime estimate → what its line is called
_RUNTIME: Final[dict[str, str]] = {
    "activations_bytes": "peak activation",
    "engine_bytes": "non-torch memory",
    "cuda_graph_bytes": "CUDA graphs",
    "graph_estimate_bytes": "estimate of CUDA graphs",
}
#: a reading that is compared with the estimate of another name
_ESTIMATES: Final = {"graph_estimate_bytes": "cuda_graph_bytes"}
#: devices whose memory is the host's, and what vLLM measures there by how free memory fell
_UNIFIED: Final = frozenset({"DGX Spark GB10"})
_MEASURED: Final = frozenset({"cuda_graph_bytes", "graph_estimate_bytes", "engine_bytes"})


def vllm_checks(read: Model, log: LogFacts, serving: Serving, device: Device | None) -> list[Check]:
    """Every line of vLLM's that can be compared, weights first."""
    if log.settings.hybrid_off:
        read = replace(read, architecture=without_windows(read.architecture))
    found = [
        _files(read, log),
        weights_check(read, log, _stepped(serving, log, release_by_form(log), _as_logged(device, log))),
    ]
    if (held := found[1]) is not None and (told := re.search(r": --tp (\d+)$", held.reason or "")):
        serving = replace(serving, tp=int(told[1]))  # what explains the weights holds for the rest
    release = release_by_form(log) if log.form else release_of(log.version)
    given = serving
    if release is not None:
        serving = _stepped(serving, log, release, _as_logged(device, log))
        serving = replace(serving, steps_in_flight=release.steps_in_flight)
        recurrent = any(isinstance(cache, RecurrentCache) for cache in read.architecture.kinds())
        default = serving.enable_prefix_caching is None
        if default and recurrent and not release.caches_prefixes_of_states:
            serving = replace(serving, enable_prefix_caching=False)
        if recurrent and not release.exports_states:
            serving = replace(serving, compute_capability=min(serving.compute_capability, NO_CHECKPOINTS))
    request = replace(serving, pp=1) if release is not None and release.checks_all_stages else serving
    found.append(_needed(read, log, request))
    pool, override = log.smallest("available_bytes"), log.first("override_blocks")
    blocks_told = int(override.value) if override is not None else log.settings.override_blocks
    if blocks_told and (size := _block_bytes(read, serving)):
        pool = Reading(blocks_told * size, 0, override.line if override is not None else 0)  # whatever the memory
    old = _old_capacity(log)
    if pool is not None and pool.value > 0:
        memory = int(pool.value)
        blocks, capacity = log.smallest("num_blocks"), log.smallest("capacity_tokens")
        concurrency, longest = log.smallest("max_concurrency"), log.first("max_context")
        share = pool.slack / max(memory, 1)
        settled: tuple[str, Serving] | None = None
        for name, reading, kind in (
            ("GPU blocks", blocks, "blocks"),
            ("KV cache tokens", capacity, "old tokens" if old else "tokens"),
            ("maximum concurrency", concurrency, "concurrency"),
            ("longest context", longest, "context"),
        ):
            if reading is None:
                continue
            compute = partial(_pool, read, memory=memory, kind=kind, dcp=log.settings.dcp)
            at = request if kind == "context" else serving
            item = explained(name, "count", reading, compute, at, alternatives(log, at), share)
            item = explained_further(item, compute, reading, settled, log, share)
            settled = settled or (assumed(item, log, at) if item.reason else None)
            if kind == "old tokens" and item.verdict == "differs" and release_of(log.version) is None:
                newer = partial(compute, kind="tokens")
                other = explained(name, "count", reading, newer, serving, alternatives(log, serving), share)
                item = (
                    item if other.verdict == "differs" and (item.reason or not other.reason) else other
                )  # as from 0.21
            if _other_rank(item, log, serving):
                item = replace(item, reason="another rank, whose line is not here, had less memory: the least counts")
            drafted = log.settings.speculative and (item.difference or 0) > 0
            if item.verdict == "differs" and item.reason is None and drafted:
                item = replace(
                    item, reason="a draft model or prediction layers have a cache too, which is not computed here"
                )
            found.append(item)
    found += _budget(as_loaded(read, log), log, given, device)
    return [item for item in found if item is not None]


def _files(read: Model, log: LogFacts) -> Check | None:
    """The files' bytes, which vLLM adds up before it loads them; a draft model's come after."""
    logged = log.first("checkpoint_bytes")
    if logged is None:
        return None
    item = check("files", "bytes", logged, sum(group.total_bytes for group in read.parameters.groups))
    if item.verdict == "differs":
        item = replace(item, reason="the log's files are another copy of the model, or hold other files beside it")
    return item


def _block_bytes(read: Model, serving: Serving) -> int:
    """Bytes of a block of the pool; 0 where the model has none, or vLLM's rules do not cover it."""
    from hfmem.memory.engines.vllm import layout

    try:
        return max(layout(read.architecture, serving).stage_block_bytes, default=0)
    except UnsupportedError:
        return 0


def without_windows(arch: Architecture) -> Architecture:
    """The model as vLLM serves it without its manager of several kinds of cache (`unify_hybrid_kv_cache_specs`): windowed layers
    beside full ones keep every token."""
    if not any(isinstance(cache, FullAttention) for cache in arch.kinds()):
        return arch

    def whole(cache: Cache) -> Cache:
        if isinstance(cache, SlidingAttention | ChunkedAttention):
            return FullAttention(cache.num_heads, cache.num_kv_heads, cache.head_dim, cache.v_head_dim)
        return cache

    return replace(arch, layers=tuple(replace(layer, caches=tuple(map(whole, layer.caches))) for layer in arch.layers))


def _other_rank(item: Check, log: LogFacts, serving: Serving) -> bool:
    """Whether a pool a little smaller than its line is that of a rank the log does not show."""
    few = len(log.readings.get("available_bytes", ())) < serving.tp * serving.pp
    return item.verdict == "differs" and few and item.difference is not None and 0 < item.difference < _OTHER_RANK


def _old_capacity(log: LogFacts) -> bool:
    """Whether "KV cache size" is blocks × page over groups, as before vLLM 0.20.2; without a version, and for builds between
    0.20 and it, by the number's own form."""
    release = release_of(log.version)
    if patch := _PATCHED.match(log.version or ""):
        if int(patch[1]) >= _NEW_CAPACITY_PATCH and patch[0] == log.version:
            return False
    elif release is not None:
        return release.minor < _NEW_CAPACITY
    elif (log.form or _V1) < _V1:
        return True
    tokens, concurrency, context = (
        log.smallest(name) for name in ("capacity_tokens", "max_concurrency", "concurrency_context")
    )
    if tokens is None or concurrency is None or context is None:
        return True
    return abs(concurrency.value * context.value - tokens.value) > context.value * (concurrency.slack + 0.01)


def _pool(read: Model, serving: Serving, *, memory: int, kind: str, dcp: int = 1) -> float:
    from hfmem.memory.engines.vllm import layout, max_model_len

    whole = serving.context
    if dcp > 1 and kind not in ("blocks", "old tokens"):  # ranks share out a request's tokens
        serving = replace(serving, context=-(-whole // dcp))
    if kind == "context":
        return max_model_len(read.architecture, serving, memory) * dcp
    found = layout(read.architecture, serving)
    if not found.groups or not max(found.stage_block_bytes):
        raise UnsupportedError(f"{read.architecture.model_type} models keep no cache between tokens")
    blocks = memory // max(found.stage_block_bytes)
    if kind == "blocks":
        return blocks
    if kind == "old tokens":
        return blocks // len(found.groups) * found.plan.block_size * dcp
    concurrency = blocks / found.request_blocks  # below one too: a refusal says how many fit
    return concurrency if kind == "concurrency" else int(concurrency * whole)


def _needed(read: Model, log: LogFacts, serving: Serving) -> Check | None:
    """The cache that one request of the whole context needs, as a refusal prints it."""
    logged, context = log.first("needed_bytes"), log.first("needed_context")
    if logged is None or context is None:
        return None
    at = replace(serving, context=-(-int(context.value) // log.settings.dcp))

    def compute(tried: Serving) -> float:
        return engines.engine("vllm").cache(read.architecture, tried).bytes_per_rank

    return explained(f"KV cache of {int(context.value):,} tokens", "bytes", logged, compute, at, alternatives(log, at))


def release_by_form(log: LogFacts) -> Release:
    """The release that a log is of: by its version, by what it prints, or today's where nothing tells."""
    found = release_of(log.version)
    if found is None:
        found = Release(log.form or (_OLD if _looks_old(log) else LATEST))
    return replace(found, flashinfer=log.settings.flashinfer)


def _looks_old(log: LogFacts) -> bool:
    """Whether a log that names no release counts tokens as before 0.21: in whole blocks."""
    tokens = log.smallest("capacity_tokens")
    whole = tokens is not None and int(tokens.value) % _BLOCK == 0
    return not log.graphs_counted and (whole or _old_capacity(log))


def _rivals(log: LogFacts) -> tuple[Release, ...]:
    """The releases at both ends of what a log may be of that names none: their estimates widen the band."""
    if release_of(log.version) is not None or log.form:
        return ()
    ends = (_V1 + 1, _OLD) if _looks_old(log) else (_NEW_CAPACITY, LATEST)
    return tuple(Release(minor, log.settings.flashinfer) for minor in ends)


def _stepped(serving: Serving, log: LogFacts, release: Release, device: Device | None) -> Serving:
    """With the tokens of a step that `release` takes on `device` where the log does not say them."""
    if serving.max_num_batched_tokens is not None or device is None:
        return serving
    step = release.max_num_batched_tokens(device.memory_bytes, device.name, offline=log.settings.offline)
    return replace(serving, max_num_batched_tokens=step)


def _budget(read: Model, log: LogFacts, serving: Serving, device: Device | None) -> Iterator[Check]:
    """The runtime estimates against their lines, and the memory they leave for the cache."""
    if log.first("num_blocks") is not None and log.first("capacity_tokens") is None:
        return  # V0, whose profiling run these estimates do not describe
    release = release_by_form(log)
    if release.minor < _V1 or (log.form or _V1) < _V1:
        return  # likewise
    device = _as_logged(device, log)
    serving = _stepped(serving, log, release, device)
    ranks = rank_weights(read.architecture, read.parameters.groups, serving, release)
    logged_tokens = log.first("encoder_tokens")
    encoder = 0 if log.settings.skips_encoder else int(logged_tokens.value) if logged_tokens else None
    estimates = runtime_estimates(read, serving, ranks, device, release, log.graphs, encoder)
    shared = device is not None and device.name in _UNIFIED
    for name, title in _RUNTIME.items():
        logged, estimate = log.first(name), estimates.get(_ESTIMATES.get(name, name))
        if shared and name in _MEASURED:
            continue  # by the free memory, which other programs share
        if name == "activations_bytes" and release.segments_count and estimate is not None:
            estimate = _with_graphs(estimate, estimates.get("cuda_graph_bytes"))
        if logged is not None and logged.value >= 0 and estimate is not None:
            yield check(title, "bytes", logged, estimate.bytes, low=estimate.low, high=estimate.high, estimated=True)
    available = log.smallest("available_bytes")
    budget = log.first("budget_bytes")
    share = log.settings.utilization
    if budget is None and (device is None or not (share or log.settings.complete)):
        return
    share = share or release.utilization
    room = budget.value if budget is not None else (device.memory_bytes if device is not None else 0) * share
    bottom, taken, top = together((e.low, e.bytes, e.high) for e in estimates.values() if e.in_budget)
    for rival in _rivals(log):
        others = runtime_estimates(read, serving, ranks, device, rival, log.graphs, encoder)
        low, _, high = together((e.low, e.bytes, e.high) for e in others.values() if e.in_budget)
        bottom, top = min(bottom, low), max(top, high)
    left, least, most = (int(room - ranks.bytes - size) for size in (taken, top, bottom))
    if available is not None:
        item = check("memory left for the cache", "bytes", available, left, low=least, high=most, estimated=True)
        if item.verdict == "differs":
            item = replace(item, reason=_left_reason(log, release))
        yield item
        return
    tokens = log.smallest("capacity_tokens")
    if tokens is None or log.first("override_blocks") or log.settings.override_blocks or least <= 0:
        return
    kind = "old tokens" if _old_capacity(log) else "tokens"
    try:
        held = [_pool(read, serving, memory=size, kind=kind, dcp=log.settings.dcp) for size in (left, least, most)]
    except UnsupportedError:
        return
    yield check(
        "cache tokens by the device", "count", tokens, held[0], low=int(held[1]), high=int(held[2]), estimated=True
    )


def _with_graphs(estimate: Estimate, graphs: Estimate | None) -> Estimate:
    """What 0.27 and later print as the peak of activations: the estimate of CUDA graphs is in it, where it is subtracted."""
    if graphs is None or not graphs.in_budget:
        return estimate
    low, middle, high = together((item.low, item.bytes, item.high) for item in (estimate, graphs))
    return replace(estimate, bytes=middle, low=low, high=high)


def _left_reason(log: LogFacts, release: Release) -> str | None:
    """Why the memory left for the cache is not what the device and the settings leave."""
    graphs = log.first("cuda_graph_bytes")
    if graphs is not None and graphs.value < 0:
        return "another process gave memory back meanwhile: capturing graphs took less than nothing"
    if log.settings.dtype == "float32":
        return "the log says --dtype float32: weights, cache and activations are wider"
    if log.settings.speculative:
        return "a draft model or prediction layers take memory too, which is not computed here"
    if log.settings.other:
        return f"{', '.join(log.settings.other)} is on, which is not computed here"
    if release_of(log.version) is None:
        return f"the log names no release: taken for 0.{release.minor}"
    return None


def _as_logged(device: Device | None, log: LogFacts) -> Device | None:
    """The device with the memory that the log names, or one of which only that is known."""
    reading = log.first("device_bytes")
    if reading is None:
        return device
    from hfmem.plan.devices import plain_memory

    return replace(device or plain_memory(int(reading.value)), memory_bytes=int(reading.value))
