"""Does it fit: weights, cache and runtime of the most loaded rank against what the engine may take of a device.

What belongs to the engine's share must fit that share; everything together must fit what other processes leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from operator import sub
from typing import Final, Literal

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import UnsupportedError
from hfmem.memory import engines
from hfmem.memory.cache import peak_contexts
from hfmem.memory.drafts import Drafter, cache_with, served_with, weights_with
from hfmem.memory.mxfp4 import PADDED_BY_DEVICE
from hfmem.memory.result import CacheBytes, Pool
from hfmem.memory.runtime import together
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights
from hfmem.model.architecture import Architecture
from hfmem.plan.fit_notes import fit_notes
from hfmem.plan.solver import crossing, largest, smallest
from hfmem.plan.target import Target, on_device
from hfmem.records import dataclass, field, replace
from hfmem.report import EnginePool, Fit, Report, RuntimeItem

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
    """What the rank with least room to spare holds (of pipeline stage `stage`), and how much is left of it.

    `kv_memory_bytes` is what weights and runtime leave for its cache, or the pool that was given; `kv_memory_low_bytes` at the high
    end of the estimates. `pool_room_bytes` is what they leave where a pool was given.
    """

    stage: int
    weights_bytes: int
    cache_bytes: int
    runtime: Mapping[str, RuntimeItem]
    usable_bytes: int
    kv_memory_bytes: int
    kv_memory_low_bytes: int
    pool: Pool | None
    cache_fits: bool
    cache_fits_at_worst: bool
    pool_room_bytes: int | None = None

    @property
    def headroom_bytes(self) -> int:
        """Bytes left for more cache; negative: missing, in the pool or for it."""
        left = self.kv_memory_bytes - self.cache_bytes
        return left if self.pool_fits_device else min(left, (self.pool_room_bytes or 0) - self.kv_memory_bytes)

    @property
    def pool_fits_device(self) -> bool:
        """Whether there is room for the pool that was given, if one was."""
        return self.pool_room_bytes is None or self.kv_memory_bytes <= self.pool_room_bytes

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

    `groups` are the tensors behind the model's bytes, as `rank_weights` takes them; `drafter` is what drafts beside it.
    """

    architecture: Architecture
    groups: Sequence[TensorGroup]
    runtime: Runtime
    target: Target
    known_weights: dict[tuple[object, ...], RankWeights] = field(default_factory=dict)
    drafter: Drafter | None = None

    def weigh(self, serving: Serving) -> Load:
        """The load of `serving` on the target, at the length up to its context at which least is left.

        Raises:
            UnsupportedError: the engine refuses the model or the layout.
        """
        serving = on_device(serving, self.target.device)
        lengths = peak_contexts(self.architecture, serving.context)
        loads = [self._weigh(serving if n == serving.context else replace(serving, context=n)) for n in lengths]
        return min(loads, key=lambda load: (load.cache_fits, load.headroom_bytes)) if len(loads) > 1 else loads[0]

    def _weigh(self, serving: Serving) -> Load:
        cache = cache_with(self.architecture, self.drafter, serving)
        ranks = self.weights(serving)
        runtime = self.runtime(serving, ranks, cache)
        usable = self.target.usable_bytes(serving, _before_loading(serving, runtime))
        needs = cache.stage_bytes or (cache.bytes_per_rank,) * len(ranks.stage_bytes)
        rooms, worst = (
            [room - weights for weights in ranks.stage_bytes] for room in self._rooms(runtime, serving, usable)
        )
        given = engines.given_pools(served_with(self.architecture, self.drafter, serving), serving, len(rooms))
        spare, sure = None, True
        if given is not None:  # the sequences must fit the pool, whatever else is free, and the pool what is free
            pools = [room if size is None else size for size, room in zip(given, rooms, strict=True)]
            spare, sure = min(map(sub, rooms, pools)), min(map(sub, worst, pools)) >= 0
            rooms = worst = pools
        stage = min(range(len(rooms)), key=lambda index: rooms[index] - needs[index])
        pool, fits = self._pool(needs, serving, rooms)
        fits = fits and (spare is None or spare >= 0)
        return Load(
            stage=stage,
            weights_bytes=ranks.stage_bytes[stage],
            cache_bytes=needs[stage],
            runtime=runtime,
            usable_bytes=usable,
            kv_memory_bytes=rooms[stage],
            kv_memory_low_bytes=worst[stage],
            pool=pool,
            cache_fits=fits,
            cache_fits_at_worst=fits and sure and (worst == rooms or self._pool(needs, serving, worst)[1]),
            pool_room_bytes=None if spare is None else rooms[stage] + spare,
        )

    def weights(self, serving: Serving) -> RankWeights:
        """Weights of each stage's ranks."""
        padded = self.architecture.model_type in PADDED_BY_DEVICE
        if padded:
            serving = on_device(serving, self.target.device)
        if self.target.device.unified:  # the host's memory is the device's
            serving = replace(serving, cpu_offload_bytes=0)
        key = (
            *(serving.engine, serving.tp, serving.pp, serving.dp, serving.ep, serving.attn_dp, serving.llama_cpp),
            *(serving.language_model_only, serving.pooling, serving.cpu_offload_bytes),
            serving.compute_capability if padded else None,
        )
        if key not in self.known_weights:
            self.known_weights[key] = weights_with(self.architecture, self.groups, self.drafter, serving)
        return self.known_weights[key]

    def _rooms(self, runtime: Mapping[str, RuntimeItem], serving: Serving, usable: int) -> tuple[int, int]:
        """Bytes left for weights and cache, within the engine's share and within what is free at all: by the middle of the
        estimates, and by their high end."""
        outside = _OUTSIDE.get(serving.engine, frozenset())
        inside = _sum(item for key, item in runtime.items() if key not in outside)
        everything = _sum(runtime.values())
        free = self.target.free_bytes()
        middle, high = (min(usable - own, free - both) for own, both in zip(inside, everything, strict=True))
        return middle, high

    def _pool(self, needs: Sequence[int], serving: Serving, memory: Sequence[int]) -> tuple[Pool | None, bool]:
        """What the engine makes of that memory on each stage, and whether the sequences asked for fit it."""
        if min(memory) < 0:
            return None, False
        if not any(needs):
            return None, True
        rules = engines.pooling_engine(serving.engine)
        if rules is None:
            return None, all(need <= room for need, room in zip(needs, memory, strict=True))
        if min(memory) == 0:
            return None, False
        try:
            pool = rules.pool(served_with(self.architecture, self.drafter, serving), serving, memory)
        except UnsupportedError:  # not one request fits
            return None, False
        enough = pool.max_concurrency >= serving.num_seqs_per_replica
        if pool.pages_per_seq is not None:  # one page more than the sequences take: vLLM's null block holds no tokens
            return pool, enough and pool.num_pages > serving.num_seqs_per_replica * pool.pages_per_seq
        return pool, enough and all(need <= room for need, room in zip(needs, memory, strict=True))

    def fits(self, serving: Serving) -> bool:
        """Whether `serving` fits, by the middle of the estimates; False also where the engine refuses it."""
        try:
            # what costs least to say comes first: a search over layouts asks this thousands of times
            spare = self._room(serving) * serving.num_ranks - self._whole(serving)
            if spare < 0 or self._cache(serving) > spare or self._too_heavy(serving):
                return False
            return self.weigh(serving).cache_fits
        except UnsupportedError:
            return False

    def _hopeless(self, serving: Serving) -> bool:
        """Whether the weights alone are too large, for all ranks together or for the fullest."""
        return self._whole(serving) > self._room(serving) * serving.num_ranks or self._too_heavy(serving)

    def _too_heavy(self, serving: Serving) -> bool:
        return self.weights(serving).bytes > self._room(serving)

    def _cache(self, serving: Serving) -> int:
        """The cache on all devices together."""
        cache = cache_with(self.architecture, self.drafter, on_device(serving, self.target.device))
        return cache.bytes - cache.host_bytes

    def _room(self, serving: Serving) -> int:
        return min(self.target.usable_bytes(serving), self.target.free_bytes())

    def _whole(self, serving: Serving) -> int:
        """Weights on one device: no layout leaves its fullest rank less than an even share of them. Where ranks leave some on the
        host, what they hold together."""
        if serving.cpu_offload_bytes:
            ranks = self.weights(serving)
            return ranks.all_ranks_bytes - ranks.host_bytes
        return self.weights(replace(serving, tp=1, pp=1, dp=1, attn_dp=1, dcp=1)).bytes

    def max_context(self, serving: Serving) -> int | None:
        """The longest context at which the sequences fit; 0: none does, None: the cache does not grow with it."""
        serving = on_device(serving, self.target.device)
        try:
            page = cache_with(self.architecture, self.drafter, serving).page_size or 1
        except UnsupportedError:
            page = 1
        return self._most(lambda tokens: replace(serving, context=tokens), serving.context, _LONGEST, page)

    def max_num_seqs(self, serving: Serving) -> int | None:
        """The most sequences of that context; 0: not one fits, None: they keep nothing."""
        serving = on_device(serving, self.target.device)
        return self._most(lambda seqs: replace(serving, num_seqs=seqs), serving.num_seqs, _MOST_SEQS, 1)

    def _most(self, served: Callable[[int], Serving], first: int, limit: int, grain: int) -> int | None:
        """The largest value of a setting with which it fits, searched for from `first` on, as `largest` gives it.

        Args:
            served: the serving with that value: of a context, or a number of sequences.
        """
        loads: dict[tuple[int, int], Load | None] = {}

        def load(tried: Serving) -> Load | None:
            key = (tried.context, tried.num_seqs)
            if key not in loads:
                loads[key] = self._load(tried)
            return loads[key]

        def left(value: int) -> int | None:
            tried = served(value)
            found = load(tried)
            if found is None:
                return None
            if found.pool is None:
                return found.headroom_bytes
            # a pool may run out of slots or of windows before it runs out of bytes
            share = found.pool.max_concurrency / tried.num_seqs_per_replica - 1
            return min(found.headroom_bytes, int(found.cache_bytes * share))

        def fits(value: int) -> bool:
            tried = served(value)
            lengths = peak_contexts(self.architecture, tried.context)
            found = (load(tried if n == tried.context else replace(tried, context=n)) for n in lengths)
            return all(one is not None and one.cache_fits for one in found)

        try:
            if self._hopeless(served(first)):  # whatever the value
                return 0
        except UnsupportedError:
            return 0
        return largest(fits, limit, crossing(left, first, limit), grain)

    def _load(self, serving: Serving) -> Load | None:
        """The load at exactly this length; None: refused."""
        try:
            return self._weigh(serving)
        except UnsupportedError:
            return None

    def max_gpu_layers(self, serving: Serving) -> int:
        """The most of llama.cpp's layers that fit the devices, the output counted as one; 0: none does."""
        most = max(self.architecture.num_hidden_layers, 1) + 1
        found = largest(
            lambda count: self.fits(replace(serving, llama_cpp=replace(serving.llama_cpp, gpu_layers=count))), most
        )
        return most if found is None else found

    def min_cpu_moe_layers(self, serving: Serving) -> int | None:
        """The fewest layers whose routed experts llama.cpp has to leave on the host; None: all of them are not enough."""
        if self.fits(serving):
            return 0
        layers = self.architecture.num_hidden_layers
        told = serving.llama_cpp
        return smallest(
            lambda count: self.fits(replace(serving, llama_cpp=replace(told, cpu_moe_layers=count))), layers
        )

    def min_utilization(self, serving: Serving) -> Fraction | None:
        """The smallest share in whole hundredths at which it fits; None: not even the whole device is enough."""
        percent = smallest(lambda share: self.at(Fraction(share, 100)).fits(serving), 100)
        return None if percent is None else Fraction(percent, 100)

    def at(self, utilization: Fraction) -> Scale:
        """The same at another share of the device."""
        return replace(self, target=replace(self.target, utilization=utilization))


def _before_loading(serving: Serving, runtime: Mapping[str, RuntimeItem]) -> int:
    """Bytes of a device that are gone before the engine takes its share of what is free: SGLang measures it then."""
    if serving.engine != "sglang":
        return 0
    return sum(runtime[name].bytes for name in ("context_bytes", "engine_bytes") if name in runtime)


def _sum(items: Iterable[RuntimeItem]) -> tuple[int, int]:
    """The middle and the high end of estimates together."""
    _, middle, high = together((item.low, item.bytes, item.high) for item in items)
    return middle, high


def assess(report: Report, scale: Scale, serving: Serving) -> Report:
    """`report` with `fit` and `engine_pool` filled in for the target."""
    load = scale.weigh(serving)
    target, device = scale.target, scale.target.device
    notes = fit_notes(report, load, target, serving, scale.architecture)
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
    return replace(report, fit=fit, engine_pool=held or report.engine_pool, warnings=(*report.warnings, *notes))
