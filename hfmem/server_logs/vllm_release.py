"""Which rules of vLLM's releases a log is compared with: by its version, by its lines, or by the form of its numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from hfmem.memory.engines.vllm.releases import LATEST, Release, release_of
from hfmem.memory.serving import Serving
from hfmem.records import replace
from hfmem.server_logs.parse import LogFacts
from hfmem.server_logs.reasons import NO_CHECKPOINTS
from hfmem.units import GIB

if TYPE_CHECKING:
    from hfmem.plan.devices import Device

#: from this minor version on, and this patch of the one before, vLLM logs concurrency × context as "KV cache size"
_NEW_CAPACITY: Final = 21
_NEW_CAPACITY_PATCH: Final = 2
_PATCHED: Final = re.compile(r"v?0\.20\.([1-9])")
#: the first minor version whose V1 engine is the default
V1: Final = 8
#: tokens of a block where nothing asks for more
_BLOCK: Final = 16
#: what a log that counts tokens as before 0.21 is taken for, where nothing else tells its release
_OLD: Final = 19
#: … and one that counts as from 0.21, and prints as until 0.27
_BETWEEN: Final = 24
_LAST_BETWEEN: Final = 27

#: the least memory of a device of Hopper's (80 GB, of which 79 GiB are seen), vLLM's default share at its least, and what it takes
#: beside weights and pool at most, on small devices
_LEAST_HOPPER, _LEAST_SHARE, _RUNTIME_AT_MOST = 70 * GIB, 0.9, 12 * GIB
#: … and of the largest card that is likelier than a part of a Hopper, where nothing tells that the share is the default
_CONSUMERS: Final = 48 * GIB
#: … and of a DGX Spark's 119.7 GiB at least, where an H200's 139.8 would leave 16 GiB and more to the engine
_LEAST_SPARK: Final = 106 * GIB


def release_by_form(log: LogFacts) -> Release:
    """The release that a log is of: by its version, by what it prints, or today's where nothing tells."""
    found = release_of(log.version)
    if found is None:
        found = Release(log.form or (_OLD if _looks_old(log) else _BETWEEN if log.until_27 else LATEST))
    return replace(found, flashinfer=log.settings.flashinfer)


def told(log: LogFacts) -> bool:
    """Whether anything in the log tells its release, if only how it counts tokens."""
    return release_of(log.version) is not None or bool(log.form) or log.smallest("capacity_tokens") is not None


def rivals(log: LogFacts) -> tuple[Release, ...]:
    """The releases at both ends of what a log may be of that names none: their estimates widen the band."""
    if release_of(log.version) is not None:
        return ()
    if log.form:  # of all later releases too, where only the pool's one line tells it
        return (Release(LATEST, log.settings.flashinfer),) if log.form == _LAST_BETWEEN + 1 else ()
    newest = _LAST_BETWEEN if log.until_27 else LATEST
    sure = log.smallest("max_concurrency") is not None and old_capacity(log)
    ends = (V1 + 1, _OLD if sure else newest) if _looks_old(log) else (_NEW_CAPACITY, newest)
    return tuple(Release(minor, log.settings.flashinfer) for minor in ends)


def old_capacity(log: LogFacts) -> bool:
    """Whether "KV cache size" is blocks × page over groups, as before vLLM 0.20.2; without a version, and for builds between
    0.20 and it, by the number's own form."""
    release = release_of(log.version)
    if patch := _PATCHED.match(log.version or ""):
        if int(patch[1]) >= _NEW_CAPACITY_PATCH and patch[0] == log.version:
            return False
    elif release is not None:
        return release.minor < _NEW_CAPACITY
    elif (log.form or V1) < V1:
        return True
    tokens, concurrency, context = (
        log.smallest(name) for name in ("capacity_tokens", "max_concurrency", "concurrency_context")
    )
    if tokens is None:
        return True
    if concurrency is None or context is None:
        return _whole_blocks(log)
    return abs(concurrency.value * context.value - tokens.value) > context.value * (concurrency.slack + 0.01)


def _whole_blocks(log: LogFacts) -> bool:
    """Whether the pool's tokens may be whole blocks, as they always are before 0.21."""
    tokens = log.smallest("capacity_tokens")
    return tokens is not None and int(tokens.value) % _BLOCK == 0


def _looks_old(log: LogFacts) -> bool:
    """Whether a log that names no release counts tokens as before 0.21: in whole blocks."""
    if log.smallest("capacity_tokens") is None:
        return not log.graphs_counted
    return not log.graphs_counted and (_whole_blocks(log) or old_capacity(log))


def stepped(serving: Serving, log: LogFacts, release: Release, device: Device | None) -> Serving:
    """With the tokens of a step that `release` takes on `device` where the log does not say them."""
    ran_on = device or guessed_device(log)
    if serving.max_num_batched_tokens is not None or ran_on is None:
        return serving
    step = release.max_num_batched_tokens(ran_on.memory_bytes, ran_on.name, offline=log.settings.offline)
    return replace(serving, max_num_batched_tokens=step)


def as_logged(device: Device | None, log: LogFacts) -> Device | None:
    """The device with the memory that the log names, or one of which only that is known."""
    reading = log.first("device_bytes")
    if reading is None:
        return device
    from hfmem.plan.devices import plain_memory

    return replace(device or plain_memory(int(reading.value)), memory_bytes=int(reading.value))


class Guess(NamedTuple):
    """A device that no line names: memory (at most), name, and compute capability as far as kernels go by it."""

    memory_bytes: int
    name: str
    capability: int


def guessed_device(log: LogFacts) -> Guess | None:
    """What vLLM ran on by the memory that it saw, or that weights and pool leave of its share: a device too small for one of
    Hopper's, or a DGX Spark, beside which no device is as large."""
    small = Guess(_LEAST_HOPPER - 1, "", NO_CHECKPOINTS)
    told, device = log.settings, log.first("device_bytes")
    weights, pool = log.largest("weights_bytes"), log.smallest("available_bytes")
    if log.engine != "vllm" or told.rocm:
        return None
    if device is not None:
        spark = _SPARK.memory_bytes * 0.98 < device.value < _SPARK.memory_bytes * 1.02
        return small if device.value < _LEAST_HOPPER else _SPARK if spark else None
    if weights is None or pool is None or told.kv_memory_bytes or told.override_blocks or told.cpu_offload_gb:
        return None
    seen = (weights.value + pool.value) / float(told.utilization or _LEAST_SHARE)
    if seen + _RUNTIME_AT_MOST < (_LEAST_HOPPER if told.utilization or told.complete else _CONSUMERS):
        return small
    return _SPARK if told.utilization and _LEAST_SPARK <= seen < _SPARK.memory_bytes else None


_SPARK: Final = Guess(int(GIB * 1197 // 10), "DGX Spark GB10", 121)
