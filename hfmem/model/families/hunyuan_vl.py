"""HunYuan-VL and HunyuanOCR: a vision transformer with biases, convolutions that merge patches, HunYuan's dense decoder. Hunyuan V4
has the same tower before its own decoder.

Source: transformers 5.24.0 `models/{hunyuan_vl,hy_v4_vl}/` and their checkpoint renames; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import PLAIN, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW
from hfmem.model.inventory import Inventory


def hunyuan_vl(cfg: Config) -> Architecture:
    """Text under its own names (its keys at the top level in the first configs), the tower under `vit`."""
    text, inner = text_part(cfg)
    inv, seen, hidden = Inventory(), cfg.sub("vision_config"), inner.hidden_size
    width, merge, count = _tower(inv, seen)
    at = tower(inv, "vit.perceive.")
    at.norm("before_rms", width, bias=False)
    at.conv("proj.0", 2 * width, width, (merge, merge))
    at.conv("proj.2", 4 * width, 2 * width, (1, 1))
    at.linear("mlp", hidden, 4 * width)
    at.norm("after_rms", hidden, bias=False)
    at.tensor("image_newline", (4 * width,))
    for leaf in ("image_begin", "image_end", "image_sep"):
        at.tensor(leaf, (hidden,))
    return wrap(cfg, text, inner, "hunyuan_vl", PLAIN, inv, tower_layers(count))


def hy_v4_vl(cfg: Config) -> Architecture:
    """Hunyuan V4 with the tower, whose convolutions end in the text model's width."""
    text, inner = text_part(cfg)
    inv, seen = Inventory(), cfg.sub("vision_config")
    width, merge, count = _tower(inv, seen)
    at, out = tower(inv, "vit.perceive."), seen.positive("out_hidden_size")
    at.norm("norm", width, bias=False)
    at.conv("proj.0", width * merge**2, width, (merge, merge))
    at.conv("proj.2", out, width * merge**2, (1, 1))
    at.tensor("image_newline", (out,))
    return wrap(cfg, text, inner, "hy_v4_vl", PLAIN, inv, tower_layers(count))


def _tower(inv: Inventory, seen: Config) -> tuple[int, int, int]:
    """The transformer under `vit`: its width, how many patches a side are merged, its depth."""
    width, count, merge = (
        seen.positive("hidden_size"),
        seen.positive("num_hidden_layers"),
        seen.positive("spatial_merge_size"),
    )
    heads, patch = seen.positive("num_attention_heads"), vision.side(seen, "patch_size")
    kv = (seen.opt_int("num_key_value_heads") or heads) * (width // heads)
    part = tower(inv, "vit.")
    part.conv("embeddings.patch_embedding", width, seen.positive("num_channels"), patch)
    rows = (seen.positive("max_image_size") // patch[0]) ** 2 + 1
    part.tensor("embeddings.position_embedding.weight", (rows, width))
    block, names = part.at("layers.{}.", range(count)), ("q_proj", "k_proj", "v_proj", "o_proj")
    vision.projections(block.at("self_attn."), width, names=names, kv_width=kv)
    inside = seen.positive("intermediate_size")
    block.linear("mlp.dense_h_to_4h", inside, width, split=COLUMN)
    block.linear("mlp.dense_4h_to_h", width, inside, split=ROW)
    block.norms(("input_layernorm", "post_attention_layernorm"), width)
    return width, merge, count
