"""XLM and FlauBERT: a transformer of 2018 whose blocks lie in four lists, with languages beside positions.

Source: transformers 5.23.0 `models/{xlm,flaubert}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.bart import read_heads
from hfmem.model.families.encoders import TASKS, encoder_layers
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab

#: without `ForQuestionAnswering`, which searches with beams
_TASKS = {
    **{suffix: what for suffix, what in TASKS.items() if what != "qa"},
    "WithLMHeadModel": "mlm",
    "ForQuestionAnsweringSimple": "qa",
}


def xlm(cfg: Config) -> Architecture:
    """Learned positions and, where there are several, languages; a feed-forward of four times the width, norms after."""
    what = task(cfg, "mlm", _TASKS)
    hidden, vocab = cfg.positive("emb_dim", "hidden_size"), cfg.positive("vocab_size", "n_words")
    count = cfg.positive("n_layers")
    heads = read_heads(cfg, hidden, "n_heads", "num_attention_heads")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "transformer.")
    emb = part.at("", component=Component.EMBEDDING)
    emb.tensor("embeddings.weight", (vocab, hidden), split=Vocab())
    emb.tensor("position_embeddings.weight", (cfg.positive("max_position_embeddings"), hidden))
    emb.tensor("position_ids", (1, cfg.positive("max_position_embeddings")), optional=True, buffer=True)
    languages = cfg.positive("n_langs")
    if languages > 1 and cfg.flag("use_lang_emb"):
        emb.tensor("lang_embeddings.weight", (languages, hidden))
    part.norm("layer_norm_emb", hidden)
    at = part.at("attentions.{}.", range(count), Component.ATTENTION)
    for name in ("q_lin", "k_lin", "v_lin"):
        at.linear(name, hidden, hidden, split=COLUMN)
    at.linear("out_lin", hidden, hidden, split=ROW)
    mlp = part.at("ffns.{}.", range(count), Component.MLP)
    mlp.linear("lin1", 4 * hidden, hidden, split=COLUMN)
    mlp.linear("lin2", hidden, 4 * hidden, split=ROW)
    for name in ("layer_norm1.{}.", "layer_norm2.{}."):
        for leaf in ("weight", "bias"):
            part.at(name, range(count), Component.NORM).tensor(leaf, (hidden,))
    tied = cfg.flag("tie_word_embeddings", default=True)
    other = Part(inv, component=Component.OTHER)
    if what == "mlm":
        if cfg.flag("asm", default=False):
            cfg.choice("asm", "true", ("false",))
        head = Part(inv, "pred_layer.proj.", Component.LM_HEAD)
        to = "transformer.embeddings.weight" if tied else None
        head.tensor("weight", (vocab, hidden), split=Vocab(), tied_to=to, optional=tied)
        head.tensor("bias", (vocab,), split=Vocab())
    elif what in ("sequence", "choice"):
        labels = num_labels(cfg)
        if cfg.flag("summary_use_proj"):
            to_labels = cfg.flag("summary_proj_to_labels")
            other.linear("sequence_summary.summary", labels if to_labels else hidden, hidden)
        if what == "choice":
            other.linear("logits_proj", 1, labels)
    elif what in ("token", "qa"):
        other.linear("classifier" if what == "token" else "qa_outputs", num_labels(cfg), hidden)
    d = Dims(hidden, count, heads, heads, hidden // heads)
    layers = encoder_layers(count)
    return assemble(cfg, cfg, "xlm", d, layers, inv, vocab=vocab, tied=tied, intermediate=4 * hidden)
