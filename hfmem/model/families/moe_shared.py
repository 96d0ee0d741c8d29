"""Mixture-of-experts decoders of 2025 on: shared experts, first layers dense, windows or gates on attention.

Source: transformers 5.23.0 `models/<model_type>/` and its `conversion_mapping.py` (published names); MTP blocks from vLLM 0.33.0's
`{ernie_mtp,exaone_moe_mtp,hy_v3_mtp}.py`. A router's correction bias is a buffer or a parameter as the class has it.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.dense import exaone_layers
from hfmem.model.families.moe import EXPERTS
from hfmem.model.inventory import Column, Component, Inventory, Replicated
from hfmem.model.layer_lists import exactly, full_layers, others, sparse_layers, typed_layers
from hfmem.model.layers import Layer
from hfmem.model.stack import as_mtp, first_again
from hfmem.records import replace

_PAIR = ("input_layernorm", "post_attention_layernorm")


def _bias(cfg: Config, key: str = "attention_bias") -> bool:
    return cfg.flag(key, default=False)


def dots1(cfg: Config) -> Architecture:
    """dots.llm1: DeepSeek's experts on ordinary attention; layers from `max_window_layers` on slide where a window is set."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    sparse = list(range(min(cfg.need_int("first_k_dense_replace"), m.d.num_layers), m.d.num_layers))
    _deepseek_experts(m, sparse, correction="gate.e_score_correction_bias")
    m.norms(*_PAIR)
    window = cfg.opt_int("sliding_window")
    first = cfg.need_int("max_window_layers") if window else m.d.num_layers
    return m.close("dots1", typed_layers(cfg, m.d, lambda i: i < first), intermediate=cfg.opt_int("intermediate_size"))


def solar_open(cfg: Config) -> Architecture:
    """Solar Open: experts and shared experts in every layer."""
    m = DecoderBuilder(cfg)
    m.attention(qkv_bias=_bias(cfg))
    _deepseek_experts(m, list(m.every), correction="gate.e_score_correction_bias")
    m.norms(*_PAIR)
    return m.close("solar_open", full_layers(m.d))


def _deepseek_experts(
    m: DecoderBuilder, sparse: list[int], *, correction: str, shared_key: str = "n_shared_experts"
) -> None:
    """A dense feed-forward outside `sparse`; routed and shared experts of `moe_intermediate_size` inside."""
    cfg = m.cfg
    dense = others(m.d.num_layers, sparse)
    if dense:
        m.gated(cfg.positive("intermediate_size"), layers=dense)
    if not sparse:
        return
    width = cfg.positive("moe_intermediate_size")
    top_k = cfg.positive("num_experts_per_tok")
    m.experts("mlp", width, cfg.positive(*EXPERTS), top_k, layers=sparse, correction=correction)
    shared = cfg.opt_int(shared_key)
    if shared:
        m.gated(width * shared, "mlp.shared_experts", layers=sparse)


def exaone_moe(cfg: Config) -> Architecture:
    """K-EXAONE: EXAONE 4's windows, DeepSeek's experts, an MTP block beside the model."""
    m = DecoderBuilder(cfg)
    m.attention(qk_norm="head")
    sparse = sparse_layers(cfg, m.d.num_layers, cfg.need_int("first_k_dense_replace"))
    _deepseek_experts(m, sparse, correction="e_score_correction_bias", shared_key="num_shared_experts")
    m.norms(*_PAIR)
    hidden, count = m.d.hidden, cfg.opt_int("num_nextn_predict_layers") or 0

    def mtp(part: Inventory) -> None:
        block = "mtp.layers.{}"
        blocks.attention(part, f"{block}.self_attn", range(count), m.d, qk_norm="head")
        blocks.gated_mlp(part, f"{block}.mlp", range(count), hidden, cfg.positive("intermediate_size"))
        for name in _PAIR:
            blocks.norm(part, f"{block}.{name}", range(count), hidden)
        part.add("mtp.fc.weight", (hidden, 2 * hidden), Component.MTP)
        for name in ("norm", "pre_fc_norm_hidden", "pre_fc_norm_embedding"):
            blocks.norm(part, f"mtp.{name}", None, hidden)

    if count:
        as_mtp(m.inv, mtp)
    found = m.close("exaone_moe", exaone_layers(cfg, m), intermediate=cfg.opt_int("intermediate_size"))
    return replace(found, layers=(*found.layers, *first_again(found.layers, count)))


