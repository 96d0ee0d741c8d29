"""BERT made smaller: DistilBERT (fewer layers) and ALBERT (shared ones).

Source: transformers 5.23.0 `models/{distilbert,albert}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families.encoders import TASKS, encoder_layers
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.records import replace


def distilbert(cfg: Config) -> Architecture:
    """DistilBERT: BERT's block without token types or pooler, under other names."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab = cfg.positive("hidden_dim", "intermediate_size"), cfg.positive("vocab_size")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "distilbert.")
    emb = part.at("embeddings.", component=Component.EMBEDDING)
    emb.tensor("word_embeddings.weight", (vocab, d.hidden), split=Vocab())
    emb.tensor("position_embeddings.weight", (cfg.positive("max_position_embeddings"), d.hidden))
    part.norm("embeddings.LayerNorm", d.hidden)
    block = part.at("transformer.layer.{}.", range(d.num_layers))
    at = block.at("attention.", component=Component.ATTENTION)
    for name in ("q_lin", "k_lin", "v_lin"):
        at.linear(name, d.hidden, d.hidden, split=COLUMN)
    at.linear("out_lin", d.hidden, d.hidden, split=ROW)
    block.linear("ffn.lin1", inner, d.hidden, Component.MLP, COLUMN)
    block.linear("ffn.lin2", d.hidden, inner, Component.MLP, ROW)
    block.norms(("sa_layer_norm", "output_layer_norm"), d.hidden)
    top, other = Part(inv), Part(inv, component=Component.OTHER)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what == "mlm":
        other.linear("vocab_transform", d.hidden, d.hidden, Component.LM_HEAD)
        top.norm("vocab_layer_norm", d.hidden)
        to = f"{part.prefix}embeddings.word_embeddings.weight" if tied else None
        top.tensor("vocab_projector.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
        top.tensor("vocab_projector.bias", (vocab,), Component.LM_HEAD, Vocab())
    elif what in ("sequence", "choice"):
        other.linear("pre_classifier", d.hidden, d.hidden)
        other.linear("classifier", num_labels(cfg) if what == "sequence" else 1, d.hidden)
    elif what in ("token", "qa"):
        other.linear("classifier" if what == "token" else "qa_outputs", num_labels(cfg), d.hidden)
    return assemble(
        cfg, cfg, "encoder", d, encoder_layers(d.num_layers), inv, vocab=vocab, tied=tied, intermediate=inner
    )


def albert(cfg: Config) -> Architecture:
    """ALBERT: `num_hidden_groups` sets of weights serve all layers; a narrow embedding mapped up."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab, width = cfg.positive("intermediate_size"), cfg.positive("vocab_size"), cfg.positive("embedding_size")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "albert.")
    emb = part.at("embeddings.", component=Component.EMBEDDING)
    emb.tensor("word_embeddings.weight", (vocab, width), split=Vocab())
    emb.tensor("position_embeddings.weight", (cfg.positive("max_position_embeddings"), width))
    emb.tensor("token_type_embeddings.weight", (cfg.need_int("type_vocab_size"), width))
    emb.tensor("position_ids", (1, cfg.positive("max_position_embeddings")), optional=True, buffer=True)
    part.norm("embeddings.LayerNorm", width)
    part.linear("encoder.embedding_hidden_mapping_in", d.hidden, width, Component.EMBEDDING)
    groups, repeats = cfg.positive("num_hidden_groups"), cfg.positive("inner_group_num")
    block = part.at("encoder.albert_layer_groups.{}.albert_layers.{}.", range(groups))
    block = replace(block, axes=(*block.axes, tuple(range(repeats))))
    at = block.at("attention.", component=Component.ATTENTION)
    for name in ("query", "key", "value"):
        at.linear(name, d.hidden, d.hidden, split=COLUMN)
    at.linear("dense", d.hidden, d.hidden, split=ROW)
    block.norms(("attention.LayerNorm", "full_layer_layer_norm"), d.hidden)
    block.linear("ffn", inner, d.hidden, Component.MLP, COLUMN)
    block.linear("ffn_output", d.hidden, inner, Component.MLP, ROW)
    top, other = Part(inv), Part(inv, component=Component.OTHER)
    if what not in ("mlm", "token", "qa"):
        other.at(part.prefix).linear("pooler", d.hidden, d.hidden)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what in ("mlm", "pretraining"):
        embedded = f"{part.prefix}embeddings.word_embeddings.weight" if tied else None
        head = top.at("predictions.", component=Component.LM_HEAD)
        head.tensor("bias", (vocab,), split=Vocab())
        head.linear("dense", width, d.hidden)
        top.norm("predictions.LayerNorm", width)
        head.tensor("decoder.weight", (vocab, width), split=Vocab(), tied_to=embedded, optional=tied)
        to = "predictions.bias" if tied else None
        head.tensor("decoder.bias", (vocab,), split=Vocab(), tied_to=to, optional=tied)
    if what == "pretraining":
        other.linear("sop_classifier.classifier", num_labels(cfg), d.hidden)
    elif what in ("sequence", "token", "choice"):
        other.linear("classifier", 1 if what == "choice" else num_labels(cfg), d.hidden)
    elif what == "qa":
        other.linear("qa_outputs", num_labels(cfg), d.hidden)
    return assemble(
        cfg, cfg, "encoder", d, encoder_layers(d.num_layers), inv, vocab=vocab, tied=tied, intermediate=inner
    )
