"""Encoder-decoders on BART's plan with parts of their own: LED, BigBird-Pegasus, Pegasus-X, MVP, FSMT (WMT 19), NLLB-MoE.

Source: transformers 5.23.0 `models/{led,bigbird_pegasus,pegasus_x,mvp,fsmt,nllb_moe}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.bart import (
    CLASSES,
    attention,
    classification_head,
    decoder_layers,
    encoder_layers,
    read_heads,
)
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Row, Vocab
from hfmem.records import dataclass, replace


@dataclass(frozen=True, slots=True)
class Traits:
    """`offset`: rows of learned positions before the first, None where none are stored. `embedding_norm`, `final_norm`: a norm
    before the blocks and after them. `biased`: projections of attention have biases."""

    base: str = "model."
    offset: int | None = 0
    embedding_norm: bool = False
    final_norm: bool = False
    logits_bias: bool = False
    biased: bool = True


_TRAITS = {
    "led": Traits("led.", embedding_norm=True, logits_bias=True),
    "bigbird_pegasus": Traits(embedding_norm=True, logits_bias=True),
    "mvp": Traits(offset=2, embedding_norm=True, logits_bias=True),
    "pegasus_x": Traits(offset=None, final_norm=True, biased=False),
    "fsmt": Traits(offset=None),
    "nllb-moe": Traits(offset=None, final_norm=True),
}


def bart_kin(cfg: Config) -> Architecture:
    """One embedding for encoder, decoder and head, FSMT's apart; encoders with attention of their own."""
    kind, traits = cfg.model_type, _TRAITS[cfg.model_type]
    what = task(cfg, "generation", CLASSES)
    hidden = cfg.positive("d_model")
    heads = read_heads(cfg, hidden, "decoder_attention_heads")
    decoders, encoders = cfg.positive("decoder_layers"), cfg.positive("encoder_layers")
    d = Dims(hidden, decoders, heads, heads, hidden // heads)
    vocab = cfg.positive("tgt_vocab_size" if kind == "fsmt" else "vocab_size")
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what == "decoder" and kind == "bigbird_pegasus":
        tied = False  # that class never is
    inv = Inventory()
    model = Part(inv, "" if what == "model" else traits.base)
    shared = "" if kind == "fsmt" or what == "decoder" else f"{model.prefix}shared.weight"
    if shared:
        model.tensor("shared.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    if what != "decoder":
        stack = model.at("encoder.")
        source = cfg.positive("src_vocab_size") if kind == "fsmt" else vocab
        _embeddings(stack, cfg, traits, source, hidden, shared or None, tied=tied)
        _encoder(stack, cfg, traits, hidden, encoders)
    stack = model.at("decoder.")
    own = f"{traits.base}encoder.embed_tokens.weight" if kind == "fsmt" and tied else shared or None
    embedded = shared or own or f"{traits.base}decoder.embed_tokens.weight"
    _embeddings(stack, cfg, traits, vocab, hidden, own, tied=tied)
    _decoder(stack, cfg, traits, hidden, decoders, heads)
    _heads(inv, cfg, traits, what, (vocab, hidden), embedded if tied else None)
    longest = cfg.opt_int("max_encoder_position_embeddings" if kind == "led" else "max_position_embeddings")
    layers = decoder_layers(decoders, heads, d.head_dim, longest, cross=what != "decoder")
    layers += encoder_layers(encoders) if what != "decoder" else []
    width = cfg.positive("decoder_ffn_dim")
    built = assemble(cfg, cfg, "bart", d, layers, inv, vocab=vocab, tied=tied, intermediate=width)
    return (
        replace(built, num_experts=cfg.positive("num_experts"), num_experts_per_tok=2) if kind == "nllb-moe" else built
    )


def _embeddings(
    stack: Part, cfg: Config, traits: Traits, vocab: int, hidden: int, tied_to: str | None, *, tied: bool
) -> None:
    to = tied_to if tied else None
    emb = stack.at("", component=Component.EMBEDDING)
    emb.tensor("embed_tokens.weight", (vocab, hidden), split=Vocab(), tied_to=to, optional=to is not None)
    positions = "embed_positions.weight"
    if cfg.model_type == "led":
        side = "encoder" if stack.prefix.endswith("encoder.") else "decoder"
        emb.tensor(positions, (cfg.positive(f"max_{side}_position_embeddings"), hidden))
    elif cfg.model_type == "fsmt":  # sinusoids, which transformers counts as parameters and old files hold
        padding = 1 if cfg.published("pad_token_id") is None else cfg.need_int("pad_token_id")
        emb.tensor(positions, (cfg.positive("max_position_embeddings") + padding + 1, hidden), optional=True)
    elif traits.offset is not None:
        emb.tensor(positions, (cfg.positive("max_position_embeddings") + traits.offset, hidden))
    if traits.embedding_norm:
        stack.norm("layernorm_embedding", hidden)
    if traits.final_norm:
        stack.norm("layer_norm", hidden)


def _encoder(stack: Part, cfg: Config, traits: Traits, hidden: int, count: int) -> None:
    kind, block = cfg.model_type, stack.at("layers.{}.", range(count))
    at = block.at("self_attn.", component=Component.ATTENTION)
    if kind == "led":
        for name in ("query", "key", "value"):
            for suffix in ("", "_global"):
                at.linear(f"longformer_self_attn.{name}{suffix}", hidden, hidden, split=COLUMN)
        at.linear("output", hidden, hidden, split=ROW)
    elif kind == "bigbird_pegasus":
        bias = cfg.flag("use_bias")
        for name in ("query", "key", "value"):
            at.linear(f"self.{name}", hidden, hidden, split=COLUMN, bias=bias)
        at.linear("output", hidden, hidden, split=ROW, bias=bias)
    else:
        attention(block, "self_attn", hidden, k_bias=traits.biased, bias=traits.biased)
    if kind == "pegasus_x":
        rows = cfg.positive("num_global_tokens")
        stack.tensor("embed_global.weight", (rows, hidden), Component.EMBEDDING)
        block.norm("global_self_attn_layer_norm", hidden)
    block.norm("self_attn_layer_norm", hidden)
    _feed_forward(block, cfg, "encoder", hidden, count)


def _decoder(stack: Part, cfg: Config, traits: Traits, hidden: int, count: int, heads: int) -> None:
    block = stack.at("layers.{}.", range(count))
    biased = cfg.flag("use_bias") if cfg.model_type == "bigbird_pegasus" else traits.biased
    cross = "cross_attention" if cfg.model_type == "nllb-moe" else "encoder_attn"
    for name in ("self_attn", cross):
        attention(block, name, hidden, k_bias=biased, bias=biased, heads=heads)
        block.norm(f"{name}_layer_norm", hidden)
    _feed_forward(block, cfg, "decoder", hidden, count)


def _feed_forward(block: Part, cfg: Config, side: str, hidden: int, count: int) -> None:
    """Plain in BART's kin; in every `…_sparse_step`-th layer of NLLB-MoE a token goes to two experts."""
    width = cfg.positive(f"{side}_ffn_dim")
    if cfg.model_type != "nllb-moe":
        _two(block.at("", component=Component.MLP), hidden, width)
        block.norm("final_layer_norm", hidden)
        return
    step = cfg.need_int(f"{side}_sparse_step")
    sparse = [i for i in range(count) if step and (i + 1) % step == 0]
    plain = replace(block, axes=(tuple(i for i in range(count) if i not in sparse),))
    _two(plain.at("ffn.", component=Component.MLP), hidden, width)
    block.norm("ff_layer_norm", hidden)
    if not sparse:
        return
    experts = cfg.positive("num_experts")
    routed = replace(block, axes=(tuple(sparse),)).at("ffn.", component=Component.EXPERTS)
    routed.linear("router.classifier", experts, hidden, bias=cfg.flag("router_bias"))
    share = Fraction(min(2, experts), experts)
    up, down = ExpertSplit(None, Column()), ExpertSplit(None, Row())
    for e in range(experts):  # the expert's number is part of a word, not an index of its own
        expert = routed.at(f"experts.expert_{e}.")
        expert.tensor("fc1.weight", (width, hidden), split=up, active=share)
        expert.tensor("fc1.bias", (width,), split=up, active=share)
        expert.tensor("fc2.weight", (hidden, width), split=down, active=share)
        expert.tensor("fc2.bias", (hidden,), active=share)


def _two(part: Part, hidden: int, width: int) -> None:
    part.linear("fc1", width, hidden, split=COLUMN)
    part.linear("fc2", hidden, width, split=ROW)


def _heads(inv: Inventory, cfg: Config, traits: Traits, what: str, size: tuple[int, int], tied_to: str | None) -> None:
    vocab, hidden = size
    top, tied = Part(inv, component=Component.LM_HEAD), tied_to is not None
    if cfg.model_type == "fsmt":  # its head is part of the decoder
        name = "model.decoder.output_projection.weight"
        top.tensor(name, (vocab, hidden), split=Vocab(), tied_to=tied_to, optional=tied)
    elif what in ("generation", "decoder"):
        top.tensor("lm_head.weight", (vocab, hidden), split=Vocab(), tied_to=tied_to, optional=tied)
        if what == "generation" and traits.logits_bias:
            top.tensor("final_logits_bias", (1, vocab), optional=True, buffer=True)
    elif what == "classification":
        classification_head(Part(inv, "classification_head."), hidden, num_labels(cfg))
    elif what == "qa":
        top.linear("qa_outputs", num_labels(cfg), hidden, Component.OTHER)
