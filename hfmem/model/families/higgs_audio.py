"""Higgs Audio 2: a Llama with a second feed-forward and second norms for sound tokens in every layer.

Source: transformers 5.23.0 `models/higgs_audio_v2/modeling_higgs_audio_v2.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Vocab
from hfmem.model.layer_lists import full_layers


def higgs_audio_v2(cfg: Config) -> Architecture:
    """The tokenizer of sound is a repository of its own. The published files also hold a head for words, which no code reads."""
    m = DecoderBuilder(cfg)
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias)
    for tail in ("mlp", "audio_mlp"):
        m.gated(cfg.positive("intermediate_size"), tail, bias=mlp_bias)
    for name in ("input_layernorm", "post_attention_layernorm"):
        m.norms(name, f"audio_{name}")
    rows, hidden = cfg.positive("num_codebooks") * cfg.positive("codebook_size"), m.d.hidden
    part = Part(m.inv)
    part.tensor("model.embed_audio_tokens.embed_audio_tokens.weight", (rows, hidden), Component.EMBEDDING, Vocab())
    part.tensor("audio_lm_head.weight", (rows, hidden), Component.LM_HEAD, Vocab())
    part.maybe().tensor("text_lm_head.weight", (m.vocab, hidden), Component.LM_HEAD, Vocab())
    return m.close("higgs_audio_v2", full_layers(m.d), head=False)
