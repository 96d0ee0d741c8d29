"""Falcon-Perception: one dense decoder over patches and text, with heads for boxes and masks.

Source: github.com/tiiuae/Falcon-Perception `falcon_perception/{model,anyup}.py`. Norms before attention and feed-forward have no
parameters; its own cache repeats KV heads for their group, the model needs `n_kv_heads`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, num_layers
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Column, Component, Row
from hfmem.model.layer_lists import full_layers

#: AnyUp's width: `FalconPerception` builds the upsampler with its own defaults
_UP = 128


def falcon_perception(cfg: Config) -> Architecture:
    """The decoder, the patch projector, and the perception heads (masks where `do_segmentation`)."""
    hidden, heads = cfg.positive("dim"), cfg.positive("n_heads")
    head_dim = cfg.opt_int("head_dim") or hidden // heads
    d = Dims(hidden, num_layers(cfg), heads, cfg.opt_int("n_kv_heads") or heads, head_dim)
    m = DecoderBuilder(cfg, d=d, layers="layers.{}", embed="tok_embeddings", head="output", final="norm", tied=False)
    m.qkv("attention.wqkv")
    m.linear("attention.wo", hidden, heads * head_dim, Row())
    m.each("attention.sinks", (heads,), Component.ATTENTION, None, Column())
    m.fused_gated(cfg.positive("ffn_dim"), "feed_forward.w13", "feed_forward.w2")
    patch = cfg.positive("temporal_patch_size") * cfg.positive("spatial_patch_size") ** 2
    seen = Part(m.inv, "", Component.VISION)
    seen.linear("img_projector", hidden, patch * cfg.positive("channel_size"), bias=False)
    rotary = Part(m.inv, "", Component.OTHER)
    rotary.tensor("freqs_cis_golden", (heads, head_dim // 4, 2), buffer=True, optional=True)
    if cfg.flag("perception_heads", default=True):
        _heads(m)
    return m.close("falcon_perception", full_layers(d))


def _heads(m: DecoderBuilder) -> None:
    cfg, hidden = m.cfg, m.d.hidden
    root = Part(m.inv, "", Component.OTHER)
    for what in ("coord", "size"):
        features, wide = cfg.positive(f"{what}_enc_dim"), cfg.positive(f"{what}_dec_dim")
        root.linear(f"{what}_encoder.embed", features // 2, 2, bias=False)
        root.linear(f"{what}_encoder.transform", hidden, features, bias=False)
        root.linear(f"{what}_decoder.w1", wide, hidden, bias=False)
        root.linear(f"{what}_decoder.w2", cfg.positive(f"{what}_out_dim"), wide, bias=False)
    if cfg.flag("do_segmentation", default=True):
        out = cfg.positive("segm_out_dim")
        layers = root.at("proj_segm.layers.{}.", range(cfg.positive("num_segm_layers") - 1))
        layers.tensor("weight", (hidden, hidden))
        layers.tensor("bias", (hidden,))
        root.linear("proj_segm.pixel_layer", out, hidden, bias=False)
        root.conv("conv_segm", out, hidden, (3, 3))
        _upsampler(Part(m.inv, "itok_upsampler.", Component.OTHER), cfg.positive("channel_size"))


def _upsampler(root: Part, channels: int) -> None:
    """AnyUp: five small encoders of two residual blocks each, one windowed cross attention."""
    for name, inputs, kernel in (
        ("image_encoder", channels, 1),
        ("key_encoder", _UP, 1),
        ("query_encoder", _UP, 1),
        ("key_features_encoder", 0, 5),
        ("aggregation", 2 * _UP, 3),
    ):
        if inputs:
            root.conv(f"{name}.0", _UP, inputs, (kernel, kernel), bias=False)
        else:  # learned filters instead of a convolution
            root.tensor(f"{name}.0.basis", (_UP, 1, kernel, kernel))
        for block in (1, 2):
            part = root.at(f"{name}.{block}.block.")
            for place in (0, 3):
                part.norm(str(place), _UP)
                part.conv(str(place + 2), _UP, _UP, (1, 1), bias=False)
    cross = root.at("cross_decode.")
    cross.conv("conv2d", _UP, _UP, (3, 3), bias=False)
    cross.tensor("cross_attn.attention.in_proj_weight", (3 * _UP, _UP))
    cross.tensor("cross_attn.attention.in_proj_bias", (3 * _UP,))
    cross.norm("cross_attn.norm_q", _UP, bias=False)
    cross.norm("cross_attn.norm_k", _UP, bias=False)
    root.tensor("rope.freqs", (2, _UP))
