"""More wrappers and image encoders: LFM2-VL, Ovis 2, GOT-OCR 2, ViT, DINOv2.

Source: transformers 5.23.0 `models/{lfm2_vl,ovis2,got_ocr2,vit,dinov2}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.multimodal import NESTED, WHOLE, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory


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


def ovis2(cfg: Config) -> Architecture:
    """Ovis 2: AIMv2 blocks, a visual vocabulary and its embedding table, any text model."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    vocab, marks = seen.positive("vocab_size"), seen.need_int("num_visual_indicator_tokens")
    if marks >= vocab:
        raise ContradictionError(f"{seen.file}: {marks} indicator tokens of a visual vocabulary of {vocab}")
    part = tower(inv, "model.vision_tower.")
    body = part.at("transformer.")
    body.conv("embeddings.patch_embedding", width, seen.positive("num_channels"), vision.side(seen, "patch_size"))
    body.tensor("embeddings.position_embedding.weight", (vision.patches(seen), width))
    body.norm("embeddings.rms_norm", width, bias=False)
    block = body.at("encoder.layers.{}.", range(count))
    vision.projections(block.at("attention."), width, bias=seen.flag("qkv_bias", default=False))
    mlp_bias = seen.flag("mlp_bias", default=False)
    vision.gated(block.at("ffn."), width, seen.positive("intermediate_size"), bias=mlp_bias)
    block.norms(("rms_norm1", "rms_norm2"), width, bias=False)
    body.norm("rms_norm", width, bias=False)
    part.linear("head_linear", vocab - marks, width * seen.positive("hidden_stride") ** 2, bias=False)
    part.norm("head_norm", vocab - marks)
    tower(inv).tensor("model.visual_embeddings_table.weight", (vocab, cfg.positive("hidden_size")))
    return wrap(cfg, text, inner, "ovis2", NESTED, inv, tower_layers(count))


def _sam(part: Part, cfg: Config) -> int:
    """SAM's vision transformer with decomposed relative positions and a neck, under transformers' names."""
    width, count, heads = (
        cfg.positive("hidden_size"),
        cfg.positive("num_hidden_layers"),
        cfg.positive("num_attention_heads"),
    )
    neck, wide = cfg.positive("output_channels"), cfg.positive("mlp_dim")
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
        window, overall = cfg.positive("window_size"), set(cfg.need_list("global_attn_indexes"))
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
    count = _sam(tower(inv, "vision_tower."), seen)
    neck = seen.positive("output_channels")
    project = tower(inv, "multi_modal_projector.")
    project.conv("conv_upsampler1", 2 * neck, neck, (3, 3), bias=False)
    project.conv("conv_upsampler2", 4 * neck, 2 * neck, (3, 3), bias=False)
    project.linear("multimodal_projector", inner.hidden_size, 4 * neck)
    return wrap(cfg, text, inner, "got_ocr2", WHOLE, inv, tower_layers(count))


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
