"""BLIP-2 and InstructBLIP (video too): EVA, a Q-Former whose queries become the prompt of OPT, Vicuna or Flan-T5.

Source: transformers 5.23.0 `models/{blip_2,instructblip,instructblipvideo}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families.multimodal import WHOLE, keep_whole, text_part, tower, tower_layers, wrap
from hfmem.model.families.qformer import blip_tower, qformer
from hfmem.model.inventory import Inventory


def blip2(cfg: Config) -> Architecture:
    """InstructBLIP's Q-Former reads the instruction as well: it has words and positions of its own."""
    instructed = cfg.model_type != "blip-2"
    text, inner = text_part(cfg)
    inv = Inventory()
    seen, queries = cfg.sub("vision_config"), cfg.sub("qformer_config")
    width, hidden = seen.positive("hidden_size"), queries.positive("hidden_size")
    count = blip_tower(tower(inv, "vision_model."), seen)
    tower(inv).tensor("query_tokens", (1, cfg.positive("num_query_tokens"), hidden))
    part = tower(inv, "qformer.")
    if instructed:
        part.tensor("embeddings.word_embeddings.weight", (queries.positive("vocab_size"), hidden))
        part.tensor("embeddings.position_embeddings.weight", (queries.positive("max_position_embeddings"), hidden))
        part.tensor(
            "embeddings.position_ids", (1, queries.positive("max_position_embeddings")), buffer=True, optional=True
        )
        part.norm("embeddings.layernorm", hidden)
    else:
        part.norm("layernorm", hidden)
    words = instructed or queries.flag("use_qformer_text_input", default=False)
    count += qformer(part, queries, width, text=words)
    tower(inv).linear("language_projection", inner.hidden_size, hidden)
    keep_whole(inv, "qformer.")
    return wrap(cfg, text, inner, "blip2", WHOLE, inv, tower_layers(count))
