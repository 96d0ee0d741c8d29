"""Dory: blocks of attention alone or feed-forward alone, scaled by learned vectors instead of norms, some of them run in a loop.

Sources: vLLM 0.33.0 `model_executor/models/dory.py` and `transformers_utils/configs/dory.py`; transformers 5.24.0 `models/dory`,
whose layers are pairs of such blocks (its config writes blocks, and counts layers where `layer_types` is missing or names no
"mlp"). Names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, full, lm_head, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import Cache, Layer, NoCache
from hfmem.model.stack import indices_of, layer_kinds
from hfmem.records import replace

_KINDS = ("full_attention", "sliding_attention", "mlp")
_MODES = ("per_loop", "last_loop")


def dory(cfg: Config) -> Architecture:
    """`layer_types` names each block. Blocks of the loop keep keys of every round (`per_loop`) or of the last one."""
    d = read_dims(cfg)
    inner, vocab = cfg.positive("intermediate_size"), cfg.positive("vocab_size")
    kinds, per_layer = _blocks(cfg, d.num_layers)
    d = replace(d, num_layers=len(kinds))
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    inv = Inventory()
    root = Part(inv, "backbone.")
    root.tensor("embeddings.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    rows, kv = d.num_heads * d.head_dim, Column(kv_heads=(d.num_kv_heads,))
    block = root.at("layers.{}.", indices_of(kinds, *_KINDS[:2]), Component.ATTENTION)
    at = block.at("mixer.")
    at.linear("q_proj", rows, d.hidden, split=COLUMN, bias=bias)
    for name in ("k_proj", "v_proj"):
        at.linear(name, d.num_kv_heads * d.head_dim, d.hidden, split=kv, bias=bias)
    at.linear("g_proj", rows, d.hidden, split=COLUMN, bias=False)
    at.linear("o_proj", d.hidden, rows, split=ROW, bias=bias)
    for name in ("sqk", "s_gate"):
        at.tensor(name, (rows,))
    block.tensor("attn_alpha", (d.hidden,))
    block = root.at("layers.{}.", indices_of(kinds, "mlp"), Component.MLP)
    at = block.at("mixer.")
    at.linear("gate_proj", inner, d.hidden, split=COLUMN, bias=mlp_bias)
    at.linear("up_proj", inner, d.hidden, split=COLUMN, bias=mlp_bias)
    at.linear("down_proj", d.hidden, inner, split=ROW, bias=mlp_bias)
    for name in ("suv_gate", "suv_up"):
        at.tensor(name, (inner,))
    block.tensor("mlp_alpha", (d.hidden,))
    tied = cfg.flag("tie_word_embeddings", default=False)
    lm_head(inv, "lm_head.weight", vocab, d.hidden, "backbone.embeddings.weight" if tied else None)
    inv.add("lm_head.logit_scale", (vocab,), Component.LM_HEAD)
    rounds = _rounds(cfg, len(kinds), per_layer)
    layers = [Layer(_caches(cfg, d, kind, rounds[i])) for i, kind in enumerate(kinds)]
    return assemble(cfg, cfg, "dory", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)


def _blocks(cfg: Config, count: int) -> tuple[list[str], int]:
    """What each block is, and how many blocks one of the config's layers is."""
    types = cfg.opt_list("layer_types")
    if types is not None and "mlp" in types:
        return layer_kinds(cfg, "layer_types", types, _KINDS, count), 1
    if types is None:
        types = ["sliding_attention" if (i + 1) % 4 else "full_attention" for i in range(count)]
    kinds = layer_kinds(cfg, "layer_types", types, _KINDS[:2], count)
    return [block for kind in kinds for block in (kind, "mlp")], 2


def _caches(cfg: Config, d: Dims, kind: str, rounds: int) -> tuple[Cache, ...]:
    if kind == "mlp":
        return (NoCache("mlp"),)
    own = full(d) if kind == "full_attention" else sliding(d, cfg.positive("sliding_window"))
    return (own,) * rounds


def _rounds(cfg: Config, count: int, per_layer: int) -> list[int]:
    """How many caches each block has: one for each round of the loop that it is part of."""
    before, after = cfg.need_int("n_input_layers") * per_layer, cfg.need_int("n_output_layers") * per_layer
    given = cfg.opt_int("n_recurrent_layers")
    inside = count - before - after if given is None else given * per_layer
    if before + inside + after != count or inside < 0:
        raise ContradictionError(f"{cfg.file}: {before} + {inside} + {after} layers are not {count}")
    mode = cfg.choice("recurrent_kv_cache_mode", cfg.opt_str("recurrent_kv_cache_mode") or "per_loop", _MODES)
    loops = cfg.positive("n_recurrent_loops") if mode == "per_loop" else 1
    return [loops if before <= i < before + inside else 1 for i in range(count)]
