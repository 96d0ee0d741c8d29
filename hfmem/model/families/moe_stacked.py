"""Mixture-of-experts decoders that publish all experts of a layer stacked in one tensor.

Source: transformers 5.23.0 `models/{gpt_oss,granitemoe,granitemoeshared,granitemoe_swa,dbrx,jetmoe}/`. An `ExpertSplit`'s inner
split speaks of one expert's matrix, the stacked dimension left out.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, num_layers, read_dims
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.inventory import Column, Component, ExpertSplit, Replicated, Row
from hfmem.model.layer_lists import full_layers, typed_layers
from hfmem.records import replace

_PAIR = ("input_layernorm", "post_attention_layernorm")


def _stacked(m: DecoderBuilder, tail: str, shape: tuple[int, ...], inner: Column | Row | Replicated) -> None:
    """One tensor holding every expert of a layer; a token uses `top_k` of them."""
    if m.moe is None:
        raise AssertionError("experts before their number is known")
    num_experts, top_k = m.moe
    share, split = Fraction(top_k, num_experts), ExpertSplit(None, inner)
    m.inv.each(m.at(tail), m.every, shape, Component.EXPERTS, split, active=share)


def _count(m: DecoderBuilder, num_experts: int, top_k: int) -> None:
    if top_k > num_experts:
        raise ContradictionError(f"{m.cfg.file}: {top_k} experts per token cannot be picked from {num_experts}")
    m.moe = (num_experts, top_k)


def gpt_oss(cfg: Config) -> Architecture:
    """gpt-oss: sinks, windows in every second layer from the first on, experts with biases.

    Published in MXFP4 as `…_blocks` and `…_scales`; here the logical matrices as transformers names them, `[experts, in, out]`.
    """
    m = DecoderBuilder(cfg)
    d = m.d
    bias = cfg.flag("attention_bias", default=True)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.each("self_attn.sinks", (d.num_heads,), Component.ATTENTION, None, Column())
    width = cfg.positive("intermediate_size")
    num_experts = cfg.positive("num_local_experts")
    _count(m, num_experts, cfg.positive("num_experts_per_tok", "experts_per_token"))
    m.linear("mlp.router", num_experts, d.hidden, Replicated(), bias=True, component=Component.EXPERTS)
    _stacked(m, "mlp.experts.gate_up_proj", (num_experts, d.hidden, 2 * width), Row())
    _stacked(m, "mlp.experts.gate_up_proj_bias", (num_experts, 2 * width), Column())
    _stacked(m, "mlp.experts.down_proj", (num_experts, width, d.hidden), Column())
    _stacked(m, "mlp.experts.down_proj_bias", (num_experts, d.hidden), Replicated())
    m.norms(*_PAIR)
    return m.close("gpt_oss", typed_layers(cfg, d, lambda i: i % 2 == 1), intermediate=width)


def granitemoe(cfg: Config) -> Architecture:
    """Granite 3 MoE."""
    return _granite(cfg, "granitemoe", shared=False, swa=False)


def granitemoeshared(cfg: Config) -> Architecture:
    """Granite MoE with a shared feed-forward beside the experts."""
    return _granite(cfg, "granitemoeshared", shared=True, swa=False)


def granitemoe_swa(cfg: Config) -> Architecture:
    """Granite MoE with a shared feed-forward, sinks, and windows except in every fourth layer from the first on."""
    return _granite(cfg, "granitemoe_swa", shared=True, swa=True)


def _granite(cfg: Config, family: str, *, shared: bool, swa: bool) -> Architecture:
    m = DecoderBuilder(cfg)
    d = m.d
    bias = cfg.flag("attention_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias)
    width, num_experts = cfg.positive("intermediate_size"), cfg.positive("num_local_experts")
    _count(m, num_experts, cfg.positive("num_experts_per_tok"))
    moe = "block_sparse_moe"
    m.linear(f"{moe}.router.layer", num_experts, d.hidden, Replicated(), component=Component.EXPERTS)
    both = Column((width, width), (None, None))
    _stacked(m, f"{moe}.input_linear.weight", (num_experts, 2 * width, d.hidden), both)
    _stacked(m, f"{moe}.output_linear.weight", (num_experts, d.hidden, width), Row())
    beside = cfg.opt_int("shared_intermediate_size") if shared else None
    if beside:
        m.fused_gated(beside, "shared_mlp.input_linear", "shared_mlp.output_linear")
    if swa:
        m.each("self_attn.sinks", (d.num_heads,), Component.ATTENTION, None, Column())
    m.norms(*_PAIR)
    caches = typed_layers(cfg, d, lambda i: i % 4 == 0) if swa else full_layers(d)
    return m.close(family, caches, intermediate=width)


def dbrx(cfg: Config) -> Architecture:
    """DBRX: `attn_config.kv_n_heads`, `ffn_config`; each of w1, v1, w2 stacks all experts' rows `[experts · ffn, hidden]`."""
    attn, ffn = cfg.sub("attn_config", model_type="dbrx"), cfg.sub("ffn_config", model_type="dbrx")
    d = replace(read_dims(cfg), num_kv_heads=attn.positive("kv_n_heads"))
    root = "transformer"
    m = DecoderBuilder(cfg, d=d, layers=f"{root}.blocks.{{}}", embed=f"{root}.wte", final=f"{root}.norm_f")
    m.qkv("norm_attn_norm.attn.Wqkv")
    m.linear("norm_attn_norm.attn.out_proj", d.hidden, d.hidden, Row())
    width, num_experts = ffn.positive("ffn_hidden_size"), ffn.positive("moe_num_experts")
    _count(m, num_experts, ffn.positive("moe_top_k"))
    m.linear("ffn.router.layer", num_experts, d.hidden, Replicated(), component=Component.EXPERTS)
    for name in ("w1", "v1", "w2"):
        _stacked(m, f"ffn.experts.mlp.{name}", (num_experts * width, d.hidden), Column())
    m.norms("norm_attn_norm.norm_1", "norm_attn_norm.norm_2")
    return m.close("dbrx", full_layers(d), intermediate=width)


