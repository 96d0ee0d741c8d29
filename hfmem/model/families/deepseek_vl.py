"""DeepSeek-VL (SigLIP, in the hybrid SAM beside it) and Janus (SigLIP to see, a VQGAN to draw) in transformers' format.

Source: transformers 5.23.0 `models/{deepseek_vl,deepseek_vl_hybrid,janus}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision, vqgan
from hfmem.model.families.got_ocr import sam
from hfmem.model.families.multimodal import NESTED, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory


def deepseek_vl(cfg: Config) -> Architecture:
    """DeepSeek-VL 1.3B: SigLIP whole, two linear layers, a Llama."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = vision.siglip(tower(inv, "model.vision_model.vision_model."), seen)
    align = tower(inv, "model.aligner.")
    align.linear("linear1", inner.hidden_size, seen.positive("hidden_size"), split=COLUMN)
    align.linear("linear2", inner.hidden_size, inner.hidden_size, split=ROW)
    return wrap(cfg, text, inner, "deepseek_vl", NESTED, inv, tower_layers(count))


def deepseek_vl_hybrid(cfg: Config) -> Architecture:
    """DeepSeek-VL 7B: SAM for high resolution beside SigLIP; each fills half of the text model's width."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen, sharp = cfg.sub("vision_config"), cfg.sub("high_res_vision_config")
    hidden = inner.hidden_size
    count = vision.siglip(tower(inv, "model.vision_model.vision_model."), seen)
    count += sam(tower(inv, "model.high_res_vision_model.vision_encoder."), sharp)
    neck, width = sharp.positive("output_channels"), sharp.positive("hidden_size")
    part = tower(inv, "model.high_res_vision_neck.")
    part.conv("conv1", neck, width, (1, 1), bias=False)
    part.conv("conv2", neck, neck, (3, 3), bias=False)
    part.norms(("layer_norm1", "layer_norm2"), neck)
    part = tower(inv, "model.high_res_vision_proj.")
    part.conv("conv1", 2 * neck, neck, (3, 3), bias=False)
    part.conv("conv2", 4 * neck, 2 * neck, (3, 3), bias=False)
    tower(inv).tensor("model.high_res_vision_alpha", (1,))
    align = tower(inv, "model.aligner.")
    align.linear("vision_proj", hidden // 2, seen.positive("hidden_size"))
    align.linear("high_res_vision_proj", hidden // 2, 4 * neck)
    align.linear("proj", hidden, hidden)
    return wrap(cfg, text, inner, "deepseek_vl", NESTED, inv, tower_layers(count))


def _aligner(part: Part, width: int, out: int, depth: int) -> None:
    part.linear("fc1", out, width)
    part.at("hidden_layers.{}", range(depth - 1)).linear("", out, out)


def janus(cfg: Config) -> Architecture:
    """Janus and Janus-Pro: the image generator (VQGAN, its embeddings, aligner and head) is part of the checkpoint."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen, drawn = cfg.sub("vision_config"), cfg.sub("vq_config")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    part = tower(inv, "model.vision_model.")
    part.conv("embeddings.patch_embedding", width, seen.positive("num_channels"), vision.side(seen, "patch_size"))
    part.tensor("embeddings.position_embedding.weight", (vision.patches(seen), width))
    block = part.at("encoder.layers.{}.", range(count))
    names = ("q_proj", "k_proj", "v_proj", "projection_layer")
    vision.projections(block.at("self_attn."), width, bias=seen.flag("attention_bias"), names=names, out_bias=True)
    if seen.flag("use_qk_norm"):
        block.norms(("self_attn.q_norm", "self_attn.k_norm"), width)
    vision.mlp(block.at("mlp."), width, int(width * (seen.opt_float("mlp_ratio") or 4.0)))
    block.norms(("layer_norm1", "layer_norm2"), width)
    part.norm("post_layernorm", width)
    _aligner(tower(inv, "model.aligner."), width, seen.positive("projection_dim"), seen.positive("depth"))
    _generator(inv, drawn)
    return wrap(cfg, text, inner, "janus", NESTED, inv, tower_layers(count))


def _generator(inv: Inventory, cfg: Config) -> None:
    base, factors, blocks = (
        cfg.positive("base_channels"),
        cfg.need_numbers("channel_multiplier"),
        cfg.positive("num_res_blocks"),
    )
    latent, channels, out = cfg.positive("latent_channels"), cfg.positive("in_channels"), cfg.positive("out_channels")
    codes, dim, wide = cfg.positive("num_embeddings"), cfg.positive("embed_dim"), cfg.positive("projection_dim")
    part = tower(inv, "model.vqmodel.")
    kept = 2 * latent if cfg.flag("double_latent", default=False) else latent
    vqgan.encoder(part.at("encoder."), channels, base, factors, blocks, (len(factors) - 1,), kept)
    vqgan.decoder(part.at("decoder."), out, base, factors, blocks, latent)
    part.tensor("quantize.embedding.weight", (codes, dim))
    part.conv("quant_conv", dim, latent, (1, 1))
    part.conv("post_quant_conv", latent, dim, (1, 1))
    tower(inv).tensor("model.generation_embeddings.weight", (codes, dim))
    _aligner(tower(inv, "model.generation_aligner."), dim, wide, cfg.positive("num_hidden_layers"))
    head = tower(inv, "model.generation_head.")
    head.linear("proj_out", wide, cfg.positive("image_token_embed_dim"))
    head.linear("vision_head", codes, wide)
