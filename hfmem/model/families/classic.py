"""Decoders of 2022–2023 with a shape of their own: OPT, BLOOM, MPT, Falcon, Phi, StableLM, Persimmon, StarCoder2, XGLM, BioGPT.

Source: transformers 5.23.0 `models/{opt,bloom,mpt,falcon,phi,stablelm,persimmon,starcoder2,xglm,biogpt}/`; RefinedWeb from
tiiuae's `modelling_RW.py`, MixFormer from microsoft/phi-1's `modeling_mixformer_sequential.py`.
"""

from __future__ import annotations

from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import read_dims
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder, read_as
from hfmem.model.inventory import Column, Component, Row
from hfmem.model.layer_lists import full_layers, windowed_layers
from hfmem.records import replace

_4H = ("dense_h_to_4h", "dense_4h_to_h")


def opt(cfg: Config) -> Architecture:
    """OPT, Galactica. `word_embed_proj_dim` below the hidden size adds two projections (350M), where norms also come after."""
    d = read_dims(cfg)
    width = cfg.opt_int("word_embed_proj_dim") or d.hidden
    root = "model.decoder"
    m = DecoderBuilder(
        cfg,
        d=d,
        layers=f"{root}.layers.{{}}",
        embed=f"{root}.embed_tokens",
        final=f"{root}.final_layer_norm",
        norm_bias=True,
        embed_dim=width,
    )
    # two rows before position 0, as in fairseq
    rows = cfg.positive(*blocks.POSITIONS) + 2
    m.inv.add(f"{root}.embed_positions.weight", (rows, d.hidden), Component.EMBEDDING)
    if width != d.hidden:
        m.inv.add(f"{root}.project_in.weight", (d.hidden, width), Component.OTHER)
        m.inv.add(f"{root}.project_out.weight", (width, d.hidden), Component.OTHER)
    bias = cfg.flag("enable_bias", default=True)
    m.attention(qkv_bias=bias, o_bias=bias, names=("q_proj", "k_proj", "v_proj", "out_proj"))
    ffn = cfg.positive("ffn_dim")
    m.linear("fc1", ffn, d.hidden, Column(), bias=bias, component=Component.MLP)
    m.linear("fc2", d.hidden, ffn, Row(), bias=bias, component=Component.MLP)
    affine = cfg.flag("layer_norm_elementwise_affine", default=True)
    if affine:
        m.norms("self_attn_layer_norm", "final_layer_norm")
    last = cfg.flag("do_layer_norm_before", default=True) and not cfg.flag("_remove_final_layer_norm", default=False)
    return m.close("opt", full_layers(d), final=last and affine, intermediate=ffn)


def bloom(cfg: Config) -> Architecture:
    """BLOOM, BLOOMZ: ALiBi, a norm on the embedding, biases everywhere; files name tensors without `transformer.`."""
    m = DecoderBuilder(cfg, layers="h.{}", embed="word_embeddings", final="ln_f", norm_bias=True, tagger="classifier")
    blocks.norm(m.inv, "word_embeddings_layernorm", None, m.d.hidden, bias=True)
    m.qkv("self_attention.query_key_value", bias=True)
    m.linear("self_attention.dense", m.d.hidden, m.d.hidden, Row(), bias=True)
    m.plain(4 * m.d.hidden, "mlp", _4H, bias=True)
    m.norms("input_layernorm", "post_attention_layernorm")
    return m.close("bloom", full_layers(m.d))


def mpt(cfg: Config) -> Architecture:
    """MPT: KV heads by `attn_config.attn_type`; learned positions unless ALiBi or rotary embeddings replace them."""
    d = read_dims(cfg)
    attn = cfg.opt_sub("attn_config", model_type="") or Config({}, f"{cfg.file}: attn_config", "")
    kind = cfg.choice(
        "attn_type",
        attn.opt_str("attn_type") or "multihead_attention",  # MPTConfig's default
        ("multihead_attention", "multiquery_attention", "grouped_query_attention"),
    )
    if kind == "multiquery_attention":
        d = replace(d, num_kv_heads=1)
    elif kind == "grouped_query_attention":
        d = replace(d, num_kv_heads=attn.positive("kv_n_heads"))
    bias = not cfg.flag("no_bias", default=True)
    root = "transformer"
    m = DecoderBuilder(
        cfg,
        d=d,
        layers=f"{root}.blocks.{{}}",
        embed=f"{root}.wte",
        final=f"{root}.norm_f",
        norm_bias=bias,
        untold_tie=True,
        tagger="classifier",
    )
    # HF's class always uses ALiBi; MosaicML's has a position table where nothing replaces it
    replaced = attn.flag("alibi", default=True) or attn.flag("rope", default=False)
    if cfg.flag("learned_pos_emb", default=True) and not replaced:
        m.inv.add(f"{root}.wpe.weight", (cfg.positive(*blocks.POSITIONS), d.hidden), Component.EMBEDDING)
    m.qkv("attn.Wqkv", bias=bias)
    m.linear("attn.out_proj", d.hidden, d.hidden, Row(), bias=bias)
    if attn.flag("qk_ln", default=False):
        m.norms("attn.q_ln")
        m.norms("attn.k_ln", size=d.num_kv_heads * d.head_dim)
    ffn = cfg.opt_sub("ffn_config", model_type="") or Config({}, f"{cfg.file}: ffn_config", "")
    ffn_type = ffn.choice("ffn_type", ffn.opt_str("ffn_type") or "mptmlp", ("mptmlp", "mptglu"))
    inner = ffn.opt_int("ffn_hidden_size") or int(cfg.positive_float("expansion_ratio") * d.hidden)
    m.plain(inner, "ffn", ("up_proj", "down_proj"), bias=bias)
    if ffn_type == "mptglu":
        m.linear("ffn.gate_proj", inner, d.hidden, Column(), bias=bias, component=Component.MLP)
    m.norms("norm_1", "norm_2")
    return m.close("mpt", full_layers(d))


