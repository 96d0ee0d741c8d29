"""The GPTs of 2018–2023: learned positions or early rotary embeddings, LayerNorms, a feed-forward of four times the width.

Source: transformers 5.23.0 `models/{gpt2,gptj,gpt_neo,gpt_neox,gpt_bigcode,codegen,openai,ctrl}/`. Mask and rotary buffers that
older files carry are listed as buffers. GPT-2's `Conv1D` stores `[in, out]`: its column-parallel matrices split over the last
dimension (`Row`) and its row-parallel ones over the first (`Column`).
"""

from __future__ import annotations

from typing import Any

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder, read_as
from hfmem.model.inventory import Column, Component, Replicated, Row
from hfmem.model.layer_lists import full_layers
from hfmem.model.layers import Layer, NoCache
from hfmem.records import replace


def _inner(cfg: Config, d: Dims, *names: str) -> int:
    """The feed-forward's width: `n_inner` (or another of `names`), four times the hidden size where null."""
    return cfg.opt_int(*(names or ("n_inner",))) or 4 * d.hidden


def positions(m: DecoderBuilder, name: str, extra: int = 0) -> None:
    """A learned position table `[positions + extra, hidden]`."""
    rows = m.cfg.positive(*blocks.POSITIONS) + extra
    m.inv.add(name, (rows, m.d.hidden), Component.EMBEDDING)


def _mask(m: DecoderBuilder, tail: str, *names: str) -> None:
    """Causal mask buffers `[1, 1, positions, positions]` and scalars that files of the time carry."""
    size = m.cfg.positive(*blocks.POSITIONS)
    for name in names:
        shape = () if name == "masked_bias" else (1, 1, size, size)
        m.each(f"{tail}.{name}", shape, Component.OTHER, buffer=True)


def conv1d(
    m: DecoderBuilder, tail: str, in_features: int, out_features: int, component: Component, *, column: bool
) -> None:
    """transformers' `Conv1D`, whose weight is `[in, out]`: ranks cut its second axis for a `column`, its first otherwise."""
    split = Row() if column else Column()
    m.each(f"{tail}.weight", (in_features, out_features), component, None, split)
    m.each(f"{tail}.bias", (out_features,), component, None, Column() if column else Replicated())


def _gpt2_block(m: DecoderBuilder, inner: int) -> None:
    hidden = m.d.hidden
    conv1d(m, "attn.c_attn", hidden, 3 * hidden, Component.ATTENTION, column=True)
    conv1d(m, "attn.c_proj", hidden, hidden, Component.ATTENTION, column=False)
    conv1d(m, "mlp.c_fc", hidden, inner, Component.MLP, column=True)
    conv1d(m, "mlp.c_proj", inner, hidden, Component.MLP, column=False)
    m.norms("ln_1", "ln_2")
    m.intermediate = inner


def gpt2(cfg: Config) -> Architecture:
    """GPT-2, GPT-SW3 and kin. openai-community's files name tensors without the leading `transformer.`."""
    m = DecoderBuilder(cfg, layers="h.{}", embed="wte", final="ln_f", norm_bias=True, tagger="classifier")
    positions(m, "wpe.weight")
    _gpt2_block(m, _inner(cfg, m.d))
    _mask(m, "attn", "bias", "masked_bias")
    if cfg.flag("add_cross_attention", default=False):
        hidden = m.d.hidden
        conv1d(m, "crossattention.c_attn", hidden, 2 * hidden, Component.ATTENTION, column=True)
        conv1d(m, "crossattention.q_attn", hidden, hidden, Component.ATTENTION, column=True)
        conv1d(m, "crossattention.c_proj", hidden, hidden, Component.ATTENTION, column=False)
        m.norms("ln_cross_attn")
        _mask(m, "crossattention", "bias", "masked_bias")
    return m.close("gpt2", full_layers(m.d))