def hy_v3(cfg: Config) -> Architecture:
    """Hunyuan 3: norms over each head of q and k, one dense layer, then experts and shared experts; MTP as a further layer."""
    m = DecoderBuilder(cfg)
    bias, mlp_bias = _bias(cfg), _bias(cfg, "mlp_bias")
    n = m.d.num_layers
    sparse = sparse_layers(cfg, n, 1)
    num_experts, top_k = cfg.positive(*EXPERTS), cfg.positive("num_experts_per_tok")
    width, shared = cfg.positive("moe_intermediate_size"), cfg.need_int("num_shared_experts")

    def experts(layers: list[int]) -> None:
        m.experts("mlp", width, num_experts, top_k, layers=layers, router="router.gate", correction="expert_bias")
        if shared:
            m.gated(width * shared, "mlp.shared_mlp", layers=layers, bias=mlp_bias)

    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    m.gated(cfg.positive("intermediate_size"), layers=others(n, sparse), bias=mlp_bias)
    experts(sparse)
    m.norms(*_PAIR)
    extra = list(range(n, n + (cfg.opt_int("num_nextn_predict_layers") or 0)))
    kept, m.inv = m.inv, Inventory()
    m.attention(layers=extra, qkv_bias=bias, o_bias=bias, qk_norm="head")
    experts(extra)
    m.norms(*_PAIR, "enorm", "hnorm", "final_layernorm", layers=extra)
    m.linear("eh_proj", m.d.hidden, 2 * m.d.hidden, Replicated(), layers=extra)
    mtp, m.inv = m.inv, kept
    as_mtp(m.inv, lambda part: part.specs.extend(mtp.specs))
    return m.close("hy_v3", full_layers(m.d))


