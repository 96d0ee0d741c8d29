"""Fun-ASR Nano: SenseVoice's encoder (attention with a memory filter), an adaptor of transformer blocks, Qwen3.

Source: transformers 5.23.0 `models/fun_asr_nano/modeling_fun_asr_nano.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import NESTED, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory

_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")


def _encoder(part: Part, cfg: Config) -> int:
    """The first block reads `num_stacked_frames` frames side by side; the last of each of the two stages ends in a norm."""
    width, count, inner = (
        cfg.positive("hidden_size"),
        cfg.positive("num_hidden_layers"),
        cfg.positive("intermediate_size"),
    )
    features = cfg.positive("num_mel_bins") * cfg.positive("num_stacked_frames")
    for blocks, size in ((range(min(1, count)), features), (range(1, count), width)):
        at = part.at("layers.{}.", blocks)
        for name in _NAMES[:3]:
            at.linear(f"self_attn.{name}", width, size, split=COLUMN)
        at.norm("input_layernorm", size)
    block = part.at("layers.{}.", range(count))
    block.linear("self_attn.o_proj", width, width, split=ROW)
    block.conv("self_attn.fsmn.conv", width, 1, (cfg.positive("fsmn_kernel_size"),), bias=False)
    vision.mlp(block.at("mlp."), width, inner)
    block.norm("post_attention_layernorm", width)
    last = count - cfg.need_int("num_timestamp_prediction_layers")
    ends = sorted({last - 1, count - 1} & set(range(count)))
    part.at("layers.{}.", ends).norm("final_layernorm", width)
    return count


def fun_asr_nano(cfg: Config) -> Architecture:
    """The adaptor's blocks are as wide as the text model."""
    text, inner = text_part(cfg)
    inv = Inventory()
    heard, shape = cfg.sub("audio_config"), cfg.sub("adaptor_config", model_type="fun_asr_nano_adaptor")
    count = _encoder(tower(inv, "model.audio_tower."), heard)
    width, hidden = heard.positive("hidden_size"), inner.hidden_size
    wide, depth = shape.opt_int("projector_hidden_size") or 2048, shape.opt_int("num_hidden_layers") or 2
    part = tower(inv, "model.multi_modal_projector.")
    part.linear("linear_1", wide, width, split=COLUMN)
    part.linear("linear_2", hidden, wide, split=ROW)
    block = part.at("layers.{}.", range(depth))
    vision.projections(block.at("self_attn."), hidden, names=_NAMES)
    vision.mlp(block.at("mlp."), hidden, shape.opt_int("intermediate_size") or hidden // 4)
    block.norms(("input_layernorm", "post_attention_layernorm"), hidden)
    return wrap(cfg, text, inner, "fun_asr_nano", NESTED, inv, tower_layers(count + depth, "audio"))
