"""BART and its kin: BART, mBART, PLBart, Pegasus, M2M-100 and NLLB, Marian, Blenderbot; Whisper, Moonshine, Speech2Text.

Encoder and decoder of classic transformer blocks with biases; a decoder layer keeps its own keys and values and the encoder's.

Source: transformers 5.23.0 `models/{bart,mbart,…}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import CrossAttention, FullAttention, Layer, NoCache
from hfmem.records import dataclass

CLASSES = {
    "ForConditionalGeneration": "generation",
    "MTModel": "generation",
    "Model": "model",
    "ForSequenceClassification": "classification",
    "ForQuestionAnswering": "qa",
    "ForCausalLM": "decoder",
}


@dataclass(frozen=True, slots=True)
class Traits:
    """What tells one member of the family from another.

    `offset`: rows that learned positions have before the first. `embedding_norm`: a norm after the embeddings. `final_norm`: a norm
    after the last block. `positions`: learned or fixed positions in the file, or None where they are computed.
    """

    offset: int
    embedding_norm: bool
    final_norm: bool
    learned: bool = True
    fixed: bool = False
    logits_bias: bool = True


_TRAITS = {
    "bart": Traits(2, embedding_norm=True, final_norm=False),
    "plbart": Traits(2, embedding_norm=True, final_norm=False),
    "mbart": Traits(2, embedding_norm=True, final_norm=True),
    "blenderbot-small": Traits(0, embedding_norm=True, final_norm=False),
    "blenderbot": Traits(0, embedding_norm=False, final_norm=True),
    "pegasus": Traits(0, embedding_norm=False, final_norm=True, learned=False, fixed=True),
    "marian": Traits(0, embedding_norm=False, final_norm=False, learned=False, fixed=True),
    "m2m_100": Traits(0, embedding_norm=False, final_norm=True, learned=False, logits_bias=False),
}


def attention(
    part: Part,
    name: str,
    hidden: int,
    *,
    k_bias: bool = True,
    bias: bool = True,
    out: str = "out_proj",
    heads: int | None = None,
    out_bias: bool | None = None,
    features: int | None = None,
) -> None:
    """q, k, v and out, `hidden` square; `heads` (KV heads) say how k and v split over ranks. `features`: the width of what k and v
    read, where another model's output is attended over."""
    at = part.at(f"{name}.", component=Component.ATTENTION)
    kv = COLUMN if heads is None else Column(kv_heads=(heads,))
    source = hidden if features is None else features
    at.linear("k_proj", hidden, source, split=kv, bias=k_bias)
    at.linear("v_proj", hidden, source, split=kv, bias=bias)
    at.linear("q_proj", hidden, hidden, split=COLUMN, bias=bias)
    at.linear(out, hidden, hidden, split=ROW, bias=bias if out_bias is None else out_bias)


def block(stack: Part, hidden: int, width: int, heads: int, *, cross: bool, k_bias: bool = True) -> None:
    """One block: self attention, cross attention in a decoder, feed-forward, a layer norm for each."""
    attention(stack, "self_attn", hidden, k_bias=k_bias, heads=heads)
    stack.norm("self_attn_layer_norm", hidden)
    if cross:
        attention(stack, "encoder_attn", hidden, k_bias=k_bias, heads=heads)
        stack.norm("encoder_attn_layer_norm", hidden)
    mlp = stack.at("", component=Component.MLP)
    mlp.linear("fc1", width, hidden, split=COLUMN)
    mlp.linear("fc2", hidden, width, split=ROW)
    stack.norm("final_layer_norm", hidden)


def read_heads(cfg: Config, hidden: int, *names: str) -> int:
    """Heads of one stack; they must divide its width."""
    heads = cfg.positive(*names)
    if hidden % heads:
        raise ContradictionError(f"{cfg.file}: {names[0]!r} {heads} does not divide the width {hidden}")
    return heads


def encoder_layers(count: int, stack: str = "encoder") -> list[Layer]:
    """Layers that keep nothing between tokens."""
    return [Layer((NoCache(stack),), stack=stack)] * count


def decoder_layers(
    count: int, heads: int, head_dim: int, source_tokens: int | None, *, cross: bool = True
) -> list[Layer]:
    """Layers that keep their own keys and values and the encoder's."""
    own = FullAttention(heads, heads, head_dim, head_dim)
    if not cross:
        return [Layer((own,))] * count
    return [Layer((own, CrossAttention(heads, heads, head_dim, source_tokens)))] * count


def _embeddings(stack: Part, cfg: Config, traits: Traits, vocab: int, hidden: int, tied_to: str | None) -> None:
    stack.tensor(
        "embed_tokens.weight",
        (vocab, hidden),
        Component.EMBEDDING,
        Vocab(),
        tied_to=tied_to,
        optional=tied_to is not None,
    )
    if traits.learned or traits.fixed:
        rows = cfg.positive("max_position_embeddings") + traits.offset
        # sinusoids: old files hold them, transformers computes them and counts them as parameters
        stack.tensor("embed_positions.weight", (rows, hidden), Component.EMBEDDING, optional=traits.fixed)
    if traits.embedding_norm:
        stack.norm("layernorm_embedding", hidden)
    if traits.final_norm:
        stack.norm("layer_norm", hidden)


