"""Questions over an estimate on devices: what is the most that fits, and what would make it fit.

Every answer is recomputed with the numbers it names before it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from hfmem.api import Model, estimate, in_format, read_model, scale
from hfmem.errors import HfmemError, UnsupportedError, UsageError
from hfmem.memory.serving import Serving
from hfmem.plan.devices import Device, find_device
from hfmem.plan.fit import Scale
from hfmem.plan.layouts import all_layouts
from hfmem.plan.target import Target
from hfmem.records import dataclass, replace
from hfmem.report import Report

if TYPE_CHECKING:
    from hfmem.extras import Extras

#: what a solver flag asks for, by the setting it stands in for
UNKNOWNS: Final[dict[str, str]] = {"context": "max", "num_seqs": "max", "num_devices": "min", "utilization": "min"}
#: devices of one machine where the catalogue does not say, and the most that `num_devices="min"` tries
_NODE: Final = 8
_MOST_DEVICES: Final = 64
#: above this share, CUDA graphs and fragmentation have nowhere to go
_SAFE_SHARE: Final = Fraction(97, 100)
#: narrower formats an engine serves, nearest first: (name for `quant`, bits of a weight)
_FORMATS: Final[dict[str, tuple[tuple[str, int], ...]]] = {
    "vllm": (("fp8", 8), ("int4", 4)),
    "sglang": (("fp8", 8), ("int4", 4)),
    "transformers": (("int8", 8), ("nf4", 4)),
    "llama.cpp": (("q8_0", 8), ("q4_k_m", 4)),
    "ideal": (("fp8", 8), ("int4", 4)),
}
#: the narrower cache an engine has, and the formats it is narrower than
_CACHES: Final[dict[str, str]] = {"vllm": "fp8", "sglang": "fp8", "llama.cpp": "int8", "ideal": "fp8"}
_WIDE: Final = frozenset({"bf16", "fp16", "fp32"})


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change that makes it fit: a stable `kind`, the flags to add, and what is then left on the most loaded rank."""

    kind: str
    flags: str
    text: str
    verdict: str
    headroom_bytes: int


@dataclass(frozen=True, slots=True)
class FitAnswer:
    """The report on the devices and, where it does not fit, the remedies in order of least loss."""

    report: Report
    remedies: tuple[Remedy, ...] = ()


def fit(model: str | Model, *, device: str | Device, **settings: Any) -> FitAnswer:
    """Whether a model fits `device` and, if not, what would make it fit.

    Args:
        settings: as `hfmem.estimate`; one of `context`, `num_seqs` may be `"max"`, or of `num_devices`, `utilization` `"min"`.

    Raises:
        UsageError, SourceError, UnsupportedError: as `hfmem.estimate`.
    """
    reading = {key: settings.pop(key) for key in ("revision", "assume", "strict", "fetch") if key in settings}
    read = model if isinstance(model, Model) else read_model(model, **reading)
    report = estimate(read, **solve(read, {**settings, "device": device}))
    if report.fit is None or report.fit.verdict != "does-not-fit":
        return FitAnswer(report)
    return FitAnswer(report, tuple(_remedies(read, report, {**settings, "device": device})))


