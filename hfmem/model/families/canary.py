"""Canary and Cohere ASR: a FastConformer before a transformer decoder with cross attention.

How many encoder positions the decoder keeps follows the length of the recording.

Source: transformers 5.23.0 `models/{canary,cohere_asr}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parakeet import NEMO, fast_conformer
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import CrossAttention, FullAttention, Layer


def _dims(cfg: Config) -> Dims:
    hidden, heads = cfg.positive("hidden_size"), cfg.positive("num_attention_heads")
    kv_heads = cfg.opt_int("num_key_value_heads") or heads
    if heads % kv_heads:
        raise ContradictionError(f"{cfg.file}: {heads} heads cannot share {kv_heads} KV heads")
    return Dims(hidden, cfg.positive("num_hidden_layers"), heads, kv_heads, cfg.opt_int("head_dim") or hidden // heads)


def _attention(part: Part, d: Dims, names: tuple[str, str, str, str], *, bias: bool) -> None:
    at, kv = part.at("", component=Component.ATTENTION), Column(kv_heads=(d.num_kv_heads,))
    q, k, v, o = names
    at.linear(q, d.num_heads * d.head_dim, d.hidden, split=COLUMN, bias=bias)
    for name in (k, v):
        at.linear(name, d.num_kv_heads * d.head_dim, d.hidden, split=kv, bias=bias)
    at.linear(o, d.hidden, d.num_heads * d.head_dim, split=ROW, bias=bias)


def _layers(d: Dims) -> list[Layer]:
    own = FullAttention(d.num_heads, d.num_kv_heads, d.head_dim, d.head_dim)
    return [Layer((own, CrossAttention(d.num_heads, d.num_kv_heads, d.head_dim, None)))] * d.num_layers


def canary(cfg: Config) -> Architecture:
    """Canary: the decoder as wide as the encoder, fixed positions, the head tied to the embedding but for its bias."""
    heard, text = cfg.sub("encoder_config"), cfg.sub("decoder_config")
    d, vocab, inner = _dims(text), text.positive("vocab_size"), text.positive("intermediate_size")
    bias, tied = text.flag("attention_bias"), cfg.flag("tie_word_embeddings", default=True)
    inv = Inventory()
    count = fast_conformer(tower(inv, "model.encoder."), heard)
    part, names = Part(inv, "model.decoder."), ("q_proj", "k_proj", "v_proj", "o_proj")
    part.tensor("embed_tokens.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    block = part.at("layers.{}.", range(d.num_layers))
    for name in ("self_attn", "encoder_attn"):
        _attention(block.at(f"{name}."), d, names, bias=bias)
    block.linear("mlp.fc1", inner, d.hidden, Component.MLP, COLUMN)
    block.linear("mlp.fc2", d.hidden, inner, Component.MLP, ROW)
    block.norms(("input_layernorm", "post_attention_layernorm", "final_layernorm"), d.hidden)
    part.norms(("norm", "embedding_layernorm"), d.hidden)
    to, head = "model.decoder.embed_tokens.weight" if tied else None, Part(inv, "proj_out.", Component.LM_HEAD)
    head.tensor("weight", (vocab, d.hidden), split=Vocab(), tied_to=to, optional=tied)
    head.tensor("bias", (vocab,), split=Vocab())
    layers = [*_layers(d), *tower_layers(count, "audio")]
    return assemble(cfg, text, "canary", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)


#: what NeMo calls the three parts of a decoder block, and the projections of its attention
_SUB = ("first_sub_layer", "second_sub_layer", "third_sub_layer")
_NETS = ("query_net", "key_net", "value_net", "out_projection")


def cohere_asr(cfg: Config) -> Architecture:
    """Cohere Transcribe: a wider encoder brought to the decoder's width, stored positions, a head of its own."""
    heard = cfg.sub("encoder_config", filled=True)
    d, vocab, inner = _dims(cfg), cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    bias, tied = cfg.flag("attention_bias"), cfg.flag("tie_word_embeddings", default=False)
    inv = Inventory()
    count = fast_conformer(tower(inv, "model.encoder."), heard, NEMO)
    tower(inv).linear("model.encoder_decoder_proj", d.hidden, heard.positive("hidden_size"))
    embed = "model.transf_decoder._embedding.token_embedding.weight"
    part = Part(inv, "model.transf_decoder.")
    Part(inv).tensor(embed, (vocab, d.hidden), Component.EMBEDDING, Vocab())
    positions = (cfg.positive("max_position_embeddings"), d.hidden)
    part.tensor("_embedding.position_embedding.pos_enc", positions, Component.EMBEDDING)
    part.norm("_embedding.layer_norm", d.hidden)
    block = part.at("_decoder.layers.{}.", range(d.num_layers))
    for name in _SUB[:2]:
        _attention(block.at(f"{name}."), d, _NETS, bias=bias)
    block.linear(f"{_SUB[2]}.dense_in", inner, d.hidden, Component.MLP, COLUMN)
    block.linear(f"{_SUB[2]}.dense_out", d.hidden, inner, Component.MLP, ROW)
    block.norms(("layer_norm_1", "layer_norm_2", "layer_norm_3"), d.hidden)
    part.norm("_decoder.final_layer_norm", d.hidden)
    head = Part(inv, "log_softmax.mlp.layer0.", Component.LM_HEAD)
    head.tensor("weight", (vocab, d.hidden), split=Vocab(), tied_to=embed if tied else None, optional=tied)
    head.tensor("bias", (vocab,), split=Vocab())
    layers = [*_layers(d), *tower_layers(count, "audio")]
    return assemble(cfg, cfg, "cohere_asr", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)
