"""Moonshine Streaming: frames of sound through a windowed encoder, Moonshine's decoder with learned positions of what it heard.

Source: transformers 5.23.0 `models/moonshine_streaming/modeling_moonshine_streaming.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families.audio import grouped_attention
from hfmem.model.families.bart import encoder_layers
from hfmem.model.families.heads import task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import CrossAttention, FullAttention, Layer

_CLASSES = {"ForConditionalGeneration": "generation", "Model": "model"}
_PAIR = ("input_layernorm", "post_attention_layernorm")


def moonshine_streaming(cfg: Config) -> Architecture:
    """How many encoder positions the decoder keeps follows the length of the recording."""
    what, heard = task(cfg, "generation", _CLASSES), cfg.sub("encoder_config")
    d, vocab, inner = read_dims(cfg), cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    bias, tied = cfg.flag("attention_bias", default=False), cfg.flag("tie_word_embeddings", default=False)
    inv = Inventory()
    count, width = _encoder(Part(inv, "model.encoder.", Component.OTHER), heard)
    part = Part(inv, "model.decoder.")
    part.tensor("embed_tokens.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    part.tensor("pos_emb.weight", (cfg.positive("max_position_embeddings"), width), Component.EMBEDDING)
    if width != d.hidden:
        part.linear("proj", d.hidden, width, Component.OTHER, bias=False)
    block = part.at("layers.{}.", range(d.num_layers))
    for name in ("self_attn", "encoder_attn"):
        grouped_attention(block.at(f"{name}."), d.hidden, d.num_heads, d.num_kv_heads, d.head_dim, bias=bias)
    mlp = block.at("mlp.", component=Component.MLP)
    mlp.linear("fc1", 2 * inner, d.hidden, split=Column((inner, inner), (None, None)))
    mlp.linear("fc2", d.hidden, inner, split=ROW)
    block.norms((*_PAIR, "final_layernorm"), d.hidden, bias=False)
    part.norm("norm", d.hidden, bias=False)
    if what == "generation":
        to = "model.decoder.embed_tokens.weight" if tied else None
        Part(inv).tensor("proj_out.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
    own = FullAttention(d.num_heads, d.num_kv_heads, d.head_dim, d.head_dim)
    kept = Layer((own, CrossAttention(d.num_heads, d.num_kv_heads, d.head_dim, None)))
    layers = [*[kept] * d.num_layers, *encoder_layers(count)]
    return assemble(cfg, cfg, "moonshine", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)


def _encoder(part: Part, cfg: Config) -> tuple[int, int]:
    """Frames made wide, two convolutions that halve them, blocks whose norms scale alone. Returns depth and width."""
    d: Dims = read_dims(cfg)
    inner, width = cfg.positive("intermediate_size"), d.hidden
    length = cfg.opt_float("frame_ms")  # the class assumes 5.0
    frame = round(cfg.positive("sample_rate") * (5.0 if length is None else length) / 1000)
    part.tensor("embedder.comp.log_k", ())
    part.linear("embedder.linear", width, frame, bias=False)
    part.conv("embedder.conv1", 2 * width, width, (5,))
    part.conv("embedder.conv2", width, 2 * width, (5,))
    block = part.at("layers.{}.", range(d.num_layers))
    bias = cfg.flag("attention_bias", default=False)
    attention = block.at("self_attn.", component=Component.ATTENTION)
    grouped_attention(attention, width, d.num_heads, d.num_kv_heads, d.head_dim, bias=bias)
    mlp = block.at("mlp.", component=Component.MLP)
    mlp.linear("fc1", inner, width, split=COLUMN)
    mlp.linear("fc2", width, inner, split=ROW)
    for name in _PAIR:
        block.tensor(f"{name}.gamma", (width,), Component.NORM)
    part.tensor("final_norm.gamma", (width,), Component.NORM)
    return d.num_layers, width
