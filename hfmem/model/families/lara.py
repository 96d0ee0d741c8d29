"""Lara 4 Mini: gated delta nets, windowed and full attention in turn, experts and a shared one in every layer.

Source: transformers 5.24.0 `models/lara_mini` and its checkpoint renames; names as published (one projection into a delta net).
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import attention, full, gated_mlp, linear, norm, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.delta_blocks import delta_net, read_delta_net
from hfmem.model.families.qwen_hybrid import stacked_experts
from hfmem.model.inventory import Column, Component, Inventory
from hfmem.model.layers import Cache, Layer
from hfmem.model.stack import indices_of, layer_kinds, open_stack
from hfmem.records import replace

LAYER = "model.layers.{}"
LINEAR, SLIDING, FULL = "linear_attention", "sliding_attention", "full_attention"
_PATTERN = (LINEAR, SLIDING, LINEAR, FULL, SLIDING)


def lara_mini(cfg: Config) -> Architecture:
    """Without `layer_types` the released pattern, five layers long."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d, tied_default=True)
    inv, every = stack.inv, range(d.num_layers)
    words = cfg.opt_list("layer_types") or [_PATTERN[i % len(_PATTERN)] for i in every]
    kinds = layer_kinds(cfg, "layer_types", words, (LINEAR, SLIDING, FULL), d.num_layers)
    net, mixer, recurrent = read_delta_net(cfg), f"{LAYER}.linear_attn", indices_of(kinds, LINEAR)
    split = Inventory()
    delta_net(split, mixer, recurrent, d.hidden, net, fused=False)
    for spec in split.specs:
        if ".in_proj_" not in spec.pattern:
            inv.specs.append(replace(spec, pattern=spec.pattern.replace("_attn.norm.", "_attn.out_norm.")))
    parts = (net.keys, net.keys, net.values, net.values, net.v_heads, net.v_heads)
    linear(inv, f"{mixer}.in_proj", recurrent, sum(parts), d.hidden, Component.ATTENTION, Column(parts))
    bias = cfg.flag("attention_bias", default=False)
    where = indices_of(kinds, SLIDING, FULL)
    attention(inv, f"{LAYER}.self_attn", where, d, qkv_bias=bias, o_bias=bias, qk_norm="head")
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", every, d.hidden)
    count, top_k = cfg.positive("num_experts"), cfg.positive("num_experts_per_tok")
    stacked_experts(inv, f"{LAYER}.mlp", every, d.hidden, cfg.positive("moe_intermediate_size"), count, top_k)
    gated_mlp(inv, f"{LAYER}.mlp.shared_expert", every, d.hidden, cfg.positive("shared_expert_intermediate_size"))
    stack.num_experts, stack.top_k = count, top_k
    caches: dict[str, Cache] = {LINEAR: net.cache(), FULL: full(d)}
    if SLIDING in kinds:
        caches[SLIDING] = sliding(d, cfg.positive("sliding_window"))
    stack.layers = [Layer((caches[kind],)) for kind in kinds]
    return stack.finish(cfg, "lara_mini")
