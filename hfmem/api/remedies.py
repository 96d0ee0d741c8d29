"""What would make a model fit: first on the devices at hand, by what is lost. Each change is weighed before it is given.

A larger share of the device loses nothing; a shorter context or fewer sequences lose reach; a narrower cache, then narrower
weights, lose precision; layers on the host lose speed; more devices cost. Where no change of that sort is enough alone, changes are
combined: on the same devices as far as they reach, else with llama.cpp, which leaves a part on the host; and on as few more as the
mildest format allows.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from hfmem.api.configuration import Configuration
from hfmem.api.solving import fewest_devices
from hfmem.errors import HfmemError
from hfmem.memory import engines
from hfmem.plan.layouts import default_layout
from hfmem.records import dataclass, replace
from hfmem.report import Fit

#: above this share, CUDA graphs and fragmentation have nowhere to go
_SAFE_SHARE: Final = Fraction(97, 100)
_WIDE: Final = frozenset({"auto", "bf16", "fp16", "fp32"})
#: devices older than this compute nothing in 8 bits
_EIGHT_BITS: Final = 80
#: weights of llama.cpp's where nobody says which: what most repositories of GGUF files offer first
_GGUF: Final = "q4_k_m"
#: kinds that ask for other devices than those at hand
_ELSEWHERE: Final = frozenset({"devices"})
#: api settings → the flags that set them
_FLAGS: Final[dict[str, str]] = {
    "engine": "--engine",
    "utilization": "--utilization",
    "context": "--ctx",
    "num_seqs": "--batch",
    "kv_dtype": "--kv-dtype",
    "quant": "--quant",
    "kv_memory_bytes": "--kv-memory",
    "num_gpu_blocks": "--num-gpu-blocks-override",
    "cpu_moe_layers": "--n-cpu-moe",
    "gpu_layers": "--ngl",
    "device": "--gpu",
    "num_devices": "--num-gpus",
    "tp": "--tp",
    "pp": "--pp",
}


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change that makes it fit: a stable `kind`, the flags to add to the command (or `settings`, to the call), and what is
    then left on the rank with least room."""

    kind: str
    flags: str
    text: str
    verdict: str
    headroom_bytes: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Change:
    """A configuration that may fit, and the settings that make it."""

    kind: str
    settings: Mapping[str, Any]
    text: str
    found: Configuration


def remedies(found: Configuration, fit: Fit) -> Iterator[Remedy]:
    """Changes to `found`, which does not fit, each of which makes it fit.

    Args:
        fit: what was found of it; its longest context and most sequences are answers already.
    """
    alone = [remedy for change in _single(found, fit) if (remedy := _weighed(change)) is not None]
    here = [remedy for remedy in alone if remedy.kind not in _ELSEWHERE]
    yield from here
    if not here:
        combined = list(_combined_here(found))
        yield from combined or (remedy for change in _by_llama_cpp(found) if (remedy := _weighed(change)) is not None)
    elsewhere = [remedy for remedy in alone if remedy.kind in _ELSEWHERE]
    yield from elsewhere
    if not here:
        yield from _combined_elsewhere(found, min((one.settings["num_devices"] for one in elsewhere), default=None))


def _weighed(change: _Change) -> Remedy | None:
    """The change with what it leaves, if it fits."""
    try:
        load = change.found.scale().weigh(change.found.serving)
    except HfmemError:  # the engine refuses it
        return None
    if load.verdict == "does-not-fit":
        return None
    words = [word for name, value in change.settings.items() for word in (_FLAGS[name], _word(value))]
    return Remedy(change.kind, shlex.join(words), change.text, load.verdict, load.headroom_bytes, change.settings)


def _word(value: Any) -> str:
    return f"{float(value):g}" if isinstance(value, Fraction) else str(value)


def _single(found: Configuration, fit: Fit) -> Iterator[_Change]:
    """One change at a time, least loss first."""
    yield from _memory(found)
    yield from _reach(found, fit)
    yield from _caches(found)
    yield from _formats(found)
    yield from _host(found)
    yield from _devices(found)


