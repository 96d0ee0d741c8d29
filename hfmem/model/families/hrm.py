"""HRM-Text: two small stacks of blocks that run again and again, each pass with keys and values of its own.

Source: transformers 5.23.0 `models/hrm_text/` and `conversion_mapping.py` (names as published: `attn.gqkv_proj`).
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, lm_head, num_layers
from hfmem.model.config import Config
from hfmem.model.families.parts import ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import FullAttention, Layer


def hrm_text(cfg: Config) -> Architecture:
    """`num_layers_per_stack` blocks in the slow and in the fast stack; `H_cycles` rounds of `L_cycles` fast passes and a slow one.

    A config without `num_layers_per_stack` gives the blocks of a stack as `num_hidden_layers`; one saved by transformers gives the
    passes there: blocks · H_cycles · (L_cycles + 1). Norms have no weights.
    """
    hidden, heads, width = cfg.positive("hidden_size"), cfg.positive("num_attention_heads"), cfg.positive("head_dim")
    per_stack = cfg.opt_int("num_layers_per_stack") or num_layers(cfg)
    passes = per_stack * cfg.positive("H_cycles") * (cfg.positive("L_cycles") + 1)
    inner, vocab = cfg.positive("intermediate_size"), cfg.positive("vocab_size")
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    tied = cfg.flag("tie_word_embeddings", default=False)
    inv = Inventory()
    model = Part(inv, "model.")
    model.tensor("embed_tokens.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    model.tensor("z_L_init", (hidden,), Component.OTHER)
    own = heads * width
    for stack in ("L_module", "H_module"):
        block = model.at(f"{stack}.layers.{{}}.", range(per_stack))
        fused, gated = Column((own,) * 4, (None,) * 4), Column((inner, inner), (None, None))
        block.linear("attn.gqkv_proj", 4 * own, hidden, Component.ATTENTION, fused, bias=bias)
        block.linear("attn.o_proj", hidden, own, Component.ATTENTION, ROW, bias=bias)
        block.linear("mlp.gate_up_proj", 2 * inner, hidden, Component.MLP, gated, bias=mlp_bias)
        block.linear("mlp.down_proj", hidden, inner, Component.MLP, ROW, bias=mlp_bias)
    lm_head(inv, "lm_head.weight", vocab, hidden, "model.embed_tokens.weight" if tied else None)
    d = Dims(hidden, passes, heads, heads, width)
    layers = [Layer((FullAttention(heads, heads, width, width),))] * passes
    return assemble(cfg, cfg, "hrm_text", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)
