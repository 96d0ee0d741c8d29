"""GOT-OCR 2: SAM before Qwen2.

Source: transformers 5.23.0 `models/got_ocr2/modeling_got_ocr2.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import WHOLE, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import ROW, Part
from hfmem.model.inventory import Inventory


def sam(part: Part, cfg: Config) -> int:
    """SAM's vision transformer with decomposed relative positions and a neck, under transformers' names."""
    width, count, heads = (
        cfg.positive("hidden_size"),
        cfg.positive("num_hidden_layers"),
        cfg.positive("num_attention_heads"),
    )
    neck, ratio = cfg.positive("output_channels"), cfg.opt_float("mlp_ratio") or 4.0
    wide = cfg.opt_int("mlp_dim") or int(width * ratio)
    (rows, columns), patch = vision.side(cfg, "image_size"), vision.side(cfg, "patch_size")
    grid = (rows // patch[0], columns // patch[1])
    part.conv("patch_embed.projection", width, cfg.positive("num_channels"), patch)
    if cfg.flag("use_abs_pos", default=True):
        part.tensor("pos_embed", (1, *grid, width))
    block = part.at("layers.{}.", range(count))
    block.norms(("layer_norm1", "layer_norm2"), width)
    vision.fused_projection(block.at("attn."), "qkv", width, bias=cfg.flag("qkv_bias", default=True))
    block.linear("attn.proj", width, width, split=ROW)
    vision.mlp(block.at("mlp."), width, wide, ("lin1", "lin2"))
    if cfg.flag("use_rel_pos", default=True):
        window, overall = cfg.positive("window_size"), {*cfg.need_list("global_attn_indexes")} & {*range(count)}
        local = [i for i in range(count) if i not in overall]
        for layers, size in ((local, (window, window)), (sorted(overall), grid)):
            at = part.at("layers.{}.attn.", layers)
            at.tensor("rel_pos_h", (2 * size[0] - 1, width // heads))
            at.tensor("rel_pos_w", (2 * size[1] - 1, width // heads))
    part.conv("neck.conv1", neck, width, (1, 1), bias=False)
    part.conv("neck.conv2", neck, neck, (3, 3), bias=False)
    part.norms(("neck.layer_norm1", "neck.layer_norm2"), neck)
    return count


def got_ocr2(cfg: Config) -> Architecture:
    """GOT-OCR 2: SAM, two strided convolutions that double the channels, one linear layer, Qwen2."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = sam(tower(inv, "vision_tower."), seen)
    neck = seen.positive("output_channels")
    project = tower(inv, "multi_modal_projector.")
    project.conv("conv_upsampler1", 2 * neck, neck, (3, 3), bias=False)
    project.conv("conv_upsampler2", inner.hidden_size, 2 * neck, (3, 3), bias=False)
    project.linear("multimodal_projector", inner.hidden_size, inner.hidden_size)
    return wrap(cfg, text, inner, "got_ocr2", WHOLE, inv, tower_layers(count))
