"""BERT with cheaper blocks: MobileBERT (bottlenecks), SqueezeBERT (grouped convolutions), FNet (Fourier transforms).

Source: transformers 5.23.0 `models/{mobilebert,squeezebert,fnet}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HEADS, HIDDEN, Dims, assemble, num_layers
from hfmem.model.config import Config
from hfmem.model.families.encoders import TASKS, encoder_layers, masked_lm
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.records import replace

_WORDS = "embeddings.word_embeddings.weight"
_TASKS = TASKS | {"ForNextSentencePrediction": "next"}


def _embeddings(part: Part, cfg: Config, vocab: int, width: int, hidden: int) -> None:
    emb = part.at("embeddings.", component=Component.EMBEDDING)
    emb.tensor("word_embeddings.weight", (vocab, width), split=Vocab())
    emb.tensor("position_embeddings.weight", (cfg.positive("max_position_embeddings"), hidden))
    emb.tensor("token_type_embeddings.weight", (cfg.positive("type_vocab_size"), hidden))
    emb.tensor("position_ids", (1, cfg.positive("max_position_embeddings")), optional=True, buffer=True)
    part.norm("embeddings.LayerNorm", hidden)


def _task_heads(inv: Inventory, cfg: Config, what: str, hidden: int) -> None:
    other = Part(inv, component=Component.OTHER)
    if what in ("pretraining", "next"):
        other.linear("cls.seq_relationship", 2, hidden)
    elif what in ("sequence", "token", "choice"):
        other.linear("classifier", 1 if what == "choice" else num_labels(cfg), hidden)
    elif what == "qa":
        other.linear("qa_outputs", num_labels(cfg), hidden)


def _finish(cfg: Config, inv: Inventory, *, tied: bool) -> Architecture:
    hidden, heads = cfg.positive(*HIDDEN), cfg.opt_int(*HEADS) or 1
    d = Dims(hidden, num_layers(cfg), heads, heads, hidden // heads)
    vocab, inner = cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    layers = encoder_layers(d.num_layers)
    return assemble(cfg, cfg, "encoder", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)


def mobilebert(cfg: Config) -> Architecture:
    """Blocks work in a bottleneck of `intra_bottleneck_size`, with several feed-forwards each; trigrams of narrow embeddings."""
    what = task(cfg, "model", _TASKS)
    hidden, vocab, inner = cfg.positive("hidden_size"), cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    width, count = cfg.positive("embedding_size"), num_layers(cfg)
    bottleneck = cfg.flag("use_bottleneck", default=True)
    true = cfg.positive("intra_bottleneck_size") if bottleneck else hidden
    shared = cfg.flag("key_query_shared_bottleneck", default=True)
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "mobilebert.")
    _embeddings(part, cfg, vocab, width, hidden)
    grams = 3 if cfg.flag("trigram_input", default=True) else 1
    part.linear("embeddings.embedding_transformation", hidden, grams * width, Component.EMBEDDING)
    block = part.at("encoder.layer.{}.", range(count))
    at = block.at("attention.", component=Component.ATTENTION)
    at.linear("self.query", true, true, split=COLUMN)
    at.linear("self.key", true, true, split=COLUMN)
    seen = true if cfg.flag("use_bottleneck_attention", default=False) else hidden
    at.linear("self.value", true, seen, split=COLUMN)
    at.linear("output.dense", true, true, split=ROW)
    block.norm("attention.output.LayerNorm", true)
    extra = cfg.positive("num_feedforward_networks") - 1
    places = [block]
    if extra:
        inside = block.at("ffn.{}.")
        places.append(replace(inside, axes=(*inside.axes, tuple(range(extra)))))
    for place in places:
        place.linear("intermediate.dense", inner, true, Component.MLP, COLUMN)
        place.linear("output.dense", true, inner, Component.MLP, ROW)
        place.norm("output.LayerNorm", true)
    if bottleneck:
        for name in ("input", *(("attention",) if shared else ())):
            block.linear(f"bottleneck.{name}.dense", true, hidden, Component.MLP)
            block.norm(f"bottleneck.{name}.LayerNorm", true)
        block.linear("output.bottleneck.dense", hidden, true, Component.MLP)
        block.norm("output.bottleneck.LayerNorm", hidden)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what in ("model", "pretraining", "next", "sequence", "choice") and cfg.flag(
        "classifier_activation", default=True
    ):
        part.linear("pooler.dense", hidden, hidden, Component.OTHER)
    if what in ("mlm", "pretraining"):
        head = Part(inv, "cls.predictions.", Component.LM_HEAD)
        head.tensor("bias", (vocab,), split=Vocab())
        head.linear("transform.dense", hidden, hidden)
        Part(inv).norm("cls.predictions.transform.LayerNorm", hidden)
        head.tensor("dense.weight", (hidden - width, vocab))
        to = f"{part.prefix}embeddings.word_embeddings.weight" if tied else None
        head.tensor("decoder.weight", (vocab, width), split=Vocab(), tied_to=to, optional=tied)
        own = "cls.predictions.bias" if tied else None
        head.tensor("decoder.bias", (vocab,), split=Vocab(), tied_to=own, optional=tied)
    _task_heads(inv, cfg, what, hidden)
    return _finish(cfg, inv, tied=tied)


def squeezebert(cfg: Config) -> Architecture:
    """BERT's block as convolutions of width 1 in groups: a matrix of `[out, in / groups, 1]`."""
    what = task(cfg, "model", _TASKS)
    hidden, vocab, inner = cfg.positive("hidden_size"), cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    if cfg.positive("embedding_size") != hidden:
        raise ContradictionError(f"{cfg.file}: 'embedding_size' is not hidden_size {hidden}, which SqueezeBERT needs")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "transformer.")
    _embeddings(part, cfg, vocab, hidden, hidden)
    block = part.at("encoder.layers.{}.", range(num_layers(cfg)))
    for name, groups, out, inputs, kind in (
        ("attention.query", "q_groups", hidden, hidden, Component.ATTENTION),
        ("attention.key", "k_groups", hidden, hidden, Component.ATTENTION),
        ("attention.value", "v_groups", hidden, hidden, Component.ATTENTION),
        ("post_attention.conv1d", "post_attention_groups", hidden, hidden, Component.ATTENTION),
        ("intermediate.conv1d", "intermediate_groups", inner, hidden, Component.MLP),
        ("output.conv1d", "output_groups", hidden, inner, Component.MLP),
    ):
        block.conv(name, out, inputs // cfg.positive(groups), (1,), kind)
    block.norms(("post_attention.layernorm", "output.layernorm"), hidden)
    part.linear("pooler.dense", hidden, hidden, Component.OTHER)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what == "mlm":
        masked_lm(Part(inv), "cls", vocab, hidden, hidden, f"{part.prefix}{_WORDS}" if tied else None)
    _task_heads(inv, cfg, what, hidden)
    return _finish(cfg, inv, tied=tied)


def fnet(cfg: Config) -> Architecture:
    """Fourier transforms in attention's place, which store nothing."""
    what = task(cfg, "model", _TASKS)
    hidden, vocab, inner = cfg.positive("hidden_size"), cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "fnet.")
    _embeddings(part, cfg, vocab, hidden, hidden)
    part.linear("embeddings.projection", hidden, hidden, Component.EMBEDDING)
    block = part.at("encoder.layer.{}.", range(num_layers(cfg)))
    block.norms(("fourier.output.LayerNorm", "output.LayerNorm"), hidden)
    block.linear("intermediate.dense", inner, hidden, Component.MLP, COLUMN)
    block.linear("output.dense", hidden, inner, Component.MLP, ROW)
    part.linear("pooler.dense", hidden, hidden, Component.OTHER)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what in ("mlm", "pretraining"):
        masked_lm(Part(inv), "cls", vocab, hidden, hidden, f"{part.prefix}{_WORDS}" if tied else None)
    _task_heads(inv, cfg, what, hidden)
    return _finish(cfg, inv, tied=tied)
