"""Fish Audio S2.

Source: fishaudio/s2-pro and its published tensor names and shapes.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import Dims, assemble, full
from hfmem.model.config import Config
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import Layer


def _fish_blocks(part: Part, cfg: Config) -> Dims:
    """A Llama block under LLaMA's original names, with fused q, k and v."""
    width, heads, kv = cfg.positive("dim"), cfg.positive("n_head"), cfg.positive("n_local_heads")
    dim, inner, count = cfg.positive("head_dim"), cfg.positive("intermediate_size"), cfg.positive("n_layer")
    if cfg.flag("use_moe", default=False):
        raise ContradictionError(f"{cfg.file}: 'use_moe' is true and the experts' tensors are not known")
    if heads % kv:
        raise ContradictionError(f"{cfg.file}: {heads} heads cannot share {kv} KV heads")
    block = part.at("layers.{}.", range(count))
    split = Column((heads * dim, kv * dim, kv * dim), (None, kv, kv))
    attention, mlp = part.component or Component.ATTENTION, part.component or Component.MLP
    bias, out_bias = cfg.flag("attention_qkv_bias", default=False), cfg.flag("attention_o_bias", default=False)
    block.linear("attention.wqkv", (heads + 2 * kv) * dim, width, attention, split, bias=bias)
    block.linear("attention.wo", width, heads * dim, attention, ROW, bias=out_bias)
    if cfg.flag("attention_qk_norm", default=False):
        block.norms(("attention.q_norm", "attention.k_norm"), dim, bias=False)
    block.linear("feed_forward.w1", inner, width, mlp, COLUMN, bias=False)
    block.linear("feed_forward.w3", inner, width, mlp, COLUMN, bias=False)
    block.linear("feed_forward.w2", width, inner, mlp, ROW, bias=False)
    block.norms(("attention_norm", "ffn_norm"), width, bias=False)
    part.norm("norm", width, bias=False)
    return Dims(width, count, heads, kv, dim)


def fish_qwen3_omni(cfg: Config) -> Architecture:
    """Fish Audio S2: a Qwen3-like text model and a small decoder that turns each of its steps into codebook entries.

    The small decoder starts afresh at every step (`max_seq_len` 11), so the cache that grows is the text model's.
    """
    text, audio = cfg.sub("text_config", model_type="fish_qwen3"), cfg.sub("audio_decoder_config", model_type="fish")
    inv = Inventory()
    part = Part(inv, "text_model.model.")
    vocab, tied = text.positive("vocab_size"), text.flag("tie_word_embeddings", default=False)
    part.tensor("embeddings.weight", (vocab, text.positive("dim")), Component.EMBEDDING, Vocab())
    d = _fish_blocks(part, text)
    if not tied:
        part.tensor("output.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab())
    decoder = tower(inv, "audio_decoder.")
    small = _fish_blocks(decoder, audio)
    codes = audio.positive("vocab_size")
    decoder.tensor("embeddings.weight", (codes, small.hidden))
    decoder.tensor("codebook_embeddings.weight", (codes * audio.positive("num_codebooks"), audio.positive("text_dim")))
    decoder.linear("output", codes, small.hidden, bias=False)
    if audio.positive("text_dim") != small.hidden:
        raise ContradictionError(f"{audio.file}: 'text_dim' and 'dim' differ and the projection between is not known")
    layers = (*[Layer((full(d),))] * d.num_layers, *tower_layers(small.num_layers, "audio"))
    note = Note("second_decoder", "the audio decoder's cache restarts at every step and is not counted")
    inner = text.positive("intermediate_size")
    return assemble(
        cfg, text, "fish_qwen3_omni", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner, notes=[note]
    )