def bart(cfg: Config) -> Architecture:
    """The text-to-text members. One embedding serves encoder, decoder and head (Marian may keep the decoder's apart)."""
    traits = _TRAITS[cfg.model_type]
    what = task(cfg, "generation", CLASSES)
    hidden, vocab = cfg.positive("d_model", "hidden_size"), cfg.positive("vocab_size")
    heads = read_heads(cfg, hidden, "decoder_attention_heads")
    decoders, encoders = cfg.positive("decoder_layers"), cfg.positive("encoder_layers")
    d = Dims(hidden, decoders, heads, heads, hidden // heads)
    inv = Inventory()
    model = Part(inv, "model.")
    tied = cfg.flag("tie_word_embeddings", default=True)
    shared, vocabs = "model.shared.weight", (vocab, vocab)
    if cfg.model_type == "marian" and not cfg.flag("share_encoder_decoder_embeddings", default=True):
        vocabs = (vocab, cfg.opt_int("decoder_vocab_size") or vocab)
        ties: tuple[str | None, str | None] = (None, None)
        embedded = "model.decoder.embed_tokens.weight"
    elif what == "decoder":
        ties, embedded = (None, None), "model.decoder.embed_tokens.weight"
    else:
        model.tensor("shared.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
        ties, embedded = ((shared, shared) if tied else (None, None)), shared
    layers: list[Layer] = []
    if what != "decoder":
        encoder = model.at("encoder.")
        _embeddings(encoder, cfg, traits, vocabs[0], hidden, ties[0])
        inner = encoder.at("layers.{}.", range(encoders))
        block(inner, hidden, cfg.positive("encoder_ffn_dim"), heads, cross=False)
        layers = encoder_layers(encoders)
    decoder = model.at("decoder.")
    _embeddings(decoder, cfg, traits, vocabs[1], hidden, ties[1])
    inner = decoder.at("layers.{}.", range(decoders))
    width = cfg.positive("decoder_ffn_dim")
    block(inner, hidden, width, heads, cross=True)
    if what in ("generation", "decoder"):
        out = vocabs[1]
        to = embedded if tied else None
        Part(inv).tensor("lm_head.weight", (out, hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
        if what == "generation" and traits.logits_bias:
            Part(inv).tensor("final_logits_bias", (1, out), Component.OTHER, optional=True, buffer=True)
    elif what == "classification":
        classification_head(
            Part(inv, "classification_head."), hidden, num_labels(cfg, 3 if cfg.model_type == "bart" else 2)
        )
    elif what == "qa":
        Part(inv, component=Component.OTHER).linear("qa_outputs", num_labels(cfg), hidden)
    own = decoder_layers(decoders, heads, d.head_dim, cfg.opt_int("max_position_embeddings"), cross=what != "decoder")
    return assemble(cfg, cfg, "bart", d, [*own, *layers], inv, vocab=vocab, tied=tied, intermediate=width)


def classification_head(part: Part, hidden: int, labels: int) -> None:
    """BART's classification head: a square layer and the output layer."""
    at = part.at("", component=Component.OTHER)
    at.linear("dense", hidden, hidden)
    at.linear("out_proj", labels, hidden)


def audio_convolutions(part: Part, hidden: int, mel_bins: int) -> None:
    """Whisper's stem: two convolutions of width 3 over mel frames, the second with stride 2."""
    part.conv("conv1", hidden, mel_bins, (3,), part.component or Component.OTHER)
    part.conv("conv2", hidden, hidden, (3,), part.component or Component.OTHER)


def whisper(cfg: Config) -> Architecture:
    """Whisper: `max_source_positions` (1500) encoder positions, each decoder layer keeps their keys and values; k has no bias."""
    what = task(cfg, "generation", {"ForConditionalGeneration": "generation", "Model": "model"})
    hidden, vocab = cfg.positive("d_model"), cfg.positive("vocab_size")
    heads = read_heads(cfg, hidden, "decoder_attention_heads")
    decoders, encoders = cfg.positive("decoder_layers"), cfg.positive("encoder_layers")
    source = cfg.positive("max_source_positions")
    d = Dims(hidden, decoders, heads, heads, hidden // heads)
    tied = cfg.flag("tie_word_embeddings", default=True)
    inv = Inventory()
    encoder = Part(inv, "model.encoder.")
    audio_convolutions(encoder, hidden, cfg.positive("num_mel_bins"))
    encoder.tensor("embed_positions.weight", (source, hidden), Component.EMBEDDING)
    width = cfg.positive("encoder_ffn_dim")
    block(encoder.at("layers.{}.", range(encoders)), hidden, width, heads, cross=False, k_bias=False)
    encoder.norm("layer_norm", hidden)
    decoder = Part(inv, "model.decoder.")
    decoder.tensor("embed_tokens.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    decoder.tensor("embed_positions.weight", (cfg.positive("max_target_positions"), hidden), Component.EMBEDDING)
    width = cfg.positive("decoder_ffn_dim")
    block(decoder.at("layers.{}.", range(decoders)), hidden, width, heads, cross=True, k_bias=False)
    decoder.norm("layer_norm", hidden)
    if what == "generation":
        to = "model.decoder.embed_tokens.weight" if tied else None
        Part(inv).tensor("proj_out.weight", (vocab, hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
    layers: Sequence[Layer] = [*decoder_layers(decoders, heads, d.head_dim, source), *encoder_layers(encoders)]
    return assemble(cfg, cfg, "whisper", d, layers, inv, vocab=vocab, tied=tied, intermediate=width)
