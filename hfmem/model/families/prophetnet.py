"""ProphetNet: an encoder-decoder that predicts several next tokens at once; what it keeps is BART's.

Source: transformers 5.23.0 `models/prophetnet/modeling_prophetnet.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.bart import decoder_layers, encoder_layers, read_heads
from hfmem.model.families.heads import task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab

_CLASSES = {"ForConditionalGeneration": "generation", "Model": "model", "ForCausalLM": "decoder"}


def prophetnet(cfg: Config) -> Architecture:
    """Blocks with norms after; the decoder's self attention has a learned bias for each of `num_buckets` distances and head."""
    what = task(cfg, "generation", _CLASSES)
    hidden, vocab = cfg.positive("hidden_size"), cfg.positive("vocab_size")
    heads = read_heads(cfg, hidden, "num_decoder_attention_heads")
    encoders, decoders = cfg.positive("num_encoder_layers"), cfg.positive("num_decoder_layers")
    d = Dims(hidden, decoders, heads, heads, hidden // heads)
    tied = cfg.flag("tie_word_embeddings", default=True)
    inv = Inventory()
    base = Part(inv, "" if what == "model" else "prophetnet.")
    shared = f"{base.prefix}word_embeddings.weight"
    base.tensor("word_embeddings.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    if what != "decoder":
        _stack(base.at("encoder."), cfg, encoders, "encoder", hidden, shared if tied else None)
    _stack(base.at("decoder."), cfg, decoders, "decoder", hidden, shared if tied else None)
    if what != "model":
        head = Part(inv, component=Component.LM_HEAD)
        head.tensor("lm_head.weight", (vocab, hidden), split=Vocab(), tied_to=shared if tied else None, optional=tied)
    longest = cfg.opt_int("max_position_embeddings")
    layers = decoder_layers(decoders, heads, d.head_dim, longest, cross=what != "decoder")
    layers += encoder_layers(encoders) if what != "decoder" else []
    width = cfg.positive("decoder_ffn_dim")
    return assemble(cfg, cfg, "prophetnet", d, layers, inv, vocab=vocab, tied=tied, intermediate=width)


def _stack(part: Part, cfg: Config, count: int, side: str, hidden: int, tied_to: str | None) -> None:
    emb, vocab = part.at("", component=Component.EMBEDDING), cfg.positive("vocab_size")
    emb.tensor("word_embeddings.weight", (vocab, hidden), split=Vocab(), tied_to=tied_to, optional=tied_to is not None)
    emb.tensor("position_embeddings.weight", (cfg.positive("max_position_embeddings"), hidden))
    part.norm("embeddings_layer_norm", hidden)
    block = part.at("layers.{}.", range(count))
    names = ["self_attn"]
    if side == "decoder":
        emb.tensor("ngram_embeddings.weight", (cfg.positive("ngram"), hidden))
        rows = cfg.positive("num_buckets") * cfg.positive("num_decoder_attention_heads")
        block.linear("self_attn.relative_pos_embeddings", rows, hidden, Component.ATTENTION)
        if cfg.flag("add_cross_attention", default=True):
            names.append("cross_attn")
    for name in names:
        at = block.at(f"{name}.", component=Component.ATTENTION)
        for leaf in ("key_proj", "value_proj", "query_proj"):
            at.linear(leaf, hidden, hidden, split=COLUMN)
        at.linear("out_proj", hidden, hidden, split=ROW)
        block.norm(f"{name}_layer_norm", hidden)
    width = cfg.positive(f"{side}_ffn_dim")
    block.linear("feed_forward.intermediate", width, hidden, Component.MLP, COLUMN)
    block.linear("feed_forward.output", hidden, width, Component.MLP, ROW)
    block.norm("feed_forward_layer_norm", hidden)
