"""Ling and Ring, 1 and 2 (Bailing MoE), and what others built on them: Sarvam's and Param's mixtures.

Source: inclusionAI/Ling-lite `modeling_bailing_moe.py` and vLLM 0.33.0 `bailing_moe.py`, `sarvam.py`, `param2moe.py`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.inventory import Inventory, Replicated, Row
from hfmem.model.layer_lists import full_layers, others
from hfmem.model.stack import as_mtp
from hfmem.records import replace

_PAIR = ("input_layernorm", "post_attention_layernorm")


def sarvam_moe(cfg: Config) -> Architecture:
    """Sarvam's mixture with grouped-query attention: Ling 2's tensors."""
    return replace(bailing_moe(cfg), family="sarvam_moe")


def param2moe(cfg: Config) -> Architecture:
    """Param 2: Ling 2's tensors; `moe_shared_expert_intermediate_size` is the width of all shared experts together."""
    shared = 1 if cfg.published("num_shared_experts") is None else cfg.need_int("num_shared_experts")
    together = cfg.opt_int("moe_shared_expert_intermediate_size")
    said = cfg.published("moe_router_enable_expert_bias")
    data = {
        **cfg.data,
        "num_shared_experts": min(shared, 1) if together else shared,
        "first_k_dense_replace": 1
        if cfg.published("first_k_dense_replace") is None
        else cfg.data["first_k_dense_replace"],
        "moe_router_enable_expert_bias": True if said is None else said,
    }
    return replace(bailing_moe(Config(data, cfg.file, cfg.model_type, cfg.used_defaults)), family="param2moe")


def bailing_moe(cfg: Config) -> Architecture:
    """Ling and Ring, 1 and 2: fused q, k, v, experts after the dense layers; from 2 on norms of q and k and a correction bias."""
    m = DecoderBuilder(cfg, embed="model.word_embeddings")
    n, hidden = m.d.num_layers, m.d.hidden
    sparse = list(range(min(cfg.need_int("first_k_dense_replace"), n), n))
    _bailing_attention(m)
    m.gated(cfg.positive("intermediate_size"), layers=others(n, sparse), bias=cfg.flag("use_bias", default=False))
    _bailing_experts(m, sparse)
    m.norms(*_PAIR)
    extra = list(range(n, n + (cfg.opt_int("num_nextn_predict_layers") or 0)))
    if extra:
        kept, m.inv, m.every = m.inv, Inventory(), range(n, n + len(extra))
        _bailing_attention(m)
        _bailing_experts(m, extra)
        m.norms(*_PAIR, "enorm", "hnorm", "final_layernorm")
        m.linear("eh_proj", hidden, 2 * hidden, Replicated())
        mtp, m.inv = m.inv, kept
        as_mtp(m.inv, lambda part: part.specs.extend(mtp.specs))
    return m.close("bailing_moe", full_layers(m.d), intermediate=cfg.opt_int("intermediate_size"))


def _bailing_attention(m: DecoderBuilder) -> None:
    cfg, d = m.cfg, m.d
    bias = cfg.flag("use_bias", default=False)
    m.qkv("attention.query_key_value", bias=bias or cfg.flag("use_qkv_bias", default=False))
    m.linear("attention.dense", d.hidden, d.num_heads * d.head_dim, Row(), bias=bias)
    if cfg.flag("use_qk_norm", default=False):
        m.norms("attention.query_layernorm", "attention.key_layernorm", size=d.head_dim)


def _bailing_experts(m: DecoderBuilder, layers: list[int]) -> None:
    cfg = m.cfg
    width, num_experts = cfg.positive("moe_intermediate_size"), cfg.positive("num_experts")
    steered = cfg.flag("moe_router_enable_expert_bias", default=False)
    correction = "gate.expert_bias" if steered else None
    m.experts("mlp", width, num_experts, cfg.positive("num_experts_per_tok"), layers=layers, correction=correction)
    shared = cfg.opt_int("num_shared_experts")
    if shared:
        each = cfg.opt_int("moe_shared_expert_intermediate_size") or width
        m.gated(each * shared, "mlp.shared_experts", layers=layers)