def gpt_sw3(cfg: Config) -> Architecture:
    """`gpt-sw3`: transformers reads it with GPT-2's class."""
    return read_as(gpt2, cfg, "gpt2")


def openai_gpt(cfg: Config) -> Architecture:
    """GPT-1: norms after each part; transformers' class keeps no cache, every step reads the whole text again."""
    m = DecoderBuilder(cfg, layers="h.{}", embed="tokens_embed", norm_bias=True)
    positions(m, "positions_embed.weight")
    _gpt2_block(m, 4 * m.d.hidden)
    _mask(m, "attn", "bias")
    return m.close("openai-gpt", [Layer((NoCache("recomputed"),))] * m.d.num_layers, final=False)


def ctrl(cfg: Config) -> Architecture:
    """CTRL: sinusoidal positions, a bias on the tied output projection."""
    m = DecoderBuilder(
        cfg,
        layers="transformer.h.{}",
        embed="transformer.w",
        final="transformer.layernorm",
        norm_bias=True,
        classifier="classifier",
    )
    attn = "multi_head_attention"
    m.attention(attn, qkv_bias=True, o_bias=True, names=("Wq", "Wk", "Wv", "dense"))
    m.plain(cfg.positive("dff"), "ffn", ("0", "2"), bias=True)
    m.norms("layernorm1", "layernorm2")
    return m.close("ctrl", full_layers(m.d), head_bias=True)


def gptj(cfg: Config) -> Architecture:
    """GPT-J: attention and feed-forward in parallel behind one norm, no attention biases, a bias on the output projection."""
    m = DecoderBuilder(
        cfg, layers="transformer.h.{}", embed="transformer.wte", final="transformer.ln_f", norm_bias=True
    )
    m.attention("attn", names=("q_proj", "k_proj", "v_proj", "out_proj"))
    _mask(m, "attn", "bias", "masked_bias")
    m.plain(_inner(cfg, m.d), "mlp", ("fc_in", "fc_out"), bias=True)
    m.norms("ln_1")
    return m.close("gptj", full_layers(m.d), head_bias=True)


def codegen(cfg: Config) -> Architecture:
    """CodeGen: GPT-J with q, k and v in one matrix."""
    m = DecoderBuilder(
        cfg, layers="transformer.h.{}", embed="transformer.wte", final="transformer.ln_f", norm_bias=True
    )
    m.qkv("attn.qkv_proj")
    m.linear("attn.out_proj", m.d.hidden, m.d.hidden, Row())
    _mask(m, "attn", "causal_mask")
    m.plain(_inner(cfg, m.d), "mlp", ("fc_in", "fc_out"), bias=True)
    m.norms("ln_1")
    return m.close("codegen", full_layers(m.d), head_bias=True)


def gpt_neo(cfg: Config) -> Architecture:
    """GPT-Neo: layers named `local` in `attention_types` see `window_size` tokens.

    transformers masks them but keeps their whole history (its cache reads `layer_types`, which this class has not).
    """
    m = DecoderBuilder(
        cfg,
        layers="transformer.h.{}",
        embed="transformer.wte",
        final="transformer.ln_f",
        norm_bias=True,
        tagger="classifier",
    )
    positions(m, "transformer.wpe.weight")
    attn = "attn.attention"
    m.attention(attn, o_bias=True, names=("q_proj", "k_proj", "v_proj", "out_proj"))
    _mask(m, attn, "bias", "masked_bias")
    m.plain(_inner(cfg, m.d, "intermediate_size"), "mlp", ("c_fc", "c_proj"), bias=True)
    m.norms("ln_1", "ln_2")
    window = cfg.positive("window_size")
    caches = [
        Layer((blocks.full(m.d) if kind == "global" else blocks.sliding(m.d, window),))
        for kind in _neo_kinds(cfg, m.d.num_layers)
    ]
    return m.close("gpt_neo", caches)


