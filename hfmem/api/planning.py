"""Which devices serve a model: the smallest layouts over the catalogue and their speed at best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from hfmem.api.configuration import Configuration
from hfmem.api.configuring import configure
from hfmem.api.reading import Model
from hfmem.api.solving import NODE, device_counts, layouts
from hfmem.errors import UsageError
from hfmem.memory import engines
from hfmem.plan.devices import Device, catalogue, find_device, search_devices
from hfmem.plan.roofline import Roofline, roofline
from hfmem.plan.sglang_share import served_model
from hfmem.plan.target import Target, on_device
from hfmem.records import dataclass, replace
from hfmem.report import Report

#: architectures that those engines do not run on although the maker is in the list
_NOT_RUN: Final = ("gaudi", "sm_87", "gfx906", "gfx1030")

#: every number of machines is tried with every layout over them, which takes a minute from here on
MOST_PLANNED: Final = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """The fewest of one device that serve the load, or the fewest without pipeline stages. `headroom_bytes` on the rank with least,
    `memory_bytes` of all devices."""

    device: str
    num_devices: int
    num_nodes: int
    tp: int
    pp: int
    verdict: str
    memory_bytes: int
    usable_bytes_per_device: int
    headroom_bytes: int
    max_context: int | None
    max_num_seqs: int | None
    tokens_per_second_at_best: float | None
    memory_grade: str


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """Layouts by number of devices, then by memory; `first` and its `report` speak of the first of them, or of no device."""

    first: Configuration
    report: Report
    layouts: tuple[Layout, ...]


def plan(
    model: str | Model,
    *,
    users: int = 1,
    context: int | None = None,
    devices: str | Sequence[Device] | None = None,
    max_devices: int = NODE,
    **settings: Any,
) -> PlanAnswer:
    """The smallest layouts that serve `users` sequences of `context` tokens at once.

    Args:
        devices: names with commas (`h100,4090`; `4xh100`: up to four) or search words (`nvidia`, `sm_90`); None: all that the
            engine runs on.
        max_devices: the most devices of a layout; beyond a machine's, whole machines.
        settings: as `hfmem.estimate`, without a device.

    Raises:
        UsageError, SourceError, UnsupportedError: as `hfmem.estimate`.
    """
    if max_devices > MOST_PLANNED:
        raise UsageError(f"--max-gpus {max_devices:,}: layouts of at most {MOST_PLANNED:,} devices are looked through")
    named = None if devices is None else _named(devices)
    on_apple = named is not None and all(device.vendor == "apple" for device, _ in named)
    base = configure(model, on_apple=on_apple, context=context, num_seqs=users, **settings)
    base = replace(base, tp_given=base.serving.tp > 1, pp_given=base.serving.pp > 1)
    found = [
        item
        for device, there_are in named or _run_by(base.serving.engine)
        for item in _smallest(base, device, max_devices, there_are)
    ]
    found.sort(key=lambda item: (item[1].num_devices, item[1].memory_bytes, item[1].device))
    first = found[0][0] if found else base
    return PlanAnswer(first, first.report(), tuple(layout for _, layout in found))


def _runs(architecture: str, engine: str) -> bool:
    return not architecture.startswith(_NOT_RUN) and not (
        architecture == "sm_70" and (engines.engine(engine).OLDEST or 0) > 70
    )


#: devices to try, and how many of each there are where that was said (`8xh100`, `local`)
_Candidates = tuple[tuple[Device, int | None], ...]


def _run_by(engine: str) -> _Candidates:
    """The catalogue's devices that the engine runs on."""
    vendors = engines.engine(engine).VENDORS
    return tuple(
        (device, None)
        for device in catalogue()
        if device.vendor in vendors and _runs(device.architecture or "", engine)
    )


def _named(devices: str | Sequence[Device]) -> _Candidates:
    """The devices that were named.

    Raises:
        UsageError: none, or one that is not known.
    """
    if not isinstance(devices, str):
        return tuple((device, None) for device in devices)
    found: dict[str, tuple[Device, int | None]] = {}
    for word in (part.strip() for part in devices.split(",")):
        if not word:
            continue
        try:
            one = find_device(word)
            named: Sequence[tuple[Device, int | None]] = ((one.device, one.count),)
        except UsageError:
            named = [(device, None) for device in search_devices(word)]
            if not named:
                raise
        found |= {device.name: (device, count) for device, count in named}
    if not found:
        raise UsageError("--gpu names no device (examples: h100,4090 or nvidia)")
    return tuple(found.values())


def _smallest(
    base: Configuration, device: Device, most: int, there_are: int | None
) -> Iterator[tuple[Configuration, Layout]]:
    """The layout with the fewest of `device`, if any: every number in a machine is tried, whole machines beyond. Where that has
    pipeline stages which nobody asked for, also the fewest over all of which a server cuts every tensor: they are faster."""
    node = device.gpus_per_node or NODE
    serving = base.serving
    target = Target(device, 1)
    if serving.engine == "sglang":
        target = replace(target, model=served_model(base.read.architecture))
    unit = serving.dp * (serving.tp if base.tp_given else 1) * (serving.pp if base.pp_given else 1)
    most = min(most, there_are or most, node if device.vendor == "apple" else most)
    stages_too = True
    for count in sorted({*device_counts(node, most), *([unit] if unit <= most else [])}):
        if count % unit:
            continue
        scale = base.scale(replace(target, num_devices=count))
        for tp, pp in layouts(base, count // serving.dp, node):
            tried = replace(serving, tp=tp, pp=pp)
            if (stages_too or pp == 1) and scale.fits(tried):
                found = base.place(scale.target, tp, pp)
                yield found, _layout(found)
                if pp == 1 or base.pp_given or not engines.is_server(serving.engine):
                    return
                stages_too = False
                break


def _layout(found: Configuration) -> Layout:
    target, scale = found.target, found.scale()
    assert target is not None
    device, count, serving = target.device, target.num_devices, on_device(found.serving, target.device)
    held = scale.weigh(serving)
    best = speed(found)
    return Layout(
        device=device.name,
        num_devices=count,
        num_nodes=-(-count // device.gpus_per_node) if device.gpus_per_node else 1,
        tp=serving.tp,
        pp=serving.pp,
        verdict=held.verdict,
        memory_bytes=count * device.memory_bytes,
        usable_bytes_per_device=held.usable_bytes,
        headroom_bytes=held.headroom_bytes,
        max_context=scale.max_context(serving),
        max_num_seqs=scale.max_num_seqs(serving),
        tokens_per_second_at_best=best.tokens_per_second if best else None,
        memory_grade=device.memory_grade,
    )


def speed(found: Configuration) -> Roofline | None:
    """The upper bounds of `found` on its devices; None without one, or where its bandwidth is not known."""
    from hfmem.api.assembly import told_parameters, told_weights

    if found.target is None:
        return None
    read, device = found.read, found.target.device
    serving = on_device(found.serving, device)
    ranks = found.scale().weights(serving)
    return roofline(read.architecture, told_parameters(read), told_weights(read), serving, ranks, device)
