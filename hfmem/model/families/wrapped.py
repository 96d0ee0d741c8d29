"""Wrappers around a text model whose family is known, beside parts that no rule lists: an image or audio tower of another kind.

The text model gives layers and cache; what the rest weighs is what the files hold. `wrapped` is the rule of types whose class is
known to run its text model unchanged; `multimodal_types.TEXT_OF` lists those whose config does not say of which type that is. What
a config of an unknown type may be read as says `unnamed`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families import registry
from hfmem.model.families.multimodal import PLAIN, text_architecture, text_config, wrap
from hfmem.model.families.multimodal_types import TEXT_OF
from hfmem.model.inventory import Inventory
from hfmem.records import replace


def wrapped(cfg: Config, model_type: str | None = None) -> Architecture:
    """The text model that the config holds, or (`model_type`) is itself, and whatever else the files do."""
    text = text_config(cfg, *registry.TEXT_PLACES, model_type=model_type)
    inner = text_architecture(text)
    what = f"layers and cache are those of its {inner.model_type} text model, other parts weigh what the files hold"
    note = Note("parts_by_files", f"{cfg.file}: {what}")
    return replace(wrap(cfg, text, inner, inner.family, PLAIN, Inventory(), notes=(note,)), partial=True)


def told(cfg: Config) -> Architecture:
    """A wrapper of `TEXT_OF`."""
    return wrapped(cfg, TEXT_OF[cfg.model_type])
