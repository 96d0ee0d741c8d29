"""Cohere Compass: Qwen3-VL's tower before Cohere 2's decoder; an embedder of documents, or a generator.

Source: transformers 5.23.0 `models/cohere_compass/modeling_cohere_compass.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import NESTED, text_part, tower, tower_layers, wrap
from hfmem.model.inventory import Inventory


def cohere_compass(cfg: Config) -> Architecture:
    """The tower's own config may call itself by the whole model's type."""
    text, inner = text_part(cfg)
    inv = Inventory()
    found = cfg.sub("vision_config")
    seen = Config(found.data, found.file, "cohere_compass_vision", cfg.used_defaults)
    depth = vision.qwen3_vl(tower(inv, "model.visual."), seen)
    return wrap(cfg, text, inner, "cohere_compass", NESTED, inv, tower_layers(depth))
