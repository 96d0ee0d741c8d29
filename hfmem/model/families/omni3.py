"""Qwen3-Omni: a mixture-of-experts thinker that hears and sees, a talker with a code predictor, a vocoder.

Source: transformers 5.23.0 `models/qwen3_omni_moe/modeling_qwen3_omni_moe.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.audio import qwen3_audio_tower
from hfmem.model.families.multimodal import text_architecture, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory


def _tower(part: Part, cfg: Config) -> int:
    """Qwen3-VL's tower, its mergers under `merger` and `merger_list` with Qwen2-VL's names."""
    width, count = cfg.positive("hidden_size"), cfg.positive("depth")
    merge, out = cfg.positive("spatial_merge_size") ** 2 * width, cfg.positive("out_hidden_size")
    patch = (cfg.positive("temporal_patch_size"), *vision.side(cfg, "patch_size"))
    part.conv("patch_embed.proj", width, cfg.positive("in_channels", "in_chans"), patch)
    part.tensor("pos_embed.weight", (cfg.positive("num_position_embeddings"), width))
    block = part.at("blocks.{}.", range(count))
    block.norms(("norm1", "norm2"), width)
    vision.fused_projection(block.at("attn."), "qkv", width, bias=True)
    block.linear("attn.proj", width, width, split=ROW)
    vision.mlp(block.at("mlp."), width, cfg.positive("intermediate_size"), ("linear_fc1", "linear_fc2"))
    deep = cfg.opt_list("deepstack_visual_indexes")
    extra = part.at("merger_list.{}.", range(3 if deep is None else len(deep)))  # the class names [8, 16, 24]
    for merger, normed in ((part.at("merger."), width), (extra, merge)):
        merger.norm("ln_q", normed)
        merger.linear("mlp.0", merge, merge, split=COLUMN)
        merger.linear("mlp.2", out, merge, split=ROW)
    return count


def text_stack(inv: Inventory, prefix: str, cfg: Config, rule: str) -> None:
    """Another text model's layers under `prefix`, without embedding and head; counted as `OTHER`."""
    part = Part(inv, prefix, Component.OTHER)
    for spec in text_architecture(cfg, rule).tensors:
        if spec.component in (Component.EMBEDDING, Component.LM_HEAD):
            continue
        for box in spec.boxes:
            at = part
            for axis in box:
                at = Part(inv, at.prefix, at.component, (*at.axes, tuple(axis)))
            at.tensor(spec.pattern, spec.shape, Component.OTHER, spec.split, active=spec.active)


def _talker(inv: Inventory, cfg: Config) -> None:
    """A mixture of experts with a shared one, reading the thinker's states, and a small decoder for the other codebooks."""
    text = cfg.sub("text_config", model_type="qwen3_omni_moe_talker_text")
    codes = cfg.sub("code_predictor_config", model_type="qwen3_omni_moe_talker_code_predictor")
    part, given = Part(inv, "talker.", Component.OTHER), cfg.positive("thinker_hidden_size")
    hidden, inner, count = (
        text.positive("hidden_size"),
        text.positive("intermediate_size"),
        text.positive("num_hidden_layers"),
    )
    text_stack(inv, "talker.", text, "qwen3_moe")
    shared = text.positive("shared_expert_intermediate_size")
    block = part.at("model.layers.{}.mlp.", range(count))
    vision.gated(block.at("shared_expert."), hidden, shared, bias=False)
    block.linear("shared_expert_gate", 1, hidden, bias=False)
    part.tensor("model.codec_embedding.weight", (text.positive("vocab_size"), hidden))
    part.linear("codec_head", text.positive("vocab_size"), hidden, bias=False)
    for name in ("text_projection", "hidden_projection"):
        at = part.at(f"{name}.")
        at.linear("linear_fc1", inner, given, split=COLUMN)
        at.linear("linear_fc2", hidden, inner, split=ROW)
    text_stack(inv, "talker.code_predictor.", codes, "qwen3")
    groups, width, vocab = (
        codes.positive("num_code_groups") - 1,
        codes.positive("hidden_size"),
        codes.positive("vocab_size"),
    )
    part.at("code_predictor.lm_head.{}", range(groups)).linear("", vocab, width, bias=False)
    part.at("code_predictor.model.codec_embedding.{}", range(groups)).tensor(".weight", (vocab, width))


