"""GLM-4V, GLM-4.5V and 4.6V, GLM-OCR in transformers' format: a tower whose patches a strided convolution merges, before GLM.
GLM-Image: the same text model, which writes the tokens of an image.

Source: transformers 5.24.0 `models/{glm4v,glm4v_moe,glm46v,glm_ocr,glm_image}/modeling_*.py`, vLLM 0.33.0 `glm_ocr_mtp.py`; names
as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import (
    HEADS,
    HIDDEN,
    VOCAB,
    Dims,
    assemble,
    attention,
    embedding,
    full,
    gated_mlp,
    linear,
    lm_head,
    norm,
    read_dims,
    routed_experts,
)
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.deepseek import mtp_head, nextn_layers
from hfmem.model.families.multimodal import NESTED, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Row
from hfmem.model.layers import Layer
from hfmem.model.stack import as_mtp
from hfmem.records import replace


def _glm4v_tower(part: Part, cfg: Config) -> int:
    """GLM-4V's tower: RMS-normed gated blocks, a strided convolution that merges 2 × 2 patches, a gated merger.

    The blocks' feed-forward is `out_hidden_size` wide; `intermediate_size` is the merger's.
    """
    width, depth = cfg.positive("hidden_size"), cfg.positive("depth")
    out, merge = cfg.positive("out_hidden_size"), cfg.positive("spatial_merge_size")
    bias = cfg.flag("attention_bias", default=False)
    part.tensor("embeddings.position_embedding.weight", (vision.patches(cfg), width))
    patch = (cfg.positive("temporal_patch_size"), *vision.side(cfg, "patch_size"))
    part.conv("patch_embed.proj", width, cfg.positive("in_channels", "in_chans"), patch)
    block = part.at("blocks.{}.", range(depth))
    block.norms(("norm1", "norm2"), width, bias=False)
    vision.fused_projection(block.at("attn."), "qkv", width, bias=bias)
    block.linear("attn.proj", width, width, split=ROW, bias=False)
    vision.gated(block.at("mlp."), width, out, bias=False)
    part.linear("merger.proj", out, out, split=COLUMN, bias=False)
    part.norm("merger.post_projection_norm", out)
    vision.gated(part.at("merger."), out, cfg.positive("intermediate_size"), bias=False)
    part.norms(("post_conv_layernorm", "post_layernorm"), width, bias=False)
    part.conv("downsample", out, width, (merge, merge))
    return depth


def glm4v(cfg: Config) -> Architecture:
    """GLM-4V and GLM-4.5V in transformers' format: text under `model.language_model`, tower under `model.visual`."""
    moe = cfg.model_type == "glm4v_moe"
    text, inner = text_part(cfg, model_type="glm4v_moe_text" if moe else "glm4v_text")  # GLM-4.6V names its own
    inv = Inventory()
    depth = _glm4v_tower(tower(inv, "model.visual."), cfg.sub("vision_config"))
    return wrap(cfg, text, inner, "glm4v", NESTED, inv, tower_layers(depth))


def glm4v_text(cfg: Config) -> Architecture:
    """GLM-4V's text model: GLM-4-0414's block, biases on q, k, v, gate and up in one matrix, norms before and after both parts."""
    return _glm4_block(cfg, "glm4v", qkv_bias=True)


