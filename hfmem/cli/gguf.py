"""What `hfmem MODEL` says of a place with several GGUF models: a table to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfmem.cli.output import complain, show
from hfmem.errors import HfmemError, UsageError
from hfmem.hub.gguf import SeveralModelsError


def list_choices(several: SeveralModelsError, settings: Mapping[str, Any], *, json: bool) -> list[dict[str, Any]]:
    """The choices as JSON values; as a table on stdout unless `json`."""
    from hfmem.gguf_choice import beside, choices
    from hfmem.render.gguf import render_choices
    from hfmem.render.json import to_dict

    try:
        found = choices(several, settings["context"], settings["num_seqs"], settings["kv_dtype"])
    except UsageError:
        raise
    except HfmemError as error:  # sizes are known all the same
        complain(error)
        several.facts = None
        found = choices(several)
    if not json:
        show(render_choices(several.place, found, beside=beside(several.listing)))
    rows: list[dict[str, Any]] = to_dict(found)
    return rows
