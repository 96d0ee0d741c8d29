"""Isaac: SigLIP 2 whose patches come in as rows, pixel shuffle, two linear layers, Qwen3 under its own names.

Source: vLLM 0.33.0 `isaac.py` and `transformers_utils/configs/isaac.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families.lfm2_vl import siglip2
from hfmem.model.families.multimodal import text_architecture, text_config, tower, tower_layers, wrap
from hfmem.model.inventory import Inventory


def isaac(cfg: Config) -> Architecture:
    """The text model's keys at the top level or in `text_config`."""
    text = text_config(cfg, model_type="qwen3")
    inner = text_architecture(Config(text.data, text.file, "qwen3", text.used_defaults), "qwen3")
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="siglip2_vision_model")
    data = {**found.data, "vision_use_head": False}
    seen = Config(data, found.file, "siglip2_vision_model", cfg.used_defaults)
    count = siglip2(tower(inv, "model.vision_embedding.0."), seen)
    wide = seen.positive("hidden_size") * (seen.opt_int("pixel_shuffle_scale_factor") or 1) ** 2
    project = tower(inv, "model.vision_embedding.")
    project.linear("1", 4 * wide, wide, bias=False)
    project.linear("3", inner.hidden_size, 4 * wide, bias=False)
    return wrap(cfg, text, inner, "isaac", (("model.", "model.text_model."),), inv, tower_layers(count))
