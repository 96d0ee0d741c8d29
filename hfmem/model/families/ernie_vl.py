"""ERNIE 4.5 VL: two sets of experts, for words and for images, a vision transformer, a resampler over space and time.

Source: transformers 5.23.0 `models/ernie4_5_vl_moe/modeling_ernie4_5_vl_moe.py`; names as published.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import full
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families import vision
from hfmem.model.families.multimodal import PLAIN, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, ExpertSplit, Inventory
from hfmem.model.layers import Layer
from hfmem.model.stack import indices_of, layer_kinds


def _sparse(cfg: Config, count: int) -> list[int]:
    """Layers with experts: `mlp_layer_types`, or as Baidu publishes it (first and last layer, interval), or all but the first."""
    kinds = cfg.opt_list("mlp_layer_types")
    if kinds is not None:
        return indices_of(layer_kinds(cfg, "mlp_layer_types", kinds, ("dense", "sparse"), count), "sparse")
    first, last = (
        min(_pair(cfg, "moe_layer_start_index", (1, 1))),
        max(_pair(cfg, "moe_layer_end_index", (count, count))),
    )
    every = cfg.opt_int("moe_layer_interval") or 1
    return [i for i in range(count) if first <= i <= last and (i + 1) % every == 0]


def _pair(cfg: Config, name: str, default: tuple[int, int]) -> tuple[int, int]:
    """One number for words and one for images; a single number stands for both."""
    value = cfg.lookup(name)
    if value is None:
        return default
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2 or not all(isinstance(n, int) and 0 <= n < 1 << 16 for n in pair):
        raise ContradictionError(f"{cfg.file}: {name!r} is not a number for words and one for images")
    return pair[0], pair[1]


def ernie4_5_vl_moe_text(cfg: Config) -> Architecture:
    """ERNIE 4.5's block; a token is routed among the experts of its own kind, the first half words', the second half images'."""
    m = DecoderBuilder(cfg)
    bias = cfg.flag("use_bias", default=False)
    experts, widths = _pair(cfg, "moe_num_experts", (64, 64)), _pair(cfg, "moe_intermediate_size", (1536, 512))
    top_k, shared = cfg.positive("moe_k"), cfg.opt_int("moe_num_shared_experts") or 0
    if experts[0] != experts[1] or not 1 <= top_k <= experts[0]:
        raise ContradictionError(f"{cfg.file}: {top_k} of {experts} experts")
    sparse = _sparse(cfg, m.d.num_layers)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.norms("input_layernorm", "post_attention_layernorm")
    m.gated(cfg.positive("intermediate_size"), layers=[i for i in m.every if i not in set(sparse)], bias=bias)
    part = Part(m.inv).at("model.layers.{}.mlp.", sparse, Component.EXPERTS)
    part.tensor("gate.weight", (m.d.hidden, experts[0]))
    part.tensor("gate.weight_1", (m.d.hidden, experts[1]))
    part.tensor("moe_statics.e_score_correction_bias", (2, experts[0]))
    share = Fraction(top_k, experts[0])
    for start, width, active in ((0, widths[0], share), (experts[0], widths[1], Fraction(0))):
        at = part.at("experts.{}.", range(start, start + experts[0]))
        for name in ("gate_proj", "up_proj"):
            at.tensor(f"{name}.weight", (width, m.d.hidden), split=ExpertSplit(1, COLUMN), active=active)
        at.tensor("down_proj.weight", (m.d.hidden, width), split=ExpertSplit(1, ROW), active=active)
    if shared:
        m.gated(widths[0] * shared, "mlp.shared_experts", layers=sparse, bias=bias)
    m.moe = (experts[0], top_k)
    layers = [Layer((full(m.d),))] * m.d.num_layers
    return m.close("ernie4_5_vl_moe", layers, intermediate=cfg.positive("intermediate_size"))


def ernie4_5_vl_moe(cfg: Config) -> Architecture:
    """The resampler joins patches in space, then in time; each step is two linear layers and a norm."""
    cfg = Config(cfg.data, cfg.file, "ernie4_5_vl_moe", cfg.used_defaults)
    text, inner = text_part(cfg)
    inv = Inventory()
    found = cfg.sub("vision_config")
    seen = Config(found.data, found.file, "ernie4_5_vl_moe_vision", cfg.used_defaults)
    width, depth = seen.positive("hidden_size", "embed_dim"), seen.positive("depth")
    height, breadth = vision.side(seen, "patch_size")
    part = tower(inv, "vision_model.")
    part.linear("patch_embed.proj", width, seen.positive("in_channels", "in_chans") * height * breadth, bias=False)
    block = part.at("blocks.{}.", range(depth))
    block.norms(("norm1", "norm2"), width)
    vision.fused_projection(block.at("attn."), "qkv", width, bias=True)
    block.linear("attn.proj", width, width, split=ROW)
    vision.mlp(block.at("mlp."), width, _vision_inner(seen, width))
    part.norm("ln", width)
    spatial = width * (seen.opt_int("spatial_merge_size") or cfg.positive("spatial_conv_size")) ** 2
    times = seen.opt_int("temporal_merge_size") or cfg.positive("temporal_conv_size")
    part = tower(inv, "model.resampler_model.")
    for name, features in (("spatial_linear", spatial), ("temporal_linear", spatial * times)):
        part.linear(f"{name}.0", spatial, features)
        part.linear(f"{name}.2", spatial, spatial)
        part.norm(f"{name}.3", spatial)
    part.linear("mlp", inner.hidden_size, spatial)
    part.norm("after_norm", inner.hidden_size, bias=False)
    return wrap(cfg, text, inner, "ernie4_5_vl_moe", PLAIN, inv, tower_layers(depth))


def _vision_inner(cfg: Config, width: int) -> int:
    """`intermediate_size`, or the ratio that Baidu's configs give."""
    ratio = cfg.published("mlp_ratio")
    if cfg.published("intermediate_size") is None and isinstance(ratio, (int, float)) and not isinstance(ratio, bool):
        return int(width * ratio)
    return cfg.positive("intermediate_size")
