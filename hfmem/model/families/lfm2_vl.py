"""LFM2-VL: LFM2 with a SigLIP 2 tower whose patches come in as rows, and a projector over unshuffled patches.

Source: transformers 5.23.0 `models/{lfm2_vl,siglip2}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import NESTED, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory


def siglip2(part: Part, cfg: Config) -> int:
    """SigLIP 2 (NaFlex): patches through a linear layer, `num_patches` positions."""
    width, count, inner = (
        cfg.positive("hidden_size"),
        cfg.positive("num_hidden_layers"),
        cfg.positive("intermediate_size"),
    )
    height, breadth = vision.side(cfg, "patch_size")
    part.linear("embeddings.patch_embedding", width, cfg.positive("num_channels") * height * breadth)
    part.tensor("embeddings.position_embedding.weight", (cfg.positive("num_patches"), width))
    vision.clip_blocks(part.at("encoder."), count, width, inner)
    part.norm("post_layernorm", width)
    if cfg.flag("vision_use_head", default=True):
        vision.pooling_head(part.at("head."), width, inner)
    return count


def lfm2_vl(cfg: Config) -> Architecture:
    """LFM2-VL: SigLIP 2, pixel unshuffle by `downsample_factor`, a two-layer projector, LFM2."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    seen.choice("model_type", seen.model_type, ("siglip2_vision_model",))
    count = siglip2(tower(inv, "model.vision_tower."), seen)
    features = seen.positive("hidden_size") * cfg.positive("downsample_factor") ** 2
    wide, bias = cfg.positive("projector_hidden_size"), cfg.flag("projector_bias", default=True)
    project = tower(inv, "model.multi_modal_projector.")
    if cfg.flag("projector_use_layernorm", default=True):
        project.norm("layer_norm", features)
    project.linear("linear_1", wide, features, split=COLUMN, bias=bias)
    project.linear("linear_2", inner.hidden_size, wide, split=ROW, bias=bias)
    return wrap(cfg, text, inner, "lfm2_vl", NESTED, inv, tower_layers(count))
