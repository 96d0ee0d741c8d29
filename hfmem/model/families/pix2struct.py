"""Pix2Struct (DePlot, MatCha): patches with row and column numbers in, T5's decoder under BERT's names out.

Source: transformers 5.23.0 `models/pix2struct/modeling_pix2struct.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.bart import decoder_layers
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab

_NAMES = ("query", "key", "value")


def pix2struct(cfg: Config) -> Architecture:
    """The decoder keeps its own keys and values and those of the patches, as many as the caller cuts the image into."""
    text, seen = cfg.sub("text_config"), cfg.sub("vision_config")
    hidden, inner, vocab = text.positive("hidden_size"), text.positive("d_ff"), text.positive("vocab_size")
    heads, count = text.positive("num_heads"), text.positive("num_layers")
    if hidden % heads:
        raise ContradictionError(f"{cfg.file}: 'num_heads' {heads} does not divide the width {hidden}")
    inv = Inventory()
    blocks = _encoder(tower(inv, "encoder."), seen)
    part = Part(inv, "decoder.")
    part.tensor("embed_tokens.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    block = part.at("layer.{}.", range(count))
    for place in ("self_attention", "encoder_decoder_attention"):
        at = block.at(f"{place}.attention.", component=Component.ATTENTION)
        for name in _NAMES:
            at.linear(name, hidden, hidden, split=COLUMN, bias=False)
        at.linear("output", hidden, hidden, split=ROW, bias=False)
        block.norm(f"{place}.layer_norm", hidden, bias=False)
    first = part.at("layer.{}.", range(1), Component.ATTENTION)
    buckets = text.positive("relative_attention_num_buckets")
    first.tensor("self_attention.attention.relative_attention_bias.weight", (buckets, heads))
    mlp = block.at("mlp.DenseReluDense.", component=Component.MLP)
    for name in ("wi_0", "wi_1"):
        mlp.linear(name, inner, hidden, split=COLUMN, bias=False)
    mlp.linear("wo", hidden, inner, split=ROW, bias=False)
    block.norm("mlp.layer_norm", hidden, bias=False)
    part.norm("final_layer_norm", hidden, bias=False)
    part.tensor("lm_head.weight", (vocab, hidden), Component.LM_HEAD, Vocab())
    d = Dims(hidden, count, heads, heads, hidden // heads)
    layers = [*decoder_layers(count, heads, d.head_dim, None), *tower_layers(blocks)]
    return assemble(cfg, text, "pix2struct", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def _encoder(part: Part, cfg: Config) -> int:
    """Blocks of gated layers with norms before them; returns their number."""
    width, inner, count = cfg.positive("hidden_size"), cfg.positive("d_ff"), cfg.positive("num_hidden_layers")
    heads = cfg.positive("num_attention_heads") * cfg.positive("d_kv")
    part.linear("embeddings.patch_projection", width, cfg.positive("patch_embed_hidden_size"))
    for name in ("row", "column"):
        part.tensor(f"embeddings.{name}_embedder.weight", (cfg.positive("seq_len"), width))
    block = part.at("encoder.layer.{}.", range(count))
    for name in _NAMES:
        block.linear(f"attention.{name}", heads, width, split=COLUMN, bias=False)
    block.linear("attention.output", width, heads, split=ROW, bias=False)
    for name in ("wi_0", "wi_1"):
        block.linear(f"mlp.{name}", inner, width, split=COLUMN, bias=False)
    block.linear("mlp.wo", width, inner, split=ROW, bias=False)
    block.norms(("pre_mlp_layer_norm", "pre_attention_layer_norm"), width, bias=False)
    part.norm("layernorm", width, bias=False)
    return count
