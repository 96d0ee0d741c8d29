"""MusicGen and MusicGen Melody: a decoder over several codebooks, told by T5's encoder; the codec that makes sound of the codes.

The decoder is described here; T5's encoder and EnCodec weigh what the files hold. With classifier-free guidance, their default,
generation runs every sequence twice (with the text and without): two sequences of the cache.

Source: transformers 5.23.0 `models/{musicgen,musicgen_melody}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.bart import attention, decoder_layers, read_heads
from hfmem.model.families.heads import class_name
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.records import replace

_TWICE = Note("guided", "with classifier-free guidance, the default, each prompt is two sequences of the cache")


def musicgen(cfg: Config) -> Architecture:
    """Blocks without biases; Melody's read the text as tokens before the sound's instead of attending over it."""
    nested = cfg.opt_sub("decoder", model_type=f"{cfg.model_type}_decoder")
    alone = nested is None and cfg.published("num_hidden_layers") is not None  # the decoder published by itself
    own = Config(cfg.data, cfg.file, f"{cfg.model_type.removesuffix('_decoder')}_decoder", cfg.used_defaults)
    text = own if alone else nested or cfg.sub("decoder")
    cross = "melody" not in cfg.model_type
    hidden, inner, count = text.positive("hidden_size"), text.positive("ffn_dim"), text.positive("num_hidden_layers")
    heads = read_heads(text, hidden, "num_attention_heads")
    books, vocab = text.positive("num_codebooks"), text.positive("vocab_size")
    inv = Inventory()
    part = Part(inv, "" if alone or class_name(cfg).endswith("ForCausalLM") else "decoder.")
    books_at = part.at("model.decoder.embed_tokens.{}.", range(books))
    books_at.tensor("weight", (vocab + 1, hidden), Component.EMBEDDING, Vocab())
    block = part.at("model.decoder.layers.{}.", range(count))
    attention(block, "self_attn", hidden, bias=False, k_bias=False, heads=heads)
    block.norms(("self_attn_layer_norm", "final_layer_norm"), hidden)
    if cross:
        attention(block, "encoder_attn", hidden, bias=False, k_bias=False, heads=heads)
        block.norm("encoder_attn_layer_norm", hidden)
    block.linear("fc1", inner, hidden, Component.MLP, COLUMN, bias=False)
    block.linear("fc2", hidden, inner, Component.MLP, ROW, bias=False)
    part.norm("model.decoder.layer_norm", hidden)
    part.at("lm_heads.{}.", range(books)).tensor("weight", (vocab, hidden), Component.LM_HEAD, Vocab())
    d = Dims(hidden, count, heads, heads, hidden // heads)
    layers = decoder_layers(count, heads, d.head_dim, None, cross=cross)
    arch = assemble(cfg, text, "musicgen", d, layers, inv, vocab=vocab, tied=False, intermediate=inner, notes=[_TWICE])
    return replace(arch, partial=not alone)
