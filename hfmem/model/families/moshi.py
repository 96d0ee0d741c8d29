"""Moshi and Kyutai's speech-to-text: a windowed decoder over words and Mimi's codes; a second one writes Moshi's codes of a frame.

Source: transformers 5.23.0 `models/{moshi,kyutai_speech_to_text,mimi}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.csm import mimi
from hfmem.model.families.heads import task
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import Layer, SlidingAttention


def _dims(cfg: Config) -> tuple[Dims, int]:
    """Heads and sizes, and half of `ffn_dim`: gate and up side by side."""
    hidden, inner, heads = cfg.positive("hidden_size"), cfg.positive("ffn_dim"), cfg.positive("num_attention_heads")
    kv_heads = cfg.opt_int("num_key_value_heads") or heads
    if inner % 2 or heads % kv_heads:
        raise ContradictionError(f"{cfg.file}: 'ffn_dim' {inner} or {kv_heads} KV heads for {heads} heads do not fit")
    head_dim = cfg.opt_int("head_dim") or hidden // heads
    return Dims(hidden, cfg.positive("num_hidden_layers"), heads, kv_heads, head_dim), inner // 2


def _blocks(part: Part, d: Dims, half: int, books: int | None = None) -> None:
    """The blocks of one decoder; with `books` each matrix once for each codebook, in one tensor."""
    at, kv, stack = (
        part.at("layers.{}.", range(d.num_layers)),
        Column(kv_heads=(d.num_kv_heads,)),
        () if books is None else (books,),
    )
    width, narrow = d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim
    attention, mlp = at.at("self_attn.", component=Component.ATTENTION), at.at("mlp.", component=Component.MLP)
    for name, rows, columns, split in (
        ("q_proj", width, d.hidden, COLUMN),
        ("k_proj", narrow, d.hidden, kv),
        ("v_proj", narrow, d.hidden, kv),
        ("o_proj", d.hidden, width, ROW),
    ):
        attention.tensor(f"{name}.linear.weight", (*stack, rows, columns), split=split)
    mlp.tensor("fc1.weight", (*stack, 2 * half, d.hidden), split=Column((half, half), (None, None)))
    mlp.tensor("fc2.weight", (*stack, d.hidden, half), split=ROW)
    at.norms(("input_layernorm", "post_attention_layernorm"), d.hidden, bias=False)


def _kept(cfg: Config, d: Dims) -> list[Layer]:
    window = cfg.positive("sliding_window")
    return [Layer((SlidingAttention(d.num_heads, d.num_kv_heads, d.head_dim, d.head_dim, window),))] * d.num_layers


def kyutai_speech_to_text(cfg: Config) -> Architecture:
    """Kyutai STT: Mimi's codes and words share one embedding; a windowed decoder writes words."""
    vocab = cfg.positive("vocab_size")
    d, half = _dims(cfg)
    inv = Inventory()
    heard = mimi(tower(inv, "codec_model."), cfg.sub("codec_config"))
    rows = vocab + cfg.positive("num_codebooks") * cfg.positive("codebook_vocab_size") + 1
    part = Part(inv, "model.")
    part.tensor("embed_tokens.embed_tokens.weight", (rows, d.hidden), Component.EMBEDDING, Vocab())
    _blocks(part, d, half)
    part.norm("norm", d.hidden, bias=False)
    if not cfg.flag("tie_word_embeddings", default=False):  # tied, the head reads the embedding's first rows
        Part(inv).tensor("lm_head.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab())
    layers = [*_kept(cfg, d), *tower_layers(heard, "audio")]
    return assemble(cfg, cfg, "kyutai_speech_to_text", d, layers, inv, vocab=vocab, tied=False, intermediate=half)


_CLASSES = {"ForConditionalGeneration": "speech", "ForCausalLM": "text", "Model": "model"}
_RESTARTS = Note("second_decoder", "the frame decoder's cache restarts with every frame and is not counted")


def moshi(cfg: Config) -> Architecture:
    """Moshi: embeddings of both speakers' codes, the decoder, the frame decoder (a matrix for each codebook), Mimi."""
    what, vocab = task(cfg, "speech", _CLASSES), cfg.positive("vocab_size")
    d, half = _dims(cfg)
    inv = Inventory()
    root = {"speech": "decoder.", "text": "", "model": ""}[what]
    part = Part(inv, root if what == "model" else f"{root}model.")
    part.tensor("embed_tokens.weight", (vocab + 1, d.hidden), Component.EMBEDDING, Vocab())
    _blocks(part, d, half)
    part.norm("norm", d.hidden, bias=False)
    if what != "model":
        Part(inv, root).tensor("lm_head.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab())
    layers, notes = _kept(cfg, d), []
    if what == "speech":
        codec, books = cfg.sub("audio_encoder_config"), cfg.positive("num_codebooks")
        codes = cfg.opt_int("audio_vocab_size") or codec.positive("codebook_size")
        both = Part(inv, component=Component.EMBEDDING).at("embed_tokens.{}.", range(2 * books))
        both.tensor("weight", (codes + 1, d.hidden))
        told: Mapping[str, Any] = {"num_codebooks": books, "audio_vocab_size": codes, "vocab_size": vocab}
        steps = _frame_decoder(inv, cfg.sub("depth_decoder_config"), told, d.hidden)
        heard = mimi(tower(inv, "audio_encoder."), codec)
        layers, notes = [*layers, *tower_layers(steps + heard, "audio")], [_RESTARTS]
    return assemble(cfg, cfg, "moshi", d, layers, inv, vocab=vocab, tied=False, intermediate=half, notes=notes)


def _frame_decoder(inv: Inventory, small: Config, told: Mapping[str, Any], given: int) -> int:
    """The decoder of one frame's codes; the outer class hands its own counts down. Returns its layers."""
    books, codes, vocab = told["num_codebooks"], told["audio_vocab_size"], told["vocab_size"]
    d, half = _dims(small)
    part = Part(inv, "depth_decoder.", Component.OTHER)
    part.tensor("text_embed_tokens.weight", (vocab + 1, d.hidden))
    part.at("embed_tokens.{}.", range(books - 1)).tensor("weight", (codes + 1, d.hidden))
    part.tensor("input_projections.weight", (books, d.hidden, given))
    _blocks(part, d, half, books)
    part.tensor("lm_heads.weight", (books, codes, d.hidden))
    return d.num_layers