def _memory(found: Configuration) -> Iterator[_Change]:
    """A larger share of the device, or a larger pool where one was given."""
    target, serving = found.target, found.serving
    assert target is not None
    if serving.num_gpu_blocks is not None:
        told, free = (
            on.scale().weigh(on.serving) for on in (found, found.serve(num_gpu_blocks=None, kv_memory_bytes=None))
        )
        pool, small = free.pool, told.pool_fits_device
        if pool is not None and pool.pages_per_seq is not None:
            blocks = serving.num_seqs_per_replica * pool.pages_per_seq + 1 if small else pool.num_pages
            text = "a larger pool" if small else "a smaller pool"
            yield _Change("kv_memory", {"num_gpu_blocks": blocks}, text, found.serve(num_gpu_blocks=blocks))
    elif serving.kv_memory_bytes is not None:
        load, free = (on.scale().weigh(on.serving) for on in (found, found.serve(kv_memory_bytes=None)))
        room, page = load.pool_room_bytes or 0, free.pool.page_bytes if free.pool is not None else 0
        need = room if not load.pool_fits_device else max(load.cache_bytes + page, serving.kv_memory_bytes + 1)
        text = "a larger pool" if load.pool_fits_device else "a smaller pool"
        if 0 < need <= room:
            yield _Change("kv_memory", {"kv_memory_bytes": need}, text, found.serve(kv_memory_bytes=need))
    elif engines.is_server(serving.engine):
        share = found.scale().min_utilization(serving)
        if share is not None and target.share(serving) < share <= _SAFE_SHARE:
            changed = replace(found, target=replace(target, utilization=share))
            yield _Change("utilization", {"utilization": share}, "a larger share of the device", changed)


def _reach(found: Configuration, fit: Fit) -> Iterator[_Change]:
    serving = found.serving
    if fit.max_context and fit.max_context < serving.context:
        text = f"{fit.max_context:,} of {serving.context:,} tokens"
        yield _Change("context", {"context": fit.max_context}, text, found.serve(context=fit.max_context))
    if fit.max_num_seqs and fit.max_num_seqs < serving.num_seqs:
        text = f"{fit.max_num_seqs:,} of {serving.num_seqs:,} sequences"
        yield _Change("num_seqs", {"num_seqs": fit.max_num_seqs}, text, found.serve(num_seqs=fit.max_num_seqs))


def _caches(found: Configuration) -> Iterator[_Change]:
    """Narrower caches, if the present one is wide and the device computes them."""
    if found.serving.kv_dtype not in _WIDE or _too_old(found):
        return
    now = _cache_bytes(found)
    for name in engines.engine(found.serving.engine).CACHE_FORMATS:
        changed = found.serve(kv_dtype=name)
        narrower = _cache_bytes(changed)
        if now is not None and narrower is not None and narrower < now:
            yield _Change("kv_dtype", {"kv_dtype": name}, f"the cache in {name}", changed)


def _cache_bytes(found: Configuration) -> int | None:
    """Bytes of the cache on the rank with least room; None where the engine refuses the cache, or the weights in that format."""
    try:
        return found.scale().weigh(found.serving).cache_bytes
    except HfmemError:
        return None


def _formats(found: Configuration) -> Iterator[_Change]:
    """Weights in fewer bits than they are in."""
    parameters = found.read.parameters
    stored = 8 * parameters.weights_bytes / max(parameters.total, 1)
    for name, bits in engines.engine(found.serving.engine).WEIGHT_FORMATS:
        if bits < stored * 0.75 and (bits == 16 or not _too_old(found)):
            try:
                changed = found.stored_as(name)
            except HfmemError:  # what is stored cannot be written in it
                continue
            yield _Change("quant", {"quant": name}, f"weights in {name}", changed)


def _too_old(found: Configuration) -> bool:
    capability = None if found.target is None else found.target.device.compute_capability
    return (
        engines.engine(found.serving.engine).OLDEST is not None and capability is not None and capability < _EIGHT_BITS
    )


