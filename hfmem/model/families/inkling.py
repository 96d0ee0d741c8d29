"""Inkling's text model: short convolutions beside attention, experts.

Source: transformers 5.23.0 `models/{inkling}/` and `conversion_mapping.py`.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, read_dims
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.inventory import Column, Component, ExpertSplit, Replicated, Row
from hfmem.model.layer_lists import exactly, others, sparse_layers
from hfmem.model.layers import Cache, Layer, ShortConvState

_PAIR = ("input_layernorm", "post_attention_layernorm")


def inkling_text(cfg: Config) -> Architecture:
    """Inkling: four short convolutions a layer (after k, v, attention and feed-forward) beside full or windowed attention.

    Windowed layers (`hybrid_sliding`) have heads of their own (`swa_*`). `dense_intermediate_size`, where published, makes
    `intermediate_size` the experts' width.
    """
    wide, n = read_dims(cfg), cfg.positive("num_hidden_layers")
    narrow = Dims(
        wide.hidden,
        n,
        cfg.positive("swa_num_attention_heads"),
        cfg.positive("swa_num_key_value_heads"),
        cfg.positive("swa_head_dim"),
    )
    m = DecoderBuilder(cfg, d=wide, tied=False)
    window, kernel = cfg.positive("sliding_window_size"), cfg.positive("conv_kernel_size")
    kinds = hybrid_kinds(cfg, n)
    blocks.norm(m.inv, "model.embed_tokens.embed_norm", None, wide.hidden)
    for kind, d, extent in (("hybrid", wide, cfg.positive("rel_extent")), ("hybrid_sliding", narrow, window)):
        where = [i for i, k in enumerate(kinds) if k == kind]
        m.attention(layers=where, d=d, qk_norm="head")
        rel = cfg.positive("d_rel")
        m.linear("self_attn.r_proj", d.num_heads * rel, d.hidden, Column(), layers=where)
        m.each("self_attn.rel_logits_proj.proj", (rel, extent), Component.ATTENTION, where)
        for name in ("k_sconv", "v_sconv"):
            _convolution(m, f"self_attn.{name}", d.num_kv_heads * d.head_dim, kernel, where)
    for name in ("attn_sconv", "mlp_sconv"):
        _convolution(m, name, wide.hidden, kernel, list(m.every))
    m.norms(*_PAIR)
    _inkling_feed_forward(m)
    return m.close("inkling", [_inkling_layer(k, wide, narrow, window, kernel) for k in kinds])


def hybrid_kinds(cfg: Config, n: int) -> list[str]:
    """`layer_types`, else `local_layer_ids`, else every sixth layer sees everything."""
    types = cfg.opt_list("layer_types")
    if types is None:
        local = cfg.opt_list("local_layer_ids")
        slides = [i for i in range(n) if (i + 1) % 6] if local is None else local
        types = ["hybrid_sliding" if i in slides else "hybrid" for i in range(n)]
    names = exactly(cfg, "layer_types", types, n)
    return [cfg.choice("layer_types", kind, ("hybrid", "hybrid_sliding")) for kind in names]


def _inkling_layer(kind: str, wide: Dims, narrow: Dims, window: int, kernel: int) -> Layer:
    d = wide if kind == "hybrid" else narrow
    attention: Cache = blocks.full(d) if kind == "hybrid" else blocks.sliding(d, window)
    kv, hidden = ShortConvState(d.num_kv_heads * d.head_dim, kernel), ShortConvState(d.hidden, kernel)
    return Layer((attention, kv, kv, hidden, hidden))


def _convolution(m: DecoderBuilder, tail: str, channels: int, kernel: int, layers: list[int]) -> None:
    m.each(f"{tail}.conv1d.weight", (channels, 1, kernel), Component.ATTENTION, layers, Column())


def _inkling_feed_forward(m: DecoderBuilder) -> None:
    cfg, n, hidden = m.cfg, m.d.num_layers, m.d.hidden
    sparse = sparse_layers(cfg, n, cfg.opt_int("dense_mlp_idx") or 0)
    wide = cfg.opt_int("dense_intermediate_size")
    if wide is None:
        wide, width = cfg.positive("intermediate_size"), cfg.positive("moe_intermediate_size")
    else:
        width = cfg.positive("intermediate_size")
    dense = others(n, sparse)
    m.gated(wide, layers=dense)
    m.each("mlp.global_scale", (1,), Component.MLP, dense)
    num_experts, shared, top_k = (
        cfg.positive("n_routed_experts"),
        cfg.need_int("n_shared_experts"),
        cfg.positive("num_experts_per_tok"),
    )
    if top_k > num_experts:
        raise ContradictionError(f"{cfg.file}: {top_k} experts per token cannot be picked from {num_experts}")
    m.moe = (num_experts, top_k)
    # shared experts have a weight from the router too
    m.linear("mlp.gate", num_experts + shared, hidden, Replicated(), component=Component.EXPERTS, layers=sparse)
    m.each("mlp.gate.global_scale", (1,), Component.EXPERTS, sparse)
    m.each("mlp.gate.e_score_correction_bias", (num_experts,), Component.EXPERTS, sparse, buffer=True)
    share, both = Fraction(top_k, num_experts), Column((width, width), (None, None))
    for name, shape, split in (
        ("gate_up_proj", (num_experts, 2 * width, hidden), ExpertSplit(None, both)),
        ("down_proj", (num_experts, hidden, width), ExpertSplit(None, Row())),
    ):
        m.inv.each(m.at(f"mlp.experts.{name}"), sparse, shape, Component.EXPERTS, split, active=share)
    if shared:
        for name in ("gate_proj", "up_proj"):  # stacked, and each one split over its own rows
            m.each(
                f"mlp.shared_experts.{name}", (shared, width, hidden), Component.MLP, sparse, Column((width,), (None,))
            )
        m.each("mlp.shared_experts.down_proj", (shared, hidden, width), Component.MLP, sparse, Row())
    m.intermediate = wide