def solve(read: Model, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the one that is `"max"` or `"min"` replaced by its answer, or by its default where there is none.

    Raises:
        UsageError: more than one unknown, or no device.
    """
    found = dict(settings)
    unknown = [name for name, word in UNKNOWNS.items() if found.get(name) == word]
    if not unknown:
        return found
    if len(unknown) > 1:
        raise UsageError(f"only one of {', '.join(unknown)} can be solved for at once")
    if found.get("device") is None:
        raise UsageError(f"{UNKNOWNS[unknown[0]]} needs a device (--gpu)")
    match unknown[0]:
        case "context":
            report = estimate(read, **{**found, "context": 1})
            assert report.fit is not None
            found["context"] = report.fit.max_context or None
        case "num_seqs":
            report = estimate(read, **{**found, "num_seqs": 1})
            assert report.fit is not None
            found["num_seqs"] = report.fit.max_num_seqs or 1
        case "num_devices":
            found |= _fewest(read, {**found, "num_devices": None}) or {"num_devices": None}
        case _:
            found["utilization"] = None
            report = estimate(read, **found)
            found["utilization"] = scale_of(read, report, found).min_utilization(serving_of(read, report, found))
    return found


def serving_of(read: Model, report: Report, settings: Mapping[str, Any]) -> Serving:
    """The serving configuration that `report` speaks of."""
    layout, cache = report.parallelism, report.kv_cache
    return Serving(
        context=cache.context,
        num_seqs=cache.num_seqs,
        kv_dtype=settings.get("kv_dtype", "auto"),
        engine=cache.engine,
        tp=layout.tp,
        pp=layout.pp,
        dp=layout.dp,
        ep=layout.ep,
        max_num_batched_tokens=settings.get("max_num_batched_tokens"),
        page_size=settings.get("page_size"),
        kv_memory_bytes=settings.get("kv_memory_bytes"),
        source_tokens=settings.get("source_tokens"),
        declared_kv_dtype=read.declared_kv_dtype,
    )


def scale_of(read: Model, report: Report, settings: Mapping[str, Any]) -> Scale:
    """What weighs the model of `report` on its devices."""
    assert report.fit is not None
    device = settings["device"]
    found = find_device(device).device if isinstance(device, str) else device
    share = settings.get("utilization")
    target = Target(found, report.fit.num_devices, None if share is None else Fraction(str(share)))
    changed = in_format(read, settings.get("quant"), settings.get("dtype"))
    extras: Extras | None = None
    beside = {name: settings.get(name) for name in ("lora", "max_loras", "max_lora_rank", "draft")}
    if read.adapter is not None or any(value is not None for value in beside.values()):
        from hfmem.extras import read_extras

        extras, _ = read_extras(read, **beside, fetch=settings.get("fetch"))
    return scale(changed, target, settings.get("overhead"), extras)


def _fewest(read: Model, settings: Mapping[str, Any], first: int = 1) -> dict[str, Any] | None:
    """The fewest devices from `first` on which it fits, with the sizes over them; None: not even on 64.

    Up to a machine's worth every number is tried, beyond it whole machines.
    """
    device = settings["device"]
    found = find_device(device) if isinstance(device, str) else None
    base = found.device if found else device
    node = base.gpus_per_node or _NODE
    report = _estimate(read, {**settings, "device": base, "tp": 1, "pp": 1, "dp": settings.get("dp", 1)})
    if report is None:
        return None
    weigher, serving = scale_of(read, report, {**settings, "device": base}), serving_of(read, report, settings)
    counts = [*range(1, node + 1), *range(2 * node, _MOST_DEVICES + 1, node)]
    for ranks in (count // serving.dp for count in counts if count % serving.dp == 0):
        if ranks < first:
            continue
        for tp, pp in all_layouts(ranks, serving.engine, node):
            if pp <= read.architecture.num_hidden_layers and weigher.fits(replace(serving, tp=tp, pp=pp)):
                return {"device": base, "num_devices": ranks * serving.dp, "tp": tp, "pp": pp}
    return None


def _estimate(read: Model, settings: Mapping[str, Any]) -> Report | None:
    try:
        return estimate(read, **{**settings, "num_devices": None})
    except UnsupportedError:
        return None


def _remedies(read: Model, report: Report, settings: dict[str, Any]) -> Iterator[Remedy]:
    """Changes that make it fit, least loss first; where none does alone, the narrowest formats on the fewest devices."""
    fit = report.fit
    assert fit is not None
    engine, cache = report.kv_cache.engine, report.kv_cache
    settings = solve(read, settings) | {
        "context": cache.context,
        "num_seqs": cache.num_seqs,
        "engine": engine,
        "tp": report.parallelism.tp,
        "pp": report.parallelism.pp,
        "num_devices": fit.num_devices,
    }
    weigher, serving = scale_of(read, report, settings), serving_of(read, report, settings)

    def tried(kind: str, flags: str, text: str, **changes: Any) -> Iterator[Remedy]:
        try:
            found = estimate(read, **{**settings, **changes}).fit
        except HfmemError:  # the engine refuses the change
            return
        if found is not None and found.verdict != "does-not-fit":
            yield Remedy(kind, flags, text, found.verdict, found.headroom_bytes)

    alone: list[Remedy] = []
    if engine in ("vllm", "sglang"):
        share = weigher.min_utilization(serving)
        if share is not None and share <= _SAFE_SHARE:
            alone += tried("utilization", f"--utilization {float(share):g}", "a larger share", utilization=share)
    if fit.max_context and fit.max_context < cache.context:
        text = f"{fit.max_context:,} of {cache.context:,} tokens"
        alone += tried("context", f"--ctx {fit.max_context}", text, context=fit.max_context)
    if fit.max_num_seqs and fit.max_num_seqs < cache.num_seqs:
        text = f"{fit.max_num_seqs:,} of {cache.num_seqs:,} sequences"
        alone += tried("num_seqs", f"--batch {fit.max_num_seqs}", text, num_seqs=fit.max_num_seqs)
    narrow = _CACHES.get(engine) if cache.dtype in _WIDE else None
    if narrow:
        alone += tried("kv_dtype", f"--kv-dtype {narrow}", f"the cache in {narrow}", kv_dtype=narrow)
    formats = list(_narrower(read, engine)) if settings.get("quant") is None else []
    for name in formats:
        alone += tried("quant", f"--quant {name}", f"weights in {name}", quant=name)
    more = _fewest(read, settings, fit.num_devices // serving.dp + 1)
    if more:
        alone += tried("devices", _layout_flags(more), "more devices", **more)
    yield from alone
    if any(remedy.kind in ("quant", "devices") for remedy in alone):
        return
    for name in formats[-1:]:
        both: dict[str, Any] = {"quant": name} | ({"kv_dtype": narrow} if narrow else {})
        flags = f"--quant {name}" + (f" --kv-dtype {narrow}" if narrow else "")
        few = _fewest(read, {**settings, **both})
        if few:
            yield from tried("combined", f"{flags} {_layout_flags(few)}", "narrower and more devices", **both, **few)


def _layout_flags(found: Mapping[str, Any]) -> str:
    """`--num-gpus 4`, with the sizes where they are not the engine's own way to use them all."""
    count, tp, pp = found["num_devices"], found["tp"], found["pp"]
    sizes = "".join(f" --{name} {size}" for name, size in (("tp", tp), ("pp", pp)) if size > 1)
    return f"--num-gpus {count}" + (sizes if tp > 1 and pp > 1 else "" if tp == count else sizes)


def _narrower(read: Model, engine: str) -> Iterator[str]:
    """Formats with fewer bits a weight than the model is stored in."""
    stored = 8 * read.parameters.weights_bytes / max(read.parameters.total, 1)
    for name, bits in _FORMATS[engine]:
        if bits < stored * 0.75:
            yield name
