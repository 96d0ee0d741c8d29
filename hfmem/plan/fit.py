"""Does it fit: weights, cache and runtime of the most loaded rank against what the engine may take of a device.

What belongs to the engine's share must fit that share; everything together must fit what other processes leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Final, Literal

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import UnsupportedError
from hfmem.memory import engines
from hfmem.memory.result import CacheBytes, Pool
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights, rank_weights
from hfmem.model.architecture import Architecture
from hfmem.plan.devices import Device
from hfmem.plan.solver import largest, smallest
from hfmem.plan.target import VENDORS, Target, on_device
from hfmem.records import dataclass, field, replace
from hfmem.report import EnginePool, Fit, Report, ReportWarning, RuntimeItem
from hfmem.units import format_gib

#: below this share of the usable memory left, a fit is tight
TIGHT: Final = Fraction(1, 20)
#: past any model's context and any server's batch
_LONGEST: Final = 1 << 40
_MOST_SEQS: Final = 1 << 40
#: runtime that lies outside the share an engine takes; SGLang's static share is weights and cache only
_OUTSIDE: Final[dict[str, frozenset[str]]] = {
    "vllm": frozenset({"context_bytes"}),
    "sglang": frozenset({"activations_bytes", "cuda_graph_bytes", "engine_bytes", "context_bytes"}),
}

Verdict = Literal["fits", "tight", "does-not-fit"]
#: what the runtime takes on a rank, by name
Runtime = Callable[[Serving, RankWeights, CacheBytes], Mapping[str, RuntimeItem]]


@dataclass(frozen=True, slots=True)
class Load:
    """What the most loaded rank holds, and how much is left of it by each of the two limits."""

    weights_bytes: int
    cache: CacheBytes
    runtime: Mapping[str, RuntimeItem]
    usable_bytes: int
    kv_memory_bytes: int
    kv_memory_low_bytes: int
    pool: Pool | None
    cache_fits: bool
    cache_fits_at_worst: bool

    @property
    def headroom_bytes(self) -> int:
        """Bytes left for more cache; negative: missing."""
        return self.kv_memory_bytes - self.cache.bytes_per_rank

    @property
    def verdict(self) -> Verdict:
        """`tight` where the high end of the estimates would not fit, or less than 5 % is left."""
        if not self.cache_fits:
            return "does-not-fit"
        if not self.cache_fits_at_worst or self.headroom_bytes < self.usable_bytes * TIGHT:
            return "tight"
        return "fits"


@dataclass(frozen=True, slots=True)
class Scale:
    """Weighs one model on one target again and again; weights of a layout are computed once.

    `groups` are the tensors behind the model's bytes, as `rank_weights` takes them.
    """

    architecture: Architecture
    groups: Sequence[TensorGroup]
    runtime: Runtime
    target: Target
    known_weights: dict[tuple[object, ...], RankWeights] = field(default_factory=dict)

    def weigh(self, serving: Serving) -> Load:
        """The load of `serving` on the target.

        Raises:
            UnsupportedError: the engine refuses the model or the layout.
        """
        serving = on_device(serving, self.target.device)
        cache = engines.engine(serving.engine).cache(self.architecture, serving)
        ranks = self.weights(serving)
        runtime = self.runtime(serving, ranks, cache)
        usable = self.target.usable_bytes(serving)
        room = self._room(ranks.bytes, runtime, serving, usable, high=False)
        worst = self._room(ranks.bytes, runtime, serving, usable, high=True)
        if serving.kv_memory_bytes is not None:  # the pool was given: it must fit, and the sequences must fit it
            fits_pool = serving.kv_memory_bytes <= room
            room = worst = min(serving.kv_memory_bytes, room) if fits_pool else room
        pool, fits = self._pool(cache, serving, room)
        return Load(
            weights_bytes=ranks.bytes,
            cache=cache,
            runtime=runtime,
            usable_bytes=usable,
            kv_memory_bytes=room,
            kv_memory_low_bytes=worst,
            pool=pool,
            cache_fits=fits and (serving.kv_memory_bytes is None or serving.kv_memory_bytes <= room),
            cache_fits_at_worst=fits and (worst == room or self._pool(cache, serving, worst)[1]),
        )

    def weights(self, serving: Serving) -> RankWeights:
        """Weights of the most loaded rank."""
        key = (serving.engine, serving.tp, serving.pp, serving.dp, serving.ep)
        if key not in self.known_weights:
            self.known_weights[key] = rank_weights(self.architecture, self.groups, serving)
        return self.known_weights[key]

    def _room(
        self, weights: int, runtime: Mapping[str, RuntimeItem], serving: Serving, usable: int, *, high: bool
    ) -> int:
        """Bytes left for the cache: within the engine's share, and within what is free at all."""
        outside = _OUTSIDE.get(serving.engine, frozenset())
        sizes = {key: item.high if high else item.bytes for key, item in runtime.items()}
        inside = sum(size for key, size in sizes.items() if key not in outside)
        return min(usable - weights - inside, self.target.free_bytes() - weights - sum(sizes.values()))

    def _pool(self, cache: CacheBytes, serving: Serving, memory: int) -> tuple[Pool | None, bool]:
        """What the engine makes of that memory, and whether the sequences asked for fit it."""
        if memory < 0:
            return None, False
        if cache.bytes_per_rank == 0:
            return None, True
        rules = engines.pooling_engine(serving.engine)
        if rules is None:
            return None, cache.bytes_per_rank <= memory
        if memory == 0:
            return None, False
        try:
            pool = rules.pool(self.architecture, serving, memory)
        except UnsupportedError:  # not one request fits
            return None, False
        spare = pool.page_bytes if serving.engine == "vllm" else 0  # vLLM's null block holds no tokens
        enough = pool.max_concurrency >= serving.num_seqs_per_replica
        return pool, enough and cache.bytes_per_rank + spare <= memory

    def fits(self, serving: Serving) -> bool:
        """Whether `serving` fits, by the middle of the estimates; False also where the engine refuses it."""
        try:
            if self._hopeless(serving):
                return False
            return self.weigh(serving).cache_fits
        except UnsupportedError:
            return False

    def _hopeless(self, serving: Serving) -> bool:
        """Whether the weights alone are too large: the answer to most layouts of a search, and the cheapest."""
        return self.weights(serving).bytes > min(self.target.usable_bytes(serving), self.target.free_bytes())

    def max_context(self, serving: Serving) -> int | None:
        """The longest context at which the sequences fit; 0: none does, None: the cache does not grow with it."""
        return largest(lambda tokens: self.fits(replace(serving, context=tokens)), _LONGEST)

    def max_num_seqs(self, serving: Serving) -> int | None:
        """The most sequences of that context; 0: not one fits, None: they keep nothing."""
        return largest(lambda seqs: self.fits(replace(serving, num_seqs=seqs)), _MOST_SEQS)

    def min_utilization(self, serving: Serving) -> Fraction | None:
        """The smallest share in whole hundredths at which it fits; None: not even the whole device is enough."""
        percent = smallest(lambda share: self.at(Fraction(share, 100)).fits(serving), 100)
        return None if percent is None else Fraction(percent, 100)

    def at(self, utilization: Fraction) -> Scale:
        """The same at another share of the device."""
        return replace(self, target=replace(self.target, utilization=utilization))