def _glm4_block(cfg: Config, family: str, *, qkv_bias: bool, head_rows: int | None = None) -> Architecture:
    d = read_dims(cfg)
    vocab, inter = cfg.positive(*VOCAB), cfg.positive("intermediate_size")
    tied = head_rows is None and cfg.flag("tie_word_embeddings", default=False)
    layer, both = "model.layers.{}", Column((inter, inter), (None, None))
    names = ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")

    def block(part: Inventory, indices: range) -> None:
        attention(part, f"{layer}.self_attn", indices, d, qkv_bias=qkv_bias)
        linear(part, f"{layer}.mlp.gate_up_proj", indices, 2 * inter, d.hidden, Component.MLP, both)
        linear(part, f"{layer}.mlp.down_proj", indices, d.hidden, inter, Component.MLP, Row())
        for name in names:
            norm(part, f"{layer}.{name}", indices, d.hidden)

    inv = Inventory()
    embedding(inv, "model.embed_tokens.weight", vocab, d.hidden)
    block(inv, range(d.num_layers))
    norm(inv, "model.norm", None, d.hidden)
    lm_head(inv, "lm_head.weight", head_rows or vocab, d.hidden, "model.embed_tokens.weight" if tied else None)
    if count := nextn_layers(cfg):
        last = range(d.num_layers, d.num_layers + count)

        def mtp(part: Inventory) -> None:
            block(part, last)
            mtp_head(part, layer, last, d.hidden, vocab)

        as_mtp(inv, mtp)
    layers = [Layer((full(d),))] * d.num_layers
    return assemble(cfg, cfg, family, d, layers, inv, vocab=vocab, tied=tied, intermediate=inter)


def glm4v_moe_text(cfg: Config) -> Architecture:
    """GLM-4.5V's text model: GLM-4.5's block without MTP; `head_dim` absent is hidden / heads rounded down, as the class does."""
    hidden, heads = cfg.positive(*HIDDEN), cfg.positive(*HEADS)
    d = Dims(
        hidden,
        cfg.positive("num_hidden_layers"),
        heads,
        cfg.positive("num_key_value_heads"),
        cfg.opt_int("head_dim") or hidden // heads,
    )
    inv = Inventory()
    vocab, inter, width = (
        cfg.positive(*VOCAB),
        cfg.positive("intermediate_size"),
        cfg.positive("moe_intermediate_size"),
    )
    experts, top_k, shared = (
        cfg.positive("n_routed_experts"),
        cfg.positive("num_experts_per_tok"),
        cfg.need_int("n_shared_experts"),
    )
    dense = min(cfg.need_int("first_k_dense_replace"), d.num_layers)
    every, sparse = range(d.num_layers), range(dense, d.num_layers)
    tied = cfg.flag("tie_word_embeddings", default=False)
    embedding(inv, "model.embed_tokens.weight", vocab, d.hidden)
    bias = cfg.flag("attention_bias", default=False)
    qk_norm = "head" if cfg.flag("use_qk_norm", default=False) else None
    attention(inv, "model.layers.{}.self_attn", every, d, qkv_bias=bias, qk_norm=qk_norm)
    gated_mlp(inv, "model.layers.{}.mlp", range(dense), d.hidden, inter)
    routed_experts(inv, "model.layers.{}.mlp", sparse, d.hidden, width, experts, top_k)
    inv.each("model.layers.{}.mlp.gate.e_score_correction_bias", sparse, (experts,), Component.EXPERTS, buffer=True)
    if shared:
        gated_mlp(inv, "model.layers.{}.mlp.shared_experts", sparse, d.hidden, shared * width)
    norm(inv, "model.layers.{}.input_layernorm", every, d.hidden)
    norm(inv, "model.layers.{}.post_attention_layernorm", every, d.hidden)
    norm(inv, "model.norm", None, d.hidden)
    lm_head(inv, "lm_head.weight", vocab, d.hidden, "model.embed_tokens.weight" if tied else None)
    built = assemble(
        cfg, cfg, "glm4v_moe", d, [Layer((full(d),))] * d.num_layers, inv, vocab=vocab, tied=tied, intermediate=inter
    )
    return replace(built, num_experts=experts, num_experts_per_tok=top_k)


