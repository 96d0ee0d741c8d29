"""NVIDIA Cosmos 3's reasoners: Omni (Qwen3-VL) and Edge (SigLIP 2 before a decoder with an ungated feed-forward).

The unified checkpoints also hold an image and video generator that no language engine loads.

Source: transformers 5.23.0 `models/{cosmos3_omni,cosmos3_edge}`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import full
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families import vision
from hfmem.model.families.multimodal import respelled, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW
from hfmem.model.inventory import Inventory
from hfmem.model.layers import Layer

#: decoder and tower without their wrappers' names, Diffusers' names of the attention
_FLAT = (("model.", ""),)
_DIFFUSERS = ("to_q", "to_k", "to_v", "to_out")
_OMNI = {
    **{
        f".{own}.": f".{theirs}."
        for own, theirs in zip(("q_proj", "k_proj", "v_proj", "o_proj"), _DIFFUSERS, strict=True)
    },
    ".q_norm.": ".norm_q.",
    ".k_norm.": ".norm_k.",
}


def cosmos3_omni(cfg: Config) -> Architecture:
    """Qwen3-VL with its parts at the top of the file."""
    text, inner = text_part(cfg)
    inv = Inventory()
    depth = vision.qwen3_vl(tower(inv), cfg.sub("vision_config"))
    inner = respelled(inner, _OMNI)
    return wrap(cfg, text, inner, "cosmos3_omni", _FLAT, inv, tower_layers(depth))


def cosmos3_edge_text(cfg: Config) -> Architecture:
    """A Llama whose feed-forward has no gate."""
    m = DecoderBuilder(cfg)
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias, names=_DIFFUSERS)
    m.plain(cfg.positive("intermediate_size"), "mlp", ("up_proj", "down_proj"), bias=mlp_bias)
    m.norms("input_layernorm", "post_attention_layernorm")
    return m.close("cosmos3_edge", [Layer((full(m.d),))] * m.d.num_layers)


def cosmos3_edge(cfg: Config) -> Architecture:
    """SigLIP 2 whose patches come in as rows, two-layer projector over merged patches."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    part = tower(inv, "model.visual.")
    height, breadth = vision.side(seen, "patch_size")
    part.linear("embeddings.patch_embedding", width, seen.positive("num_channels") * height * breadth)
    part.tensor("embeddings.position_embedding.weight", (seen.positive("num_patches"), width))
    block = part.at("encoder.layers.{}.", range(count))
    vision.projections(block.at("self_attn."), width, names=("to_q", "to_k", "to_v", "out_proj"))
    vision.mlp(block.at("mlp."), width, seen.positive("intermediate_size"), ("up_proj", "down_proj"))
    block.norms(("layer_norm1", "layer_norm2"), width)
    part.norm("post_layernorm", width)
    merged, wide = width * seen.positive("spatial_merge_size") ** 2, cfg.positive("projector_hidden_size")
    project = tower(inv, "model.projector.")
    project.norm("norm", width)
    project.linear("linear_fc1", wide, merged, split=COLUMN)
    project.linear("linear_fc2", inner.hidden_size, wide, split=ROW)
    return wrap(cfg, text, inner, "cosmos3_edge", _FLAT, inv, tower_layers(count))
