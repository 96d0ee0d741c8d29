"""Which devices serve a model: the smallest layouts over the catalogue, their speed at best, and how to launch them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from hfmem.answers import scale_of, serving_of
from hfmem.api import Model, estimate, in_format, read_model, scale
from hfmem.assembly import assemble
from hfmem.errors import UnsupportedError, UsageError
from hfmem.plan.devices import Device, catalogue, find_device, search_devices
from hfmem.plan.fit import Scale
from hfmem.plan.layouts import all_layouts
from hfmem.plan.roofline import Roofline, roofline
from hfmem.plan.target import VENDORS, Target, on_device
from hfmem.records import dataclass, replace
from hfmem.report import Report

if TYPE_CHECKING:
    from hfmem.memory.serving import Serving
    from hfmem.plan.allocator import Allocation

#: architectures that those engines do not run on although the maker is in the list
_NOT_RUN: Final = ("gaudi", "sm_87", "gfx906", "gfx1030")
_NODE: Final = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """The fewest of one device that serve the load. `headroom_bytes` on the most loaded rank, `memory_bytes` of all devices."""

    device: str
    num_devices: int
    tp: int
    pp: int
    verdict: str
    memory_bytes: int
    usable_bytes_per_device: int
    headroom_bytes: int
    max_num_seqs: int | None
    tokens_per_second_at_best: float | None
    memory_grade: str


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """Layouts by number of devices, then by memory; `report` speaks of the first of them, or of no device."""

    report: Report
    layouts: tuple[Layout, ...]


def plan(
    model: str | Model,
    *,
    users: int = 1,
    context: int | None = None,
    devices: str | Sequence[Device] | None = None,
    max_devices: int = _NODE,
    **settings: Any,
) -> PlanAnswer:
    """The smallest layouts that serve `users` sequences of `context` tokens at once.

    Args:
        devices: names with commas (`h100,4090`) or search words (`nvidia`, `sm_90`); None: all that the engine runs on.
        max_devices: the most devices of a layout; beyond a machine's, whole machines.
        settings: as `hfmem.estimate`, without a device.

    Raises:
        UsageError, SourceError, UnsupportedError: as `hfmem.estimate`.
    """
    reading = {key: settings.pop(key) for key in ("revision", "assume", "strict", "fetch") if key in settings}
    read = model if isinstance(model, Model) else read_model(model, **reading)
    load = {**settings, "context": context, "num_seqs": users}
    base = estimate(read, **load)
    serving = serving_of(read, base, settings)
    candidates = _candidates(devices, serving.engine)
    changed, overhead = in_format(read, settings.get("quant"), settings.get("dtype")), settings.get("overhead")
    shared: dict[tuple[object, ...], Any] = {}
    found = [
        layout for device in candidates for layout in _smallest(changed, overhead, serving, device, max_devices, shared)
    ]
    found.sort(key=lambda item: (item.num_devices, item.memory_bytes, item.device))
    if found:
        first = found[0]
        device = next(d for d in candidates if d.name == first.device)
        base = estimate(
            read,
            **{**load, "engine": serving.engine},
            device=device,
            num_devices=first.num_devices,
            tp=first.tp,
            pp=first.pp,
        )
    return PlanAnswer(base, tuple(found))


def _candidates(devices: str | Sequence[Device] | None, engine: str) -> tuple[Device, ...]:
    if devices is None:
        return tuple(
            device
            for device in catalogue()
            if device.vendor in VENDORS[engine] and not (device.architecture or "").startswith(_NOT_RUN)
        )
    if not isinstance(devices, str):
        return tuple(devices)
    found: dict[str, Device] = {}
    for word in (part.strip() for part in devices.split(",")):
        if not word:
            continue
        try:
            named: Sequence[Device] = (find_device(word).device,)
        except UsageError:
            named = search_devices(word)
            if not named:
                raise
        found |= {device.name: device for device in named}
    if not found:
        raise UsageError("--gpu names no device (examples: h100,4090 or nvidia)")
    return tuple(found.values())


def _counts(node: int, most: int) -> list[int]:
    """Powers of two in a machine of `node` devices, and powers of two of whole machines."""
    inside = [1 << power for power in range(node.bit_length()) if 1 << power <= min(node, most)]
    beyond = [node << power for power in range(1, most.bit_length()) if node << power <= most]
    return sorted({*inside, *([node] if node <= most else []), *beyond})


def _smallest(
    read: Model, overhead: Any, serving: Serving, device: Device, most: int, shared: dict[tuple[object, ...], Any]
) -> Iterator[Layout]:
    """The layout with the fewest of `device`, if any."""
    node = device.gpus_per_node or _NODE
    for count in _counts(node, min(most, node) if device.vendor == "apple" else most):
        weigher = replace(scale(read, Target(device, count), overhead), known_weights=shared)
        for tp, pp in all_layouts(count, serving.engine, node):
            tried = replace(serving, tp=tp, pp=pp)
            if pp <= max(read.architecture.num_hidden_layers, 1) and weigher.fits(tried):
                yield _layout(read, overhead, weigher, on_device(tried, device))
                return


def _layout(read: Model, overhead: Any, weigher: Scale, serving: Serving) -> Layout:
    device, count = weigher.target.device, weigher.target.num_devices
    held = weigher.weigh(serving)
    best = None
    if device.bandwidth is not None:
        best = roofline(read.architecture, assemble(read, serving, (), overhead, device), device)
    return Layout(
        device=device.name,
        num_devices=count,
        tp=serving.tp,
        pp=serving.pp,
        verdict=held.verdict,
        memory_bytes=count * device.memory_bytes,
        usable_bytes_per_device=held.usable_bytes,
        headroom_bytes=held.headroom_bytes,
        max_num_seqs=weigher.max_num_seqs(serving),
        tokens_per_second_at_best=best.tokens_per_second if best else None,
        memory_grade=device.memory_grade,
    )


def speed(read: Model, report: Report, device: str | Device) -> Roofline | None:
    """The upper bounds of a report on its device; None where the device's bandwidth is not known."""
    found = find_device(device).device if isinstance(device, str) else device
    return roofline(read.architecture, report, found)


