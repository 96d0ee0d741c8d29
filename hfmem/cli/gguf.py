"""What `hfmem MODEL` says of a place with several GGUF models: a table to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfmem.cli.output import complain, show
from hfmem.errors import HfmemError, UsageError
from hfmem.hub.gguf import SeveralModelsError


def list_choices(
    several: SeveralModelsError, settings: Mapping[str, Any], *, json: bool
) -> tuple[dict[str, Any], bool]:
    """The choices as a JSON value, and whether one of them fits the devices that were asked about (True where none were); as a
    table on stdout unless `json`."""
    from hfmem.api.gguf_choice import beside, choices
    from hfmem.render.gguf import render_choices
    from hfmem.render.json import to_dict, versioned

    try:
        found = choices(
            several,
            _number(settings["context"]),
            _number(settings["num_seqs"]) or 1,
            settings["kv_dtype"],
            _available(settings),
        )
    except UsageError:
        raise
    except HfmemError as error:  # sizes are known all the same
        complain(error)
        several.facts = None
        found = choices(several)
    if not json:
        show(render_choices(several.place, found, beside=beside(several.listing)))
    told = versioned({"model": {"id": several.place}, "choices": to_dict(found)})
    return told, any(choice.fits is not False for choice in found)


def _number(value: Any) -> int | None:
    """A solver's word (`max`) asks nothing of a table."""
    return value if isinstance(value, int) else None


def _available(settings: Mapping[str, Any]) -> int | None:
    """Memory of the devices that --gpu and --num-gpus name, all together, less what other processes hold."""
    if settings.get("device") is None:
        return None
    from hfmem.plan.devices import find_device

    named = find_device(settings["device"])
    count = _number(settings.get("num_devices")) or named.count or 1
    return count * (named.device.memory_bytes - named.device.memory_used_bytes)
