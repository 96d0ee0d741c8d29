"""Voxtral Realtime: a causal encoder with windows of its own beside a windowed decoder, both of which keep keys and values.

Sources: transformers 5.23.0 `models/voxtral_realtime/modeling_voxtral_realtime.py`, vLLM 0.33.0 `voxtral_realtime.py` and
`whisper_causal.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import sliding
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families import vision
from hfmem.model.families.bart import audio_convolutions
from hfmem.model.families.multimodal import WHOLE, text_part, tower, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory
from hfmem.model.layer_lists import full_layers
from hfmem.model.layers import Layer, SlidingAttention

#: width of the layer that makes a norm's scale of the delay, fixed in the code
_DELAY = 32


def voxtral_realtime_text(cfg: Config) -> Architecture:
    """Ministral's block with norms scaled by the delay."""
    m = DecoderBuilder(cfg, untold_tie=True)
    m.attention()
    m.gated(cfg.positive("intermediate_size"))
    m.norms("input_layernorm", "post_attention_layernorm")
    m.each("ada_rms_norm.linear1.weight", (_DELAY, m.d.hidden), Component.OTHER)
    m.each("ada_rms_norm.linear2.weight", (m.d.hidden, _DELAY), Component.OTHER)
    window = cfg.opt_int("sliding_window")
    layers = full_layers(m.d) if window is None else [Layer((sliding(m.d, window),))] * m.d.num_layers
    return m.close("voxtral_realtime", layers)


def voxtral_realtime(cfg: Config) -> Architecture:
    """`downsample_factor` frames of the encoder stand for one token of the decoder.

    The encoder's cache is counted in those tokens: heads times frames, a window rounded up.
    """
    text, inner = text_part(cfg, filled=True)
    inv = Inventory()
    heard, frames = cfg.sub("audio_config"), cfg.positive("downsample_factor")
    width, count, heads = (
        heard.positive("hidden_size"),
        heard.positive("num_hidden_layers"),
        heard.positive("num_attention_heads"),
    )
    dim = heard.opt_int("head_dim") or width // heads
    kv_heads = heard.opt_int("num_key_value_heads") or heads
    part: Part = tower(inv, "audio_tower.")
    audio_convolutions(part.at("embedder."), width, heard.positive("num_mel_bins"))
    part.norm("norm", width, bias=False)
    block, names = part.at("layers.{}.", range(count)), ("q_proj", "k_proj", "v_proj", "o_proj")
    at = block.at("self_attn.")
    vision.projections(at, width, k_bias=False, names=names, width=heads * dim, kv_width=kv_heads * dim)
    at, wide = block.at("mlp."), heard.positive("intermediate_size")
    at.linear("gate_proj", wide, width, split=COLUMN, bias=False)
    at.linear("up_proj", wide, width, split=COLUMN, bias=False)
    at.linear("down_proj", width, wide, split=ROW)
    block.norms(("self_attn_layer_norm", "final_layer_norm"), width, bias=False)
    project = tower(inv, "multi_modal_projector.")
    project.linear("linear_1", inner.hidden_size, width * frames, split=COLUMN, bias=False)
    project.linear("linear_2", inner.hidden_size, inner.hidden_size, split=ROW, bias=False)
    window = -(-heard.positive("sliding_window") // frames)
    kept = SlidingAttention(heads * frames, kv_heads * frames, dim, dim, window)
    return wrap(cfg, text, inner, "voxtral_realtime", WHOLE, inv, [Layer((kept,), stack="audio")] * count)
