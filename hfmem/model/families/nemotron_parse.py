"""Nemotron Parse: C-RADIO with a neck that narrows its features, mBART's decoder without positions.

Parse 3.5's decoder reads the image's features as the first tokens of its text instead of attending over them; its encoder, which
may be another C-RADIO, weighs what the files hold.

Source: vLLM 0.33.0 `models/nemotron_parse.py`, `nemotron_parse3_5.py`; names as published (nvidia/NVIDIA-Nemotron-Parse).
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.bart import block, decoder_layers, read_heads
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, Part
from hfmem.model.families.radio import radio
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.records import replace

_FEATURES = 1280  # of ViT-H, which the neck's class has as numbers
_SUMMARY = 3 * _FEATURES  # three teachers' class tokens
_NECK = 1024


def nemotron_parse(cfg: Config) -> Architecture:
    """The decoder keeps its own keys and values and those of the neck's output, whose length follows the image."""
    dec = cfg.sub("decoder", model_type="mbart")
    hidden, vocab = dec.positive("d_model"), dec.positive("vocab_size")
    heads, count = read_heads(dec, hidden, "decoder_attention_heads"), dec.positive("decoder_layers")
    prefixed = dec.flag("causal_vision_prefix", default=False)
    # the older class reads the encoder's width for its decoder
    inner = dec.positive("decoder_ffn_dim" if prefixed else "encoder_ffn_dim")
    tied = cfg.flag("tie_word_embeddings", default=False) or dec.flag("tie_word_embeddings", default=False)
    inv = Inventory()
    part = Part(inv, "decoder.")
    part.tensor("embed_tokens.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    part.norms(("layernorm_embedding", "layer_norm"), hidden)
    block(part.at("layers.{}.", range(count)), hidden, inner, heads, cross=not prefixed)
    to = "decoder.embed_tokens.weight" if tied else None
    Part(inv).tensor("lm_head.weight", (vocab, hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
    d = Dims(hidden, count, heads, heads, hidden // heads)
    layers = decoder_layers(count, heads, d.head_dim, None, cross=not prefixed)
    if prefixed:
        arch = assemble(cfg, dec, "nemotron_parse", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)
        return replace(arch, partial=True)
    blocks, _ = radio(tower(inv, "encoder.model_encoder.radio_model."), cfg.sub("encoder", model_type="radio"))
    neck = tower(inv, "encoder.")
    neck.conv("conv1", _NECK, _FEATURES, (1,))
    neck.conv("conv2", _NECK, _NECK, (1, 4), bias=False)
    neck.linear("sum_proj", _NECK, _SUMMARY, split=COLUMN)
    neck.norms(("layer_norm1", "layer_norm2", "layer_norm3"), _NECK)
    layers += tower_layers(blocks)
    return assemble(cfg, dec, "nemotron_parse", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)
