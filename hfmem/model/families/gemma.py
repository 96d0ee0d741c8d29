"""Gemma 1, 2, 3 (text) and VaultGemma: wide heads, tied embeddings, four norms a layer from Gemma 2 on, interleaved windows.

Source: transformers 5.23.0 `models/{gemma,gemma2,gemma3,vaultgemma}/`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.layer_lists import full_layers, typed_layers
from hfmem.model.layers import Layer, NoCache
from hfmem.records import replace

_FOUR = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def _draft(cfg: Config, norms: tuple[str, ...], qk_norm: str | None = None) -> DecoderBuilder:
    m = DecoderBuilder(cfg)
    bias = cfg.flag("attention_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm=qk_norm)
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*norms)
    return m


def four_norms(cfg: Config) -> DecoderBuilder:
    """Gemma 3's block, its layers' caches left to the caller."""
    return _draft(cfg, _FOUR, qk_norm="head")


def gemma(cfg: Config) -> Architecture:
    """Gemma 1, CodeGemma: Llama's block."""
    m = _draft(cfg, ("input_layernorm", "post_attention_layernorm"))
    return m.close("gemma", full_layers(m.d))


def gemma2(cfg: Config) -> Architecture:
    """Gemma 2: every second layer is full, the first one slides."""
    m = _draft(cfg, _FOUR)
    return m.close("gemma2", typed_layers(cfg, m.d, lambda i: i % 2 == 1))


def vaultgemma(cfg: Config) -> Architecture:
    """VaultGemma: Gemma 2's windows with only the norms before attention and feed-forward."""
    m = _draft(cfg, ("input_layernorm", "pre_feedforward_layernorm"))
    return m.close("vaultgemma", typed_layers(cfg, m.d, lambda i: i % 2 == 1))


def gemma3_text(cfg: Config) -> Architecture:
    """Gemma 3 (1B, 270M, and the text part of the others): q and k normalised, every `sliding_window_pattern`-th layer (6) full.

    With `use_bidirectional_attention` (EmbeddingGemma) the model is an encoder and keeps nothing.
    """
    m = _draft(cfg, _FOUR, qk_norm="head")
    # configuration_gemma3.py reads the pattern from old configs and takes 6 where none is published
    pattern = cfg.positive("sliding_window_pattern") if cfg.published("sliding_window_pattern") is not None else 6
    arch = m.close("gemma3", typed_layers(cfg, m.d, lambda i: (i + 1) % pattern == 0))
    if not cfg.flag("use_bidirectional_attention", default=False):
        return arch
    return replace(arch, layers=(Layer((NoCache("encoder"),), stack="encoder"),) * m.d.num_layers)
