"""T5 and its kin: T5 1.0, 1.1 and Flan, mT5, UMT5, ByT5, LongT5, Switch Transformers.

A decoder layer keeps its own keys and values and, once a source text is read, those of the encoder. Heads are `d_kv` wide.

Source: transformers 5.23.0 `models/{t5,mt5,umt5,longt5,switch_transformers}/`; names as published.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, embedding, lm_head
from hfmem.model.config import Config
from hfmem.model.families.heads import task
from hfmem.model.families.parts import COLUMN, ROW, WHOLE, Part
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Row, Vocab
from hfmem.model.layers import CrossAttention, FullAttention, Layer, NoCache
from hfmem.records import replace

_CLASSES = {
    "ForConditionalGeneration": "generation",
    "WithLMHeadModel": "generation",
    "Model": "model",
    "EncoderModel": "encoder",
}


def _attention(part: Part, d: Dims, name: str) -> None:
    """q, k, v `[heads·d_kv, d_model]` and o back, without biases."""
    at = part.at(f"{name}.", component=Component.ATTENTION)
    width = d.num_heads * d.head_dim
    kv = Column(kv_heads=(d.num_kv_heads,))
    at.linear("q", width, d.hidden, split=COLUMN, bias=False)
    at.linear("k", width, d.hidden, split=kv, bias=False)
    at.linear("v", width, d.hidden, split=kv, bias=False)
    at.linear("o", d.hidden, width, split=ROW, bias=False)


def _sparse(cfg: Config, layers: int, sparse_layers: int) -> list[int]:
    """Switch's sparse layers: every `layers // sparse_layers`-th, from the second on."""
    if not sparse_layers:
        return []
    step = layers // sparse_layers
    if not step:
        raise ContradictionError(f"{cfg.file}: {sparse_layers} sparse layers of {layers}")
    return [i for i in range(layers) if step == 1 or i % step == 1]


def _feed_forward(cfg: Config, stack: Part, at: int, count: int, hidden: int, sparse: list[int]) -> None:
    """The feed-forward part in `layer.{at}`: gated or plain, in Switch's sparse layers one of its experts per token."""
    width = cfg.positive("d_ff")
    switch = cfg.model_type == "switch_transformers"
    dense = stack.at("block.{}.", [i for i in range(count) if i not in sparse], Component.MLP)
    kind = "relu" if switch else cfg.opt_str("feed_forward_proj") or "relu"
    ups = ("wi_0", "wi_1") if kind.startswith("gated-") else ("wi",)
    inner = dense.at(f"layer.{at}.{'mlp' if switch else 'DenseReluDense'}.")
    for name in ups:
        inner.linear(name, width, hidden, split=COLUMN, bias=False)
    inner.linear("wo", hidden, width, split=ROW, bias=False)
    if sparse:
        experts = cfg.positive("num_experts")
        routed = stack.at("block.{}.", sparse, Component.EXPERTS).at(f"layer.{at}.mlp.")
        routed.linear("router.classifier", experts, hidden, bias=cfg.flag("router_bias", default=False))
        share = Fraction(1, experts)  # a token goes to one expert
        for e in range(experts):  # the expert's number is part of a word, not an index of its own
            expert = routed.at(f"experts.expert_{e}.")
            up, down = ExpertSplit(None, Column()), ExpertSplit(None, Row())
            expert.tensor("wi.weight", (width, hidden), split=up, active=share)
            expert.tensor("wo.weight", (hidden, width), split=down, active=share)


