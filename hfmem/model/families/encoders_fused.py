"""Encoders with rotary positions that are published with fused q, k and v: GTE (`new`), Jina Embeddings 3; and EuroBERT, which is a
Llama that looks both ways.

Source: transformers 5.23.0 `models/{gte,jina_embeddings_v3,eurobert}/modeling_*.py`, `conversion_mapping.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.encoders import TASKS, classifier, encoder_layers, masked_lm
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab


def _finish(cfg: Config, inv: Inventory, *, tied: bool) -> Architecture:
    d = read_dims(cfg)
    vocab, inner = cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    layers = encoder_layers(d.num_layers)
    return assemble(cfg, cfg, "encoder", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)


def gte(cfg: Config) -> Architecture:
    """GTE and what is built on it: fused qkv, a gated feed-forward with both halves in `up_gate_proj`, norms after."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab = cfg.positive("intermediate_size"), cfg.positive("vocab_size")
    base = "" if what == "model" else f"{cfg.model_type}."
    inv = Inventory()
    part = Part(inv, base)
    emb = part.at("embeddings.", component=Component.EMBEDDING)
    emb.tensor("word_embeddings.weight", (vocab, d.hidden), split=Vocab())
    if (cfg.opt_str("position_embedding_type") or "rope") == "absolute":
        emb.tensor("position_embeddings.weight", (cfg.positive("max_position_embeddings"), d.hidden))
    types = cfg.need_int("type_vocab_size")
    if types:
        emb.tensor("token_type_embeddings.weight", (types, d.hidden))
    part.norm("embeddings.LayerNorm", d.hidden)
    block = part.at("encoder.layer.{}.", range(d.num_layers))
    vision.fused_projection(block.at("attention.", component=Component.ATTENTION), "qkv_proj", d.hidden, bias=True)
    block.linear("attention.o_proj", d.hidden, d.hidden, Component.ATTENTION, ROW)
    both = Column((inner, inner), (None, None))
    block.linear("mlp.up_gate_proj", 2 * inner, d.hidden, Component.MLP, both, bias=False)
    block.linear("mlp.down_proj", d.hidden, inner, Component.MLP, ROW)
    block.norms(("attn_ln", "mlp_ln"), d.hidden)
    other = Part(inv, component=Component.OTHER)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what == "mlm":
        head = Part(inv, "lm_head.", Component.LM_HEAD)
        head.linear("dense", d.hidden, d.hidden)
        Part(inv).norm("lm_head.norm", d.hidden)
        to = f"{base}embeddings.word_embeddings.weight" if tied else None
        head.tensor("decoder.weight", (vocab, d.hidden), split=Vocab(), tied_to=to, optional=tied)
        head.tensor("decoder.bias", (vocab,), split=Vocab())
    elif what in ("sequence", "choice"):
        other.linear(f"{base}pooler.dense", d.hidden, d.hidden)
        classifier(Part(inv), d.hidden, 1 if what == "choice" else num_labels(cfg), two_layer=False)
    elif what in ("token", "qa"):
        other.linear("classifier" if what == "token" else "qa_outputs", num_labels(cfg), d.hidden)
    return _finish(cfg, inv, tied=tied)


def jina_v3(cfg: Config) -> Architecture:
    """Jina Embeddings 3: XLM-RoBERTa with rotary positions, names as flash-attention's BERT has them."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab = cfg.positive("intermediate_size"), cfg.positive("vocab_size")
    base = "" if what == "model" else "roberta."
    inv = Inventory()
    part = Part(inv, base)
    emb = part.at("embeddings.", component=Component.EMBEDDING)
    emb.tensor("word_embeddings.weight", (vocab, d.hidden), split=Vocab())
    types = cfg.need_int("type_vocab_size")
    if types:
        emb.tensor("token_type_embeddings.weight", (types, d.hidden))
    part.norm("emb_ln", d.hidden)
    block = part.at("encoder.layers.{}.", range(d.num_layers))
    vision.fused_projection(block.at("mixer.", component=Component.ATTENTION), "Wqkv", d.hidden, bias=True)
    block.linear("mixer.out_proj", d.hidden, d.hidden, Component.ATTENTION, ROW)
    block.linear("mlp.fc1", inner, d.hidden, Component.MLP, COLUMN)
    block.linear("mlp.fc2", d.hidden, inner, Component.MLP, ROW)
    block.norms(("norm1", "norm2"), d.hidden)
    tied = cfg.flag("tie_word_embeddings", default=True)
    other = Part(inv, component=Component.OTHER)
    if what == "model":
        other.linear("pooler.dense", d.hidden, d.hidden)
    elif what == "mlm":
        embedded = "roberta.embeddings.word_embeddings.weight" if tied else None
        masked_lm(Part(inv), "lm_head", vocab, d.hidden, d.hidden, embedded)
    elif what == "sequence":
        classifier(Part(inv), d.hidden, num_labels(cfg), two_layer=True)
    elif what in ("token", "qa"):
        other.linear("classifier" if what == "token" else "qa_outputs", num_labels(cfg), d.hidden)
    return _finish(cfg, inv, tied=tied)


def eurobert(cfg: Config) -> Architecture:
    """EuroBERT and UltraBERT: Llama's block without the causal mask."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab = cfg.positive("intermediate_size"), cfg.positive("vocab_size")
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "model.")
    part.tensor("embed_tokens.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    block = part.at("layers.{}.", range(d.num_layers))
    at = block.at("self_attn.", component=Component.ATTENTION)
    rows, kv = d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim
    at.linear("q_proj", rows, d.hidden, split=COLUMN, bias=bias)
    for name in ("k_proj", "v_proj"):
        at.linear(name, kv, d.hidden, split=Column(kv_heads=(d.num_kv_heads,)), bias=bias)
    at.linear("o_proj", d.hidden, rows, split=ROW, bias=bias)
    mlp = block.at("mlp.", component=Component.MLP)
    for name in ("gate_proj", "up_proj"):
        mlp.linear(name, inner, d.hidden, split=COLUMN, bias=mlp_bias)
    mlp.linear("down_proj", d.hidden, inner, split=ROW, bias=mlp_bias)
    block.norms(("input_layernorm", "post_attention_layernorm"), d.hidden, bias=False)
    part.norm("norm", d.hidden, bias=False)
    tied = cfg.flag("tie_word_embeddings", default=False)
    other = Part(inv, component=Component.OTHER)
    ultra = cfg.model_type == "ultrabert"
    if what == "mlm":
        head = Part(inv, "cls." if ultra else "lm_head.", Component.LM_HEAD)
        to = "model.embed_tokens.weight" if tied else None
        head.tensor("weight", (vocab, d.hidden), split=Vocab(), tied_to=to, optional=tied)
        if ultra:
            narrow = cfg.positive("prediction_head_size")
            other.linear("head.linear1", narrow, d.hidden, bias=False)
            other.linear("head.linear2", d.hidden, narrow, bias=False)
        elif mlp_bias:
            head.tensor("bias", (vocab,), split=Vocab())
    elif what == "sequence" and not ultra:
        other.linear("dense", d.hidden, d.hidden)
        other.linear("classifier", num_labels(cfg), d.hidden)
    elif what in ("token", "sequence"):
        other.linear("classifier", num_labels(cfg), d.hidden)
    return _finish(cfg, inv, tied=tied)
