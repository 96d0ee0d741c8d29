"""BERTs with gated feed-forwards and code of their own: Jina Embeddings 2, NeoBERT.

Source: jinaai/jina-bert-implementation and jinaai/jina-bert-v2-qk-post-norm `modeling_bert.py`; chandar-lab/NeoBERT `model.py`;
names as llama.cpp's converter reads them.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families.encoders import encoder_layers
from hfmem.model.families.heads import class_name, num_labels
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab


def jina_bert(cfg: Config) -> Architecture:
    """Jina Embeddings 2 (positions by ALiBi, no table of them). Its code model has norms of q and k, and those of a block behind
    the sums; only the code that `auto_map` names tells which it is."""
    cfg.choice("feed_forward_type", cfg.opt_str("feed_forward_type") or "", ("geglu", "reglu"))
    d = read_dims(cfg)
    vocab, inner = cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    later = "qk-post-norm" in str(cfg.published("auto_map"))
    inv = Inventory()
    ranks = class_name(cfg).endswith("ForSequenceClassification")
    part = Part(inv, "bert." if ranks else "")
    part.tensor("embeddings.word_embeddings.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    kinds = cfg.positive("type_vocab_size")
    part.tensor("embeddings.token_type_embeddings.weight", (kinds, d.hidden), Component.EMBEDDING)
    part.norm("embeddings.LayerNorm", d.hidden)
    block = part.at("encoder.layer.{}.", range(d.num_layers))
    at = block.at("attention.", component=Component.ATTENTION)
    for name in ("query", "key", "value"):
        at.linear(f"self.{name}", d.hidden, d.hidden, split=COLUMN)
    at.linear("output.dense", d.hidden, d.hidden, split=ROW)
    norms = ("attention.output.LayerNorm", "mlp.layernorm")
    if later:
        norms = ("layer_norm_1", "layer_norm_2")
        block.norms(("attention.self.layer_norm_q", "attention.self.layer_norm_k"), d.hidden)
    block.norms(norms, d.hidden)
    both = Column((inner, inner), (None, None))
    up, down = ("up_gated_layer", "down_layer") if later else ("gated_layers", "wo")
    block.linear(f"mlp.{up}", 2 * inner, d.hidden, Component.MLP, both, bias=False)
    block.linear(f"mlp.{down}", d.hidden, inner, Component.MLP, ROW)
    part.linear("pooler.dense", d.hidden, d.hidden, Component.OTHER)
    if ranks:
        Part(inv, component=Component.OTHER).linear("classifier", num_labels(cfg), d.hidden)
    layers = encoder_layers(d.num_layers)
    return assemble(cfg, cfg, "encoder", d, layers, inv, vocab=vocab, tied=True, intermediate=inner)


def neobert(cfg: Config) -> Architecture:
    """NeoBERT: fused q, k and v, a gate of two thirds of `intermediate_size`, RMSNorms, no biases; rotary positions."""
    d = read_dims(cfg)
    vocab, inner = cfg.positive("vocab_size"), 2 * cfg.positive("intermediate_size") // 3
    inner = 8 * -(-inner // 8)  # its class rounds up to a multiple of eight
    inv = Inventory()
    part = Part(inv, "model.")
    part.tensor("encoder.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    block = part.at("transformer_encoder.{}.", range(d.num_layers))
    block.linear("qkv", 3 * d.hidden, d.hidden, Component.ATTENTION, COLUMN, bias=False)
    block.linear("wo", d.hidden, d.hidden, Component.ATTENTION, ROW, bias=False)
    both = Column((inner, inner), (None, None))
    block.linear("ffn.w12", 2 * inner, d.hidden, Component.MLP, both, bias=False)
    block.linear("ffn.w3", d.hidden, inner, Component.MLP, ROW, bias=False)
    block.norms(("attention_norm", "ffn_norm"), d.hidden, bias=False)
    part.norm("layer_norm", d.hidden, bias=False)
    head = Part(inv, "decoder.", Component.LM_HEAD, optional=True)
    head.tensor("weight", (vocab, d.hidden), split=Vocab(), tied_to="model.encoder.weight")
    head.tensor("bias", (vocab,), split=Vocab(), buffer=True)
    layers = encoder_layers(d.num_layers)
    return assemble(cfg, cfg, "encoder", d, layers, inv, vocab=vocab, tied=True, intermediate=inner)
