"""Mixture-of-experts decoders with ordinary attention whose experts are published one matrix each.

Source: transformers 5.23.0 `models/<model_type>/` and its `conversion_mapping.py` (published names); ERNIE's MTP block from
vLLM 0.33.0's `ernie_mtp.py`. A router's correction bias is a buffer or a parameter as the class has it.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.inventory import Component, Inventory, Replicated
from hfmem.model.layer_lists import full_layers, others, typed_layers, windowed_layers
from hfmem.model.stack import as_mtp

_PAIR = ("input_layernorm", "post_attention_layernorm")
_POST_ONLY = ("post_attention_layernorm", "post_feedforward_layernorm")
_MIXTRAL = ("w1", "w3", "w2")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def _bias(cfg: Config, key: str = "attention_bias") -> bool:
    return cfg.flag(key, default=False)


def uniform(cfg: Config, *names: str) -> int:
    """A positive integer that may be written once or once a layer. Raises ContradictionError where layers differ."""
    value = cfg.lookup(*names)
    if not isinstance(value, list):
        return cfg.positive(*names)
    if not value or any(v != value[0] for v in value) or not isinstance(value[0], int) or value[0] < 1:
        raise ContradictionError(f"{cfg.file}: {names[0]!r} differs between layers, which is not supported")
    return value[0]


def mixtral(cfg: Config) -> Architecture:
    """Mixtral: Mistral with experts in every layer."""
    m = DecoderBuilder(cfg)
    m.attention()
    _mixtral_experts(m)
    m.norms(*_PAIR)
    return m.close("mixtral", windowed_layers(cfg, m.d))


def _mixtral_experts(m: DecoderBuilder) -> None:
    width = m.cfg.positive("intermediate_size")
    num_experts, top_k = m.cfg.positive("num_local_experts"), m.cfg.positive("num_experts_per_tok")
    m.experts("block_sparse_moe", width, num_experts, top_k, names=_MIXTRAL)
    m.intermediate = width


def phimoe(cfg: Config) -> Architecture:
    """Phi-3.5-MoE and Phi-mini/tiny-MoE: Mixtral's experts, LayerNorms, biases on attention and head by flags."""
    m = DecoderBuilder(cfg, norm_bias=True)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    _mixtral_experts(m)
    m.norms(*_PAIR)
    return m.close("phimoe", windowed_layers(cfg, m.d), head_bias=_bias(cfg, "lm_head_bias"))


def qwen2_moe(cfg: Config) -> Architecture:
    """Qwen1.5-MoE, Qwen2-57B-A14B: routed experts and one gated shared expert in every `decoder_sparse_step`-th layer."""
    m = DecoderBuilder(cfg)
    m.attention(qkv_bias=cfg.flag("qkv_bias", default=True))
    sparse = _qwen_experts(m)
    shared = cfg.positive("shared_expert_intermediate_size")
    m.gated(shared, "mlp.shared_expert", layers=sparse)
    m.linear("mlp.shared_expert_gate", 1, m.d.hidden, Replicated(), component=Component.MLP, layers=sparse)
    m.norms(*_PAIR)
    if not cfg.flag("use_sliding_window", default=False):
        return m.close("qwen2_moe", full_layers(m.d), intermediate=cfg.opt_int("intermediate_size"))
    last = cfg.need_int("max_window_layers")
    # configuration_qwen2_moe.py: even layers below max_window_layers slide
    caches = typed_layers(cfg, m.d, lambda i: i % 2 == 1 or i >= last)
    return m.close("qwen2_moe", caches, intermediate=cfg.opt_int("intermediate_size"))


def qwen3_moe(cfg: Config) -> Architecture:
    """Qwen3-30B-A3B, 235B-A22B and Coder: norms over each head of q and k, no shared expert.

    Qwen3-Omni's text class has no `head_dim` of its own and rounds hidden / heads down.
    """
    m = DecoderBuilder(cfg, d=blocks.read_dims(cfg, rounded=cfg.model_type == "qwen3_omni_moe_text"))
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    _qwen_experts(m)
    m.norms(*_PAIR)
    slides = cfg.flag("use_sliding_window", default=False)
    caches = windowed_layers(cfg, m.d) if slides else full_layers(m.d)
    return m.close("qwen3_moe", caches, intermediate=cfg.opt_int("intermediate_size"))


