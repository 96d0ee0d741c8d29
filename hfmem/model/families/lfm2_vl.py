"""LFM2-VL: LFM2 with a SigLIP 2 tower whose patches come in as rows, and a projector over unshuffled patches.

Source: transformers 5.23.0 `models/{lfm2_vl,siglip2}`; tower names as in the published checkpoints (`vision_tower.vision_model`).
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families.multimodal import NESTED, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.families.vision import clip_blocks, mlp
from hfmem.model.inventory import Column, Inventory


def siglip2(part: Part, vision: Config) -> int:
    """SigLIP 2 for images of any shape: a linear patch embedding, one position for each of `num_patches`, maybe a pooling head."""
    width, count = vision.positive("hidden_size"), vision.positive("num_hidden_layers")
    inner = vision.positive("intermediate_size")
    patch = vision.positive("num_channels") * vision.positive("patch_size") ** 2
    part.linear("embeddings.patch_embedding", width, patch)
    part.tensor("embeddings.position_embedding.weight", (vision.positive("num_patches"), width))
    clip_blocks(part.at("encoder."), count, width, inner)
    part.norm("post_layernorm", width)
    if vision.flag("vision_use_head", default=True):
        head = part.at("head.")
        head.tensor("probe", (1, 1, width))
        head.tensor("attention.in_proj_weight", (3 * width, width), split=Column((width, width, width)))
        head.tensor("attention.in_proj_bias", (3 * width,), split=Column((width, width, width)))
        head.linear("attention.out_proj", width, width, split=ROW)
        head.norm("layernorm", width)
        mlp(head.at("mlp."), width, inner)
    return count


def lfm2_vl(cfg: Config) -> Architecture:
    """LFM2-VL on any of LFM2's text models."""
    text, inner = text_part(cfg, model_type="lfm2")
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="siglip2_vision_model")
    vision = Config(found.data, found.file, "siglip2_vision_model", cfg.used_defaults)
    count = siglip2(tower(inv, "model.vision_tower.vision_model."), vision)
    merged = vision.positive("hidden_size") * cfg.positive("downsample_factor") ** 2
    width, bias = cfg.positive("projector_hidden_size"), cfg.flag("projector_bias", default=True)
    projector = tower(inv, "model.multi_modal_projector.")
    if cfg.flag("projector_use_layernorm", default=True):
        projector.norm("layer_norm", merged)
    projector.linear("linear_1", width, merged, split=COLUMN, bias=bias)
    projector.linear("linear_2", inner.hidden_size, width, split=ROW, bias=bias)
    return wrap(cfg, text, inner, "lfm2_vl", NESTED, inv, tower_layers(count))
