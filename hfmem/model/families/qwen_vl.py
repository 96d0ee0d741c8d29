"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL (dense and MoE), GLM-4V and GLM-4.5V: a decoder with a patch-merging tower under `visual`.

Source: transformers 5.23.0 `models/{qwen2_vl,qwen2_5_vl,qwen3_vl,qwen3_vl_moe,glm4v,glm4v_moe}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import (
    VOCAB,
    assemble,
    attention,
    embedding,
    full,
    gated_mlp,
    linear,
    lm_head,
    norm,
    read_dims,
)
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.heads import class_name
from hfmem.model.families.multimodal import NESTED, PLAIN, WHOLE, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated
from hfmem.model.layers import Layer
from hfmem.records import replace


def qwen2_vl(cfg: Config) -> Architecture:
    """Qwen2-VL: Qwen2 under its own names, the tower under `visual`. Jina's reranker has two layers and one score for a head."""
    text, inner = text_part(cfg, model_type="qwen2_vl_text")
    inv = Inventory()
    depth = vision.qwen2_vl(tower(inv, "visual."), cfg.sub("vision_config"))
    if class_name(cfg) == "JinaVLForRanking":
        score = Part(inv, "score.", Component.OTHER)
        score.linear("0", inner.hidden_size, inner.hidden_size)
        score.linear("2", 1, inner.hidden_size)
        inner = replace(inner, tensors=tuple(s for s in inner.tensors if s.component is not Component.LM_HEAD))
    return wrap(cfg, text, inner, "qwen2_vl", PLAIN, inv, tower_layers(depth))


def qwen2_5_vl(cfg: Config) -> Architecture:
    """Qwen2.5-VL: as Qwen2-VL with a windowed tower."""
    text, inner = text_part(cfg, model_type="qwen2_5_vl_text")
    inv = Inventory()
    depth = vision.qwen2_5_vl(tower(inv, "visual."), cfg.sub("vision_config"))
    return wrap(cfg, text, inner, "qwen2_5_vl", PLAIN, inv, tower_layers(depth))


def opencua(cfg: Config) -> Architecture:
    """OpenCUA: Qwen2.5-VL with ordinary positions, the tower under `vision_tower`, Qwen2 whole under `language_model`."""
    text, inner = text_part(cfg, model_type="qwen2")
    inv = Inventory()
    seen = cfg.sub("vision_config", model_type="qwen2_5_vl_vision")
    seen = Config(seen.data, seen.file, "qwen2_5_vl_vision", cfg.used_defaults)
    depth = vision.qwen2_5_vl(tower(inv, "vision_tower."), seen)
    return wrap(cfg, text, inner, "qwen2_5_vl", WHOLE, inv, tower_layers(depth))


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
    up, down = ExpertSplit(None, Column((intermediate, intermediate), (None, None))), ExpertSplit(None, Column())
    part.tensor("experts.gate_up_proj", (num_experts, hidden, 2 * intermediate), Component.EXPERTS, up, active=share)
    part.tensor("experts.down_proj", (num_experts, intermediate, hidden), Component.EXPERTS, down, active=share)


def qwen3_vl_moe_text(cfg: Config) -> Architecture:
    """Qwen3-VL-MoE's text model: Qwen3-MoE with stacked experts. Layer i is sparse unless listed in `mlp_only_layers` or skipped by
    `decoder_sparse_step`."""
    d = read_dims(cfg)
    inv = Inventory()
    vocab, experts, top_k = cfg.positive(*VOCAB), cfg.positive("num_experts"), cfg.positive("num_experts_per_tok")
    inter, width = cfg.positive("intermediate_size"), cfg.positive("moe_intermediate_size")
    step, dense_only = cfg.positive("decoder_sparse_step"), set(cfg.numbers("mlp_only_layers") or ())
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
