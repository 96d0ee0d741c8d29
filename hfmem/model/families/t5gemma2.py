"""T5Gemma 2: Gemma 3 as an encoder that sees, and a decoder whose attention reads itself and the encoder through one projection.

Source: transformers 5.23.0 `models/t5gemma2/modeling_t5gemma2.py`; names as published.
"""

from __future__ import annotations

from collections.abc import Iterable

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import read_dtype
from hfmem.model.config import Config
from hfmem.model.families.gemma import gemma3_text
from hfmem.model.families.gemma_mm import gemma3_tower
from hfmem.model.families.heads import class_names
from hfmem.model.families.multimodal import tower_layers
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory, TensorSpec, Vocab
from hfmem.model.layers import CrossAttention, FullAttention, Layer, NoCache, SlidingAttention
from hfmem.records import replace

#: Gemma 3's norms under T5Gemma's names
_NORMS = {"post_attention_layernorm": "post_self_attn_layernorm", "input_layernorm": "pre_self_attn_layernorm"}
_SHARED = "model.encoder.embed_tokens.weight"


def _stack(arch: Architecture, place: str) -> Iterable[TensorSpec]:
    """One stack's layers and last norm; the embedding is shared by both and the head."""
    for spec in arch.tensors:
        if spec.component in (Component.EMBEDDING, Component.LM_HEAD):
            continue
        pattern = spec.pattern.replace("model.", place, 1)
        for own, theirs in _NORMS.items():
            pattern = pattern.replace(own, theirs)
        yield replace(spec, pattern=pattern)


def t5gemma2(cfg: Config) -> Architecture:
    """A decoder layer keeps its own keys and values (windowed or not) and, once, those of the encoder's output."""
    encoder, text = cfg.sub("encoder"), cfg.sub("decoder")
    read = gemma3_text(encoder.sub("text_config"))
    inner = gemma3_text(text)
    tied = cfg.flag("tie_word_embeddings", default=True)
    inv = Inventory()
    part, hidden, vocab = Part(inv), inner.hidden_size, inner.vocab_size
    part.tensor(_SHARED, (vocab, hidden), Component.EMBEDDING, Vocab())
    part.tensor("model.encoder.embed_tokens.eoi_embedding", (hidden,), Component.EMBEDDING)
    head = ("lm_head.out_proj.weight", (vocab, hidden), Component.LM_HEAD, Vocab())
    part.tensor(*head, tied_to=_SHARED if tied else None, optional=tied)
    inv.specs += [*_stack(read, "model.encoder."), *_stack(inner, "model.decoder.")]
    seen = gemma3_tower(inv, "model.encoder.", encoder.sub("vision_config"), hidden)
    layers: list[Layer] = []
    for layer in inner.layers:
        own = layer.caches[0]
        assert isinstance(own, FullAttention | SlidingAttention)
        layers.append(Layer((own, CrossAttention(own.num_heads, own.num_kv_heads, own.head_dim, None))))
    layers += [Layer((NoCache("encoder"),), stack="encoder")] * read.num_hidden_layers
    return replace(
        inner,
        family="t5gemma2",
        model_type=cfg.model_type,
        architectures=class_names(cfg),
        dtype=read_dtype(cfg, text),
        layers=(*layers, *tower_layers(seen)),
        tensors=tuple(inv.specs),
        tie_word_embeddings=tied,
        class_defaults=tuple(cfg.used_defaults),
    )
