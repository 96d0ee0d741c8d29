"""Ling and Ring 2.5 (Bailing V2.5): linear attention with a latent-attention layer at the end of each group, experts.

Its configs call themselves `bailing_hybrid` like Bailing V3's; the class name tells them apart.

Source: vLLM 0.33.0 `model_executor/models/bailing_moe_linear.py` and `layers/mamba/linear/bailing_linear_attn.py`; names as its
loader reads them.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import fused_qkv, gated_mlp, linear, norm
from hfmem.model.config import Config
from hfmem.model.families.heads import class_name
from hfmem.model.inventory import Column, Component, Inventory, Row
from hfmem.model.latent_blocks import latent_attention, latent_dims, read_latent
from hfmem.model.layers import Layer, LinearAttentionState
from hfmem.model.moe import moe, read_experts
from hfmem.model.stack import indices_of, open_stack
from hfmem.records import replace

LAYER = "model.layers.{}"
LINEAR, FULL = "linear_attention", "full_attention"


def is_linear(cfg: Config) -> bool:
    """Whether a `bailing_hybrid` config is V2.5's: by its class, else by the norm that only V2.5 groups."""
    name = class_name(cfg)
    return "V2_5" in name if name else cfg.published("group_norm_size") is not None


def bailing_linear(cfg: Config) -> Architecture:
    """Linear attention except in every `layer_group_size`-th layer."""
    latent = read_latent(cfg)
    d = latent_dims(cfg, latent)
    stack = open_stack(cfg, cfg, d, embed="model.word_embeddings.weight")
    inv, every, mixer = stack.inv, range(d.num_layers), f"{LAYER}.attention"
    group = cfg.positive("layer_group_size")
    kinds = [LINEAR if (i + 1) % group else FULL for i in every]
    recurrent, full = indices_of(kinds, LINEAR), indices_of(kinds, FULL)
    bias = cfg.flag("use_bias", default=False)
    width = cfg.opt_int("head_dim") or d.hidden // d.num_heads
    own = replace(d, num_kv_heads=d.num_heads, head_dim=width)
    inner = d.num_heads * width
    qkv_bias = bias or cfg.flag("use_qkv_bias", default=False)
    fused_qkv(inv, f"{mixer}.query_key_value", recurrent, own, bias=qkv_bias)
    if cfg.flag("use_qk_norm", default=False):
        for name in ("query_layernorm", "key_layernorm"):
            norm(inv, f"{mixer}.{name}", recurrent, width)
    linear(inv, f"{mixer}.g_proj", recurrent, inner, d.hidden, Component.ATTENTION, Column())
    inv.each(f"{mixer}.g_norm.weight", recurrent, (inner,), Component.NORM, Column())
    linear(inv, f"{mixer}.dense", recurrent, d.hidden, inner, Component.ATTENTION, Row(), bias=bias)
    part = Inventory()
    latent_attention(part, mixer, full, d.hidden, latent)
    inv.specs.extend(replace(s, pattern=s.pattern.replace(".o_proj.", ".dense.")) for s in part.specs)
    experts = read_experts(cfg)
    first = cfg.opt_int("first_k_dense_replace") or 0
    sparse = [i for i in every if i >= first] if experts else []
    stack.intermediate = cfg.opt_int("intermediate_size")
    dense = [i for i in every if i not in set(sparse)]
    if dense:
        gated_mlp(inv, f"{LAYER}.mlp", dense, d.hidden, cfg.positive("intermediate_size"), bias=bias)
    if experts:
        steered = cfg.flag("moe_router_enable_expert_bias", default=False)
        moe(inv, f"{LAYER}.mlp", sparse, d.hidden, experts, correction_bias="gate.expert_bias" if steered else None)
        stack.num_experts, stack.top_k = experts.count, experts.top_k
    for name in ("input_layernorm", "post_attention_layernorm"):
        norm(inv, f"{LAYER}.{name}", every, d.hidden)
    state = LinearAttentionState(d.num_heads, width)
    stack.layers = [Layer((state if kind == LINEAR else latent.cache(),)) for kind in kinds]
    return stack.finish(cfg, "bailing_linear")