def mixed(
    read: Model, report: Report, settings: Mapping[str, Any], lengths: str | None, allocator: str | None = None
) -> tuple[Allocation, ...]:
    """How many sequences of a mix of lengths (`1k:6,4k:3,32k:1`) the memory left for the cache holds, contiguous and in pages.

    Raises:
        UsageError: no such allocator, a mix that cannot be read, or lengths beyond the context.
    """
    from hfmem.plan.allocator import ALLOCATORS, allocations, parse_lengths

    if allocator is not None and allocator not in ALLOCATORS:
        raise UsageError(f"--allocator {allocator!r} is not one of {', '.join(ALLOCATORS)}")
    if lengths is None:
        if allocator is not None:
            raise UsageError("--allocator compares sequences of many lengths: --lengths 1k:6,4k:3,32k:1")
        return ()
    serving = serving_of(read, report, settings)
    weigher = scale_of(read, report, settings)
    room = max(weigher.weigh(serving).kv_memory_bytes, 0)
    found = allocations(read.architecture, on_device(serving, weigher.target.device), parse_lengths(lengths), room)
    return tuple(item for item in found if allocator in (None, item.allocator))


def launch_text(kind: str, read: Model, report: Report, settings: Mapping[str, Any], place: str | None = None) -> str:
    """The command or manifest of `kind` (`hfmem.plan.launch.KINDS`) that serves what `report` speaks of.

    Args:
        place: how the model was named, for one that is no Hub repository.

    Raises:
        UsageError: no such kind, or one that does not run the engine or the layout.
        UnsupportedError: the report says that it does not fit.
    """
    from hfmem.plan.launch import Launch, emit

    if report.fit is not None and report.fit.verdict == "does-not-fit":
        raise UnsupportedError(f"{report.model.id} does not fit {report.fit.num_devices} × {report.fit.device}")
    device = settings.get("device")
    found = find_device(device).device if isinstance(device, str) else device
    layout, cache = report.parallelism, report.kv_cache
    local = report.model.source == "local"
    share = None if report.fit is None else report.fit.utilization
    return emit(
        kind,
        Launch(
            model=place if local and place else report.model.id,
            revision=None if local else settings.get("revision") or _pinned(read, place),
            engine=cache.engine,
            context=cache.context,
            num_seqs=cache.num_seqs,
            kv_dtype=settings.get("kv_dtype", "auto"),
            tp=layout.tp,
            pp=layout.pp,
            dp=layout.dp,
            ep=layout.ep,
            utilization=share,
            max_num_batched_tokens=settings.get("max_num_batched_tokens"),
            page_size=settings.get("page_size"),
            quant=settings.get("quant"),
            vendor=found.vendor if found is not None else "nvidia",
            gpus_per_node=found.gpus_per_node if found is not None else None,
        ),
    )


def _pinned(read: Model, place: str | None) -> str | None:
    """The commit, where a revision was named: what was estimated is what is served."""
    return read.facts.revision if place is not None and "@" in place else None
