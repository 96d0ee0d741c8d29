"""Inkling 2's text model: gated attention with sinks, short convolutions, residuals picked by attention, experts in every layer.

Source: transformers 5.23.0 `models/inkling2/` and `conversion_mapping.py`; names as published (`model.llm`).
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, full, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.families.inkling import hybrid_kinds
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Row, Vocab
from hfmem.model.layers import FullAttention, Layer, ShortConvState, SlidingAttention

ROOT = "model.llm."
_FULL, _SLIDING = "hybrid", "hybrid_sliding"


def inkling2_text(cfg: Config) -> Architecture:
    """Windowed layers (`hybrid_sliding`) have heads of their own (`swa_*`) and plain convolutions of k and v; full layers mix the
    taps of each token from their input, and read q, k and v from residuals of their own."""
    wide, vocab = read_dims(cfg), cfg.positive("vocab_size")
    hidden, count = wide.hidden, wide.num_layers
    heads, kv_heads = cfg.positive("swa_num_attention_heads"), cfg.positive("swa_num_key_value_heads")
    narrow = Dims(hidden, count, heads, kv_heads, cfg.positive("swa_head_dim"))
    kinds = hybrid_kinds(cfg, count)
    window, kernel = cfg.positive("sliding_window_size", "sliding_window"), cfg.positive("conv_kernel_size")
    inv = Inventory()
    model = Part(inv, ROOT)
    model.tensor("embed.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    model.norm("embed_norm", hidden, bias=False)
    for kind, d, extent in ((_FULL, wide, cfg.positive("rel_extent")), (_SLIDING, narrow, window)):
        where = [i for i, k in enumerate(kinds) if k == kind]
        block = model.at("layers.{}.", where)
        _attention(block.at("attn.", component=Component.ATTENTION), cfg, d, extent)
        _convolutions(block.at("attn.", component=Component.ATTENTION), d, kernel, dynamic=kind == _FULL)
        norms = ("q_input_norm", "k_input_norm", "v_input_norm") if kind == _FULL else ("attn_norm",)
        block.norms((*norms, "mlp_norm"), hidden, bias=False)
        # attn_queries.i serves layer i + 1: the first layer has nothing to pick from
        picked = model.at("attn_res.attn_queries.{}", [i - 1 for i in where if i], Component.OTHER)
        picked.tensor("", (3, hidden) if kind == _FULL else (hidden,))
    every = model.at("layers.{}.", range(count))
    for name in ("attn_sconv", "mlp_sconv"):
        every.tensor(f"{name}.weight", (hidden, 1, kernel), Component.ATTENTION)
    model.at("attn_res.mlp_queries.{}", range(count), Component.OTHER).tensor("", (hidden,))
    model.tensor("attn_res.output_query", (hidden,), Component.OTHER)
    width, experts, top_k = _experts(every.at("mlp.", component=Component.EXPERTS), cfg, hidden)
    model.norm("norm", hidden, bias=False)
    model.tensor("unembed.weight", (vocab, hidden), Component.LM_HEAD, Vocab())
    by_kind = {_FULL: _layer(full(wide), wide, kernel), _SLIDING: _layer(sliding(narrow, window), narrow, kernel)}
    layers = [by_kind[kind] for kind in kinds]
    return assemble(
        cfg, cfg, "inkling2", wide, layers, inv, vocab=vocab, tied=False, intermediate=width, num_experts=experts, top_k=top_k
    )  # fmt: skip


def _layer(attention: FullAttention | SlidingAttention, d: Dims, kernel: int) -> Layer:
    kv, hidden = ShortConvState(d.num_kv_heads * d.head_dim, kernel), ShortConvState(d.hidden, kernel)
    return Layer((attention, kv, kv, hidden, hidden))


def _attention(at: Part, cfg: Config, d: Dims, extent: int) -> None:
    rows, rel, kv = d.num_heads * d.head_dim, cfg.positive("d_rel"), Column(kv_heads=(d.num_kv_heads,))
    for name in ("wq_du", "gate_attn"):
        at.linear(name, rows, d.hidden, split=COLUMN, bias=False)
    for name in ("wk_dv", "wv_dv"):
        at.linear(name, d.num_kv_heads * d.head_dim, d.hidden, split=kv, bias=False)
    at.linear("wr_du", d.num_heads * rel, d.hidden, split=COLUMN, bias=False)
    at.linear("attn_sink_proj", d.num_heads, d.hidden, split=COLUMN, bias=False)
    at.linear("wo_ud", d.hidden, rows, split=ROW, bias=False)
    at.tensor("rel_logits_proj.proj", (rel, extent))
    at.tensor("q_l2_clip.scale", (d.num_heads, d.head_dim), split=COLUMN)
    at.tensor("rel_l2_clip.scale", (d.num_heads, rel), split=COLUMN)


def _convolutions(at: Part, d: Dims, kernel: int, *, dynamic: bool) -> None:
    channels = d.num_kv_heads * d.head_dim
    for name in ("k_sconv", "v_sconv"):
        if dynamic:
            at.tensor(f"{name}.static_w", (kernel, channels))
            at.tensor(f"{name}.weight_proj", (d.num_kv_heads * kernel, d.hidden), split=COLUMN)
        else:
            at.tensor(f"{name}.weight", (channels, 1, kernel), split=COLUMN)


def _experts(at: Part, cfg: Config, hidden: int) -> tuple[int, int, int]:
    count, top_k = cfg.positive("n_routed_experts"), cfg.positive("num_experts_per_tok")
    width = cfg.positive("moe_intermediate_size")
    if top_k > count:
        raise ContradictionError(f"{cfg.file}: {top_k} experts per token cannot be picked from {count}")
    at.tensor("gate.weight", (count, hidden))
    at.tensor("gate.bias", (count,), buffer=True, optional=True)
    share, both = Fraction(top_k, count), Column((width, width), (None, None))
    at.tensor("experts.w13_weight", (count, 2 * width, hidden), split=ExpertSplit(None, both), active=share)
    at.tensor("experts.w2_weight", (count, hidden, width), split=ExpertSplit(None, Row()), active=share)
    return width, count, top_k