def _glm_ocr_tower(part: Part, cfg: Config) -> int:
    """GLM-OCR's tower: GLM-4V's without stored positions, with biases and norms over the heads of q and k.

    The merger's inner width is `out_hidden_size` for each input channel.
    """
    width, depth, heads = cfg.positive("hidden_size"), cfg.positive("depth"), cfg.positive("num_heads")
    out, merge = cfg.positive("out_hidden_size"), cfg.positive("spatial_merge_size")
    channels, bias = cfg.positive("in_channels", "in_chans"), cfg.flag("attention_bias", default=True)
    part.conv(
        "patch_embed.proj", width, channels, (cfg.positive("temporal_patch_size"), *vision.side(cfg, "patch_size"))
    )
    block = part.at("blocks.{}.", range(depth))
    block.norms(("norm1", "norm2"), width, bias=False)
    vision.fused_projection(block.at("attn."), "qkv", width, bias=bias)
    block.linear("attn.proj", width, width, split=ROW, bias=bias)
    block.norms(("attn.q_norm", "attn.k_norm"), width // heads, bias=False)
    vision.gated(block.at("mlp."), width, cfg.positive("intermediate_size"), bias=bias)
    part.linear("merger.proj", out, out, split=COLUMN, bias=False)
    part.norm("merger.post_projection_norm", out)
    vision.gated(part.at("merger."), out, out * channels, bias=False)
    part.norm("post_layernorm", width, bias=False)
    part.conv("downsample", out, width, (merge, merge))
    return depth


def glm_ocr(cfg: Config) -> Architecture:
    """GLM-OCR: GLM-4V's small sibling; its prediction layer is one layer more of the text model."""
    text, inner = text_part(cfg)
    inv = Inventory()
    depth = _glm_ocr_tower(tower(inv, "model.visual."), cfg.sub("vision_config"))
    return wrap(cfg, text, inner, "glm_ocr", NESTED, inv, tower_layers(depth))


def glm_ocr_text(cfg: Config) -> Architecture:
    """GLM-OCR's text model: GLM-4-0414's block without biases; `num_nextn_predict_layers` prediction layers after the last."""
    return _glm4_block(cfg, "glm_ocr", qkv_bias=False)


def glm_image_text(cfg: Config) -> Architecture:
    """GLM-Image's text model: GLM-4V's block; its head writes an image's tokens only (`vision_vocab_size`)."""
    bias = cfg.flag("attention_bias", default=False)
    return _glm4_block(cfg, "glm_image", qkv_bias=bias, head_rows=cfg.positive("vision_vocab_size"))


def glm_image(cfg: Config) -> Architecture:
    """GLM-Image's autoregressive part: a tower and a quantizer for images that are given, GLM-4. Its diffusion part is published
    beside it."""
    text, inner = text_part(cfg, model_type="glm_image_text")
    inv = Inventory()
    seen, codes = cfg.sub("vision_config"), cfg.sub("vq_config")
    width, depth = seen.positive("hidden_size"), seen.positive("depth", "num_hidden_layers")
    part = tower(inv, "model.visual.")
    part.tensor("embeddings.position_embedding.weight", (vision.patches(seen), width))
    part.conv("patch_embed.proj", width, seen.positive("in_channels"), vision.side(seen, "patch_size"))
    block = part.at("blocks.{}.", range(depth))
    block.norms(("norm1", "norm2"), width)
    bias = seen.flag("attention_bias", default=True)
    vision.fused_projection(block.at("attn."), "qkv", width, bias=bias)
    block.linear("attn.proj", width, width, split=ROW, bias=bias)
    vision.mlp(block.at("mlp."), width, seen.positive("intermediate_size"))
    part, rows, channels = tower(inv, "model.vqmodel."), codes.positive("embed_dim"), codes.positive("latent_channels")
    part.tensor("quantize.embedding.weight", (codes.positive("num_embeddings"), rows))
    part.conv("quant_conv", rows, channels, (1, 1))
    part.conv("post_quant_conv", channels, rows, (1, 1))
    return wrap(cfg, text, inner, "glm_image", NESTED, inv, tower_layers(depth))
