"""T5Gemma: two stacks of Gemma 2, the decoder's with attention over the encoder's output.

Source: transformers 5.23.0 `models/t5gemma/modeling_t5gemma.py`; names as published.
"""

from __future__ import annotations

from collections.abc import Iterable

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import read_dtype
from hfmem.model.config import Config
from hfmem.model.families.gemma import gemma2
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, TensorSpec, Vocab
from hfmem.model.layers import CrossAttention, FullAttention, Layer, NoCache, SlidingAttention
from hfmem.records import replace

#: Gemma 2's norms under T5Gemma's names
_NORMS = {"post_attention_layernorm": "post_self_attn_layernorm", "input_layernorm": "pre_self_attn_layernorm"}


def _stack(arch: Architecture, place: str) -> Iterable[TensorSpec]:
    """One stack with its embedding."""
    for spec in arch.tensors:
        if spec.component is Component.LM_HEAD:
            continue
        pattern = spec.pattern.replace("model.", place, 1)
        for own, theirs in _NORMS.items():
            pattern = pattern.replace(own, theirs)
        yield replace(spec, pattern=pattern)


def t5gemma(cfg: Config) -> Architecture:
    """A decoder layer keeps its own keys and values (windowed or not) and those of the encoder's output."""
    enc, text = cfg.sub("encoder"), cfg.sub("decoder")
    read, inner = gemma2(enc), gemma2(text)
    tied = cfg.flag("tie_word_embeddings", default=True)
    inv = Inventory()
    inv.specs += [*_stack(read, "model.encoder."), *_stack(inner, "model.decoder.")]
    hidden, heads, kv = inner.hidden_size, text.positive("num_attention_heads"), inner.num_kv_heads or 0
    head_dim = inner.head_dim or 0
    block = Part(inv).at("model.decoder.layers.{}.", range(inner.num_hidden_layers))
    at = block.at("cross_attn.", component=Component.ATTENTION)
    at.linear("q_proj", heads * head_dim, hidden, split=COLUMN, bias=False)
    for name in ("k_proj", "v_proj"):
        at.linear(name, kv * head_dim, read.hidden_size, split=Column(kv_heads=(kv,)), bias=False)
    at.linear("o_proj", hidden, heads * head_dim, split=ROW, bias=False)
    block.norms(("pre_cross_attn_layernorm", "post_cross_attn_layernorm"), hidden, bias=False)
    head = ("lm_head.out_proj.weight", (inner.vocab_size, hidden), Component.LM_HEAD, Vocab())
    embedded = "model.decoder.embed_tokens.weight" if tied else None
    Part(inv).tensor(*head, tied_to=embedded, optional=tied)
    layers: list[Layer] = []
    for layer in inner.layers:
        own = layer.caches[0]
        assert isinstance(own, FullAttention | SlidingAttention)
        layers.append(Layer((own, CrossAttention(own.num_heads, own.num_kv_heads, own.head_dim, None))))
    layers += [Layer((NoCache("encoder"),), stack="encoder")] * read.num_hidden_layers
    return replace(
        inner,
        family="t5gemma",
        model_type=cfg.model_type,
        architectures=tuple(a for a in cfg.published("architectures") or () if isinstance(a, str)),
        dtype=read_dtype(cfg, text),
        layers=tuple(layers),
        tensors=tuple(inv.specs),
        tie_word_embeddings=tied,
        class_defaults=tuple(cfg.used_defaults),
    )
