"""Ling 3 with vision (Bailing MoE V3 VL): Qwen3-VL's tower without deepstack, patches laid side by side, a projector, the hybrid.

Source: vLLM 0.33.0 `models/bailing_moe_v3_vl.py` and `transformers_utils/configs/bailing_moe_v3_vl.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import PLAIN, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW
from hfmem.model.inventory import Inventory

#: what the tower's class assumes (`BailingMoeV3VisionConfig`)
_SEEN = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
}


def bailing_moe_v3_vl(cfg: Config) -> Architecture:
    """The text model keeps its own names, the tower stands under `model.visual`, the projector under `model.linear_proj`."""
    text, inner = text_part(cfg, model_type="bailing_hybrid")
    found = cfg.opt_sub("vision_config", model_type="")
    seen = Config({**_SEEN, **(found.data if found else {})}, f"{cfg.file}: vision_config", "")
    inv = Inventory()
    count = vision.qwen3_vl(tower(inv, "model.visual."), seen, merger=False)
    merged = seen.positive("hidden_size") * seen.positive("spatial_merge_size") ** 2
    project = tower(inv, "model.linear_proj.")
    project.linear("0", inner.hidden_size, merged, split=COLUMN)
    project.linear("2", inner.hidden_size, inner.hidden_size, split=ROW)
    return wrap(cfg, text, inner, "bailing_moe_v3_vl", PLAIN, inv, tower_layers(count))
