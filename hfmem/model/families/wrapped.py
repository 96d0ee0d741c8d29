"""Wrappers around a text model whose family is known, beside parts that no rule lists: an image or audio tower of another kind.

The text model gives layers and cache; what the rest weighs is what the files hold. `wrapped` is the rule of types whose class is
known to run its text model unchanged. `read_wrapped` reads any other config that names a known text model; whoever asks must let
the files' headers confirm it (`api.reading`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families import registry
from hfmem.model.families.file_types import BY_FILES
from hfmem.model.families.multimodal import PLAIN, text_architecture, text_config, wrap
from hfmem.model.inventory import Inventory
from hfmem.records import replace


def wrapped(cfg: Config, model_type: str | None = None) -> Architecture:
    """The text model that the config holds, or (`model_type`) is itself, and whatever else the files do."""
    text = text_config(cfg, *registry.TEXT_PLACES, model_type=model_type)
    inner = text_architecture(text)
    what = f"layers and cache are those of its {inner.model_type} text model, other parts weigh what the files hold"
    note = Note("parts_by_files", f"{cfg.file}: {what}")
    return replace(wrap(cfg, text, inner, inner.family, PLAIN, Inventory(), notes=(note,)), partial=True)


def openpangu_vl(cfg: Config) -> Architecture:
    """openPangu VL: openPangu Embedded, whose keys stand at the top level, beside a tower with windows."""
    return wrapped(cfg, "PanguEmbedded")


def youtu_vl(cfg: Config) -> Architecture:
    """Youtu-VL: Youtu-LLM, whose keys stand at the top level, beside a SigLIP tower."""
    return wrapped(cfg, "youtu")


def dots_vlm(cfg: Config) -> Architecture:
    """dots.vlm1: DeepSeek V3, whose keys stand at the top level, beside a tower of its own (SGLang 0.5.23 `dots_vlm.py`)."""
    return wrapped(cfg, "deepseek_v3")


def read_wrapped(data: Mapping[str, Any], file: str) -> Architecture | None:
    """A config of an unknown type by its text model; None where it holds none of a known type."""
    from hfmem.model.nearest import class_family

    model_type = data.get("model_type")
    for place in registry.TEXT_PLACES if isinstance(model_type, str) and model_type not in registry.FAMILIES else ():
        part = data.get(place)
        if not isinstance(part, Mapping):
            continue
        kind = part.get("model_type") or class_family(part, registry.FAMILIES)
        if not isinstance(kind, str) or kind not in registry.FAMILIES or kind in BY_FILES:
            return None
        arch = wrapped(Config({**data, place: {**part, "model_type": kind}}, file))
        return replace(arch, assumed=kind, dtype_given=registry.names_dtype(data))
    return None
