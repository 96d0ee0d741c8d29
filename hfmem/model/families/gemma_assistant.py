"""Gemma 4's assistants: small drafts that attend over their target's caches, between two projections of its hidden state.

Source: transformers 5.23.0 `models/{gemma4_assistant,gemma4_unified_assistant}/`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families.gemma4 import gemma4_text
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory
from hfmem.records import replace


def gemma4_assistant(cfg: Config) -> Architecture:
    """The text model without k and v; with `use_ordered_embeddings` a first choice among `num_centroids` groups of words."""
    text = cfg.sub("text_config")
    tied = cfg.published("tie_word_embeddings")
    data = text.data if tied is None else {**text.data, "tie_word_embeddings": tied}
    inner = gemma4_text(Config(data, text.file, text.model_type, cfg.used_defaults), borrowed=True)
    given, hidden = cfg.positive("backbone_hidden_size"), inner.hidden_size
    inv = Inventory(inner.tensors)
    top = Part(inv, component=Component.OTHER)
    top.linear("pre_projection", hidden, 2 * given, bias=False)
    top.linear("post_projection", given, hidden, bias=False)
    if cfg.flag("use_ordered_embeddings", default=False):
        top.linear("masked_embedding.centroids", cfg.positive("num_centroids"), hidden, bias=False)
        top.tensor("masked_embedding.token_ordering", (inner.vocab_size,), buffer=True)
    published = cfg.published("architectures")
    names = tuple(a for a in published if isinstance(a, str)) if isinstance(published, list) else ()
    return replace(
        inner, family="gemma4_assistant", model_type=cfg.model_type, architectures=names, tensors=tuple(inv.specs)
    )
