"""openPangu's mixtures of experts: Ultra (latent attention) and Pro V2 (grouped-query attention with learned sinks).

Source: vLLM 0.33.0 `model_executor/models/openpangu.py`; names as its loader reads them.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, gated_mlp, linear, norm, read_dims
from hfmem.model.config import Config
from hfmem.model.families.deepseek import CORRECTION
from hfmem.model.inventory import Column, Component, Row
from hfmem.model.latent_blocks import latent_attention, latent_dims, read_latent
from hfmem.model.layers import Cache, FullAttention, Layer, SlidingAttention
from hfmem.model.moe import moe, read_experts
from hfmem.model.stack import Stack, open_stack

LAYER = "model.layers.{}"
ATTN = f"{LAYER}.self_attn"


def pangu_moe(cfg: Config) -> Architecture:
    """Dense layers first, then experts; `sandwich_norm` adds two norms around the feed-forward."""
    if cfg.published("kv_lora_rank") is not None:
        latent = read_latent(cfg)
        stack = open_stack(cfg, cfg, latent_dims(cfg, latent))
        latent_attention(stack.inv, ATTN, range(stack.d.num_layers), stack.d.hidden, latent)
        stack.layers = [Layer((latent.cache(),))] * stack.d.num_layers
    else:
        stack = open_stack(cfg, cfg, read_dims(cfg))
        _sink_attention(stack, cfg)
    d, inv, every = stack.d, stack.inv, range(stack.d.num_layers)
    experts = read_experts(cfg)
    first = cfg.need_int("first_k_dense_replace") if experts else d.num_layers
    sparse, dense = range(min(first, d.num_layers), d.num_layers), range(min(first, d.num_layers))
    stack.intermediate = cfg.opt_int("intermediate_size")
    if dense:
        bias = cfg.flag("mlp_bias", default=False)
        gated_mlp(inv, f"{LAYER}.mlp", dense, d.hidden, cfg.positive("intermediate_size"), bias=bias)
    if experts:
        steered = cfg.flag("router_enable_expert_bias", default=False)
        moe(inv, f"{LAYER}.mlp", sparse, d.hidden, experts, correction_bias=CORRECTION if steered else None)
        stack.num_experts, stack.top_k = experts.count, experts.top_k
    names = ["input_layernorm", "post_attention_layernorm"]
    if cfg.flag("sandwich_norm", default=False):
        names += ["pre_mlp_layernorm", "post_mlp_layernorm"]
    for name in names:
        norm(inv, f"{LAYER}.{name}", every, d.hidden)
    return stack.finish(cfg, "pangu_moe")


def _sink_attention(stack: Stack, cfg: Config) -> None:
    """Keys of nope and rope parts, values of `v_channels`, `param_sink_number` learned keys (and values) before every text."""
    d, every = stack.d, range(stack.d.num_layers)
    sinks = cfg.opt_int("param_sink_number") or 0
    if sinks:
        key, value = cfg.need_int("qk_nope_dim") + cfg.need_int("qk_rope_dim"), cfg.positive("v_channels")
    else:
        key = value = d.head_dim
    said = cfg.flag("attention_bias", default=False) or cfg.flag("bias", default=False)
    bias = said if cfg.published("qkv_bias") is None else cfg.flag("qkv_bias")
    kv = Column(kv_heads=(d.num_kv_heads,))
    rows = ((d.num_heads * key, Column()), (d.num_kv_heads * key, kv), (d.num_kv_heads * value, kv))
    for name, (size, split) in zip(("q_proj", "k_proj", "v_proj"), rows, strict=True):
        linear(stack.inv, f"{ATTN}.{name}", every, size, d.hidden, Component.ATTENTION, split, bias=bias)
    linear(stack.inv, f"{ATTN}.o_proj", every, d.hidden, d.num_heads * value, Component.ATTENTION, Row(), bias=said)
    if sinks:
        norm(stack.inv, f"{ATTN}.k_layernorm", every, key)
        with_value = cfg.flag("param_sink_with_value", default=False)
        for name, width in (("param_sink_key", key), *([("param_sink_value", value)] if with_value else [])):
            # ranks share the heads, which are the middle axis
            shape, split = (sinks, d.num_kv_heads, width), Column(kv_heads=(d.num_kv_heads,))
            stack.inv.each(f"{ATTN}.{name}", every, shape, Component.ATTENTION, split)
    stack.layers = [Layer((_cache(cfg, d, i, key, value),)) for i in every]


def _cache(cfg: Config, d: Dims, layer: int, key: int, value: int) -> Cache:
    """`interleaved_sliding_window`: one window for all, or a repeating list of windows and nulls."""
    given = cfg.published("interleaved_sliding_window")
    window = given[layer % len(given)] if isinstance(given, list) and given else given
    if window is None:
        return FullAttention(d.num_heads, d.num_kv_heads, key, value)
    if not isinstance(window, int) or window < 1:
        raise ContradictionError(f"{cfg.file}: 'interleaved_sliding_window' holds {str(window)[:40]!r}")
    return SlidingAttention(d.num_heads, d.num_kv_heads, key, value, window)
