"""CPM-Ant: gated feed-forwards, one table of relative position biases, tokens and prompts in one embedding.

Source: transformers 5.23.0 `models/cpmant/`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import Dims, assemble, full, num_layers
from hfmem.model.config import Config
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.model.layers import Layer


def cpmant(cfg: Config) -> Architecture:
    """Position biases between the segments of prompt and text beside those between tokens: `segment_types`² + buckets rows."""
    hidden, heads, width = cfg.positive("hidden_size"), cfg.positive("num_attention_heads"), cfg.positive("dim_head")
    inner, vocab, count = cfg.positive("dim_ff"), cfg.positive("vocab_size"), num_layers(cfg)
    segments, buckets = cfg.positive("segment_types"), cfg.positive("position_bias_num_buckets")
    prompts = cfg.positive("prompt_types") * cfg.positive("prompt_length")
    inv = Inventory()
    model = Part(inv, "cpmant.")
    model.tensor("input_embedding.weight", (vocab + prompts, hidden), Component.EMBEDDING, Vocab())
    model.tensor("segment_embedding.weight", (segments, hidden), Component.EMBEDDING)
    model.tensor("position_bias.relative_attention_bias", (segments * segments + buckets, heads), Component.ATTENTION)
    block = model.at("encoder.layers.{}.", range(count))
    at = block.at("self_att.self_attention.", component=Component.ATTENTION)
    for name in ("project_q", "project_k", "project_v"):
        at.linear(name, heads * width, hidden, split=COLUMN, bias=False)
    at.linear("attention_out", hidden, heads * width, split=ROW, bias=False)
    mlp = block.at("ffn.ffn.", component=Component.MLP)
    mlp.linear("w_in.w_0", inner, hidden, split=COLUMN, bias=False)
    mlp.linear("w_in.w_1", inner, hidden, split=COLUMN, bias=False)
    mlp.linear("w_out", hidden, inner, split=ROW, bias=False)
    block.norms(("self_att.layernorm_before_attention", "ffn.layernorm_before_ffn"), hidden, bias=False)
    model.norm("encoder.output_layernorm", hidden, bias=False)
    Part(inv).tensor("lm_head.weight", (vocab, hidden), Component.LM_HEAD, Vocab())
    d = Dims(hidden, count, heads, heads, width)
    layers = [Layer((full(d),))] * count
    note = Note(
        "prompt_tokens",
        f"{cfg.positive('prompt_length')} prompt vectors before the text are cached too and not counted",
    )
    return assemble(cfg, cfg, "cpmant", d, layers, inv, vocab=vocab, tied=False, intermediate=inner, notes=[note])
