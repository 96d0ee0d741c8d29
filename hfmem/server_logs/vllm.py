"""vLLM's lines: files and weights, the pool by the rules of the log's release, and the memory profile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

from hfmem.api.assembly import runtime_estimates
from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.releases import Release, release_of
from hfmem.memory.runtime import Estimate, together
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights, rank_weights
from hfmem.model.layers import RecurrentCache
from hfmem.records import replace
from hfmem.server_logs.checks import Check, check
from hfmem.server_logs.loaded import as_loaded, weights_check, widening
from hfmem.server_logs.parse import LogFacts
from hfmem.server_logs.reasons import NEAR
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
    found += _budget(as_loaded(read, log), log, serving, device)
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


class _Profile(NamedTuple):
    """What vLLM's profiling run is reckoned from: the log's release and device, a rank's weights, and the estimates beside them."""

    read: Model
    log: LogFacts
    serving: Serving
    release: Release
    device: Device | None
    weights: RankWeights
    estimates: dict[str, Estimate]

    def of(self, release: Release) -> dict[str, Estimate]:
        """The estimates if the log is of another release."""
        tokens = self.log.first("encoder_tokens")
        encoder = 0 if self.log.settings.skips_encoder else int(tokens.value) if tokens else None
        return runtime_estimates(self.read, self.serving, self.weights, self.device, release, self.log.graphs, encoder)


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
    profile = _Profile(read, log, serving, release, device, ranks, {})
    profile = profile._replace(estimates=profile.of(release))
    yield from _parts(profile)
    shared_out = device is not None and (log.settings.utilization or log.settings.complete)
    if log.settings.kv_memory_bytes is None and (log.first("budget_bytes") or shared_out):
        yield from _left(profile)  # else the pool's memory was set, whatever is left


def _parts(profile: _Profile) -> Iterator[Check]:
    """Each runtime estimate against its line."""
    for name, title in _RUNTIME.items():
        logged, estimate = profile.log.first(name), _estimate(profile, name)
        if _shared(profile.device) and name in _MEASURED:
            continue  # by the free memory, which other programs share
        if logged is not None and logged.value >= 0 and estimate is not None:
            item = check(title, "bytes", logged, estimate.bytes, low=estimate.low, high=estimate.high, estimated=True)
            fell = item.verdict == "differs" and name in _MEASURED and logged.value > estimate.high
            yield replace(item, reason=_FELL) if fell else item


def _left(profile: _Profile) -> Iterator[Check]:
    """The memory left for the cache, or the tokens it holds, where the log has a line of either."""
    log, device, budget = profile.log, profile.device, profile.log.first("budget_bytes")
    loaded = profile.weights.bytes * widening(profile.read, log)

    def room(release: Release) -> float | Fraction:
        share = log.settings.utilization or release.utilization
        return budget.value if budget is not None else (device.memory_bytes if device is not None else 0) * share

    ends = []
    for release in (profile.release, *rivals(log)):
        estimates = profile.estimates if release is profile.release else profile.of(release)
        taken = together((item.low, item.bytes, item.high) for item in estimates.values() if item.in_budget)
        ends.append([int(room(release) - loaded - size) for size in taken])
    left, least, most = ends[0][1], min(end[2] for end in ends), max(end[0] for end in ends)
    if (available := log.smallest("available_bytes")) is not None:
        item = check(_LEFT, "bytes", available, left, low=least, high=most, estimated=True)
        yield _explained(item, profile, room(profile.release) - loaded) if item.verdict == "differs" else item
        return
    tokens = log.smallest("capacity_tokens")
    if tokens is None or log.first("override_blocks") or log.settings.override_blocks or least <= 0:
        return
    kind = "old tokens" if old_capacity(log) else "tokens"
    try:
        low, middle, high = (
            held(profile.read, profile.serving, memory=size, kind=kind) for size in (least, left, most)
        )
    except UnsupportedError:
        return
    title = "cache tokens by the device"
    yield check(title, "count", tokens, middle, low=int(low), high=int(high), estimated=True)


def _explained(item: Check, profile: _Profile, room: float | Fraction) -> Check:
    """`item` by what the log itself prints of weights and the profiling run, where that meets it; else by what is known to move it.
    `room`: what the share leaves beside the predicted weights."""
    log, wrong = profile.log, []
    parts = {name: part for name, part in profile.estimates.items() if part.in_budget}
    if (weights := log.largest("weights_bytes")) is not None:
        predicted = profile.weights.bytes * widening(profile.read, log)
        room += predicted - weights.value
        predicted += parts.pop("loading_bytes").bytes if "loading_bytes" in parts else 0
        wrong += ["weights"] if abs(predicted - weights.value) > NEAR * weights.value else []
    for name, title in _RUNTIME.items():
        line, part = log.first(name), _estimate(profile, name)
        if line is None or part is None or line.value < 0 or _ESTIMATES.get(name, name) not in parts:
            continue
        parts[_ESTIMATES.get(name, name)] = replace(
            part, bytes=int(line.value), low=int(line.value), high=int(line.value)
        )
        if name == "activations_bytes" and profile.release.segments_count:
            parts.pop("cuda_graph_bytes", None)  # they are in it
        wrong += [] if part.low <= line.value <= part.high else [title]
    low, middle, high = together((part.low, part.bytes, part.high) for part in parts.values())
    if wrong and room - high <= item.logged + NEAR * item.logged and room - low >= item.logged - NEAR * item.logged:
        return replace(
            item, reason=f"follows from what the log itself prints of {' and '.join(wrong)}", met=int(room - middle)
        )
    return replace(item, reason=_left_reason(log, profile.release, shared=_shared(profile.device)))


def _estimate(profile: _Profile, name: str) -> Estimate | None:
    """What is estimated of the line `name`."""
    found = profile.estimates.get(_ESTIMATES.get(name, name))
    if name == "activations_bytes" and profile.release.segments_count and found is not None:
        return _with_graphs(found, profile.estimates.get("cuda_graph_bytes"))
    return found


def _shared(device: Device | None) -> bool:
    return device is not None and device.name in _UNIFIED


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
