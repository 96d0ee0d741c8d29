"""Dense decoders whose feed-forward has no gate: Nemotron, Arcee, Jais 2, Apertus, nanochat.

Source: transformers 5.23.0 `models/<model_type>/{configuration,modeling}_*.py`; tensor names as published checkpoints have them.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.inventory import Component
from hfmem.model.layer_lists import full_layers

_PAIR = ("input_layernorm", "post_attention_layernorm")


def _bias(cfg: Config, key: str = "attention_bias") -> bool:
    return cfg.flag(key, default=False)


def nemotron(cfg: Config) -> Architecture:
    """Nemotron-4, Minitron: LayerNorms, a feed-forward without gate."""
    m = DecoderBuilder(cfg, norm_bias=True)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.plain(cfg.positive("intermediate_size"), "mlp", ("up_proj", "down_proj"), bias=_bias(cfg, "mlp_bias"))
    m.norms(*_PAIR)
    return m.close("nemotron", full_layers(m.d))


def arcee(cfg: Config) -> Architecture:
    """Arcee (AFM): Llama's block, a feed-forward without gate."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.plain(cfg.positive("intermediate_size"), "mlp", ("up_proj", "down_proj"), bias=_bias(cfg, "mlp_bias"))
    m.norms(*_PAIR)
    return m.close("arcee", full_layers(m.d))


def jais2(cfg: Config) -> Architecture:
    """Jais 2: LayerNorms, biases, a feed-forward without gate."""
    m = DecoderBuilder(cfg, norm_bias=True)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.plain(cfg.positive("intermediate_size"), "mlp", ("up_proj", "down_proj"), bias=_bias(cfg, "mlp_bias"))
    m.norms(*_PAIR)
    return m.close("jais2", full_layers(m.d))


def apertus(cfg: Config) -> Architecture:
    """Apertus: q and k normalised per head, a feed-forward without gate whose xIELU keeps two parameters and two buffers.

    1.5's head has rows for words alone (`output_vocab_size`), its embedding for image and sound codes too.
    """
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    m.plain(cfg.positive("intermediate_size"), "mlp", ("up_proj", "down_proj"), bias=False)
    if cfg.opt_str("hidden_act") in (None, "xielu"):  # "xielu" is the class default
        for name in ("alpha_p", "alpha_n"):
            m.each(f"mlp.act_fn.{name}", (1,), Component.MLP)
        for name in ("beta", "eps"):
            m.each(f"mlp.act_fn.{name}", (), Component.MLP, buffer=True)
    m.norms("attention_layernorm", "feedforward_layernorm")
    return m.close("apertus", full_layers(m.d), head_rows=cfg.opt_int("output_vocab_size"))


def nanochat(cfg: Config) -> Architecture:
    """nanochat: norms without parameters, a feed-forward without gate."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.plain(cfg.positive("intermediate_size"), "mlp", ("fc1", "fc2"), bias=False)
    return m.close("nanochat", full_layers(m.d), final=False)