def falcon(cfg: Config) -> Architecture:
    """Falcon 1 and 2: `multi_query` is one KV head, ignored under `new_decoder_architecture`, which names `num_kv_heads`."""
    new = cfg.flag("new_decoder_architecture", default=False)
    return _falcon(cfg, new=new, multi_query=cfg.flag("multi_query", default=False))


def refined_web(cfg: Config) -> Architecture:
    """`RefinedWeb`, Falcon-40B as first published: always the new decoder, KV heads in `n_head_kv`."""
    return _falcon(cfg, new=True, multi_query=False)


def refined_web_model(cfg: Config) -> Architecture:
    """`RefinedWebModel`, Falcon-7B and Falcon-RW as first published: the old decoder."""
    return _falcon(cfg, new=False, multi_query=cfg.flag("multi_query", default=False))


def _falcon(cfg: Config, *, new: bool, multi_query: bool) -> Architecture:
    d = read_dims(cfg)
    if not new:
        d = replace(d, num_kv_heads=1 if multi_query else d.num_heads)
    root = "transformer"
    m = DecoderBuilder(
        cfg,
        d=d,
        layers=f"{root}.h.{{}}",
        embed=f"{root}.word_embeddings",
        final=f"{root}.ln_f",
        norm_bias=True,
        untold_tie=True,
        tagger="classifier",
    )
    bias = cfg.flag("bias", default=False)
    m.qkv("self_attention.query_key_value", bias=bias)
    m.linear("self_attention.dense", d.hidden, d.num_heads * d.head_dim, Row(), bias=bias)
    m.plain(cfg.opt_int("ffn_hidden_size") or 4 * d.hidden, "mlp", _4H, bias=bias)
    parallel = cfg.flag("parallel_attn", default=True)
    # null means two norms in the new decoder (modeling_falcon.py); Falcon2-11B says 1
    count = cfg.opt_int("num_ln_in_parallel_attn")
    if new and (2 if count is None else count) == 2:
        m.norms("ln_attn", "ln_mlp")
    else:
        m.norms("input_layernorm")
        if not parallel:
            m.norms("post_attention_layernorm")
    return m.close("falcon", full_layers(d))


def phi(cfg: Config) -> Architecture:
    """Phi 1, 1.5, 2: attention and feed-forward in parallel behind one norm, biases everywhere, the head's too."""
    m = DecoderBuilder(cfg, final="model.final_layernorm", norm_bias=True)
    qk = "head" if cfg.flag("qk_layernorm", default=False) else None
    m.attention(
        qkv_bias=True,
        o_bias=True,
        names=("q_proj", "k_proj", "v_proj", "dense"),
        qk_norm=qk,
        qk_norm_names=("q_layernorm", "k_layernorm"),
        qk_norm_bias=True,
    )
    m.plain(cfg.positive("intermediate_size"), "mlp", ("fc1", "fc2"), bias=True)
    m.norms("input_layernorm")
    return m.close("phi", full_layers(m.d), head_bias=True)


def mixformer(cfg: Config) -> Architecture:
    """`mixformer-sequential`: Phi as first published, one list of embedding (`layers.0`), blocks and head (`layers.n+1`)."""
    d = read_dims(cfg)
    last = d.num_layers + 1
    m = DecoderBuilder(
        cfg,
        d=d,
        layers="layers.{}",
        embed="layers.0.wte",
        head=f"layers.{last}.linear",
        final=f"layers.{last}.ln",
        norm_bias=True,
    )
    m.every = range(1, last)
    _phi_mixer(m)
    m.norms("ln")
    return m.close("phi", full_layers(d), head_bias=True)


