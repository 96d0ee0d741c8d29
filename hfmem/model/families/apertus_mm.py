"""Apertus 1.5: Apertus's decoder over words, image codes and sound codes; the encoders that make the codes stand beside it.

Source: transformers 5.24.0 `models/{apertus1p5,wavtokenizer}/modeling_*.py`, whose names the checkpoints have.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vqgan
from hfmem.model.families.multimodal import NESTED, text_part, tower, wrap
from hfmem.model.families.parakeet import lstm
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Inventory


def _images(part: Part, cfg: Config) -> None:
    """A VQGAN's encoder, attention in the stages of `attn_resolutions`, and a codebook."""
    base, factors = cfg.positive("base_channels"), _numbers(cfg, "channel_multiplier")
    blocks, wanted, side = cfg.positive("num_res_blocks"), _numbers(cfg, "attn_resolutions"), cfg.positive("resolution")
    at, width = part.at("encoder."), base
    at.conv("conv_in", base, cfg.positive("in_channels"), (3, 3))
    for level, factor in enumerate(factors):
        for i in range(blocks):
            layer = at.at(f"stages.{level}.layers.{i}.")
            vqgan.resnet(layer.at("resnet."), width, base * factor)
            width = base * factor
            if side // 2**level in wanted:
                vqgan.attention(layer.at("attention."), width)
        if level != len(factors) - 1:
            at.conv(f"stages.{level}.downsample.conv", width, width, (3, 3))
    vqgan.middle(at.at("mid."), width)
    at.norm("norm_out", width)
    latent, embedded = cfg.positive("latent_channels"), cfg.positive("embed_dim")
    at.conv("conv_out", latent, width, (3, 3))
    part.tensor("quantize.embedding.weight", (cfg.positive("codebook_size"), embedded))
    part.conv("quant_conv", embedded, latent, (1, 1))


def _numbers(cfg: Config, key: str) -> Sequence[int]:
    return cfg.numbers(key) or []


def _sounds(part: Part, cfg: Config) -> None:
    """WavTokenizer's encoder: a list of convolutions in which activations take a number too. The codebook is a buffer."""
    at, width = part.at("encoder."), cfg.positive("num_filters")
    kind = cfg.choice("norm_type", cfg.opt_str("norm_type") or "weight_norm", ("weight_norm", "time_group_norm"))

    def conv(place: str, out: int, into: int, kernel: int) -> None:
        here = at.at(f"{place}.")
        here.tensor("conv.bias", (out,))
        if kind == "weight_norm":
            here.tensor("conv.parametrizations.weight.original0", (out, 1, 1))
            here.tensor("conv.parametrizations.weight.original1", (out, into, kernel))
        else:
            here.tensor("conv.weight", (out, into, kernel))
            here.norm("norm", out)

    conv("layers.0", width, cfg.positive("audio_channels"), cfg.positive("kernel_size"))
    number = 1
    for ratio in reversed(_numbers(cfg, "upsampling_ratios")):
        for _ in range(cfg.need_int("num_residual_layers")):
            narrow = width // cfg.positive("compress")
            conv(f"layers.{number}.block.1", narrow, width, cfg.positive("residual_kernel_size"))
            conv(f"layers.{number}.block.3", width, narrow, 1)
            if cfg.flag("use_conv_shortcut"):
                conv(f"layers.{number}.shortcut", width, width, 1)
            number += 1
        conv(f"layers.{number + 1}", 2 * width, width, 2 * ratio)
        width, number = 2 * width, number + 2
    lstm(at.at(f"layers.{number}.lstm."), width, cfg.positive("num_lstm_layers"))
    conv(f"layers.{number + 2}", cfg.positive("hidden_size"), width, cfg.positive("last_kernel_size"))
    codes, size = part.at("quantizer.codebook."), cfg.positive("codebook_size")
    vectors = (size, cfg.positive("codebook_dim"))
    for name, shape in (("inited", (1,)), ("cluster_size", (size,)), ("embed", vectors), ("embed_avg", vectors)):
        codes.tensor(name, shape, buffer=True)


def apertus1p5(cfg: Config) -> Architecture:
    """Codes are words of the vocabulary: nothing but the decoder keeps anything."""
    text, inner = text_part(cfg)
    inv = Inventory()
    _images(tower(inv, "model.vision_tokenizer."), cfg.sub("vision_config"))
    _sounds(tower(inv, "model.audio_tokenizer."), cfg.sub("audio_config"))
    return wrap(cfg, text, inner, "apertus1p5", NESTED, inv)
