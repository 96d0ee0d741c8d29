"""T5Gemma: Gemma 2 as an encoder and as a decoder, which may differ in size; a decoder layer has cross attention of its own.

Source: transformers 5.23.0 `models/t5gemma/modeling_t5gemma.py`; names as published.
"""

from __future__ import annotations

from collections.abc import Iterable

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import attention, norm, read_dims, read_dtype
from hfmem.model.config import Config
from hfmem.model.families.gemma import gemma2
from hfmem.model.families.heads import class_names, num_labels, task
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory, TensorSpec, Vocab
from hfmem.model.layers import CrossAttention, FullAttention, Layer, NoCache, SlidingAttention
from hfmem.records import replace

_CLASSES = {
    "ForConditionalGeneration": "generation",
    "EncoderModel": "encoder",
    "Model": "model",
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "classification",
}
#: Gemma 2's norms under T5Gemma's names
_NORMS = {"post_attention_layernorm": "post_self_attn_layernorm", "input_layernorm": "pre_self_attn_layernorm"}


def _stack(arch: Architecture, place: str) -> Iterable[TensorSpec]:
    for spec in arch.tensors:
        if spec.component is Component.LM_HEAD:
            continue
        pattern = spec.pattern.replace("model.", place, 1)
        for own, theirs in _NORMS.items():
            pattern = pattern.replace(own, theirs)
        yield replace(spec, pattern=pattern)


def t5gemma(cfg: Config) -> Architecture:
    """Encoder layers keep nothing; a decoder layer its own keys and values (windowed or not) and those of the encoder's output."""
    what = task(cfg, "generation", _CLASSES)
    encoder, text = cfg.sub("encoder"), cfg.sub("decoder")
    read, inner = gemma2(encoder), gemma2(text)
    inv = Inventory([*_stack(read, "model.encoder.")])
    seen = [Layer((NoCache("encoder"),), stack="encoder")] * read.num_hidden_layers
    layers: list[Layer] = []
    alone = what == "encoder" or not cfg.flag("is_encoder_decoder", default=True)
    if not alone:
        inv.specs += _stack(inner, "model.decoder.")
        _cross(inv, text, read.hidden_size)
        for layer in inner.layers:
            own = layer.caches[0]
            assert isinstance(own, FullAttention | SlidingAttention)
            layers.append(Layer((own, CrossAttention(own.num_heads, own.num_kv_heads, own.head_dim, None))))
    last = read if alone else inner
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what == "generation":
        if cfg.opt_int("vocab_size") not in (None, inner.vocab_size):
            raise ContradictionError(f"{cfg.file}: the decoder's vocabulary of {inner.vocab_size} is not 'vocab_size'")
        head = ("lm_head.out_proj.weight", (inner.vocab_size, inner.hidden_size), Component.LM_HEAD, Vocab())
        Part(inv).tensor(*head, tied_to="model.decoder.embed_tokens.weight" if tied else None, optional=tied)
    elif what == "classification":
        Part(inv, component=Component.OTHER).linear("score.out_proj", num_labels(cfg), last.hidden_size)
    return replace(
        last,
        family="t5gemma",
        model_type=cfg.model_type,
        architectures=class_names(cfg),
        dtype=read_dtype(cfg, text, encoder),
        layers=(*layers, *seen),
        tensors=tuple(inv.specs),
        tie_word_embeddings=tied,
        class_defaults=tuple(cfg.used_defaults),
    )


def _cross(inv: Inventory, text: Config, seen: int) -> None:
    """Cross attention: keys and values are made of the encoder's width."""
    d, part = read_dims(text), Inventory()
    every, bias = range(d.num_layers), text.flag("attention_bias", default=False)
    attention(part, "model.decoder.layers.{}.cross_attn", every, d, qkv_bias=bias, o_bias=bias)
    for spec in part.specs:
        from_encoder = spec.pattern.endswith(("k_proj.weight", "v_proj.weight"))
        inv.specs.append(replace(spec, shape=(spec.shape[0], seen)) if from_encoder else spec)
    for name in ("pre_cross_attn_layernorm", "post_cross_attn_layernorm"):
        norm(inv, f"model.decoder.layers.{{}}.{name}", every, d.hidden)
