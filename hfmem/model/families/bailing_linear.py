"""Ling and Ring 2.5 (Bailing V2.5) and Ring 2's linear models: linear attention with a layer of another kind at the end of each
group, experts. In 2.5 that layer's attention is latent, in Ring-mini-linear and Ring-flash-linear 2.0 grouped-query.

2.5's configs call themselves `bailing_hybrid` like Bailing V3's; the class name tells them apart.

Source: vLLM 0.33.0 `model_executor/models/bailing_moe_linear.py` and `layers/mamba/linear/bailing_linear_attn.py`, names as its
loader reads them; of 2.0 mlx-lm's `bailing_moe_linear.py`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import full as full_attention
from hfmem.model.blocks import fused_qkv, gated_mlp, linear, norm, read_dims
from hfmem.model.config import Config
from hfmem.model.families.heads import class_name
from hfmem.model.inventory import Column, Component, Inventory, Row
from hfmem.model.latent_blocks import Latent, latent_attention, latent_dims, read_latent
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
    return _hybrid(cfg, read_latent(cfg), "bailing_linear")


def ring_linear(cfg: Config) -> Architecture:
    """Ring 2's linear models: the same groups, closed by grouped-query attention; an unfinished last group is full attention."""
    return _hybrid(cfg, None, "bailing_moe_linear")


def _hybrid(cfg: Config, latent: Latent | None, family: str) -> Architecture:
    d = read_dims(cfg) if latent is None else latent_dims(cfg, latent)
    stack = open_stack(cfg, cfg, d, embed="model.word_embeddings.weight")
    inv, every, mixer = stack.inv, range(d.num_layers), f"{LAYER}.attention"
    group = cfg.positive("layer_group_size")
    whole = d.num_layers if latent is not None else d.num_layers // group * group
    kinds = [LINEAR if (i + 1) % group and i < whole else FULL for i in every]
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
    if latent is None:
        fused_qkv(inv, f"{mixer}.query_key_value", full, d, bias=qkv_bias)
        linear(inv, f"{mixer}.dense", full, d.hidden, d.num_heads * d.head_dim, Component.ATTENTION, Row(), bias=bias)
        if cfg.flag("use_qk_norm", default=False):
            for name in ("query_layernorm", "key_layernorm"):
                norm(inv, f"{mixer}.{name}", full, d.head_dim)
    else:
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
    kept = full_attention(d) if latent is None else latent.cache()
    stack.layers = [Layer((state if kind == LINEAR else kept,)) for kind in kinds]
    return stack.finish(cfg, family)