def _host(found: Configuration) -> Iterator[_Change]:
    """llama.cpp leaves experts, or whole layers, on the host."""
    serving, architecture = found.serving, found.read.architecture
    if serving.engine != "llama.cpp" or serving.llama_cpp.gpu_layers is not None:
        return
    scale, told = found.scale(), serving.llama_cpp
    if architecture.num_experts and not told.cpu_moe_layers:
        count = scale.min_cpu_moe_layers(serving)
        if count:
            changed = found.serve(llama_cpp=replace(told, cpu_moe_layers=count))
            text = f"experts of {count} layers on the host"
            yield _Change("cpu_moe_layers", {"cpu_moe_layers": count}, text, changed)
    most = scale.max_gpu_layers(serving)
    if most:
        changed = found.serve(llama_cpp=replace(told, gpu_layers=most))
        yield _Change("gpu_layers", {"gpu_layers": most}, "the other layers on the host", changed)


def _by_llama_cpp(found: Configuration) -> Iterator[_Change]:
    """Another engine, with as much on the devices as they hold."""
    if found.serving.engine == "llama.cpp":
        return
    try:
        other = found.stored_as(_GGUF).serve(engine="llama.cpp")
        changes = list(_host(other))
    except HfmemError:  # it has no such model, or not these settings
        return
    for change in changes:
        settings = {"engine": "llama.cpp", "quant": _GGUF, **change.settings}
        yield replace(change, kind="engine", settings=settings, text=f"llama.cpp, weights in {_GGUF}, {change.text}")


def _devices(found: Configuration) -> Iterator[_Change]:
    """More of the same devices: the fewest, and the fewest over all of which tensors are cut."""
    target = found.target
    assert target is not None
    more = fewest_devices(found, target.num_devices)
    if more is None:
        return
    yield _Change("devices", _layout(more), "more devices", more)
    if more.serving.pp > 1 and not found.pp_given and engines.is_server(found.serving.engine):
        wide = fewest_devices(replace(found.serve(pp=1), pp_given=True), target.num_devices)
        if wide is not None:
            yield _Change("devices", _layout(wide), "more devices, every tensor cut over all of them", wide)


def _combined_here(found: Configuration) -> Iterator[Remedy]:
    """On the same devices: narrower weights and cache together, and the longest context that they then hold."""
    for mild in _formats(found):
        for narrow in _caches(mild.found):
            remedy = _weighed(
                _Change("combined", {**mild.settings, **narrow.settings}, f"{mild.text}, {narrow.text}", narrow.found)
            )
            if remedy is not None:
                yield remedy
                return
    for mild in _formats(found):
        tokens = mild.found.scale().max_context(mild.found.serving)
        if tokens and tokens < found.serving.context:
            text = f"{mild.text}, {tokens:,} of {found.serving.context:,} tokens"
            shorter = mild.found.serve(context=tokens)
            remedy = _weighed(_Change("combined", {**mild.settings, "context": tokens}, text, shorter))
            if remedy is not None:
                yield remedy
                return


def _combined_elsewhere(found: Configuration, best: int | None) -> Iterator[Remedy]:
    """On as few more devices as a format needs, the mildest first, each narrower one only where it saves devices: fewer than `best`
    to begin with."""
    for mild in _formats(found):
        for narrow in (None, *_caches(mild.found)):
            both = mild if narrow is None else narrow
            try:
                fewer = fewest_devices(both.found)
            except HfmemError:  # the engine refuses the format on any number of them
                continue
            if fewer is None or fewer.target is None or (best is not None and fewer.target.num_devices >= best):
                continue
            best = fewer.target.num_devices
            text = mild.text if narrow is None else f"{mild.text}, {narrow.text}"
            settings = {**mild.settings, **both.settings, **_layout(fewer)}
            remedy = _weighed(_Change("combined", settings, f"{text}, {best} devices", fewer))
            if remedy is not None:
                yield remedy


def _layout(found: Configuration) -> dict[str, Any]:
    """How many devices, and the sizes where they are not the engine's own way to use them all."""
    target, serving = found.target, found.serving
    assert target is not None
    settings: dict[str, Any] = {} if target.named is None else {"device": target.named}
    settings["num_devices"] = target.num_devices
    if (serving.tp, serving.pp) != default_layout(target.num_devices // serving.dp, serving.engine):
        settings |= {name: size for name, size in (("tp", serving.tp), ("pp", serving.pp)) if size > 1}
    return settings