def jetmoe(cfg: Config) -> Architecture:
    """JetMoE: experts in attention too (queries and outputs routed, keys and values shared); `kv_channels` is a head's size.

    KV heads are `num_key_value_heads`; each token uses `num_experts_per_tok` sets of that many query heads.
    """
    hidden, kv = cfg.positive("hidden_size"), cfg.positive("num_key_value_heads")
    head_dim, top_k = cfg.positive("kv_channels"), cfg.positive("num_experts_per_tok")
    d = Dims(hidden, num_layers(cfg), kv * top_k, kv, head_dim)
    m = DecoderBuilder(cfg, d=d)
    width, num_experts = cfg.positive("intermediate_size"), cfg.positive("num_local_experts")
    _count(m, num_experts, top_k)
    share = Fraction(top_k, num_experts)
    attn = "self_attention"
    m.linear(f"{attn}.kv_proj", 2 * kv * head_dim, hidden, Column((kv * head_dim,) * 2, (kv, kv)))
    for tail, inner, rows, part in (
        (f"{attn}.experts", kv * head_dim, kv * head_dim, Component.ATTENTION),
        ("mlp", width, 2 * width, Component.EXPERTS),
    ):
        m.each(f"{tail}.bias", (hidden,), part)
        for name, shape, split in (
            ("input_linear", (num_experts, rows, hidden), Column()),
            ("output_linear", (num_experts, hidden, inner), Row()),
        ):
            m.inv.each(m.at(f"{tail}.{name}.weight"), m.every, shape, part, ExpertSplit(None, split), active=share)
        m.linear(f"{tail}.router.layer", num_experts, hidden, Replicated(), component=part)
    m.norms(*_PAIR)
    return m.close("jetmoe", full_layers(d), intermediate=width)
