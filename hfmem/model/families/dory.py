"""Dory: blocks of attention alone or feed-forward alone, scaled by learned vectors instead of norms, some of them run in a loop.

Source: vLLM 0.33.0 `model_executor/models/dory.py` and `transformers_utils/configs/dory.py`.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, full, lm_head, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import Cache, Layer, NoCache
from hfmem.model.stack import indices_of, layer_kinds

_KINDS = ("full_attention", "sliding_attention", "mlp")


def dory(cfg: Config) -> Architecture:
    """`layer_types` names each block. Blocks of the loop keep keys of every round (`per_loop`) or of the last one."""
    d = read_dims(cfg)
    inner, vocab = cfg.positive("intermediate_size"), cfg.positive("vocab_size")
    types = cfg.opt_list("layer_types")
    if types is None:
        pattern = ("sliding_attention", "mlp") * 3 + ("full_attention", "mlp")
        types = [pattern[i % 8] for i in range(d.num_layers)]
    kinds = layer_kinds(cfg, "layer_types", types, _KINDS, d.num_layers)
    inv = Inventory()
    root = Part(inv, "backbone.")
    root.tensor("embeddings.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    rows, kv = d.num_heads * d.head_dim, Column(kv_heads=(d.num_kv_heads,))
    block = root.at("layers.{}.", indices_of(kinds, *_KINDS[:2]), Component.ATTENTION)
    at = block.at("mixer.")
    at.linear("q_proj", rows, d.hidden, split=COLUMN, bias=False)
    for name in ("k_proj", "v_proj"):
        at.linear(name, d.num_kv_heads * d.head_dim, d.hidden, split=kv, bias=False)
    at.linear("g_proj", rows, d.hidden, split=COLUMN, bias=False)
    at.linear("o_proj", d.hidden, rows, split=ROW, bias=False)
    for name in ("sqk", "s_gate"):
        at.tensor(name, (rows,))
    block.tensor("attn_alpha", (d.hidden,))
    block = root.at("layers.{}.", indices_of(kinds, "mlp"), Component.MLP)
    at = block.at("mixer.")
    at.linear("gate_proj", inner, d.hidden, split=COLUMN, bias=False)
    at.linear("up_proj", inner, d.hidden, split=COLUMN, bias=False)
    at.linear("down_proj", d.hidden, inner, split=ROW, bias=False)
    for name in ("suv_gate", "suv_up"):
        at.tensor(name, (inner,))
    block.tensor("mlp_alpha", (d.hidden,))
    lm_head(inv, "lm_head.weight", vocab, d.hidden, None)
    inv.add("lm_head.logit_scale", (vocab,), Component.LM_HEAD)
    layers = [Layer(_caches(cfg, kind, i, d.num_layers)) for i, kind in enumerate(kinds)]
    return assemble(cfg, cfg, "dory", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def _caches(cfg: Config, kind: str, layer: int, count: int) -> tuple[Cache, ...]:
    if kind == "mlp":
        return (NoCache("mlp"),)
    d = read_dims(cfg)
    own = full(d) if kind == "full_attention" else sliding(d, cfg.positive("sliding_window"))
    return (own,) * _rounds(cfg, layer, count)


def _rounds(cfg: Config, layer: int, count: int) -> int:
    """How many caches a block has: one for each round of the loop that it is part of."""
    before, after = cfg.opt_int("n_input_layers") or 0, cfg.opt_int("n_output_layers") or 0
    given = cfg.opt_int("n_recurrent_layers")
    inside = count - before - after if given is None else given
    if before + inside + after != count:
        raise ContradictionError(f"{cfg.file}: {before} + {inside} + {after} layers are not {count}")
    mode = cfg.choice(
        "recurrent_kv_cache_mode", cfg.opt_str("recurrent_kv_cache_mode") or "per_loop", ("per_loop", "last_loop")
    )
    looped = before <= layer < before + inside and mode == "per_loop"
    return (cfg.opt_int("n_recurrent_loops") or 1) if looped else 1
