"""Mixtures of experts with windowed layers between full ones: Kolibri, Flint, Beam.

Source: transformers 5.23.0 `models/{kolibri1,flint,beam}/` and `conversion_mapping.py`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.inventory import Column, Component
from hfmem.model.layer_lists import others, sparse_layers, typed_layers

_PAIR = ("input_layernorm", "post_attention_layernorm")


def kolibri1(cfg: Config) -> Architecture:
    """Kolibri: EXAONE-like attention with norms after it and after the experts, every fifth layer full."""
    m = DecoderBuilder(cfg)
    m.attention(qk_norm="head")
    width, num_experts = cfg.positive("moe_intermediate_size"), cfg.positive("num_experts")
    top_k = cfg.positive("num_experts_per_tok")
    m.experts("mlp", width, num_experts, top_k)
    m.each("moe.router.expert_bias", (num_experts,), Component.EXPERTS, buffer=True)
    m.gated(cfg.positive("shared_expert_intermediate_size"), "mlp.shared_experts")
    m.norms(*_PAIR, "post_attn_norm", "post_ffn_norm")
    return m.close("kolibri1", typed_layers(cfg, m.d, lambda i: (i + 1) % 5 == 0))


def flint(cfg: Config) -> Architecture:
    """Flint: Qwen3-MoE's norms, sinks, a shared expert without gate; the first two, every fourth and the last layer are full."""
    m = DecoderBuilder(cfg)
    bias, n = cfg.flag("attention_bias", default=False), m.d.num_layers
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    m.each("self_attn.softmax_offset", (m.d.num_heads,), Component.ATTENTION, None, Column())
    dense, step = cfg.numbers("mlp_only_layers"), cfg.positive("decoder_sparse_step")
    dense = [0, 1] if dense is None else dense  # configuration_flint.py's default
    num_experts = cfg.need_int("num_experts")
    sparse = [i for i in m.every if num_experts > 0 and i not in dense and (i + 1) % step == 0]
    m.gated(cfg.positive("intermediate_size"), layers=others(n, sparse))
    if sparse:
        top_k = cfg.positive("num_experts_per_tok")
        m.experts("mlp", cfg.positive("moe_intermediate_size"), num_experts, top_k, layers=sparse)
        m.gated(cfg.positive("shared_expert_intermediate_size"), "mlp.shared_expert", layers=sparse)
    m.norms(*_PAIR)
    return m.close("flint", typed_layers(cfg, m.d, lambda i: i < 2 or i % 4 == 1 or i == n - 1))


def beam(cfg: Config) -> Architecture:
    """Beam: gated attention with a bias a head, four norms a layer, three dense layers first; every sixth and the last are full."""
    m = DecoderBuilder(cfg)
    bias, n = cfg.flag("attention_bias", default=False), m.d.num_layers
    heads = m.d.num_heads * m.d.head_dim
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    m.linear("self_attn.gate_proj", heads, m.d.hidden, Column())
    m.each("self_attn.gate_bias", (m.d.num_heads,), Component.ATTENTION, None, Column())
    sparse = sparse_layers(cfg, n, 3)
    m.gated(cfg.positive("intermediate_size"), layers=others(n, sparse))
    if sparse:
        width, top_k = cfg.positive("moe_intermediate_size"), cfg.positive("num_experts_per_tok")
        m.experts(
            "mlp",
            width,
            cfg.positive("num_experts", "n_routed_experts"),
            top_k,
            layers=sparse,
            correction="gate.e_score_correction_bias",
        )
    m.norms(*_PAIR, "pre_feedforward_layernorm", "post_feedforward_layernorm")
    return m.close("beam", typed_layers(cfg, m.d, lambda i: (i + 1) % 6 == 0 or i == n - 1))
