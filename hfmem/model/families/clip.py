"""A text and an image encoder side by side, CLIP and SigLIP, and their image encoders alone.

Source: transformers 5.23.0 `models/{clip,siglip}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.encoders import encoder_layers
from hfmem.model.families.heads import class_name
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory, Replicated, TensorSpec, Vocab


def clip(cfg: Config) -> Architecture:
    """CLIP: a text and an image encoder, a projection for each, a learned temperature."""
    text, seen = cfg.sub("text_config"), cfg.sub("vision_config")
    d = read_dims(text)
    inner, vocab = text.positive("intermediate_size"), text.positive("vocab_size")
    out = cfg.positive("projection_dim")
    inv = Inventory()
    part = Part(inv, "text_model.")
    rows = text.positive("max_position_embeddings")
    part.tensor("embeddings.token_embedding.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    # vLLM keeps the positions in a table like the vocabulary's, padded and split (`clip.py`)
    part.tensor("embeddings.position_embedding.weight", (rows, d.hidden), Component.EMBEDDING, Vocab())
    part.tensor("embeddings.position_ids", (1, rows), Component.EMBEDDING, optional=True, buffer=True)
    block = part.at("encoder.layers.{}.", range(d.num_layers))
    vision.projections(block.at("self_attn.", component=Component.ATTENTION), d.hidden)
    vision.mlp(block.at("mlp.", component=Component.MLP), d.hidden, inner)
    block.norms(("layer_norm1", "layer_norm2"), d.hidden)
    part.norm("final_layer_norm", d.hidden)
    count = vision.clip(tower(inv, "vision_model."), seen)
    patches = (1, vision.patches(seen) + 1)
    tower(inv).tensor("vision_model.embeddings.position_ids", patches, optional=True, buffer=True)
    tower(inv).linear("visual_projection", out, seen.positive("hidden_size"), bias=False)
    Part(inv, component=Component.OTHER).linear("text_projection", out, d.hidden, bias=False)
    _temperature(inv, "logit_scale", ())
    layers = (*encoder_layers(d.num_layers), *tower_layers(count))
    return assemble(cfg, text, "clip", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def siglip(cfg: Config) -> Architecture:
    """SigLIP: a text and an image encoder, a head on the text side, a learned temperature and bias."""
    text, seen = cfg.sub("text_config"), cfg.sub("vision_config")
    d = read_dims(text)
    inner, vocab = text.positive("intermediate_size"), text.positive("vocab_size")
    inv = Inventory()
    part = Part(inv, "text_model.")
    rows = text.positive("max_position_embeddings")
    part.tensor("embeddings.token_embedding.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    part.tensor("embeddings.position_embedding.weight", (rows, d.hidden), Component.EMBEDDING, Vocab())
    block = part.at("encoder.layers.{}.", range(d.num_layers))
    vision.projections(block.at("self_attn.", component=Component.ATTENTION), d.hidden)
    vision.mlp(block.at("mlp.", component=Component.MLP), d.hidden, inner)
    block.norms(("layer_norm1", "layer_norm2"), d.hidden)
    part.norm("final_layer_norm", d.hidden)
    out = text.opt_int("projection_size") or d.hidden
    Part(inv, component=Component.OTHER).linear("text_model.head", out, d.hidden)
    count = vision.siglip(tower(inv, "vision_model."), seen, head=_pooled(seen))
    _temperature(inv, "logit_scale", (1,))
    _temperature(inv, "logit_bias", (1,))
    layers = (*encoder_layers(d.num_layers), *tower_layers(count))
    return assemble(cfg, text, "siglip", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def _temperature(inv: Inventory, name: str, shape: tuple[int, ...]) -> None:
    """A scalar of the training loss, which vLLM does not build."""
    inv.specs.append(TensorSpec(name, shape, ((),), Component.OTHER, Replicated(), unread=True))


def _pooled(seen: Config) -> bool:
    return seen.flag("vision_use_head", default=True)


def vision_model(cfg: Config) -> Architecture:
    """A CLIP or SigLIP image encoder saved alone, with CLIP's projection where the class has one."""
    inv = Inventory()
    part = tower(inv, "vision_model.")
    count = (
        vision.clip(part, cfg) if cfg.model_type == "clip_vision_model" else vision.siglip(part, cfg, head=_pooled(cfg))
    )
    d = read_dims(cfg)
    if class_name(cfg).endswith("WithProjection"):
        tower(inv).linear("visual_projection", cfg.positive("projection_dim"), d.hidden, bias=False)
    return assemble(cfg, cfg, "vision", d, tower_layers(count), inv, vocab=0, tied=False)
