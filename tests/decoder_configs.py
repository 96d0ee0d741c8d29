"""Configs of text decoders, and what their tests ask of an architecture."""

from __future__ import annotations

from typing import Any

from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, NoCache, SlidingAttention


def read(model_type: str, **keys: Any) -> Architecture:
    return read_architecture({"model_type": model_type, **keys})


def llama_keys(hidden: int, layers: int, heads: int, kv: int, ffn: int, vocab: int, **more: Any) -> dict[str, Any]:
    """The six sizes under the names most configs use."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        **more,
    }


def gpt_keys(embd: int, layers: int, heads: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {"n_embd": embd, "n_layer": layers, "n_head": heads, "vocab_size": vocab, **more}


def kinds(arch: Architecture) -> str:
    """One letter a layer: f full, s sliding, - nothing."""
    letters = {FullAttention: "f", SlidingAttention: "s", NoCache: "-"}
    return "".join(letters[type(cache)] for cache in arch.caches())


def windows(arch: Architecture) -> set[int]:
    return {cache.window for cache in arch.caches() if isinstance(cache, SlidingAttention)}


SMALL = llama_keys(64, 6, 4, 2, 128, 100, head_dim=16)


def kv_heads(arch: Architecture) -> set[int]:
    return {c.num_kv_heads for c in arch.caches() if isinstance(c, FullAttention | SlidingAttention)}
