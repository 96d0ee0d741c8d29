"""Granite Speech: a conformer with block attention, a Q-Former over windows of its output, Granite.

The adapters that `has_lora_adapter` speaks of are published beside the model.

Source: transformers 5.23.0 `models/{granite_speech,granite_speech_plus}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families.multimodal import WHOLE, keep_whole, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.families.qformer import qformer
from hfmem.model.inventory import Inventory


def conformer(part: Part, cfg: Config) -> int:
    """Two half feed-forwards around attention and a gated convolution; the output layer's guess is fed back half way."""
    width, count, heads = cfg.positive("hidden_dim"), cfg.positive("num_layers"), cfg.positive("num_heads")
    dim = cfg.opt_int("dim_head") or width // heads
    part.linear("input_linear", width, cfg.positive("input_dim"))
    block = part.at("layers.{}.", range(count))
    wide, inner = width * cfg.positive("feedforward_mult"), width * cfg.positive("conv_expansion_factor")
    for name in ("ff1", "ff2"):
        at = block.at(f"{name}.")
        at.norm("pre_norm", width)
        at.linear("up_proj", wide, width, split=COLUMN)
        at.linear("down_proj", width, wide, split=ROW)
    at = block.at("attn.")
    at.norm("pre_norm", width)
    at.linear("to_q", heads * dim, width, split=COLUMN, bias=False)
    at.linear("to_kv", 2 * heads * dim, width, split=COLUMN, bias=False)
    at.linear("to_out", width, heads * dim, split=ROW)
    at.tensor("rel_pos_emb.weight", (2 * cfg.positive("max_pos_emb") + 1, dim))
    at = block.at("conv.")
    at.norm("norm", width)
    at.conv("up_conv", 2 * inner, width, (1,))
    at.conv("depth_conv.conv", inner, 1, (cfg.positive("conv_kernel_size"),), bias=False)
    at.batch_norm("batch_norm", inner)
    at.conv("down_conv", width, inner, (1,))
    block.norm("post_norm", width)
    letters = cfg.positive("output_dim")
    part.linear("out", letters, width, split=COLUMN)
    part.linear("out_mid", width, letters, split=ROW)
    return count


def granite_speech(cfg: Config) -> Architecture:
    """`window_size` frames become `window_size / downsample_rate` queries; Plus reads several layers of the encoder at once."""
    text, inner = text_part(cfg)
    inv = Inventory()
    words = cfg.sub("projector_config")
    count = conformer(tower(inv, "encoder."), cfg.sub("encoder_config"))
    hidden = words.positive("hidden_size")
    part = tower(inv, "projector.")
    part.tensor("query", (1, cfg.positive("window_size") // cfg.positive("downsample_rate"), hidden))
    part.norm("qformer.layernorm", hidden)
    words_too = words.flag("use_qformer_text_input", default=False)
    count += qformer(part.at("qformer."), words, words.positive("encoder_hidden_size"), text=words_too)
    part.linear("linear", inner.hidden_size, hidden)
    keep_whole(inv, ".qformer.", ".attn.")
    return wrap(cfg, text, inner, "granite_speech", WHOLE, inv, tower_layers(count, "audio"))