def phi_msft(cfg: Config) -> Architecture:
    """`phi-msft`: Phi between MixFormer and transformers' own class; the same tensors under `transformer.h`."""
    m = DecoderBuilder(
        cfg,
        layers="transformer.h.{}",
        embed="transformer.embd.wte",
        head="lm_head.linear",
        final="lm_head.ln",
        norm_bias=True,
    )
    _phi_mixer(m)
    m.norms("ln")
    return m.close("phi", full_layers(m.d), head_bias=True)


def _phi_mixer(m: DecoderBuilder) -> None:
    m.qkv("mixer.Wqkv", bias=True)
    m.linear("mixer.out_proj", m.d.hidden, m.d.num_heads * m.d.head_dim, Row(), bias=True)
    m.plain(m.cfg.opt_int("n_inner") or 4 * m.d.hidden, "mlp", ("fc1", "fc2"), bias=True)


def stablelm(cfg: Config) -> Architecture:
    """StableLM 3B, 2 (1.6B, 12B): LayerNorms, optional norms for each single head of q and k (12B)."""
    m = DecoderBuilder(cfg, norm_bias=True)
    d = m.d
    m.attention(qkv_bias=cfg.flag("use_qkv_bias", default=False))
    if cfg.flag("qk_layernorm", default=False):  # one norm a head, without bias
        for name, heads in (("q_layernorm", d.num_heads), ("k_layernorm", d.num_kv_heads)):
            pattern = m.at(f"self_attn.{name}.norms.{{}}.weight")
            m.inv.each(pattern, m.every, (d.head_dim,), Component.NORM, inner=heads)
    m.gated(cfg.positive("intermediate_size"))
    m.norms("input_layernorm")
    if not cfg.flag("use_parallel_residual", default=False):
        m.norms("post_attention_layernorm")
    return m.close("stablelm", full_layers(d))


def stablelm_epoch(cfg: Config) -> Architecture:
    """`stablelm_epoch`: StableLM before transformers had it; same tensors."""
    return read_as(stablelm, cfg, "stablelm")


def persimmon(cfg: Config) -> Architecture:
    """Persimmon-8B (and Fuyu's text model): fused q, k, v, LayerNorms over each head of q and k."""
    m = DecoderBuilder(cfg, final="model.final_layernorm", norm_bias=True)
    m.qkv("self_attn.query_key_value", bias=True)
    m.linear("self_attn.dense", m.d.hidden, m.d.num_heads * m.d.head_dim, Row(), bias=True)
    if cfg.flag("qk_layernorm", default=True):
        m.norms("self_attn.q_layernorm", "self_attn.k_layernorm", size=m.d.head_dim)
    m.plain(cfg.positive("intermediate_size"), "mlp", _4H, bias=True)
    m.norms("input_layernorm", "post_attention_layernorm")
    return m.close("persimmon", full_layers(m.d))


def starcoder2(cfg: Config) -> Architecture:
    """StarCoder2: grouped queries, LayerNorms, biases by `use_bias`; a window, where set, holds in every layer."""
    m = DecoderBuilder(cfg, norm_bias=True)
    bias = cfg.flag("use_bias", default=True)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.plain(cfg.positive("intermediate_size"), "mlp", ("c_fc", "c_proj"), bias=bias)
    m.norms("input_layernorm", "post_attention_layernorm")
    return m.close("starcoder2", windowed_layers(cfg, m.d))


def xglm(cfg: Config) -> Architecture:
    """XGLM: fairseq's block, sinusoidal positions."""
    m = DecoderBuilder(cfg, final="model.layer_norm", norm_bias=True)
    _fairseq_block(m, cfg.positive("ffn_dim"))
    return m.close("xglm", full_layers(m.d))


def biogpt(cfg: Config) -> Architecture:
    """BioGPT: fairseq's block, learned positions."""
    root = "biogpt"
    m = DecoderBuilder(
        cfg,
        layers=f"{root}.layers.{{}}",
        embed=f"{root}.embed_tokens",
        head="output_projection",
        final=f"{root}.layer_norm",
        norm_bias=True,
        tagger="classifier",
    )
    rows = cfg.positive(*blocks.POSITIONS) + 2
    m.inv.add(f"{root}.embed_positions.weight", (rows, m.d.hidden), Component.EMBEDDING)
    _fairseq_block(m, cfg.positive("intermediate_size"))
    return m.close("biogpt", full_layers(m.d))


def _fairseq_block(m: DecoderBuilder, ffn: int) -> None:
    if m.cfg.flag("add_cross_attention", default=False):
        m.cfg.choice("add_cross_attention", "true", ("false",))
    m.attention(qkv_bias=True, o_bias=True, names=("q_proj", "k_proj", "v_proj", "out_proj"))
    m.linear("fc1", ffn, m.d.hidden, Column(), bias=True, component=Component.MLP)
    m.linear("fc2", m.d.hidden, ffn, Row(), bias=True, component=Component.MLP)
    m.norms("self_attn_layer_norm", "final_layer_norm")
    m.intermediate = ffn
