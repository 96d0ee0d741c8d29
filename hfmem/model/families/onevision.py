"""LLaVA-OneVision's successors by other labs: Bee, R-4B, LLaVA-OneVision 2.

Source: vLLM 0.33.0 `models/{bee,rvl,llava_onevision2}.py` and their weight mappers; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.llava import image_tower
from hfmem.model.families.multimodal import NESTED, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW
from hfmem.model.inventory import Inventory


def normed(cfg: Config) -> Architecture:
    """Bee and R-4B: an image tower, a norm and two linear layers (Bee's four times the text model's width), a newline vector."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = image_tower(tower(inv, "model.vision_tower."), seen)
    features, hidden = seen.positive("hidden_size"), inner.hidden_size
    wide = 4 * hidden if cfg.model_type == "bee" else hidden
    project = tower(inv, "model.multi_modal_projector.")
    project.norm("pre_norm", features)
    project.linear("linear_1", wide, features)
    project.linear("linear_2", hidden, wide)
    tower(inv).tensor("model.image_newline", (hidden,))
    return wrap(cfg, text, inner, "llava", NESTED, inv, tower_layers(count))


def llava_onevision2(cfg: Config) -> Architecture:
    """LLaVA-OneVision 2: a rotary encoder with q, k and v in one matrix and a norm before, patches merged as in Qwen2-VL, Qwen3."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    part = tower(inv, "model.visual.")
    part.conv(
        "embeddings.patch_embedding",
        width,
        seen.opt_int("num_channels") or 3,
        vision.side(seen, "patch_size"),
        bias=False,
    )
    part.norm("layernorm_pre", width)
    block = part.at("encoder.layers.{}.", range(count))
    vision.fused_projection(block.at("self_attn."), "qkv", width, bias=True)
    block.linear("self_attn.proj", width, width, split=ROW)
    block.norms(("layer_norm1", "layer_norm2"), width)
    vision.mlp(block.at("mlp."), width, seen.positive("intermediate_size"))
    merged = width * seen.positive("spatial_merge_size") ** 2
    part.norm("merger.ln_q", width)
    part.linear("merger.mlp.0", merged, merged, split=COLUMN)
    part.linear("merger.mlp.2", inner.hidden_size, merged, split=ROW)
    return wrap(cfg, text, inner, "llava_onevision2", NESTED, inv, tower_layers(count))
