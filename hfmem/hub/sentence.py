"""sentence-transformers of the older layout: each module in a folder of its own, none at the top."""

from __future__ import annotations

import json
from typing import Any

from hfmem.errors import FormatError
from hfmem.hub.below import Below
from hfmem.hub.files import MAX_CONFIG_BYTES, Files, parse_object
from hfmem.hub.weights import MODULES, Weights, other_weights, safetensors_weights
from hfmem.records import replace


def sentence_transformer(files: Files) -> tuple[dict[str, Any], str, Weights] | None:
    """The transformer that sentence-transformers keep in a folder of its own, None where there is none."""
    data = files.read(MODULES, MAX_CONFIG_BYTES)
    try:
        modules = json.loads(data or b"[]")
    except ValueError:
        raise FormatError(f"{files.label}: {MODULES} is not JSON") from None
    for module in modules if isinstance(modules, list) else ():
        folder = module.get("path") if isinstance(module, dict) else None
        if not isinstance(folder, str) or not folder or ".." in folder.split("/") or folder.startswith("/"):
            continue
        place = Below(files, folder.strip("/"))
        config = place.read("config.json", MAX_CONFIG_BYTES)
        if config is None or not str(module.get("type", "")).endswith("Transformer"):
            continue
        found = safetensors_weights(place)
        weights = other_weights(place, place.listing()) if found is None else found
        name = f"{place.folder}/config.json"
        notice = f"the transformer of a sentence-transformers model, in {place.folder}/"
        return parse_object(config, f"{files.label}: {name}"), name, replace(weights, notice=notice)
    return None
