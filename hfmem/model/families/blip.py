"""BLIP: a vision transformer and BERT that attends over its output: captions, answers, retrieval.

Source: transformers 5.23.0 `models/blip/modeling_blip*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.encoders import body, cross_attention, encoder_layers, masked_lm
from hfmem.model.families.heads import task
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import ROW, Part
from hfmem.model.inventory import Component, Inventory
from hfmem.model.layers import CrossAttention, FullAttention, Layer

_TASKS = {
    "ForConditionalGeneration": "caption",
    "ForQuestionAnswering": "answer",
    "ForImageTextRetrieval": "retrieval",
}


def _tower(part: Part, seen: Config) -> int:
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    part.tensor("embeddings.class_embedding", (1, 1, width))
    part.conv("embeddings.patch_embedding", width, seen.opt_int("num_channels") or 3, vision.side(seen, "patch_size"))
    part.tensor("embeddings.position_embedding", (1, vision.patches(seen) + 1, width))
    block = part.at("encoder.layers.{}.", range(count))
    vision.fused_projection(block.at("self_attn."), "qkv", width, bias=True)
    block.linear("self_attn.projection", width, width, split=ROW)
    block.norms(("layer_norm1", "layer_norm2"), width)
    vision.mlp(block.at("mlp."), width, seen.positive("intermediate_size"))
    part.norm("post_layernorm", width)
    return count


def blip(cfg: Config) -> Architecture:
    """The text decoder writes; questions have a text encoder beside it, retrieval one instead."""
    what = task(cfg, "caption", _TASKS)
    text, seen = cfg.sub("text_config"), cfg.sub("vision_config")
    d, features = read_dims(text), seen.positive("hidden_size")  # the class puts it behind `encoder_hidden_size`
    inv = Inventory()
    count = _tower(tower(inv, "vision_model."), seen)
    places = {"caption": ("text_decoder.bert.",), "answer": ("text_decoder.bert.", "text_encoder.")}
    for place in places.get(what, ("text_encoder.",)):
        blocks = body(Part(inv, place), text, d, token_types=False)
        if text.flag("is_decoder", default=True):
            cross_attention(blocks, d.hidden, features)
    vocab = text.positive("vocab_size")
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what == "retrieval":
        shared, other = cfg.positive("image_text_hidden_size"), Part(inv, component=Component.OTHER)
        other.linear("vision_proj", shared, seen.positive("hidden_size"))
        other.linear("text_proj", shared, d.hidden)
        other.linear("itm_head", 2, d.hidden)
    else:
        embedded = "text_decoder.bert.embeddings.word_embeddings.weight" if tied else None
        masked_lm(Part(inv, "text_decoder."), "cls", vocab, d.hidden, d.hidden, embedded)
    own = FullAttention(d.num_heads, d.num_heads, d.head_dim, d.head_dim)
    seen_once = CrossAttention(d.num_heads, d.num_heads, d.head_dim, vision.patches(seen) + 1)
    layers: list[Layer] = [] if what == "retrieval" else [Layer((own, seen_once))] * d.num_layers
    layers += [] if what == "caption" else encoder_layers(d.num_layers)
    inner = text.positive("intermediate_size")
    stack = [*layers, *tower_layers(count)]
    return assemble(cfg, text, "blip", d, stack, inv, vocab=vocab, tied=tied, intermediate=inner)
