"""More decoders with code of their own: DeepSeek-MoE (V1), Ling (Bailing MoE), OpenELM, Arctic, Jais, TeleChat, Hunyuan-Large.

Sources: deepseek-ai/deepseek-moe-16b-base `modeling_deepseek.py`; inclusionAI/Ling-lite `modeling_bailing_moe.py` and vLLM 0.33.0
`bailing_moe.py`; apple/OpenELM `modeling_openelm.py`; Snowflake/snowflake-arctic-base `modeling_arctic.py`; inceptionai/jais-13b
`modeling_jais.py`; tencent/Tencent-Hunyuan-Large `modeling_hunyuan.py`; Tele-AI/TeleChat2 and vLLM 0.33.0 `telechat2.py`.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, num_layers
from hfmem.model.config import Config
from hfmem.model.draft import Draft
from hfmem.model.families.gpt import conv1d, positions
from hfmem.model.families.moe import uniform
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.layer_lists import full_layers, others
from hfmem.model.layers import Layer, SharedCache
from hfmem.model.stack import as_mtp
from hfmem.records import replace

_PAIR = ("input_layernorm", "post_attention_layernorm")


def deepseek(cfg: Config) -> Architecture:
    """DeepSeek-MoE 16B: Llama's block; from `first_k_dense_replace` on every `moe_layer_freq`-th layer has experts."""
    m = Draft(cfg)
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


def bailing_moe(cfg: Config) -> Architecture:
    """Ling and Ring, 1 and 2: fused q, k, v, experts after the dense layers; from 2 on norms of q and k and a correction bias."""
    m = Draft(cfg, embed="model.word_embeddings")
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


def _bailing_attention(m: Draft) -> None:
    cfg, d = m.cfg, m.d
    bias = cfg.flag("use_bias", default=False)
    m.qkv("attention.query_key_value", bias=bias or cfg.flag("use_qkv_bias", default=False))
    m.linear("attention.dense", d.hidden, d.num_heads * d.head_dim, Row(), bias=bias)
    if cfg.flag("use_qk_norm", default=False):
        m.norms("attention.query_layernorm", "attention.key_layernorm", size=d.head_dim)


def _bailing_experts(m: Draft, layers: list[int]) -> None:
    cfg = m.cfg
    width, num_experts = cfg.positive("moe_intermediate_size"), cfg.positive("num_experts")
    steered = cfg.flag("moe_router_enable_expert_bias", default=False)
    correction = "gate.expert_bias" if steered else None
    m.experts("mlp", width, num_experts, cfg.positive("num_experts_per_tok"), layers=layers, correction=correction)
    shared = cfg.opt_int("num_shared_experts")
    if shared:
        each = cfg.opt_int("moe_shared_expert_intermediate_size") or width
        m.gated(each * shared, "mlp.shared_experts", layers=layers)


def openelm(cfg: Config) -> Architecture:
    """OpenELM: heads and feed-forward widths by layer; gate and up in `proj_1`."""
    hidden, n, head_dim = cfg.positive("model_dim"), num_layers(cfg, "num_transformer_layers"), cfg.positive("head_dim")
    heads, kv = _by_layer(cfg, "num_query_heads", n), _by_layer(cfg, "num_kv_heads", n)
    widths = _openelm_widths(cfg, hidden, n)
    m = Draft(
        cfg,
        d=Dims(hidden, n, heads[0], kv[0], head_dim),
        layers="transformer.layers.{}",
        embed="transformer.token_embeddings",
        final="transformer.norm",
        tied=cfg.flag("share_input_output_layers", default=True),
    )
    gated = cfg.flag("ffn_with_glu", default=True)
    caches: list[Layer] = []
    for i, (h, k, width) in enumerate(zip(heads, kv, widths, strict=True)):
        if h % k:
            raise ContradictionError(f"{cfg.file}: {h} attention heads cannot share {k} KV heads in layer {i}")
        own = replace(m.d, num_heads=h, num_kv_heads=k)
        blocks.fused_qkv(m.inv, m.at("attn.qkv_proj"), [i], own)
        m.linear("attn.out_proj", hidden, h * head_dim, Row(), layers=[i])
        if gated:
            m.fused_gated(width, "ffn.proj_1", "ffn.proj_2", layers=[i])
        else:
            m.plain(width, "ffn", ("proj_1", "proj_2"), bias=False, layers=[i])
        caches.append(Layer((blocks.full(own),)))
    if cfg.flag("normalize_qk_projections", default=False):
        m.norms("attn.q_norm", "attn.k_norm", size=head_dim)
    m.norms("attn_norm", "ffn_norm")
    return m.close("openelm", caches, intermediate=max(widths))


def _by_layer(cfg: Config, key: str, n: int) -> list[int]:
    values = cfg.need_list(key)
    if len(values) != n or not all(isinstance(v, int) and v > 0 for v in values):
        raise ContradictionError(f"{cfg.file}: {key!r} does not name a number for each of {n} layers")
    return values