def afmoe(cfg: Config) -> Architecture:
    """Trinity (AFMoE): gated attention, four norms a layer, every `global_attn_every_n_layers`-th layer full."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    heads = m.d.num_heads * m.d.head_dim
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    m.linear("self_attn.gate_proj", heads, m.d.hidden, Column())
    sparse = list(range(min(cfg.need_int("num_dense_layers"), m.d.num_layers), m.d.num_layers))
    m.gated(cfg.positive("intermediate_size"), layers=others(m.d.num_layers, sparse))
    width = cfg.positive("moe_intermediate_size")
    m.experts(
        "mlp",
        width,
        cfg.positive("num_experts"),
        cfg.positive("num_experts_per_tok"),
        layers=sparse,
        router="router.gate",
        correction="expert_bias",
        correction_is_buffer=False,
    )
    shared = cfg.need_int("num_shared_experts")
    if shared:
        m.gated(width * shared, "mlp.shared_experts", layers=sparse)
    m.norms(*_PAIR, "pre_mlp_layernorm", "post_mlp_layernorm")
    step = cfg.positive("global_attn_every_n_layers")
    return m.close("afmoe", typed_layers(cfg, m.d, lambda i: (i + 1) % step == 0))


def laguna(cfg: Config) -> Architecture:
    """Laguna: heads by layer, a gate on attention (one value a head, or one an element), experts after the first layer."""
    m = DecoderBuilder(cfg)
    bias, n = _bias(cfg), m.d.num_layers
    heads = cfg.opt_list("num_attention_heads_per_layer") or [m.d.num_heads] * n
    if len(heads) != n or not all(isinstance(h, int) and h > 0 and h % m.d.num_kv_heads == 0 for h in heads):
        raise ContradictionError(f"{cfg.file}: 'num_attention_heads_per_layer' does not name heads for {n} layers")
    per_head = _gate_is_per_head(cfg)
    for count in sorted(set(heads)):
        where = [i for i, h in enumerate(heads) if h == count]
        d = replace(m.d, num_heads=count)
        m.attention(layers=where, d=d, qkv_bias=bias, o_bias=bias, qk_norm="head")
        rows = count if per_head else count * d.head_dim
        m.linear("self_attn.g_proj", rows, d.hidden, Column(), layers=where)
    sparse = sparse_layers(cfg, n, 1)
    m.gated(cfg.positive("intermediate_size"), layers=others(n, sparse))
    m.experts(
        "mlp",
        cfg.positive("moe_intermediate_size"),
        cfg.positive("num_experts"),
        cfg.positive("num_experts_per_tok"),
        layers=sparse,
        correction="experts.e_score_correction_bias",
        correction_is_buffer=False,
    )
    m.gated(cfg.positive("shared_expert_intermediate_size"), "mlp.shared_expert", layers=sparse)
    m.norms(*_PAIR)
    types = cfg.opt_list("layer_types")
    kinds = exactly(cfg, "layer_types", types or ["full_attention"] * n, n)
    window = cfg.opt_int("sliding_window")
    caches: list[Layer] = []
    for kind, count in zip(kinds, heads, strict=True):
        caches += blocks.attention_by_types(cfg, replace(m.d, num_heads=count), [kind], window)
    return m.close("laguna", caches)


def _gate_is_per_head(cfg: Config) -> bool:
    """`gating`: true or "per-head" is one value a head, "per-element" one for each element of it."""
    value = cfg.lookup("gating")
    if value is True:
        return True
    return cfg.choice("gating", str(value), ("per-head", "per-element")) == "per-head"


def cohere2_moe(cfg: Config) -> Architecture:
    """Command A MoE: Cohere 2's parallel block and windows; the first layers may be dense with a pattern of their own."""
    m = DecoderBuilder(cfg)
    bias, n = _bias(cfg), m.d.num_layers
    first = min(cfg.opt_int("first_k_dense_replace") or 0, n)
    sparse = sparse_layers(cfg, n, first)
    width = cfg.positive("intermediate_size")
    m.attention(qkv_bias=bias, o_bias=bias)
    dense = others(n, sparse)
    if dense:
        m.gated(cfg.positive("prefix_dense_intermediate_size"), layers=dense)
    m.experts("mlp", width, cfg.positive(*EXPERTS), cfg.positive("num_experts_per_tok"), layers=sparse)
    shared = cfg.opt_int("num_shared_experts")
    if shared:
        m.gated(width * shared, "mlp.shared_experts", layers=sparse)
    m.norms("input_layernorm")
    prefix, rest = cfg.positive("prefix_dense_sliding_window_pattern"), cfg.positive("sliding_window_pattern")

    def is_full(i: int) -> bool:
        return (i + 1) % prefix == 0 if i < first else (i - first + 1) % rest == 0

    return m.close("cohere2_moe", typed_layers(cfg, m.d, is_full), intermediate=width)


def mellum(cfg: Config) -> Architecture:
    """Mellum 2: Qwen3-MoE's block with `layer_types` and `mlp_layer_types`, all full and all sparse where not named."""
    m = DecoderBuilder(cfg)
    bias, n = _bias(cfg), m.d.num_layers
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    sparse = sparse_layers(cfg, n, 0)
    dense = others(n, sparse)
    if dense:
        m.gated(cfg.positive("intermediate_size"), layers=dense)
    width = cfg.positive("moe_intermediate_size")
    m.experts("mlp", width, cfg.positive(*EXPERTS), cfg.positive("num_experts_per_tok"), layers=sparse)
    m.norms(*_PAIR)
    return m.close("mellum", typed_layers(cfg, m.d, None))
