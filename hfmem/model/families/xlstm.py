"""xLSTM: blocks of matrix memory (mLSTM) and gated feed-forward, a constant state instead of a cache.

Source: transformers 5.23.0 `models/xlstm/` (the code that runs without the xlstm package); names as published for NX-AI/xLSTM-7b.
"""

from __future__ import annotations

from math import ceil

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, lm_head
from hfmem.model.config import Config
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import Layer, MatrixMemoryState


def xlstm(cfg: Config) -> Architecture:
    """Queries and keys are half as wide as values; `weight_mode` says whether projections are single or fused."""
    hidden, heads = cfg.positive("hidden_size", "embedding_dim"), cfg.positive("num_heads")
    count, vocab = cfg.positive("num_hidden_layers", "num_blocks"), cfg.positive("vocab_size")
    qk, v = int(hidden * _factor(cfg, "qk_dim_factor", 0.5)), int(hidden * _factor(cfg, "v_dim_factor", 1.0))
    if qk % heads or v % heads:
        raise ContradictionError(f"{cfg.file}: {heads} heads do not share keys of {qk} and values of {v}")
    step = cfg.positive("ffn_round_up_to_multiple_of")
    inner = ceil(hidden * _factor(cfg, "ffn_proj_factor", 2.667) / step) * step
    bias = cfg.flag("use_bias", default=False)
    inv = Inventory()
    model = Part(inv, "backbone.")
    model.tensor("embeddings.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    block = model.at("blocks.{}.", range(count))
    at, ffn = block.at("mlstm_layer.", component=Component.ATTENTION), block.at("ffn.", component=Component.MLP)
    mode = cfg.choice("weight_mode", cfg.opt_str("weight_mode") or "single", ("single", "fused"))
    if mode == "single":
        for name, rows in (("q", qk), ("k", qk), ("v", v), ("ogate_preact", v)):
            at.linear(name, rows, hidden, split=COLUMN, bias=bias)
        for name in ("igate_preact", "fgate_preact"):
            at.linear(name, heads, hidden, split=COLUMN)
        ffn.linear("proj_up_gate", inner, hidden, split=COLUMN, bias=bias)
        ffn.linear("proj_up", inner, hidden, split=COLUMN, bias=bias)
    else:
        at.linear("qkv_opreact", 2 * qk + 2 * v, hidden, split=Column((qk, qk, v, v), (None,) * 4), bias=bias)
        at.linear("ifgate_preact", 2 * heads, hidden, split=Column((heads, heads), (None, None)))
        ffn.linear("proj_up_gate_z", 2 * inner, hidden, split=Column((inner, inner), (None, None)), bias=bias)
    block.norm("mlstm_layer.multihead_norm", v, bias=bias)
    at.linear("out_proj", hidden, v, split=ROW, bias=bias)
    ffn.linear("proj_down", hidden, inner, split=ROW, bias=bias)
    block.norms(("norm_mlstm", "norm_ffn"), hidden, bias=bias)
    model.norm("out_norm", hidden, bias=False)
    lm_head(inv, "lm_head.weight", vocab, hidden, None)  # the class ties nothing, whatever the config says
    layers = [Layer((MatrixMemoryState(heads, qk // heads, v // heads),))] * count
    d = Dims(hidden, count, heads, heads, v // heads)
    return assemble(cfg, cfg, "xlstm", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def _factor(cfg: Config, name: str, default: float) -> float:
    """A width as a share of the hidden size; defaults of `xLSTMConfig`."""
    value = cfg.opt_float(name)
    factor = default if value is None else value
    if factor <= 0:
        raise ContradictionError(f"{cfg.file}: {name!r} is {factor}, expected a positive number")
    return factor