def _stack(
    cfg: Config, inv: Inventory, name: str, d: Dims, count: int, *, cross: bool, sparse: list[int], attention: str
) -> None:
    """Encoder or decoder: blocks of self attention, cross attention (decoder) and feed-forward, each behind a norm."""
    part = Part(inv, f"{name}.")
    part.tensor(
        "embed_tokens.weight",
        (cfg.positive("vocab_size"), d.hidden),
        Component.EMBEDDING,
        Vocab(),
        tied_to="shared.weight",
        optional=True,
    )
    block = part.at("block.{}.", range(count))
    _attention(block.at("layer.0."), d, attention)
    if cross:
        _attention(block.at("layer.1."), d, "EncDecAttention")
    last = 2 if cross else 1
    _feed_forward(cfg, part, last, count, d.hidden, sparse)
    for i in range(last + 1):
        block.norm(f"layer.{i}.layer_norm", d.hidden, bias=False)
    # UMT5 learns the position biases of each layer, the others only the first layer's
    biased = range(count) if cfg.model_type == "umt5" else range(min(1, count))
    buckets = cfg.positive("relative_attention_num_buckets")
    names = ["relative_attention_bias"]
    if attention == "TransientGlobalSelfAttention":
        names.append("global_relative_attention_bias")
        block.norm("layer.0.TransientGlobalSelfAttention.global_input_layer_norm", d.hidden, bias=False)
    for leaf in names:
        first = part.at("block.{}.", biased, Component.ATTENTION)
        first.tensor(f"layer.0.{attention}.{leaf}.weight", (buckets, d.num_heads), split=WHOLE)
    if cross:  # the first T5 files hold a bias for cross attention that no code reads
        leaf = "layer.1.EncDecAttention.relative_attention_bias.weight"
        unread = part.at("block.{}.", range(min(1, count)), Component.ATTENTION)
        unread.tensor(leaf, (buckets, d.num_heads), split=WHOLE, optional=True, buffer=True)
    part.norm("final_layer_norm", d.hidden, bias=False)


def pop2piano(cfg: Config) -> Architecture:
    """Pop2Piano: T5 over spectra, with an embedding of composers before them; the head is never tied."""
    arch = t5(Config({**cfg.data, "tie_word_embeddings": False}, cfg.file, cfg.model_type, cfg.used_defaults))
    inv = Inventory(arch.tensors)
    inv.add(
        "mel_conditioner.embedding.weight", (cfg.positive("composer_vocab_size"), arch.hidden_size), Component.OTHER
    )
    return replace(arch, family="pop2piano", tensors=tuple(inv.specs))


def t5(cfg: Config) -> Architecture:
    """An encoder and a decoder over one shared embedding.

    The head is tied unless the config says `tie_word_embeddings: false` (T5 1.1, Flan, mT5), which is when checkpoints store one.
    """
    hidden, heads, vocab = cfg.positive("d_model"), cfg.positive("num_heads"), cfg.positive("vocab_size")
    encoder_layers = cfg.positive("num_layers")
    decoder_layers = cfg.opt_int("num_decoder_layers") or encoder_layers
    what = task(cfg, "generation", _CLASSES)
    d = Dims(hidden, decoder_layers, heads, heads, cfg.positive("d_kv"))
    # LongT5's checkpoints store no head whatever the flag says
    tied = cfg.model_type == "longt5" or cfg.flag("tie_word_embeddings", default=True)
    switch = cfg.model_type == "switch_transformers"
    inv = Inventory()
    embedding(inv, "shared.weight", vocab, hidden)
    attention = "SelfAttention"
    if cfg.model_type == "longt5":
        kinds = {"local": "LocalSelfAttention", "transient-global": "TransientGlobalSelfAttention"}
        attention = kinds[
            cfg.choice("encoder_attention_type", cfg.opt_str("encoder_attention_type") or "local", tuple(kinds))
        ]
    sparse = _sparse(cfg, encoder_layers, cfg.need_int("num_sparse_encoder_layers")) if switch else []
    _stack(cfg, inv, "encoder", d, encoder_layers, cross=False, sparse=sparse, attention=attention)
    encoder = [Layer((NoCache("encoder"),), stack="encoder")] * encoder_layers
    decoder: list[Layer] = []
    if what != "encoder":
        sparse = _sparse(cfg, decoder_layers, cfg.need_int("num_sparse_decoder_layers")) if switch else []
        _stack(cfg, inv, "decoder", d, decoder_layers, cross=True, sparse=sparse, attention="SelfAttention")
        own = FullAttention(heads, heads, d.head_dim, d.head_dim)
        decoder = [Layer((own, CrossAttention(heads, heads, d.head_dim, cfg.opt_int("n_positions"))))] * decoder_layers
    if what == "generation":
        lm_head(inv, "lm_head.weight", vocab, hidden, "shared.weight" if tied else None)
    built = assemble(
        cfg, cfg, "t5", d, [*decoder, *encoder], inv, vocab=vocab, tied=tied, intermediate=cfg.positive("d_ff")
    )
    if what == "encoder":
        built = replace(built, num_hidden_layers=encoder_layers)
    return replace(built, num_experts=cfg.positive("num_experts"), num_experts_per_tok=1) if switch else built
