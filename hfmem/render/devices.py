"""The table of devices."""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.plan.devices import Device
from hfmem.render.grid import Grid
from hfmem.units import GB, GIB

_MARKS = {"exact": "=", "derived": "≈", "estimated": "~"}
_HEAD = ("", "memory", "", "bandwidth", "bf16", "fp8", "fp4", "link", "node")


def devices_grid(devices: Sequence[Device]) -> Grid:
    """A row for each device: GiB, GB/s, dense teraflops, the link's GB/s each way, devices of one node."""
    return Grid(
        head=_HEAD,
        rows=tuple(_row(device) for device in devices),
        left=frozenset({0, 2, 7}),
        notes=(
            "memory in GiB: = as the driver reports it, ≈ by the system's rule, ~ the maker's capacity; bandwidth and links "
            "(each way) in GB/s; dense teraflops; –: not known",
        ),
    )


def _row(device: Device) -> tuple[str, ...]:
    link = device.interconnect
    return (
        device.name,
        f"{device.memory_bytes / GIB:,.2f}",
        _MARKS[device.memory_grade],
        "–" if device.bandwidth is None else f"{device.bandwidth / GB:,.0f}",
        _rate(device, "bf16", "fp16"),
        _rate(device, "fp8"),
        _rate(device, "fp4"),
        "–" if link is None else f"{link.kind} {link.bytes_per_second / GB:,.0f}",
        "–" if device.gpus_per_node is None else str(device.gpus_per_node),
    )


def _rate(device: Device, *formats: str) -> str:
    for name in formats:
        if name in device.rates:
            value = device.rates[name] / 10**12
            return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
    return "–"