def _device_notes(report: Report, device: Device) -> list[ReportWarning]:
    """What the engine makes of such a device, as far as it changes the answer."""
    engine = report.kv_cache.engine
    if device.vendor not in ("any", *VENDORS[engine]):
        makers = " and ".join(sorted(VENDORS[engine]))
        text = f"the rules of {engine} are read for devices of {makers}, not of {device.vendor}: --engine llama.cpp may fit better"
        return [ReportWarning("device_engine", text)]
    old = device.compute_capability is not None and device.compute_capability < 80
    if old and engine in ("vllm", "sglang") and report.model.dtype == "bfloat16":
        text = f"{device.name} (compute capability {(device.compute_capability or 0) / 10:.1f}) computes no bf16: --dtype half"
        return [ReportWarning("device_dtype", text)]
    return []


def assess(report: Report, scale: Scale, serving: Serving) -> Report:
    """`report` with `fit` and `engine_pool` filled in for the target."""
    load = scale.weigh(serving)
    target, device = scale.target, scale.target.device
    notes = list(report.warnings)
    if load.usable_bytes < math.ceil(device.memory_bytes * target.share(serving)):
        notes.append(
            ReportWarning(
                "device_in_use",
                f"{format_gib(device.memory_used_bytes)} of {device.name} are in use by other processes: "
                f"{format_gib(load.usable_bytes)} are left",
            )
        )
    notes += _device_notes(report, device)
    fit = Fit(
        device=device.name,
        num_devices=target.num_devices,
        memory_bytes_per_device=device.memory_bytes,
        usable_bytes_per_device=load.usable_bytes,
        verdict=load.verdict,
        headroom_bytes=load.headroom_bytes,
        max_context=scale.max_context(serving),
        max_num_seqs=scale.max_num_seqs(serving),
        utilization=float(target.share(serving)),
        memory_used_bytes=device.memory_used_bytes,
        memory_grade=device.memory_grade,
    )
    pool = load.pool
    held = (
        None
        if pool is None
        else EnginePool(
            pool.memory_bytes_per_rank, pool.page_size, pool.num_pages, pool.capacity_tokens, pool.max_concurrency
        )
    )
    return replace(report, fit=fit, engine_pool=held or report.engine_pool, warnings=tuple(notes))
