"""LFM2-VL: LFM2 with a SigLIP 2 tower whose patches come in as rows, and a projector over unshuffled patches. LFM3-VL: a tower
of convolutions and attention in turn.

Source: transformers 5.23.0 `models/{lfm2_vl,lfm3_vl,siglip2}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import NESTED, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory
from hfmem.model.stack import indices_of, layer_kinds


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


def _lfm3_tower(part: Part, cfg: Config) -> int:
    """LFM3's blocks over patches: a gated convolution over the image, or attention, and a gated feed-forward."""
    width, count = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    heads, kernel = cfg.positive("num_attention_heads"), cfg.positive("conv_kernel_size")
    kv_heads = cfg.opt_int("num_key_value_heads") or heads
    words = cfg.opt_list("layer_types")
    if words is None:
        words = ["conv" if i < 2 or i % 2 else "full_attention" for i in range(count)]
    kinds = layer_kinds(cfg, "layer_types", words, ("conv", "full_attention"), count)
    frames, patch = vision.side(cfg, "temporal_patch_size")[0], vision.side(cfg, "patch_size")
    part.linear("patchifier", width, cfg.positive("in_channels") * frames * patch[0] * patch[1], bias=False)
    part.norm("embedding_norm", width, bias=False)
    at = part.at("layers.{}.conv.", indices_of(kinds, "conv"))
    at.linear("in_proj", 3 * width, width, split=COLUMN, bias=False)
    at.linear("out_proj", width, width, split=ROW, bias=False)
    at.conv("spatial_conv", width, 1, (kernel, kernel), bias=False)
    at = part.at("layers.{}.self_attn.", indices_of(kinds, "full_attention"))
    vision.projections(at, width, bias=False, kv_width=kv_heads * (width // heads))
    at.norms(("q_layernorm", "k_layernorm"), width // heads, bias=False)
    block = part.at("layers.{}.", range(count))
    inner = cfg.positive("intermediate_size")
    for name in ("w1", "w3"):
        block.linear(f"feed_forward.{name}", inner, width, split=COLUMN, bias=False)
    block.linear("feed_forward.w2", width, inner, split=ROW, bias=False)
    block.norms(("operator_norm", "ffn_norm"), width, bias=False)
    return count


def lfm3_vl(cfg: Config) -> Architecture:
    """LFM3-VL: the tower's merged patches through two linear layers into LFM3."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = _lfm3_tower(tower(inv, "model.vision_tower."), seen)
    width, wide, bias = (
        seen.positive("hidden_size"),
        cfg.positive("projector_hidden_size"),
        cfg.flag("projector_bias", default=True),
    )
    project = tower(inv, "model.multi_modal_projector.")
    project.norm("layer_norm", width)
    project.linear("linear_1", wide, width * seen.positive("spatial_merge_size") ** 2, split=COLUMN, bias=bias)
    project.linear("linear_2", inner.hidden_size, wide, split=ROW, bias=bias)
    return wrap(cfg, text, inner, "lfm3_vl", NESTED, inv, tower_layers(count))
