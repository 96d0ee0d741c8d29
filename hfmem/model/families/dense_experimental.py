"""Dense decoders with a new attention or norms: BitNet, DiffLlama, Doge, the ModernBERT decoder.

Source: transformers 5.23.0 `models/<model_type>/{configuration,modeling}_*.py`; tensor names as published checkpoints have them.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import attention_by_types, norm
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.inventory import Component, Replicated
from hfmem.model.layer_lists import exactly, full_layers, windowed_layers

_PAIR = ("input_layernorm", "post_attention_layernorm")


def _bias(cfg: Config, key: str = "attention_bias") -> bool:
    return cfg.flag(key, default=False)


def bitnet(cfg: Config) -> Architecture:
    """BitNet b1.58: Llama's block with a norm before each output projection (weights logical, not packed)."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    intermediate = cfg.positive("intermediate_size")
    m.attention(qkv_bias=bias, o_bias=bias)
    m.gated(intermediate)
    m.norms(*_PAIR, "self_attn.attn_sub_norm")
    m.norms("mlp.ffn_sub_norm", size=intermediate)
    return m.close("bitnet", full_layers(m.d))


def diffllama(cfg: Config) -> Architecture:
    """DiffLlama: four vectors of a head's size steer the difference of two attention maps; its group norm stores nothing."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        m.each(f"self_attn.{name}", (m.d.head_dim,), Component.ATTENTION)
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    return m.close("diffllama", full_layers(m.d))


def doge(cfg: Config) -> Architecture:
    """Doge: a dynamic mask computed from v, scaled residuals; `is_moe` adds experts that are rows of two embeddings.

    A token uses the feed-forward whole and `num_experts_per_tok` rows of each expert table.
    """
    m = DecoderBuilder(cfg)
    d, bias = m.d, _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    m.each("self_attn.A", (d.num_kv_heads,), Component.ATTENTION)
    m.linear("self_attn.dt_proj", d.num_kv_heads, d.num_kv_heads * d.head_dim, Replicated(), bias=bias)
    m.gated(cfg.positive("intermediate_size"), bias=_bias(cfg, "mlp_bias"))
    if cfg.flag("is_moe", default=False):
        experts, top_k = cfg.positive("num_experts"), cfg.positive("num_experts_per_tok")
        m.linear("mlp.router_gate", 2 * isqrt(experts), d.hidden, Replicated(), component=Component.EXPERTS)
        for name in ("down_embed", "up_embed"):
            m.inv.each(
                m.at(f"mlp.{name}.weight"),
                m.every,
                (experts, d.hidden),
                Component.EXPERTS,
                active=Fraction(top_k, experts),
            )
        m.moe = (experts, top_k)
    m.norms(*_PAIR)
    for name in ("input_residual", "post_attention_residual"):
        m.each(name, (d.hidden,), Component.OTHER)
    return m.close("doge", windowed_layers(cfg, d))


def modernbert_decoder(cfg: Config) -> Architecture:
    """ModernBERT decoder: fused gate and up, a prediction head, windows of half `local_attention` in two of three layers.

    The first layer has no norm before attention (the embedding's own serves).
    """
    m = DecoderBuilder(
        cfg,
        embed="model.embeddings.tok_embeddings",
        head="decoder",
        final="model.final_norm",
        classifier="classifier",
    )
    m.norm_bias = _bias(cfg, "norm_bias")
    bias = _bias(cfg)
    norm(m.inv, "model.embeddings.norm", None, m.d.hidden, bias=m.norm_bias)
    m.attention("attn", qkv_bias=bias, o_bias=bias, names=("q_proj", "k_proj", "v_proj", "Wo"))
    m.fused_gated(cfg.positive("intermediate_size"), "mlp.Wi", "mlp.Wo", bias=_bias(cfg, "mlp_bias"))
    m.norms("attn_norm", layers=range(1, m.d.num_layers))
    m.norms("mlp_norm")
    if m.task != "none":
        head = "lm_head" if m.task == "lm" else "head"
        m.inv.add(f"{head}.dense.weight", (m.d.hidden, m.d.hidden), Component.LM_HEAD)
        if _bias(cfg, "classifier_bias"):
            m.inv.add(f"{head}.dense.bias", (m.d.hidden,), Component.LM_HEAD)
        norm(m.inv, f"{head}.norm", None, m.d.hidden, bias=m.norm_bias)
    every = cfg.opt_int("global_attn_every_n_layers") or 3  # configuration_modernbert_decoder.py's default
    local = cfg.need_int("local_attention")
    types = cfg.opt_list("layer_types") or [
        "full_attention" if i % every == 0 else "sliding_attention" for i in m.every
    ]
    caches = attention_by_types(cfg, m.d, exactly(cfg, "layer_types", types, m.d.num_layers), local // 2 or None)
    return m.close("modernbert-decoder", caches, head_bias=cfg.flag("decoder_bias", default=True))
