"""Encoders with rotary positions: ModernBERT and Nomic BERT.

Source: transformers 5.23.0 `models/{modernbert,nomic_bert}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.encoders import TASKS, encoder_layers
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab


def modernbert(cfg: Config) -> Architecture:
    """ModernBERT: rotary positions, fused qkv, a gated feed-forward with both halves in `Wi`; the first layer has no input norm."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab = cfg.positive("intermediate_size"), cfg.positive("vocab_size")
    biased, bias = cfg.flag("norm_bias", default=False), cfg.flag("attention_bias", default=False)
    mlp_bias = cfg.flag("mlp_bias", default=False)
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "model.")
    part.tensor("embeddings.tok_embeddings.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    part.norms(("embeddings.norm", "final_norm"), d.hidden, bias=biased)
    block = part.at("layers.{}.", range(d.num_layers))
    vision.fused_projection(block.at("attn.", component=Component.ATTENTION), "Wqkv", d.hidden, bias=bias)
    block.linear("attn.Wo", d.hidden, d.hidden, Component.ATTENTION, ROW, bias=bias)
    block.linear("mlp.Wi", 2 * inner, d.hidden, Component.MLP, Column((inner, inner), (None, None)), bias=mlp_bias)
    block.linear("mlp.Wo", d.hidden, inner, Component.MLP, ROW, bias=mlp_bias)
    block.norm("mlp_norm", d.hidden, bias=biased)
    part.at("layers.{}.", range(1, d.num_layers)).norm("attn_norm", d.hidden, bias=biased)
    top, other = Part(inv), Part(inv, component=Component.OTHER)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what != "model":
        other.linear("head.dense", d.hidden, d.hidden, bias=cfg.flag("classifier_bias", default=False))
        top.norm("head.norm", d.hidden, bias=biased)
    if what == "mlm":
        to = "model.embeddings.tok_embeddings.weight" if tied else None
        top.tensor("decoder.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
        if cfg.flag("decoder_bias", default=True):
            top.tensor("decoder.bias", (vocab,), Component.LM_HEAD, Vocab())
    elif what != "model":
        other.linear("classifier", 1 if what == "choice" else num_labels(cfg), d.hidden)
    return assemble(
        cfg, cfg, "encoder", d, encoder_layers(d.num_layers), inv, vocab=vocab, tied=tied, intermediate=inner
    )


def nomic_bert(cfg: Config) -> Architecture:
    """Nomic BERT: rotary positions, fused qkv, gated feed-forward, no biases; reads its early configs' GPT-2 spellings too."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab = cfg.positive("n_inner", "intermediate_size"), cfg.positive("vocab_size")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "nomic_bert.")
    part.tensor("embeddings.word_embeddings.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    types = cfg.need_int("type_vocab_size")
    if types:
        part.tensor("embeddings.token_type_embeddings.weight", (types, d.hidden), Component.EMBEDDING)
    part.norm("emb_ln", d.hidden)
    block = part.at("encoder.layers.{}.", range(d.num_layers))
    width = d.num_heads * d.head_dim
    fused = Column((width, width, width), (None, None, None))
    block.linear("attn.Wqkv", 3 * width, d.hidden, Component.ATTENTION, fused, bias=False)
    block.linear("attn.out_proj", d.hidden, width, Component.ATTENTION, ROW, bias=False)
    block.linear("mlp.fc11", inner, d.hidden, Component.MLP, COLUMN, bias=False)
    block.linear("mlp.fc12", inner, d.hidden, Component.MLP, COLUMN, bias=False)
    block.linear("mlp.fc2", d.hidden, inner, Component.MLP, ROW, bias=False)
    block.norms(("norm1", "norm2"), d.hidden)
    tied = cfg.flag("tie_word_embeddings", default=True)
    other = Part(inv, component=Component.OTHER)
    if what == "mlm":
        head = Part(inv, "cls.predictions.", Component.LM_HEAD)
        head.linear("transform.dense", d.hidden, d.hidden)
        Part(inv).norm("cls.predictions.transform.layer_norm", d.hidden)
        to = "nomic_bert.embeddings.word_embeddings.weight"
        head.tensor("decoder.weight", (vocab, d.hidden), split=Vocab(), tied_to=to, optional=True)
        head.tensor("bias", (vocab,), split=Vocab())
        head.tensor("decoder.bias", (vocab,), split=Vocab(), tied_to="cls.predictions.bias", optional=True)
    elif what in ("sequence", "token"):
        if what == "sequence":
            other.linear("nomic_bert.pooler.dense", d.hidden, d.hidden)
        other.linear("classifier", num_labels(cfg), d.hidden)
    return assemble(
        cfg, cfg, "encoder", d, encoder_layers(d.num_layers), inv, vocab=vocab, tied=tied, intermediate=inner
    )
