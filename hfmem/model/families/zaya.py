"""Zyphra Zaya: attention whose q and k pass through two convolutions (CCA) and experts picked by a small network.

Source: transformers 5.23.0 `models/zaya`, whose parameter names are the published ones.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import full, linear, norm, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, ExpertSplit, Replicated, Row
from hfmem.model.layers import CcaState, Layer
from hfmem.model.stack import Stack, layer_kinds, open_stack

LAYER = "model.layers.{}"
HYBRID, SLIDING = "hybrid", "hybrid_sliding"


def _attention(stack: Stack, cfg: Config) -> CcaState:
    d, inv, part = stack.d, stack.inv, Component.ATTENTION
    every, mixer = range(d.num_layers), f"{LAYER}.self_attn"
    bias = cfg.flag("attention_bias", default=False)
    q, kv = d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim
    place, grouped = f"{mixer}.qkv_proj", Column(kv_heads=(d.num_kv_heads,))
    linear(inv, f"{place}.q_proj", every, q, d.hidden, part, Column(), bias=bias)
    linear(inv, f"{place}.k_proj", every, kv, d.hidden, part, grouped, bias=bias)
    for name in ("v_proj_current", "v_proj_delayed"):
        linear(inv, f"{place}.{name}", every, kv // 2, d.hidden, part, grouped, bias=bias)
    mixed = Column((q, kv), (None, d.num_kv_heads))
    first, second = cfg.positive("cca_time0"), cfg.positive("cca_time1")
    for name, shape in (("depthwise", (1, first)), ("grouped", (d.head_dim, second))):
        inv.each(f"{place}.conv_qk_{name}.weight", every, (q + kv, *shape), part, mixed)
        inv.each(f"{place}.conv_qk_{name}.bias", every, (q + kv,), part, mixed)
    inv.each(f"{mixer}.qk_norm.temp", every, (d.num_kv_heads,), part, grouped)
    linear(inv, f"{mixer}.o_proj", every, d.hidden, q, part, Row(), bias=bias)
    return CcaState(q + kv, first - 1 + second - 1, kv // 2)


def _experts(stack: Stack, cfg: Config) -> None:
    """A router of three layers over the experts and one that skips; each layer's but the first sees the router state before it."""
    d, inv, prefix = stack.d, stack.inv, f"{LAYER}.mlp"
    every, routed = range(d.num_layers), Component.EXPERTS
    count, top_k, width = (
        cfg.positive("num_experts"),
        cfg.positive("num_experts_per_tok"),
        cfg.positive("moe_intermediate_size"),
    )
    if top_k > count:
        raise ContradictionError(f"{cfg.file}: {top_k} experts per token cannot be picked from {count}")
    small, gate = cfg.positive("router_hidden_size"), f"{prefix}.gate"
    linear(inv, f"{gate}.down_proj", every, small, d.hidden, routed, Replicated(), bias=True)
    for name in ("fc1", "fc2"):
        linear(inv, f"{gate}.router_mlp.{name}", every, small, small, routed, Replicated(), bias=True)
    linear(inv, f"{gate}.router_mlp.out_proj", every, count + 1, small, routed, Replicated())
    norm(inv, f"{gate}.router_mlp.norm", every, small)
    inv.each(f"{gate}.router_states_scale", range(1, d.num_layers), (small,), routed)
    inv.each(f"{gate}.balancing_biases", every, (count + 1,), routed, buffer=True, optional=True)
    share, up, down = Fraction(top_k, count), ExpertSplit(None, Column((width, width))), ExpertSplit(None, Row())
    inv.each(f"{prefix}.experts.gate_up_proj", every, (count, 2 * width, d.hidden), routed, up, active=share)
    inv.each(f"{prefix}.experts.down_proj", every, (count, d.hidden, width), routed, down, active=share)
    stack.intermediate, stack.num_experts, stack.top_k = width, count, top_k


def zaya(cfg: Config) -> Architecture:
    """Zaya: every layer keeps keys and values and the convolutions' history; embedding and residual streams are scaled."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d, tied_default=True)
    inv, every = stack.inv, range(d.num_layers)
    state = _attention(stack, cfg)
    _experts(stack, cfg)
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", every, d.hidden)
    for name in ("scale", "bias"):
        inv.add(f"model.input_hidden_states_{name}", (d.hidden,), Component.OTHER)
        for place in ("post_attention", "post_mlp"):
            for stream in ("hidden_states", "residual"):
                inv.each(f"{LAYER}.{place}_residual_scale.{stream}_{name}", every, (d.hidden,), Component.OTHER)
    if cfg.flag("lm_head_bias", default=False):
        inv.add("lm_head.bias", (stack.vocab,), Component.LM_HEAD)
    kinds = layer_kinds(
        cfg, "layer_types", cfg.opt_list("layer_types") or [HYBRID] * d.num_layers, (HYBRID, SLIDING), d.num_layers
    )
    window = cfg.positive("sliding_window") if SLIDING in kinds else 1
    stack.layers = [Layer((full(d) if kind == HYBRID else sliding(d, window), state)) for kind in kinds]
    return stack.finish(cfg, "zaya")