def _neo_kinds(cfg: Config, num_layers: int) -> list[str]:
    """`attention_layers`, else `attention_types` `[[["global", "local"], 12]]` written out."""
    named = cfg.opt_list("attention_layers")
    if named is None:
        groups: list[Any] = cfg.opt_list("attention_types") or [[["global", "local"], 12]]  # the class's own default
        named = []
        for group in groups:
            match group:
                case [[*kinds], int(times)] if 0 <= times <= num_layers:
                    named += kinds * times
                case _:
                    raise ContradictionError(f"{cfg.file}: 'attention_types' is not a list of [kinds, times]")
    if len(named) != num_layers:
        raise ContradictionError(f"{cfg.file}: 'attention_types' describes {len(named)} layers of {num_layers}")
    return [cfg.choice("attention_types", str(kind), ("global", "local")) for kind in named]


def gpt_neox(cfg: Config) -> Architecture:
    """GPT-NeoX-20B, Pythia, Dolly, StableLM-alpha, RedPajama-INCITE: fused q, k, v with biases, an untied head `embed_out`."""
    m = DecoderBuilder(
        cfg,
        layers="gpt_neox.layers.{}",
        embed="gpt_neox.embed_in",
        head="embed_out",
        final="gpt_neox.final_layer_norm",
        norm_bias=True,
        tagger="classifier",
    )
    bias = cfg.flag("attention_bias", default=True)  # GPTNeoXConfig's default
    m.qkv("attention.query_key_value", bias=bias)
    m.linear("attention.dense", m.d.hidden, m.d.hidden, Row(), bias=bias)
    _mask(m, "attention", "bias", "masked_bias")
    share = cfg.opt_float("rotary_pct", "partial_rotary_factor")
    if share is not None:
        m.each("attention.rotary_emb.inv_freq", (int(m.d.head_dim * share) // 2,), Component.OTHER, buffer=True)
    m.plain(cfg.positive("intermediate_size"), "mlp", ("dense_h_to_4h", "dense_4h_to_h"), bias=True)
    m.norms("input_layernorm", "post_attention_layernorm")
    return m.close("gpt_neox", full_layers(m.d))


def gpt_neox_japanese(cfg: Config) -> Architecture:
    """GPT-NeoX Japanese: no biases but one after the last layer's attention; the head is tied."""
    root = "gpt_neox_japanese"
    m = DecoderBuilder(
        cfg,
        layers=f"{root}.layers.{{}}",
        embed=f"{root}.embed_in",
        head="embed_out",
        final=f"{root}.final_layer_norm",
        norm_bias=True,
    )
    m.qkv("attention.query_key_value")
    m.linear("attention.dense", m.d.hidden, m.d.hidden, Row())
    m.each("attention.dense_bias", (m.d.hidden,), Component.ATTENTION, [m.d.num_layers - 1])
    inner = int(m.d.hidden * cfg.positive_float("intermediate_multiple_size"))
    m.plain(inner, "mlp", ("dense_h_to_4h", "dense_4h_to_h"), bias=False)
    m.norms("input_layernorm", "post_attention_layernorm")
    return m.close("gpt_neox_japanese", full_layers(m.d))


def gpt_bigcode(cfg: Config) -> Architecture:
    """SantaCoder, StarCoder 1: `multi_query` (the default) shares one KV head among all."""
    d = blocks.read_dims(cfg)
    if cfg.flag("multi_query", default=True):
        d = replace(d, num_kv_heads=1)
    m = DecoderBuilder(
        cfg,
        d=d,
        layers="transformer.h.{}",
        embed="transformer.wte",
        final="transformer.ln_f",
        norm_bias=True,
        tagger="classifier",
    )
    positions(m, "transformer.wpe.weight")
    m.qkv("attn.c_attn", bias=True)
    m.linear("attn.c_proj", d.hidden, d.hidden, Row(), bias=True)
    m.plain(_inner(cfg, d), "mlp", ("c_fc", "c_proj"), bias=True)
    m.norms("ln_1", "ln_2")
    return m.close("gpt_bigcode", full_layers(d))
