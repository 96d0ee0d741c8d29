"""HyperCLOVA X SEED Vision 2 (published as `vlm`): Qwen2.5-VL's tower and one linear layer before HyperCLOVA X.

Source: transformers 5.23.0 `models/hyperclovax_vision_v2`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import text_part, tower, tower_layers, wrap
from hfmem.model.inventory import Inventory


def hyperclovax_vision_v2(cfg: Config) -> Architecture:
    """The whole text model, head too, under `model.language_model`."""
    cfg = Config(cfg.data, cfg.file, "hyperclovax_vision_v2", cfg.used_defaults)
    text, inner = text_part(cfg)
    inv = Inventory()
    found = cfg.sub("vision_config")
    seen = Config(
        found.data, found.file, "qwen2_5_vl_vision", cfg.used_defaults
    )  # the Hub's config names the whole model
    count = vision.qwen2_5_vl(tower(inv, "model.vision_model."), seen)
    tower(inv).linear("model.vision_projector", inner.hidden_size, seen.positive("out_hidden_size"))
    arch = wrap(cfg, text, inner, "hyperclovax_vision_v2", (("", "model.language_model."),), inv, tower_layers(count))
    return arch
