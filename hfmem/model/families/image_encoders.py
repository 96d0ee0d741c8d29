"""Image encoders of ViT's build alone: ViT, DeiT, BEiT, DINOv2 (registers too), DINOv3.

Source: transformers 5.23.0 `models/{vit,deit,beit,dinov2,dinov2_with_registers,dinov3_vit}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.heads import class_name, num_labels, task
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory

_IMAGE_TASKS = {
    "Model": "model",
    "ForImageClassification": "classification",
    "ForImageClassificationWithTeacher": "classification",
}


def _attention(block: Part, cfg: Config, width: int) -> None:
    bias = cfg.flag("qkv_bias", default=True)
    for name in ("query", "key", "value"):
        biased = name != "key" if cfg.model_type == "beit" else bias
        block.linear(f"attention.attention.{name}", width, width, split=COLUMN, bias=biased)
    block.linear("attention.output.dense", width, width, split=ROW)


def _bert_mlp(block: Part, width: int, inner: int) -> None:
    block.linear("intermediate.dense", inner, width, split=COLUMN)
    block.linear("output.dense", width, inner, split=ROW)
    block.norms(("layernorm_before", "layernorm_after"), width)


def _dino_mlp(block: Part, cfg: Config, width: int) -> None:
    inner = int(width * cfg.positive_float("mlp_ratio"))
    if cfg.flag("use_swiglu_ffn", default=False):
        inner = (inner * 2 // 3 + 7) // 8 * 8
        block.linear("mlp.weights_in", 2 * inner, width, split=COLUMN)
        block.linear("mlp.weights_out", width, inner, split=ROW)
    else:
        vision.mlp(block.at("mlp."), width, inner)
    block.norms(("norm1", "norm2"), width)
    block.tensor("layer_scale1.lambda1", (width,))
    block.tensor("layer_scale2.lambda1", (width,))


def vit(cfg: Config) -> Architecture:
    """ViT, DeiT (a second class token) and DINOv2 (layer scales, registers); a classifier if saved with one, else a pooler."""
    what = task(cfg, "model", _IMAGE_TASKS)
    dino = cfg.model_type.startswith("dinov2")
    d = read_dims(cfg)
    inv = Inventory()
    part = tower(inv, "" if what == "model" else f"{cfg.model_type}.")
    width = d.hidden
    part.tensor("embeddings.cls_token", (1, 1, width))
    extra = 1
    if cfg.model_type == "deit":
        part.tensor("embeddings.distillation_token", (1, 1, width))
        extra = 2
    part.conv(
        "embeddings.patch_embeddings.projection", width, cfg.positive("num_channels"), vision.side(cfg, "patch_size")
    )
    part.tensor("embeddings.position_embeddings", (1, vision.patches(cfg) + extra, width))
    block = part.at("encoder.layer.{}.", range(d.num_layers))
    _attention(block, cfg, width)
    inner = None
    if dino:
        if cfg.model_type == "dinov2_with_registers" or cfg.flag("use_mask_token", default=True):
            part.tensor("embeddings.mask_token", (1, width))
        if cfg.model_type == "dinov2_with_registers":
            part.tensor("embeddings.register_tokens", (1, cfg.need_int("num_register_tokens"), width))
        _dino_mlp(block, cfg, width)
    else:
        inner = cfg.positive("intermediate_size")
        _bert_mlp(block, width, inner)
        if what == "model":
            part.linear("pooler.dense", cfg.opt_int("pooler_output_size") or width, width)
    part.norm("layernorm", width)
    if what == "classification":
        features = 2 * width if dino else width  # class token beside the mean of the patches
        top = Part(inv, component=Component.OTHER)
        teacher = class_name(cfg).endswith("WithTeacher")
        for name in ("cls_classifier", "distillation_classifier") if teacher else ("classifier",):
            top.linear(name, num_labels(cfg), features)
    return assemble(cfg, cfg, "vision", d, tower_layers(d.num_layers), inv, vocab=0, tied=False, intermediate=inner)


def beit(cfg: Config) -> Architecture:
    """BEiT and DiT: no bias of the keys, layer scales, positions in a table of offsets a layer or learned for each patch."""
    what = task(cfg, "model", _IMAGE_TASKS)
    d = read_dims(cfg)
    inv = Inventory()
    part = tower(inv, "" if what == "model" else "beit.")
    width, inner = d.hidden, cfg.positive("intermediate_size")
    patch = vision.side(cfg, "patch_size")
    part.tensor("embeddings.cls_token", (1, 1, width))
    if cfg.flag("use_mask_token", default=False):
        part.tensor("embeddings.mask_token", (1, 1, width))
    part.conv("embeddings.patch_embeddings.projection", width, cfg.positive("num_channels"), patch)
    if cfg.flag("use_absolute_position_embeddings", default=False):
        part.tensor("embeddings.position_embeddings", (1, vision.patches(cfg) + 1, width))
    block = part.at("encoder.layer.{}.", range(d.num_layers))
    _attention(block, cfg, width)
    _bert_mlp(block, width, inner)
    if cfg.opt_float("layer_scale_init_value") != 0:
        block.tensor("lambda_1", (width,))
        block.tensor("lambda_2", (width,))
    high, broad = (s // p for s, p in zip(vision.side(cfg, "image_size"), patch, strict=True))
    offsets = (2 * high - 1) * (2 * broad - 1) + 3  # from and to the class token too
    bias = "relative_position_bias.relative_position_bias_table"
    if cfg.flag("use_relative_position_bias", default=False):
        block.tensor(f"attention.attention.{bias}", (offsets, d.num_heads))
    if cfg.flag("use_shared_relative_position_bias", default=False):
        part.tensor(f"encoder.{bias}", (offsets, d.num_heads))
    pooled = cfg.flag("use_mean_pooling", default=True)
    if pooled:
        part.norm("pooler.layernorm", width)
    else:
        part.norm("layernorm", width)
    if what == "classification":
        Part(inv, component=Component.OTHER).linear("classifier", num_labels(cfg), width)
    return assemble(cfg, cfg, "vision", d, tower_layers(d.num_layers), inv, vocab=0, tied=False, intermediate=inner)


def dinov3(cfg: Config) -> Architecture:
    """DINOv3: rotary positions, registers, layer scales, a plain or gated feed-forward, each bias by its own flag."""
    d = read_dims(cfg)
    inv = Inventory()
    part, width, inner = tower(inv), d.hidden, cfg.positive("intermediate_size")
    part.tensor("embeddings.cls_token", (1, 1, width))
    part.tensor("embeddings.mask_token", (1, 1, width))
    part.tensor("embeddings.register_tokens", (1, cfg.need_int("num_register_tokens"), width))
    part.conv("embeddings.patch_embeddings", width, cfg.positive("num_channels"), vision.side(cfg, "patch_size"))
    block = part.at("layer.{}.", range(d.num_layers))
    for name, flag in (("q", "query_bias"), ("k", "key_bias"), ("v", "value_bias")):
        block.linear(f"attention.{name}_proj", width, width, split=COLUMN, bias=cfg.flag(flag))
    block.linear("attention.o_proj", width, width, split=ROW, bias=cfg.flag("proj_bias"))
    bias = cfg.flag("mlp_bias")
    if cfg.flag("use_gated_mlp", default=False):
        vision.gated(block.at("mlp."), width, inner, bias=bias)
    else:
        vision.mlp(block.at("mlp."), width, inner, ("up_proj", "down_proj"), bias=bias)
    block.norms(("norm1", "norm2"), width)
    block.tensor("layer_scale1.lambda1", (width,))
    block.tensor("layer_scale2.lambda1", (width,))
    part.norm("norm", width)
    return assemble(cfg, cfg, "vision", d, tower_layers(d.num_layers), inv, vocab=0, tied=False, intermediate=inner)
