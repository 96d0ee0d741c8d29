"""Image encoders alone: ViT and DINOv2.

Source: transformers 5.23.0 `models/{vit,dinov2}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory

_IMAGE_TASKS = {"Model": "model", "ForImageClassification": "classification"}


def vit(cfg: Config) -> Architecture:
    """ViT and DINOv2: an image encoder alone, with a pooler (ViT) or layer scales (DINOv2), and a classifier if saved with one."""
    what = task(cfg, "model", _IMAGE_TASKS)
    dino = cfg.model_type == "dinov2"
    d = read_dims(cfg)
    inv = Inventory()
    prefix = "" if what == "model" else f"{cfg.model_type}."
    part = tower(inv, prefix)
    width, patch = d.hidden, vision.side(cfg, "patch_size")
    part.tensor("embeddings.cls_token", (1, 1, width))
    part.conv("embeddings.patch_embeddings.projection", width, cfg.positive("num_channels"), patch)
    part.tensor("embeddings.position_embeddings", (1, vision.patches(cfg) + 1, width))
    block = part.at("encoder.layer.{}.", range(d.num_layers))
    for name in ("query", "key", "value"):
        block.linear(f"attention.attention.{name}", width, width, split=COLUMN, bias=cfg.flag("qkv_bias", default=True))
    block.linear("attention.output.dense", width, width, split=ROW)
    if dino:
        if cfg.flag("use_mask_token", default=True):
            part.tensor("embeddings.mask_token", (1, width))
        inner = int(width * cfg.need_float("mlp_ratio"))
        if cfg.flag("use_swiglu_ffn", default=False):
            inner = (inner * 2 // 3 + 7) // 8 * 8
            block.linear("mlp.weights_in", 2 * inner, width, split=COLUMN)
            block.linear("mlp.weights_out", width, inner, split=ROW)
        else:
            vision.mlp(block.at("mlp."), width, inner)
        block.norms(("norm1", "norm2"), width)
        block.tensor("layer_scale1.lambda1", (width,))
        block.tensor("layer_scale2.lambda1", (width,))
    else:
        inner = cfg.positive("intermediate_size")
        block.linear("intermediate.dense", inner, width, split=COLUMN)
        block.linear("output.dense", width, inner, split=ROW)
        block.norms(("layernorm_before", "layernorm_after"), width)
        if what == "model":
            part.linear("pooler.dense", cfg.opt_int("pooler_output_size") or width, width)
    part.norm("layernorm", width)
    if what == "classification":
        features = 2 * width if dino else width  # class token beside the mean of the patches
        Part(inv, component=Component.OTHER).linear("classifier", num_labels(cfg), features)
    return assemble(cfg, cfg, "vision", d, tower_layers(d.num_layers), inv, vocab=0, tied=False, intermediate=inner)
