"""Decoders with experts and code of their own: DeepSeek-MoE (V1), Arctic, Hunyuan-Large, HunyuanImage 3.

Sources: deepseek-ai/deepseek-moe-16b-base `modeling_deepseek.py`; Snowflake/snowflake-arctic-base `modeling_arctic.py`;
tencent/Tencent-Hunyuan-Large `modeling_hunyuan.py`; Tencent-Hunyuan/HunyuanImage-3.0 `hunyuan_image_3/hunyuan.py`.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.model import blocks
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.moe import uniform
from hfmem.model.inventory import Column, Component, ExpertSplit, Row
from hfmem.model.layer_lists import full_layers, others
from hfmem.model.layers import Layer, SharedCache
from hfmem.records import replace

_PAIR = ("input_layernorm", "post_attention_layernorm")


def deepseek(cfg: Config) -> Architecture:
    """DeepSeek-MoE 16B: Llama's block; from `first_k_dense_replace` on every `moe_layer_freq`-th layer has experts."""
    m = DecoderBuilder(cfg)
    bias = cfg.flag("attention_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias)
    num_experts = cfg.opt_int("n_routed_experts")
    first, step = cfg.opt_int("first_k_dense_replace") or 0, cfg.opt_int("moe_layer_freq") or 1
    sparse = [i for i in m.every if num_experts and i >= first and i % step == 0]
    m.gated(cfg.positive("intermediate_size"), layers=others(m.d.num_layers, sparse))
    if num_experts and sparse:
        width, top_k = cfg.positive("moe_intermediate_size"), cfg.positive("num_experts_per_tok")
        m.experts("mlp", width, num_experts, top_k, layers=sparse)
        shared = cfg.opt_int("n_shared_experts")
        if shared:
            m.gated(width * shared, "mlp.shared_experts", layers=sparse)
    m.norms(*_PAIR)
    return m.close("deepseek", full_layers(m.d), intermediate=cfg.opt_int("intermediate_size"))


def arctic(cfg: Config) -> Architecture:
    """Snowflake Arctic: experts in every `moe_layer_frequency`-th layer, with a dense feed-forward beside them (`use_residual`)."""
    m = DecoderBuilder(cfg)
    m.attention()
    step, width = cfg.positive("moe_layer_frequency"), cfg.positive("intermediate_size")
    names = ("w1", "w3", "w2")
    num_experts, top_k = cfg.positive("num_local_experts"), cfg.positive("num_experts_per_tok")
    sparse = [i for i in m.every if (i + 1) % step == 0]
    m.gated(width, "block_sparse_moe.mlp", layers=others(m.d.num_layers, sparse), names=names)
    m.experts("block_sparse_moe", width, num_experts, top_k, layers=sparse, names=names)
    m.norms(*_PAIR)
    if cfg.flag("use_residual"):
        m.norms("residual_layernorm", layers=sparse)
        m.gated(m.d.hidden, "residual_mlp", layers=sparse, names=names)
    return m.close("arctic", full_layers(m.d), intermediate=width)


def hunyuan(cfg: Config) -> Architecture:
    """Hunyuan-Large and its time's dense models: every `cla_share_factor` layers attend over the first one's keys and values.

    Sharing layers have no k and v projections. `num_experts` 1 is a dense feed-forward.
    """
    m = DecoderBuilder(cfg)
    n, d = m.d.num_layers, m.d
    bias = cfg.flag("attention_bias", default=False)
    factor = cfg.positive("cla_share_factor") if cfg.flag("use_cla", default=False) else 1
    own = list(range(0, n, factor))
    m.attention(layers=own, qkv_bias=bias, o_bias=bias)
    for name, rows, columns, split in (
        ("q_proj", d.num_heads * d.head_dim, d.hidden, Column()),
        ("o_proj", d.hidden, d.num_heads * d.head_dim, Row()),
    ):
        m.linear(f"self_attn.{name}", rows, columns, split, bias=bias, layers=others(n, own))
    if cfg.flag("use_qk_norm", default=False):
        m.norms("self_attn.query_layernorm", "self_attn.key_layernorm", size=d.head_dim)
    width, num_experts = cfg.positive("intermediate_size"), uniform(cfg, "num_experts")
    if num_experts > 1:
        m.experts("mlp", width, num_experts, uniform(cfg, "moe_topk"), router="gate.wg")
        if cfg.flag("use_mixed_mlp_moe", default=False):
            m.gated(width * uniform(cfg, "num_shared_expert"), "mlp.shared_mlp")
    else:
        m.gated(width)
    m.norms(*_PAIR)
    caches = [Layer((SharedCache(i - i % factor) if i % factor else blocks.full(d),)) for i in m.every]
    return m.close("hunyuan", caches, intermediate=width)


def hunyuan_image(cfg: Config) -> Architecture:
    """HunyuanImage 3: Hunyuan's experts, gate and up in one matrix, over text and the patches of pictures that it draws.

    Encoders, projections and the autoencoder beside them weigh what the files hold.
    """
    d = blocks.read_dims(cfg)
    m = DecoderBuilder(cfg, d=d, embed="model.wte", final="model.ln_f")
    bias, skipped = cfg.flag("attention_bias", default=False), cfg.opt_int("moe_layer_num_skipped") or 0
    m.qkv("self_attn.qkv_proj", bias=bias)
    m.linear("self_attn.o_proj", d.hidden, d.num_heads * d.head_dim, Row(), bias=bias)
    if cfg.flag("use_qk_norm", default=False):
        m.norms("self_attn.query_layernorm", "self_attn.key_layernorm", size=d.head_dim)
    count, top_k, sparse = uniform(cfg, "num_experts"), uniform(cfg, "moe_topk"), m.every[skipped:]
    width = uniform(cfg, "moe_intermediate_size" if cfg.published("moe_intermediate_size") else "intermediate_size")
    both, share = Column((width, width), (None, None)), Fraction(top_k, count)
    for name, shape, split in (
        ("gate_and_up_proj", (2 * width, d.hidden), ExpertSplit(1, both)),
        ("down_proj", (d.hidden, width), ExpertSplit(1, Row())),
    ):
        at = m.at(f"mlp.experts.{{}}.{name}.weight")
        m.inv.each(at, sparse, shape, Component.EXPERTS, split, inner=count, active=share)
    m.each("mlp.gate.wg.weight", (count, d.hidden), Component.EXPERTS, sparse)
    m.moe = (count, top_k)
    dense = [(cfg.positive("intermediate_size"), "mlp", m.every[:skipped])]
    if cfg.flag("use_mixed_mlp_moe", default=False):
        dense.append((width * uniform(cfg, "num_shared_expert"), "mlp.shared_mlp", sparse))
    for wide, at, layers in dense:
        m.fused_gated(wide, f"{at}.gate_and_up_proj", f"{at}.down_proj", layers=layers)
    m.norms(*_PAIR)
    arch = m.close("hunyuan_image", full_layers(d), intermediate=width)
    note = Note("parts_by_files", f"{cfg.file}: encoders and the autoencoder weigh what the files hold")
    return replace(arch, partial=True, notes=(*arch.notes, note))
