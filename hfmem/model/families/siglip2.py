"""SigLIP 2 for images of any shape: a text and an image encoder whose patches go through a linear layer.

Source: transformers 5.23.0 `models/siglip2/modeling_siglip2.py`; names as published. (The fixed-resolution checkpoints call
themselves `siglip`.)
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.encoders import encoder_layers
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory, Vocab


def image_encoder(part: Part, seen: Config) -> int:
    """Patches as rows of pixels, learned positions that are resized, CLIP's blocks, a pooling head. Returns the blocks' number."""
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    inner = seen.positive("intermediate_size")
    pixels = seen.positive("num_channels") * seen.positive("patch_size") ** 2
    part.linear("embeddings.patch_embedding", width, pixels)
    part.tensor("embeddings.position_embedding.weight", (seen.positive("num_patches"), width))
    vision.clip_blocks(part.at("encoder."), count, width, inner)
    part.norm("post_layernorm", width)
    if seen.flag("vision_use_head", default=True):
        vision.pooling_head(part.at("head."), width, inner)
    return count


def siglip2(cfg: Config) -> Architecture:
    """Both encoders, a head on the text side, a learned temperature and bias; or the image encoder with a classifier."""
    what = task(cfg, "model", {"Model": "model", "ForImageClassification": "classification"})
    text, seen = cfg.sub("text_config"), cfg.sub("vision_config")
    inv = Inventory()
    count = image_encoder(tower(inv, "vision_model."), seen)
    other = Part(inv, component=Component.OTHER)
    if what == "classification":
        other.linear("classifier", num_labels(cfg), seen.positive("hidden_size"))
        d = read_dims(seen)
        return assemble(cfg, seen, "siglip2", d, tower_layers(count), inv, vocab=0, tied=False)
    d = _text(Part(inv, "text_model."), text)
    other.linear("text_model.head", text.opt_int("projection_size") or d.hidden, d.hidden)
    other.tensor("logit_scale", (1,))
    other.tensor("logit_bias", (1,))
    layers = (*encoder_layers(d.num_layers), *tower_layers(count))
    inner = text.positive("intermediate_size")
    vocab = text.positive("vocab_size")
    return assemble(cfg, text, "siglip2", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def _text(part: Part, text: Config) -> Dims:
    d = read_dims(text)
    rows = text.positive("max_position_embeddings")
    words = part.at("embeddings.", component=Component.EMBEDDING)
    words.tensor("token_embedding.weight", (text.positive("vocab_size"), d.hidden), split=Vocab())
    words.tensor("position_embedding.weight", (rows, d.hidden))
    block = part.at("encoder.layers.{}.", range(d.num_layers))
    vision.projections(block.at("self_attn.", component=Component.ATTENTION), d.hidden)
    vision.mlp(block.at("mlp.", component=Component.MLP), d.hidden, text.positive("intermediate_size"))
    block.norms(("layer_norm1", "layer_norm2"), d.hidden)
    part.norm("final_layer_norm", d.hidden)
    return d


def siglip2_vision(cfg: Config) -> Architecture:
    """The image encoder saved alone."""
    inv = Inventory()
    count = image_encoder(tower(inv, "vision_model."), cfg)
    return assemble(cfg, cfg, "siglip2", read_dims(cfg), tower_layers(count), inv, vocab=0, tied=False)
