"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL (dense and MoE), GLM-4V and GLM-4.5V: a decoder with a patch-merging tower under `visual`.

Source: transformers 5.23.0 `models/{qwen2_vl,qwen2_5_vl,qwen3_vl,qwen3_vl_moe,glm4v,glm4v_moe}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
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
from hfmem.model.families.multimodal import NESTED, PLAIN, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated, Row
from hfmem.model.layers import Layer
from hfmem.records import replace


def qwen2_vl(cfg: Config) -> Architecture:
    """Qwen2-VL: Qwen2 under its own names, the tower under `visual`."""
    text, inner = text_part(cfg, model_type="qwen2_vl_text")
    inv = Inventory()
    depth = vision.qwen2_vl(tower(inv, "visual."), cfg.sub("vision_config"))
    return wrap(cfg, text, inner, "qwen2_vl", PLAIN, inv, tower_layers(depth))


def qwen2_5_vl(cfg: Config) -> Architecture:
    """Qwen2.5-VL: as Qwen2-VL with a windowed tower."""
    text, inner = text_part(cfg, model_type="qwen2_5_vl_text")
    inv = Inventory()
    depth = vision.qwen2_5_vl(tower(inv, "visual."), cfg.sub("vision_config"))
    return wrap(cfg, text, inner, "qwen2_5_vl", PLAIN, inv, tower_layers(depth))


def qwen3_vl(cfg: Config) -> Architecture:
    """Qwen3-VL, dense and MoE: Qwen3 under `model.language_model`, the tower with its deepstack mergers under `model.visual`."""
    text, inner = text_part(cfg)
    inv = Inventory()
    depth = vision.qwen3_vl(tower(inv, "model.visual."), cfg.sub("vision_config"))
    return wrap(cfg, text, inner, "qwen3_vl", NESTED, inv, tower_layers(depth))


def stacked_experts(part: Part, hidden: int, intermediate: int, num_experts: int, top_k: int) -> None:
    """Experts published as two stacked tensors, `[experts, in, out]`: gate and up in one, down in the other."""
    if not 1 <= top_k <= num_experts:
        raise ContradictionError(f"{top_k} experts per token cannot be picked from {num_experts}")
    share = Fraction(top_k, num_experts)
    up, down = ExpertSplit(None, Column((intermediate, intermediate), (None, None))), ExpertSplit(None, Row())
    part.tensor("experts.gate_up_proj", (num_experts, hidden, 2 * intermediate), Component.EXPERTS, up, active=share)
    part.tensor("experts.down_proj", (num_experts, intermediate, hidden), Component.EXPERTS, down, active=share)


def qwen3_vl_moe_text(cfg: Config) -> Architecture:
    """Qwen3-VL-MoE's text model: Qwen3-MoE with stacked experts. Layer i is sparse unless listed in `mlp_only_layers` or skipped by
    `decoder_sparse_step`."""
    d = read_dims(cfg)
    inv = Inventory()
    vocab, experts, top_k = cfg.positive(*VOCAB), cfg.positive("num_experts"), cfg.positive("num_experts_per_tok")
    inter, width = cfg.positive("intermediate_size"), cfg.positive("moe_intermediate_size")
    step, dense_only = cfg.positive("decoder_sparse_step"), set(cfg.opt_list("mlp_only_layers") or ())
    every = range(d.num_layers)
    sparse = [i for i in every if i not in dense_only and (i + 1) % step == 0]
    tied, bias = cfg.flag("tie_word_embeddings", default=False), cfg.flag("attention_bias", default=False)
    embedding(inv, "model.embed_tokens.weight", vocab, d.hidden)
    attention(inv, "model.layers.{}.self_attn", every, d, qkv_bias=bias, o_bias=bias, qk_norm="head")
    gated_mlp(inv, "model.layers.{}.mlp", [i for i in every if i not in sparse], d.hidden, inter)
    linear(inv, "model.layers.{}.mlp.gate", sparse, experts, d.hidden, Component.EXPERTS, Replicated())
    stacked_experts(Part(inv).at("model.layers.{}.mlp.", sparse), d.hidden, width, experts, top_k)
    norm(inv, "model.layers.{}.input_layernorm", every, d.hidden)
    norm(inv, "model.layers.{}.post_attention_layernorm", every, d.hidden)
    norm(inv, "model.norm", None, d.hidden)
    lm_head(inv, "lm_head.weight", vocab, d.hidden, "model.embed_tokens.weight" if tied else None)
    layers = [Layer((full(d),))] * d.num_layers
    return assemble(
        cfg,
        cfg,
        "qwen3_vl_moe",
        d,
        layers,
        inv,
        vocab=vocab,
        tied=tied,
        intermediate=inter,
        num_experts=experts,
        top_k=top_k,
    )


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
    d = read_dims(cfg)
    inv = Inventory()
    vocab, inter = cfg.positive(*VOCAB), cfg.positive("intermediate_size")
    tied = cfg.flag("tie_word_embeddings", default=False)
    every = range(d.num_layers)
    embedding(inv, "model.embed_tokens.weight", vocab, d.hidden)
    attention(inv, "model.layers.{}.self_attn", every, d, qkv_bias=True)
    both = Column((inter, inter), (None, None))
    linear(inv, "model.layers.{}.mlp.gate_up_proj", every, 2 * inter, d.hidden, Component.MLP, both)
    linear(inv, "model.layers.{}.mlp.down_proj", every, d.hidden, inter, Component.MLP, Row())
    for name in ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"):
        norm(inv, f"model.layers.{{}}.{name}", every, d.hidden)
    norm(inv, "model.norm", None, d.hidden)
    lm_head(inv, "lm_head.weight", vocab, d.hidden, "model.embed_tokens.weight" if tied else None)
    return assemble(
        cfg, cfg, "glm4v", d, [Layer((full(d),))] * d.num_layers, inv, vocab=vocab, tied=tied, intermediate=inter
    )


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
