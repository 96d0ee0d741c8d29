"""BLIP-2's Q-Former, which InstructBLIP, Granite Vision and Granite Speech have too: BERT blocks that read image or sound features.

Source: transformers 5.23.0 `models/{blip_2,instructblip}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.parts import COLUMN, ROW, Part


def _attention(part: Part, hidden: int, features: int) -> None:
    """BERT's attention: q from the queries, k and v from `features` wide inputs."""
    part.linear("attention.query", hidden, hidden, split=COLUMN)
    part.linear("attention.key", hidden, features, split=COLUMN)
    part.linear("attention.value", hidden, features, split=COLUMN)
    part.linear("output.dense", hidden, hidden, split=ROW)
    part.norm("output.LayerNorm", hidden)


def qformer(part: Part, cfg: Config, features: int, *, text: bool, hidden: int | None = None) -> int:
    """Every `cross_attention_frequency`-th block attends over features; with `text` a block has a second feed-forward for words.

    Returns the number of blocks.
    """
    width = cfg.positive("hidden_size") if hidden is None else hidden
    inner, count = cfg.positive("intermediate_size"), cfg.positive("num_hidden_layers")
    block = part.at("encoder.layer.{}.", range(count))
    _attention(block.at("attention."), width, width)
    crossing = range(0, count, cfg.positive("cross_attention_frequency"))
    _attention(part.at("encoder.layer.{}.crossattention.", crossing), width, features)
    for tail in ("", "_query") if text else ("_query",):
        block.linear(f"intermediate{tail}.dense", inner, width, split=COLUMN)
        block.linear(f"output{tail}.dense", width, inner, split=ROW)
        block.norm(f"output{tail}.LayerNorm", width)
    return count


def blip_tower(part: Part, cfg: Config) -> int:
    """BLIP-2's EVA: CLIP's blocks with q, k and v in one matrix, positions beside the class token."""
    width, count = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    part.tensor("embeddings.class_embedding", (1, 1, width))
    part.tensor("embeddings.position_embedding", (1, vision.patches(cfg) + 1, width))
    part.conv("embeddings.patch_embedding", width, 3, vision.side(cfg, "patch_size"))
    block = part.at("encoder.layers.{}.", range(count))
    vision.fused_projection(block.at("self_attn."), "qkv", width, bias=cfg.flag("qkv_bias", default=True))
    block.linear("self_attn.projection", width, width, split=ROW)
    block.norms(("layer_norm1", "layer_norm2"), width)
    vision.mlp(block.at("mlp."), width, cfg.positive("intermediate_size"))
    part.norm("post_layernorm", width)
    return count
