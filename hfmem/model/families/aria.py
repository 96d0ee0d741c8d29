"""Aria: SigLIP, a projector of learned queries, a decoder with stacked experts.

Source: transformers 5.23.0 `models/aria/modeling_aria.py`; names as published.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import full
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families import vision
from hfmem.model.families.multimodal import WHOLE, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated
from hfmem.model.layers import Layer
from hfmem.records import replace


def aria_text(cfg: Config) -> Architecture:
    """Llama's block with routed experts `[experts, in, out]` (gate and up in one) and shared experts in every layer."""
    m = DecoderBuilder(cfg)
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    experts, top_k, inner = cfg.positive("moe_num_experts"), cfg.positive("moe_topk"), cfg.positive("intermediate_size")
    if top_k > experts:
        raise ContradictionError(f"{cfg.file}: {top_k} experts per token cannot be picked from {experts}")
    m.attention(qkv_bias=bias, o_bias=bias)
    m.linear("mlp.router", experts, m.d.hidden, Replicated(), component=Component.EXPERTS)
    part, share = Part(m.inv).at("model.layers.{}.mlp.experts.", m.every, Component.EXPERTS), Fraction(top_k, experts)
    up, down = ExpertSplit(None, Column((inner, inner), (None, None))), ExpertSplit(None, Column())
    part.tensor("fc1.weight", (experts, m.d.hidden, 2 * inner), split=up, active=share)
    part.tensor("fc2.weight", (experts, inner, m.d.hidden), split=down, active=share)
    m.gated(inner * cfg.positive("moe_num_shared_experts"), "mlp.shared_experts", bias=mlp_bias)
    m.norms("input_layernorm", "post_attention_layernorm")
    m.moe = (experts, top_k)
    return m.close("aria", [Layer((full(m.d),))] * m.d.num_layers, intermediate=inner)


def aria(cfg: Config) -> Architecture:
    """The projector's queries (`max_value_projector_patch_to_query_dict`) attend over SigLIP's features once."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = vision.siglip(tower(inv, "vision_tower."), seen, head=False)
    inv.specs[:] = [replace(s, unread=".post_layernorm." in s.pattern) for s in inv.specs]  # vLLM's tower has none
    width, hidden = seen.positive("hidden_size"), inner.hidden_size
    part = tower(inv, "multi_modal_projector.")
    part.tensor("query", (_queries(cfg), width))
    at = part.at("cross_attn.")
    for name in ("q_proj", "k_proj", "v_proj"):
        at.linear(name, width, width, bias=False)
    at.tensor("multihead_attn.in_proj_weight", (3 * width, width))
    at.tensor("multihead_attn.in_proj_bias", (3 * width,))
    at.linear("multihead_attn.out_proj", width, width)
    at.linear("linear", width, width)
    at.norms(("layer_norm", "layer_norm_kv"), width)
    part.norm("layer_norm", width)
    part.linear("feed_forward.linear_in", hidden, width, split=COLUMN, bias=False)
    part.linear("feed_forward.linear_out", hidden, hidden, split=ROW, bias=False)
    return wrap(cfg, text, inner, "aria", WHOLE, inv, tower_layers(count))


def _queries(cfg: Config) -> int:
    """The largest number of queries that `projector_patch_to_query_dict` names; 256 where the config has none."""
    if cfg.published("max_value_projector_patch_to_query_dict") is not None:
        return cfg.positive("max_value_projector_patch_to_query_dict")
    known = cfg.published("projector_patch_to_query_dict")
    if known is None:
        return 256
    given = list(known.values()) if isinstance(known, dict) else []
    counts = [n for n in given if isinstance(n, int) and n > 0]
    if not counts or len(counts) != len(given):
        raise ContradictionError(f"{cfg.file}: 'projector_patch_to_query_dict' does not give numbers of queries")
    return max(counts)
