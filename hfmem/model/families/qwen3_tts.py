"""Qwen3-TTS: Qwen3's layers over text and sound codes, a small decoder for the other codebooks, a speaker encoder.

Source: QwenLM/Qwen3-TTS `qwen_tts/core/models/{configuration,modeling}_qwen3_tts.py`; names as published. The codec is in a
repository, or a folder, of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.multimodal import PLAIN, tower, tower_layers, wrap
from hfmem.model.families.omni3 import text_stack
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory
from hfmem.model.layer_lists import full_layers

#: what the speaker encoder's class assumes; published configs give its width alone
_SPEAKER: Final[Mapping[str, Any]] = {
    "mel_dim": 128,
    "enc_dim": 1024,
    "enc_channels": [512, 512, 512, 512, 1536],
    "enc_kernel_sizes": [5, 3, 3, 3, 1],
    "enc_attention_channels": 128,
    "enc_res2net_scale": 8,
    "enc_se_channels": 128,
}
_KINDS: Final = ("base", "custom_voice", "voice_design")


def qwen3_tts(cfg: Config) -> Architecture:
    """The talker is the main stack; the small decoder starts afresh with every frame. Base models hear the speaker to imitate."""
    text = cfg.sub("talker_config", model_type="")
    codes = text.sub("code_predictor_config", model_type="")
    m = DecoderBuilder(
        text,
        layers="talker.model.layers.{}",
        embed="talker.model.codec_embedding",
        head="talker.codec_head",
        final="talker.model.norm",
        tied=False,
    )
    if text.flag("use_sliding_window", default=False):
        raise ContradictionError(f"{text.file}: 'use_sliding_window' is true, and this talker's class has no windows")
    bias = text.flag("attention_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    m.gated(text.positive("intermediate_size"))
    m.norms("input_layernorm", "post_attention_layernorm")
    inner = m.close("qwen3_tts", full_layers(m.d))
    inv, words = Inventory(), text.positive("text_hidden_size")
    part = Part(inv, "talker.", Component.OTHER)
    part.tensor("model.text_embedding.weight", (text.positive("text_vocab_size"), words), Component.EMBEDDING)
    part.linear("text_projection.linear_fc1", words, words, split=COLUMN)
    part.linear("text_projection.linear_fc2", m.d.hidden, words, split=ROW)
    text_stack(inv, "talker.code_predictor.", codes, "qwen3")
    groups, width, vocab = (
        codes.positive("num_code_groups") - 1,
        codes.positive("hidden_size"),
        codes.positive("vocab_size"),
    )
    small = part.at("code_predictor.")
    small.at("lm_head.{}", range(groups)).linear("", vocab, width, bias=False)
    small.at("model.codec_embedding.{}", range(groups)).tensor(".weight", (vocab, m.d.hidden))
    if width != m.d.hidden:
        small.linear("small_to_mtp_projection", width, m.d.hidden)
    if cfg.choice("tts_model_type", cfg.opt_str("tts_model_type") or "", _KINDS) == "base":
        _speaker(tower(inv, "speaker_encoder."), cfg.opt_sub("speaker_encoder_config", model_type=""), cfg)
    note = Note("second_decoder", "the small decoder's cache restarts with every frame and is not counted")
    steps = tower_layers(codes.positive("num_hidden_layers"), "audio")
    return wrap(cfg, text, inner, "qwen3_tts", PLAIN, inv, steps, [note])


def _speaker(part: Part, given: Config | None, cfg: Config) -> None:
    """ECAPA-TDNN: time-delay blocks, squeezed and excited, pooled by attention."""
    speaker = Config({**_SPEAKER, **(given.data if given else {})}, f"{cfg.file}: speaker_encoder_config", "")
    channels, kernels = speaker.numbers("enc_channels") or [], speaker.numbers("enc_kernel_sizes") or []
    if len(channels) != len(kernels) or len(channels) < 2:
        raise ContradictionError(f"{speaker.file}: 'enc_channels' and 'enc_kernel_sizes' differ in length")
    scale, squeezed = speaker.positive("enc_res2net_scale"), speaker.positive("enc_se_channels")
    part.conv("blocks.0.conv", channels[0], speaker.positive("mel_dim"), (kernels[0],))
    for i, (before, out) in enumerate(pairwise(channels[:-1]), 1):
        block = part.at(f"blocks.{i}.")
        block.conv("tdnn1.conv", out, before, (1,))
        block.at("res2net_block.blocks.{}.", range(scale - 1)).conv("conv", out // scale, out // scale, (kernels[i],))
        block.conv("tdnn2.conv", out, out, (1,))
        block.conv("se_block.conv1", squeezed, out, (1,))
        block.conv("se_block.conv2", out, squeezed, (1,))
    last, attended = channels[-1], speaker.positive("enc_attention_channels")
    part.conv("mfa.conv", last, last, (kernels[-1],))
    part.conv("asp.tdnn.conv", attended, 3 * last, (1,))
    part.conv("asp.conv", last, attended, (1,))
    part.conv("fc", speaker.positive("enc_dim"), 2 * last, (1,))
