"""`hfmem devices [SEARCH]`: the catalogue of devices."""

from __future__ import annotations

from typing import Annotated

from hfmem.cli import options as o
from hfmem.cli.output import formatted, give, json_text, write
from hfmem.errors import UsageError


def devices(
    search: Annotated[
        list[str] | None,
        o.Argument(metavar="[SEARCH]", help="Words: a name, a maker, an architecture (sm_90)."),
    ] = None,
    json: o.Json = False,
    format: o.Format = None,
) -> None:
    """Devices that --gpu knows: memory as the driver reports it, bandwidth, rates, links."""
    from hfmem.plan.devices import catalogue, search_devices

    kind = formatted(format, json)
    text = " ".join(search or ())
    found = search_devices(text) if text else catalogue()
    if not found:
        raise UsageError(f"no device matches {text!r} (hfmem devices lists all of them)")
    from hfmem.render.devices import devices_grid
    from hfmem.render.json import to_dict

    if kind == "table":
        give(kind, devices_grid(found), ())
        return
    told = [{**to_dict(device), "memory_grade": device.memory_grade} for device in found]
    if kind == "json":
        write(json_text(told))
    else:
        give(kind, devices_grid(found), told, f"devices {text}".strip())
