"""XLNet: what it keeps is each layer's input of the tokens before (its memory), not keys and values.

A layer's memory is one row of the model's width a token, the last `mem_len` of them or all where none is set: what
`SlidingAttention` and `FullAttention` of one head keep whose values take nothing.

Source: transformers 5.23.0 `models/xlnet/modeling_xlnet.py`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.model.layers import Cache, FullAttention, Layer, SlidingAttention

_CLASSES = {
    "LMHeadModel": "lm",
    "Model": "model",
    "ForSequenceClassification": "classifier",
    "ForTokenClassification": "tagger",
    "ForQuestionAnsweringSimple": "qa",
}


def xlnet(cfg: Config) -> Architecture:
    """Two-stream blocks whose projections are stored as `[d_model, heads, d_head]`, a relative one beside q, k, v and o."""
    what = task(cfg, "lm", _CLASSES)
    hidden, heads, layers = cfg.positive("d_model"), cfg.positive("n_head"), cfg.positive("n_layer")
    head_dim, vocab, inner = (
        cfg.opt_int("d_head") or hidden // heads,
        cfg.positive("vocab_size"),
        cfg.positive("d_inner"),
    )
    inv = Inventory()
    top, part = Part(inv), Part(inv, "" if what == "model" else "transformer.")
    part.tensor("word_embedding.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    part.tensor("mask_emb", (1, 1, hidden), Component.EMBEDDING)
    block = part.at("layer.{}.", range(layers))
    attention = block.at("rel_attn.", component=Component.ATTENTION)
    for name in ("q", "k", "v", "o", "r"):
        attention.tensor(name, (hidden, heads, head_dim))
    for name in ("r_r_bias", "r_s_bias", "r_w_bias"):
        attention.tensor(name, (heads, head_dim))
    attention.tensor("seg_embed", (2, heads, head_dim))
    block.norms(("rel_attn.layer_norm", "ff.layer_norm"), hidden)
    block.linear("ff.layer_1", inner, hidden, Component.MLP)
    block.linear("ff.layer_2", hidden, inner, Component.MLP)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what == "lm":
        to = "transformer.word_embedding.weight" if tied else None
        top.tensor("lm_loss.weight", (vocab, hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
        top.tensor("lm_loss.bias", (vocab,), Component.LM_HEAD)
    elif what == "classifier":
        top.linear("sequence_summary.summary", hidden, hidden, Component.OTHER)
        top.linear("logits_proj", num_labels(cfg), hidden, Component.OTHER)
    elif what != "model":
        name = "classifier" if what == "tagger" else "qa_outputs"
        top.linear(name, num_labels(cfg), hidden, Component.OTHER)
    length = cfg.opt_int("mem_len")
    # a window of n tokens is the token itself and n - 1 before it: the memory
    memory: Cache = SlidingAttention(heads, 1, hidden, 0, length + 1) if length else FullAttention(heads, 1, hidden, 0)
    d = Dims(hidden, layers, heads, heads, head_dim)
    return assemble(cfg, cfg, "xlnet", d, [Layer((memory,))] * layers, inv, vocab=vocab, tied=tied, intermediate=inner)