def _vocoder(part: Part, cfg: Config) -> None:
    """Codes to sound: an embedding, a sliding-window transformer, ConvNeXt upsampling, snake-activated convolutions."""
    width, inner = cfg.positive("hidden_size"), cfg.positive("intermediate_size")
    part.tensor("code_embedding.weight", (cfg.positive("codebook_size") * cfg.positive("num_quantizers"), width))
    stack = part.at("pre_transformer.")
    block = stack.at("layers.{}.", range(cfg.positive("num_hidden_layers")))
    heads, dim = cfg.positive("num_attention_heads"), cfg.opt_int("head_dim")
    dim = dim or width // heads
    names, bias = ("q_proj", "k_proj", "v_proj", "o_proj"), cfg.flag("attention_bias", default=False)
    kv = cfg.positive("num_key_value_heads") * dim
    vision.projections(block.at("self_attn."), width, bias=bias, names=names, width=heads * dim, kv_width=kv)
    vision.gated(block.at("mlp."), width, inner, bias=False)
    block.norms(("input_layernorm", "post_attention_layernorm"), width, bias=False)
    block.tensor("self_attn_layer_scale.scale", (width,))
    block.tensor("mlp_layer_scale.scale", (width,))
    stack.norm("norm", width, bias=False)
    for i, ratio in enumerate(cfg.need_numbers("upsampling_ratios")):
        part.tensor(f"upsample.{i}.0.conv.weight", (width, width, ratio))
        part.tensor(f"upsample.{i}.0.conv.bias", (width,))
        at = part.at(f"upsample.{i}.1.")
        at.conv("dwconv.conv", width, 1, (7,))
        at.tensor("gamma", (width,))
        at.norm("norm", width)
        vision.mlp(at, width, 4 * width, ("pwconv1", "pwconv2"))
    channels, rates = cfg.positive("decoder_dim"), cfg.need_numbers("upsample_rates")
    part.conv("decoder.0.conv", channels, width, (7,))
    for i, rate in enumerate(rates, 1):
        at, out = part.at(f"decoder.{i}.block."), channels // 2
        at.tensor("0.alpha", (channels,))
        at.tensor("0.beta", (channels,))
        at.tensor("1.conv.weight", (channels, out, 2 * rate))
        at.tensor("1.conv.bias", (out,))
        unit = at.at("{}.", range(2, 5))
        for n, kernel in ((1, 7), (2, 1)):
            unit.tensor(f"act{n}.alpha", (out,))
            unit.tensor(f"act{n}.beta", (out,))
            unit.conv(f"conv{n}.conv", out, out, (kernel,))
        channels = out
    last = len(rates) + 1
    part.tensor(f"decoder.{last}.alpha", (channels,))
    part.tensor(f"decoder.{last}.beta", (channels,))
    part.conv(f"decoder.{last + 1}.conv", 1, channels, (7,))


def qwen3_omni_moe(cfg: Config) -> Architecture:
    """The thinker's text model is the main stack; talker and vocoder are there unless `enable_audio_output` is false."""
    thinker = cfg.sub("thinker_config")
    text, inner = text_part(thinker)
    inv = Inventory()
    part = tower(inv, "thinker.audio_tower.")
    heard = qwen3_audio_tower(part, thinker.sub("audio_config"), part, ("proj1", "proj2"))
    seen = _tower(tower(inv, "thinker.visual."), thinker.sub("vision_config"))
    notes = []
    if cfg.flag("enable_audio_output", default=True):
        _talker(inv, cfg.sub("talker_config"))
        _vocoder(tower(inv, "code2wav."), cfg.sub("code2wav_config"))
        notes.append(Note("second_decoder", "the talker keeps keys and values of its own while it speaks; not counted"))
    layers = (*tower_layers(heard, "audio"), *tower_layers(seen))
    return wrap(cfg, text, inner, "qwen3_omni_moe", (("", "thinker."),), inv, layers, notes)


def qwen3_omni_moe_thinker(cfg: Config) -> Architecture:
    """The thinker saved alone."""
    text, inner = text_part(cfg)
    inv = Inventory()
    part = tower(inv, "thinker.audio_tower.")
    heard = qwen3_audio_tower(part, cfg.sub("audio_config"), part, ("proj1", "proj2"))
    seen = _tower(tower(inv, "thinker.visual."), cfg.sub("vision_config"))
    layers = (*tower_layers(heard, "audio"), *tower_layers(seen))
    return wrap(cfg, text, inner, "qwen3_omni_moe", (("", "thinker."),), inv, layers)
