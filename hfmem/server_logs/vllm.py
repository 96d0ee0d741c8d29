"""vLLM's lines: files and weights, the pool by the rules of the log's release, and the memory profile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from hfmem.api.assembly import runtime_estimates
from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.releases import Release, release_of
from hfmem.memory.runtime import Estimate, together
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.layers import RecurrentCache
from hfmem.records import replace
from hfmem.server_logs.checks import Check, check
from hfmem.server_logs.loaded import as_loaded, weights_check, widening
from hfmem.server_logs.parse import LogFacts
from hfmem.server_logs.vllm_pool import held, pool_checks
from hfmem.server_logs.vllm_release import V1, as_logged, old_capacity, release_by_form, rivals, stepped, told

if TYPE_CHECKING:
    from hfmem.api.reading import Model
    from hfmem.plan.devices import Device

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
_LEFT: Final = "memory left for the cache"
_FELL: Final = "vLLM prints how the device's free memory fell: what else was taken meanwhile, by it or others, is in it"
_MEASURED: Final = frozenset({"cuda_graph_bytes", "graph_estimate_bytes", "engine_bytes"})


def vllm_checks(read: Model, log: LogFacts, serving: Serving, device: Device | None) -> list[Check]:
    """Every line of vLLM's that can be compared, weights first."""
    release = release_by_form(log)
    found = [
        _files(read, log),
        weights_check(read, log, stepped(serving, log, release, as_logged(device, log))),
    ]
    if (weights := found[1]) is not None and (ranks := re.search(r": --tp (\d+)$", weights.reason or "")):
        serving = replace(serving, tp=int(ranks[1]))  # what explains the weights holds for the rest
    at = _of_release(read, log, serving, release, device)
    request = replace(at, pp=1) if release.checks_all_stages else at
    found += pool_checks(read, log, at, request, release.minor)
    by_weights = weights is not None and weights.verdict == "differs"
    for item in _budget(as_loaded(read, log), log, serving, device):
        follows = by_weights and item.verdict == "differs" and item.what == _LEFT
        found.append(replace(item, reason="follows from the weights, which differ") if follows else item)
    return [item for item in found if item is not None]


def _of_release(read: Model, log: LogFacts, serving: Serving, release: Release, device: Device | None) -> Serving:
    """`serving` as `release` schedules it: tokens of a step and steps in flight, what recurrent layers keep."""
    serving = stepped(serving, log, release, as_logged(device, log))
    if not told(log):
        return serving
    serving = replace(serving, steps_in_flight=release.steps_in_flight)
    states = [cache for cache in read.architecture.kinds() if isinstance(cache, RecurrentCache)]
    if states and serving.enable_prefix_caching is None and not release.caches_prefixes_of_states:
        serving = replace(serving, enable_prefix_caching=False)
    return replace(serving, prefill_checkpoints=any(map(release.exports_states, states)))


def _files(read: Model, log: LogFacts) -> Check | None:
    """The files' bytes, which vLLM adds up before it loads them; a draft model's come after."""
    logged = log.first("checkpoint_bytes")
    if logged is None:
        return None
    item = check("files", "bytes", logged, sum(group.total_bytes for group in read.parameters.groups))
    if item.verdict == "differs":
        item = replace(item, reason="the log's files are another copy of the model, or hold other files beside it")
    return item


def _budget(read: Model, log: LogFacts, serving: Serving, device: Device | None) -> Iterator[Check]:
    """The runtime estimates against their lines, and the memory they leave for the cache."""
    if log.first("num_blocks") is not None and log.first("capacity_tokens") is None:
        return  # V0, whose profiling run these estimates do not describe
    release = release_by_form(log)
    if release.minor < V1 or (log.form or V1) < V1:
        return  # likewise
    device = as_logged(device, log)
    serving = stepped(serving, log, release, device)
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
            item = check(title, "bytes", logged, estimate.bytes, low=estimate.low, high=estimate.high, estimated=True)
            fell = item.verdict == "differs" and name in _MEASURED and logged.value > estimate.high
            yield replace(item, reason=_FELL) if fell else item
    available = log.smallest("available_bytes")
    budget = log.first("budget_bytes")
    share = log.settings.utilization
    if budget is None and (device is None or not (share or log.settings.complete)):
        return
    loaded = ranks.bytes * widening(read, log)
    ends = []
    for one in (release, *rivals(log)):
        each = (
            estimates if one is release else runtime_estimates(read, serving, ranks, device, one, log.graphs, encoder)
        )
        room = (
            budget.value
            if budget is not None
            else (device.memory_bytes if device is not None else 0) * (share or one.utilization)
        )
        taken = together((item.low, item.bytes, item.high) for item in each.values() if item.in_budget)
        ends.append([int(room - loaded - size) for size in taken])
    left, least, most = ends[0][1], min(end[2] for end in ends), max(end[0] for end in ends)
    if available is not None:
        item = check(_LEFT, "bytes", available, left, low=least, high=most, estimated=True)
        if item.verdict == "differs":
            item = replace(item, reason=_left_reason(log, release, shared=shared))
        yield item
        return
    tokens = log.smallest("capacity_tokens")
    if tokens is None or log.first("override_blocks") or log.settings.override_blocks or least <= 0:
        return
    kind = "old tokens" if old_capacity(log) else "tokens"
    try:
        tokens_of = [held(read, serving, memory=size, kind=kind) for size in (left, least, most)]
    except UnsupportedError:
        return
    yield check(
        "cache tokens by the device",
        "count",
        tokens,
        tokens_of[0],
        low=int(tokens_of[1]),
        high=int(tokens_of[2]),
        estimated=True,
    )


def _with_graphs(estimate: Estimate, graphs: Estimate | None) -> Estimate:
    """What 0.27 and later print as the peak of activations: the estimate of CUDA graphs is in it, where it is subtracted."""
    if graphs is None or not graphs.in_budget:
        return estimate
    low, middle, high = together((item.low, item.bytes, item.high) for item in (estimate, graphs))
    return replace(estimate, bytes=middle, low=low, high=high)


def _left_reason(log: LogFacts, release: Release, *, shared: bool = False) -> str | None:
    """Why the memory left for the cache is not what the device and the settings leave. `shared`: the device's is the host's."""
    if shared:
        return "the device's memory is the host's: what other programs took meanwhile counts as the engine's"
    graphs = log.first("cuda_graph_bytes")
    if graphs is not None and graphs.value < 0:
        return "another process gave memory back meanwhile: capturing graphs took less than nothing"
    if log.settings.dtype == "float32":
        return "the log says --dtype float32: activations are wider"
    if log.settings.speculative:
        return "a draft model or prediction layers take memory too, which is not computed here"
    if log.settings.other:
        return f"{', '.join(log.settings.other)} is on, which is not computed here"
    if release_of(log.version) is None:
        return f"the log names no release: taken for 0.{release.minor}"
    return None
