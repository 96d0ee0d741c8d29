"""Inkling 2 with its image encoder: a perception encoder under `model.visual`, two linear layers over merged patches.

Source: transformers 5.23.0 `models/inkling2/modeling_inkling2.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import PLAIN, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW
from hfmem.model.inventory import Inventory


def inkling2(cfg: Config) -> Architecture:
    """The text model keeps its own names."""
    text, inner = text_part(cfg)
    seen = cfg.sub("vision_config")
    inv = Inventory()
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    part = tower(inv, "model.visual.backbone.")
    pixels = seen.positive("num_channels") * seen.positive("patch_size") ** 2
    part.tensor("embeddings.class_embedding", (width,))
    part.tensor("embeddings.cls_position_embedding", (width,))
    part.tensor("embeddings.position_embedding", (seen.positive("posemb_grid_size") ** 2, width))
    part.tensor("embeddings.patch_embedding.weight", (width, pixels))
    part.norm("ln_pre", width)
    block = part.at("layers.{}.", range(count))
    vision.projections(block.at("self_attn."), width)
    wide = seen.opt_int("intermediate_size") or int(width * seen.positive_float("mlp_ratio"))
    vision.mlp(block.at("mlp."), width, wide, ("c_fc", "c_proj"))
    block.norms(("ln_1", "ln_2"), width)
    block.tensor("ls_1.gamma", (width,))
    block.tensor("ls_2.gamma", (width,))
    bias, wide = seen.flag("projector_bias", default=False), seen.positive("projection_hidden_dim")
    merged = width * seen.positive("spatial_merge_size") ** 2
    tower(inv).linear("model.visual.proj_in", wide, merged, split=COLUMN, bias=bias)
    tower(inv).linear("model.visual.proj_out", inner.hidden_size, wide, split=ROW, bias=bias)
    return wrap(cfg, text, inner, inner.family, PLAIN, inv, tower_layers(count))
