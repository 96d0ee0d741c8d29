"""LFM3: short convolutions, sliding and full attention with a gate for each head, norms on both sides of each half of a layer.

Source: transformers 5.23.0 `models/lfm3`, whose parameter names are the published ones.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import attention, full, gated_mlp, linear, norm, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, Row
from hfmem.model.layers import Cache, Layer, ShortConvState
from hfmem.model.stack import indices_of, layer_kinds, open_stack

LAYER = "model.layers.{}"
CONV, FULL, SLIDING = "conv", "full_attention", "sliding_attention"


def lfm3(cfg: Config) -> Architecture:
    """LFM3. Without `layer_types`: in each four layers the third attends to all, the first (but the model's) slides."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d, final_norm="model.embedding_norm", tied_default=True)
    inv, every, part = stack.inv, range(d.num_layers), Component.ATTENTION
    words = cfg.opt_list("layer_types")
    if words is None:
        words = [FULL if i % 4 == 2 else SLIDING if i and i % 4 == 0 else CONV for i in every]
    kinds = layer_kinds(cfg, "layer_types", words, (CONV, FULL, SLIDING), d.num_layers)
    attending, convolving = indices_of(kinds, FULL, SLIDING), indices_of(kinds, CONV)
    bias, conv_bias = cfg.flag("attention_bias", default=False), cfg.flag("conv_bias", default=False)
    attention(inv, f"{LAYER}.self_attn", attending, d, qkv_bias=bias, o_bias=bias, qk_norm="head")
    if cfg.flag("use_attention_gate", default=True):
        linear(inv, f"{LAYER}.self_attn.gate_proj", attending, d.num_heads, d.hidden, part, Column())
    kernel, parts = cfg.positive("conv_L_cache"), Column((d.hidden, d.hidden, d.hidden))
    linear(inv, f"{LAYER}.conv.in_proj", convolving, 3 * d.hidden, d.hidden, part, parts, bias=conv_bias)
    linear(inv, f"{LAYER}.conv.out_proj", convolving, d.hidden, d.hidden, part, Row(), bias=conv_bias)
    inv.each(f"{LAYER}.conv.conv.weight", convolving, (d.hidden, 1, kernel), part, Column())
    if conv_bias:
        inv.each(f"{LAYER}.conv.conv.bias", convolving, (d.hidden,), part, Column())
    width = stack.intermediate = cfg.positive("intermediate_size")
    gated_mlp(inv, f"{LAYER}.feed_forward", every, d.hidden, width, names=("w1", "w3", "w2"))
    names = ["operator_norm", "ffn_norm"]
    if cfg.flag("use_sandwich_norm", default=True):
        names += ["post_operator_norm", "post_ffn_norm"]
    for name in names:
        norm(inv, f"{LAYER}.{name}", every, d.hidden)
    caches: dict[str, Cache] = {CONV: ShortConvState(d.hidden, kernel), FULL: full(d)}
    if SLIDING in kinds:
        caches[SLIDING] = sliding(d, cfg.positive("sliding_window"))
    stack.layers = [Layer((caches[kind],)) for kind in kinds]
    return stack.finish(cfg, "lfm3")
