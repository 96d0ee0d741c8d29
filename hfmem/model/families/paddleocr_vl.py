"""PaddleOCR-VL and Keye-VL: Keye's SigLIP with rotary positions, merged patches through two linear layers, ERNIE 4.5 or Qwen3.

The published files also hold SigLIP's pooling head and positions for packed images, which no engine loads.

Sources: transformers 5.23.0 `models/paddleocr_vl/modeling_paddleocr_vl.py`, vLLM 0.33.0 `keye.py` and `keye_vl1_5.py`; names as
published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import (
    PLAIN,
    keep_whole,
    text_architecture,
    text_config,
    text_part,
    tower,
    tower_layers,
    wrap,
)
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory
from hfmem.records import replace

#: rows of the positions of packed images, fixed in the code
_PACKED = 32768


def keye_tower(part: Part, cfg: Config) -> int:
    """SigLIP without its head, and what the files hold besides."""
    width = cfg.positive("hidden_size")
    count = vision.siglip(part, cfg, head=False)
    before, unread = len(part.inv.specs), part.maybe()
    unread.tensor("embeddings.packing_position_embedding.weight", (_PACKED, width))
    vision.pooling_head(unread.at("head."), width, cfg.positive("intermediate_size"))
    part.inv.specs[before:] = [replace(spec, unread=True) for spec in part.inv.specs[before:]]
    return count


def _projector(part: Part, width: int, merge: int, hidden: int, norm: int) -> None:
    part.norm("pre_norm", norm)
    part.linear("linear_1", merge * width, merge * width, split=COLUMN)
    part.linear("linear_2", hidden, merge * width, split=ROW)


def paddleocr_vl(cfg: Config) -> Architecture:
    """PaddleOCR-VL; the Hub's configs keep the text model's keys at the top level."""
    text, inner = text_part(cfg)
    inv = Inventory()
    found = cfg.sub("vision_config")
    seen = Config(found.data, found.file, "paddleocr_vl_vision", cfg.used_defaults)
    count = keye_tower(tower(inv, "visual.vision_model."), seen)
    width, merge = seen.positive("hidden_size"), seen.positive("spatial_merge_size") ** 2
    _projector(tower(inv, "mlp_AR."), width, merge, inner.hidden_size, width)
    keep_whole(inv, "mlp_AR.")
    return wrap(cfg, text, inner, "paddleocr_vl", PLAIN, inv, tower_layers(count))


def keye(cfg: Config) -> Architecture:
    """Keye-VL and Keye-VL 1.5 (which norms the merged patches): Qwen3's keys at the top level."""
    text = text_config(cfg, model_type="qwen3")
    inner = text_architecture(Config(text.data, text.file, "qwen3", text.used_defaults), "qwen3")
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="siglip_vision_model")
    seen = Config(found.data, found.file, "siglip_vision_model", cfg.used_defaults)
    count = keye_tower(tower(inv, "visual.vision_model."), seen)
    width, later = seen.positive("hidden_size"), cfg.model_type != "Keye"
    _projector(tower(inv, "mlp_AR."), width, 4, inner.hidden_size, 4 * width if later else width)
    return wrap(cfg, text, inner, "keye", PLAIN, inv, tower_layers(count))