def _qwen_experts(m: DecoderBuilder) -> list[int]:
    """Experts where `decoder_sparse_step` says and `mlp_only_layers` does not forbid; a dense feed-forward elsewhere."""
    cfg = m.cfg
    step = cfg.positive("decoder_sparse_step")
    dense = cfg.numbers("mlp_only_layers") or []
    num_experts = cfg.need_int(*EXPERTS)
    sparse = [i for i in m.every if num_experts > 0 and i not in dense and (i + 1) % step == 0]
    m.gated(cfg.positive("intermediate_size"), layers=others(m.d.num_layers, sparse))
    if sparse:
        width = cfg.positive("moe_intermediate_size")
        m.experts("mlp", width, num_experts, cfg.positive("num_experts_per_tok"), layers=sparse)
    return sparse


def olmoe(cfg: Config) -> Architecture:
    """OLMoE: norms over the whole of q and k, experts in every layer."""
    return _olmoe(cfg, "olmoe", _PAIR)


def flex_olmo(cfg: Config) -> Architecture:
    """FlexOlmo: OLMoE with norms after attention and experts."""
    return _olmoe(cfg, "flex_olmo", _POST_ONLY)


def _olmoe(cfg: Config, family: str, norms: tuple[str, ...]) -> Architecture:
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="full")
    width = cfg.positive("intermediate_size")
    m.experts("mlp", width, cfg.positive(*EXPERTS), cfg.positive("num_experts_per_tok"))
    m.norms(*norms)
    return m.close(family, full_layers(m.d), intermediate=width)


def ernie_moe(cfg: Config) -> Architecture:
    """ERNIE 4.5 MoE: experts in every `moe_layer_interval`-th layer from `moe_layer_start_index` to `moe_layer_end_index`."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg, "use_bias")
    n = m.d.num_layers
    m.attention(qkv_bias=bias, o_bias=bias)
    first, step = cfg.need_int("moe_layer_start_index"), cfg.positive("moe_layer_interval")
    end = cfg.lookup("moe_layer_end_index")
    last = n - 1 if end in (-1, None) else cfg.need_int("moe_layer_end_index")
    sparse = [i for i in m.every if (i + 1) % step == 0 and first <= i <= last]
    width, num_experts = cfg.positive("moe_intermediate_size"), cfg.positive("moe_num_experts")
    m.gated(cfg.positive("intermediate_size"), layers=others(n, sparse), bias=bias)
    m.experts("mlp", width, num_experts, cfg.positive("moe_k"), layers=sparse)
    m.each("mlp.moe_statics.e_score_correction_bias", (1, num_experts), Component.EXPERTS, sparse)
    shared = cfg.opt_int("moe_num_shared_experts")
    if shared:
        m.gated(width * shared, "mlp.shared_experts", layers=sparse, bias=bias)
    m.norms(*_PAIR)
    extra, hidden = range(cfg.opt_int("num_nextn_predict_layers") or 0), m.d.hidden

    def mtp(part: Inventory) -> None:
        blocks.attention(part, "model.mtp_block.{}.self_attn", extra, m.d, qkv_bias=bias, o_bias=bias)
        blocks.gated_mlp(part, "model.mtp_block.{}.mlp", extra, hidden, cfg.positive("intermediate_size"), bias=bias)
        for name in (*(f"mtp_block.{{}}.{n}" for n in _PAIR), "mtp_emb_norm.{}", "mtp_hidden_norm.{}"):
            blocks.norm(part, f"model.{name}", extra, hidden)
        blocks.linear(
            part, "model.mtp_linear_proj.{}", extra, hidden, 2 * hidden, Component.MTP, Replicated(), bias=bias
        )

    as_mtp(m.inv, mtp)
    return m.close("ernie4_5_moe", full_layers(m.d), head_bias=bias)


def hunyuan_moe(cfg: Config) -> Architecture:
    """HunYuan A13B: experts and a shared feed-forward in every layer; counts may be written once a layer."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head", qk_norm_names=("query_layernorm", "key_layernorm"))
    width = cfg.positive("intermediate_size")
    m.experts("mlp", width, uniform(cfg, *EXPERTS), uniform(cfg, "moe_topk", "num_experts_per_tok"), router="gate.wg")
    m.gated(width, "mlp.shared_mlp")
    m.norms(*_PAIR)
    return m.close("hunyuan_v1_moe", full_layers(m.d))
