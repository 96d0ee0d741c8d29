"""Speech2Text, Dia and Kyutai's speech to text: sound codes or spectra in, a decoder with keys and values.

Source: transformers 5.23.0 `models/{speech_to_text,dia,kyutai_speech_to_text}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.bart import block, decoder_layers, encoder_layers, read_heads
from hfmem.model.families.heads import task
from hfmem.model.families.multimodal import tower
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import CrossAttention, FullAttention, Layer


def speech_to_text(cfg: Config) -> Architecture:
    """Speech2Text: gated convolutions that halve the frames, BART's blocks with computed positions."""
    what = task(cfg, "generation", {"ForConditionalGeneration": "generation", "Model": "model"})
    hidden, vocab = cfg.positive("d_model"), cfg.positive("vocab_size")
    heads, inner = read_heads(cfg, hidden, "decoder_attention_heads"), cfg.positive("decoder_ffn_dim")
    encoders, decoders = cfg.positive("encoder_layers"), cfg.positive("decoder_layers")
    kernels, wide = cfg.need_numbers("conv_kernel_sizes"), cfg.positive("conv_channels")
    inv = Inventory()
    stem = tower(inv, "model.encoder.conv.conv_layers.")
    width = cfg.positive("input_feat_per_channel") * cfg.positive("input_channels")
    for i, kernel in enumerate(kernels):  # a gate halves each output
        out = 2 * hidden if i == len(kernels) - 1 else wide
        stem.conv(str(i), out, width, (kernel,))
        width = out // 2
    encoder, decoder = Part(inv, "model.encoder."), Part(inv, "model.decoder.")
    block(encoder.at("layers.{}.", range(encoders)), hidden, cfg.positive("encoder_ffn_dim"), heads, cross=False)
    block(decoder.at("layers.{}.", range(decoders)), hidden, inner, heads, cross=True)
    for part in (encoder, decoder):
        part.norm("layer_norm", hidden)
    decoder.tensor("embed_tokens.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what == "generation":
        to = "model.decoder.embed_tokens.weight" if tied else None
        Part(inv).tensor("lm_head.weight", (vocab, hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
    d = Dims(hidden, decoders, heads, heads, hidden // heads)
    source = cfg.positive("max_source_positions") >> len(kernels)
    layers = [*decoder_layers(decoders, heads, d.head_dim, source), *encoder_layers(encoders)]
    return assemble(cfg, cfg, "speech_to_text", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)


def _dia_attention(part: Part, hidden: int, source: int, d: Dims) -> None:
    at, kv = part.at("", component=Component.ATTENTION), Column(kv_heads=(d.num_kv_heads,))
    at.linear("q_proj", d.num_heads * d.head_dim, hidden, split=COLUMN, bias=False)
    for name in ("k_proj", "v_proj"):
        at.linear(name, d.num_kv_heads * d.head_dim, source, split=kv, bias=False)
    at.linear("o_proj", hidden, d.num_heads * d.head_dim, split=ROW, bias=False)


def _dia_heads(cfg: Config, prefix: str = "") -> Dims:
    heads, kv_heads = cfg.positive(f"{prefix}num_attention_heads"), cfg.positive(f"{prefix}num_key_value_heads")
    if heads % kv_heads:
        raise ContradictionError(f"{cfg.file}: {heads} heads cannot share {kv_heads} KV heads")
    return Dims(
        cfg.positive("hidden_size"),
        cfg.positive("num_hidden_layers"),
        heads,
        kv_heads,
        cfg.positive(f"{prefix}head_dim"),
    )


def _dia_mlp(part: Part, hidden: int, inner: int) -> None:
    part.linear("mlp.gate_up_proj", 2 * inner, hidden, Component.MLP, Column((inner, inner), (None, None)), bias=False)
    part.linear("mlp.down_proj", hidden, inner, Component.MLP, ROW, bias=False)


def dia(cfg: Config) -> Architecture:
    """Dia: an encoder of bytes, a decoder of several sound codes at once whose cross attention has heads of its own."""
    read, text = cfg.sub("encoder_config"), cfg.sub("decoder_config")
    e, d, c = _dia_heads(read), _dia_heads(text), _dia_heads(text, "cross_")
    inv = Inventory()
    part = Part(inv, "model.encoder.")
    part.tensor("embedding.weight", (read.positive("vocab_size"), e.hidden), Component.EMBEDDING, Vocab())
    at = part.at("layers.{}.", range(e.num_layers))
    _dia_attention(at.at("self_attention."), e.hidden, e.hidden, e)
    _dia_mlp(at, e.hidden, read.positive("intermediate_size"))
    at.norms(("pre_sa_norm", "post_sa_norm"), e.hidden, bias=False)
    part.norm("norm", e.hidden, bias=False)
    part, rows = Part(inv, "model.decoder."), text.positive("vocab_size") * text.positive("num_channels")
    part.tensor("embeddings.embed.weight", (rows, d.hidden), Component.EMBEDDING, Vocab())
    at, inner = part.at("layers.{}.", range(d.num_layers)), text.positive("intermediate_size")
    _dia_attention(at.at("self_attention."), d.hidden, d.hidden, d)
    _dia_attention(at.at("cross_attention."), d.hidden, text.positive("cross_hidden_size"), c)
    _dia_mlp(at, d.hidden, inner)
    at.norms(("pre_sa_norm", "pre_ca_norm", "pre_mlp_norm"), d.hidden, bias=False)
    part.norm("norm", d.hidden, bias=False)
    Part(inv).tensor("logits_dense.weight", (rows, d.hidden), Component.LM_HEAD, Vocab())
    own = FullAttention(d.num_heads, d.num_kv_heads, d.head_dim, d.head_dim)
    # what is read is padded to the encoder's positions
    cross = CrossAttention(c.num_heads, c.num_kv_heads, c.head_dim, read.positive("max_position_embeddings"))
    layers = [*[Layer((own, cross))] * d.num_layers, *encoder_layers(e.num_layers)]
    vocab = text.positive("vocab_size")
    return assemble(cfg, text, "dia", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)
