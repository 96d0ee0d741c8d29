"""EXAONE 4.5: Qwen2.5-VL's tower with shared keys and values before EXAONE 4, a prediction layer beside it.

Source: transformers 5.23.0 `models/exaone4_5/modeling_exaone4_5.py`, vLLM 0.33.0 `exaone4_5_mtp.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import norm
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import NESTED, text_part, tower, tower_layers, wrap
from hfmem.model.inventory import Component, Inventory
from hfmem.model.stack import as_block, as_mtp, first_again


def exaone4_5(cfg: Config) -> Architecture:
    """EXAONE 4.5; `num_nextn_predict_layers` stands beside `text_config` or in it."""
    named = cfg.data.get("text_config")
    if isinstance(named, dict) and named.get("model_type") == "exaone4_5_text":  # as the class renames it
        cfg = Config(
            {**cfg.data, "text_config": {**named, "model_type": "exaone4"}}, cfg.file, cfg.model_type, cfg.used_defaults
        )
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    heads = seen.positive("num_heads")
    kv_width = seen.positive("hidden_size") // heads * (seen.opt_int("num_key_value_heads") or heads)
    depth = vision.qwen2_5_vl(tower(inv, "model.visual."), seen, kv_width=kv_width)
    key = "num_nextn_predict_layers"
    hidden, count = inner.hidden_size, cfg.opt_int(key) or text.opt_int(key) or 0

    def mtp(part: Inventory) -> None:
        part.specs += as_block(inner.tensors, "model.layers.{}.", "mtp.layers.{}.", range(count))
        part.add("mtp.fc.weight", (hidden, 2 * hidden), Component.MTP)
        for name in ("norm", "pre_fc_norm_hidden", "pre_fc_norm_embedding"):
            norm(part, f"mtp.{name}", None, hidden)

    if count:
        as_mtp(inv, mtp)
    towers = (*tower_layers(depth), *first_again(inner.layers, count))
    return wrap(cfg, text, inner, "exaone4_5", NESTED, inv, towers)