def _openelm_widths(cfg: Config, hidden: int, n: int) -> list[int]:
    """`ffn_multipliers · model_dim` to the nearest multiple of `ffn_dim_divisor`, never a tenth below (`make_divisible`)."""
    divisor, widths = cfg.positive("ffn_dim_divisor"), []
    multipliers = cfg.need_list("ffn_multipliers")
    if len(multipliers) != n or not all(isinstance(v, int | float) and v > 0 for v in multipliers):
        raise ContradictionError(f"{cfg.file}: 'ffn_multipliers' does not name a number for each of {n} layers")
    for multiplier in multipliers:
        wanted = multiplier * hidden
        width = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
        widths.append(width + divisor if width < 0.9 * wanted else width)
    return widths


def arctic(cfg: Config) -> Architecture:
    """Snowflake Arctic: experts in every `moe_layer_frequency`-th layer, with a dense feed-forward beside them (`use_residual`)."""
    m = Draft(cfg)
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


def jais(cfg: Config) -> Architecture:
    """Jais 13B and 30B: GPT-2's block with ALiBi and a gated feed-forward (`c_fc2` is the gate's other half)."""
    root = "transformer"
    m = Draft(cfg, layers=f"{root}.h.{{}}", embed=f"{root}.wte", final=f"{root}.ln_f", norm_bias=True, untold_tie=True)
    hidden, inner = m.d.hidden, cfg.opt_int("n_inner") or 4 * m.d.hidden
    if cfg.opt_str("position_embedding_type") != "alibi":
        positions(m, f"{root}.wpe.weight")
    conv1d(m, "attn.c_attn", hidden, 3 * hidden, Component.ATTENTION, column=True)
    conv1d(m, "attn.c_proj", hidden, hidden, Component.ATTENTION, column=False)
    conv1d(m, "mlp.c_fc", hidden, inner, Component.MLP, column=True)
    if cfg.opt_str("activation_function") == "swiglu":
        conv1d(m, "mlp.c_fc2", hidden, inner, Component.MLP, column=True)
    conv1d(m, "mlp.c_proj", inner, hidden, Component.MLP, column=False)
    m.norms("ln_1", "ln_2")
    return m.close("jais", full_layers(m.d), intermediate=inner)


def telechat(cfg: Config) -> Architecture:
    """TeleChat 1 and 2: queries apart, keys and values in one matrix, biases on the two output projections."""
    root = "transformer"
    m = Draft(
        cfg, layers=f"{root}.h.{{}}", embed=f"{root}.word_embeddings", head=f"{root}.lm_head", final=f"{root}.ln_f"
    )
    d = m.d
    kv = d.num_kv_heads * d.head_dim
    attn = "self_attention"
    m.linear(f"{attn}.query", d.num_heads * d.head_dim, d.hidden, Column())
    m.linear(f"{attn}.key_value", 2 * kv, d.hidden, Column((kv, kv), (d.num_kv_heads, d.num_kv_heads)))
    m.linear(f"{attn}.dense", d.hidden, d.num_heads * d.head_dim, Row(), bias=True)
    width = cfg.positive("ffn_hidden_size")
    for name in ("gate_proj", "up_proj"):
        m.linear(f"mlp.{name}", width, d.hidden, Column(), component=Component.MLP)
    m.linear("mlp.down_proj", d.hidden, width, Row(), bias=True, component=Component.MLP)
    m.norms(*_PAIR)
    return m.close("telechat", full_layers(d), intermediate=width)


def hunyuan(cfg: Config) -> Architecture:
    """Hunyuan-Large and its time's dense models: every `cla_share_factor` layers attend over the first one's keys and values.

    Sharing layers have no k and v projections. `num_experts` 1 is a dense feed-forward.
    """
    m = Draft(cfg)
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


def hf_olmo(cfg: Config) -> Architecture:
    """OLMo 1 as first published (`hf_olmo`): fused q, k, v and gate, up; `mlp_hidden_size` is both halves."""
    hidden, heads = cfg.positive("d_model"), cfg.positive("n_heads")
    kv = cfg.opt_int("n_kv_heads") or (1 if cfg.flag("multi_query_attention", default=False) else heads)
    root = "model.transformer"
    vocab = cfg.opt_int("embedding_size") or cfg.positive("vocab_size")
    m = Draft(
        Config({**cfg.data, "vocab_size": vocab}, cfg.file, cfg.model_type, cfg.used_defaults),
        d=Dims(hidden, num_layers(cfg), heads, kv, hidden // heads),
        layers=f"{root}.blocks.{{}}",
        embed=f"{root}.wte",
        head=f"{root}.ff_out",
        final=f"{root}.ln_f",
        tied=cfg.flag("weight_tying", default=True),
    )
    if cfg.flag("include_bias", default=False):
        cfg.choice("include_bias", "true", ("false",))
    both = cfg.opt_int("mlp_hidden_size") or cfg.positive("mlp_ratio") * hidden
    m.qkv("att_proj")
    m.linear("attn_out", hidden, hidden, Row())
    m.linear("ff_proj", both, hidden, Column((both // 2,) * 2, (None, None)), component=Component.MLP)
    m.linear("ff_out", hidden, both // 2, Row(), component=Component.MLP)
    affine = cfg.flag("layer_norm_with_affine", default=True)
    if affine:
        m.norms("attn_norm", "ff_norm")
    return m.close("olmo", full_layers(m.d), final=affine, intermediate=both // 2)
