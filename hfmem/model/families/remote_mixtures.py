"""Mixtures of experts with code of their own beside their weights: Grok 1 and 2, SmallThinker, GroveMoE, Klear, XVERSE-MoE.

Sources: SGLang 0.5.23 `models/{grok,xverse_moe}.py`; PowerInfer/SmallThinker-4BA0.6B-Instruct
`modeling_smallthinker.py`; inclusionAI/GroveMoE-Inst `modeling_grove_moe.py`; of Klear mlx-lm's `Klear.py`.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.moe import EXPERTS
from hfmem.model.inventory import Component, Replicated
from hfmem.model.layer_lists import full_layers, others
from hfmem.model.layers import Layer

_PAIR = ("input_layernorm", "post_attention_layernorm")
_MIXTRAL = ("w1", "w3", "w2")
#: GroveMoE's class says both itself: experts that share one small expert, and that one's width
_GROVE_GROUP, _GROVE_WIDTH = 2, 128


def grok(cfg: Config) -> Architecture:
    """Grok 1 and 2: experts under four norms; Grok 2 (`residual_moe`) has a dense feed-forward beside them."""
    m = DecoderBuilder(cfg)
    m.attention()
    width = cfg.opt_int("moe_intermediate_size") or cfg.positive("intermediate_size")
    count = cfg.positive("num_local_experts", "num_experts")
    m.experts("block_sparse_moe", width, count, cfg.positive("num_experts_per_tok"), names=_MIXTRAL)
    if cfg.flag("residual_moe", default=False):
        m.gated(cfg.positive("intermediate_size"))
    m.norms("pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm")
    return m.close("grok", full_layers(m.d), intermediate=width)


def smallthinker(cfg: Config) -> Architecture:
    """SmallThinker: experts of a ReLU gate; `sliding_window_layout` says of each layer whether it slides."""
    m = DecoderBuilder(cfg, untold_tie=True)
    m.attention()
    width, count = cfg.positive("moe_ffn_hidden_size"), cfg.positive("moe_num_primary_experts")
    top_k = cfg.positive("moe_num_active_primary_experts")
    m.experts("block_sparse_moe", width, count, top_k, names=("gate", "up", "down"), router="primary_router")
    m.norms(*_PAIR)
    layout = cfg.numbers("sliding_window_layout")
    if layout is None:
        return m.close("smallthinker", full_layers(m.d), intermediate=width)
    if len(layout) != m.d.num_layers:
        words = f"'sliding_window_layout' has {len(layout)} entries for {m.d.num_layers} layers"
        raise ContradictionError(f"{cfg.file}: {words}")
    window = cfg.positive("sliding_window_size") if 1 in layout else 0
    caches = [Layer((blocks.sliding(m.d, window) if slides == 1 else blocks.full(m.d),)) for slides in layout]
    return m.close("smallthinker", caches, intermediate=width)


def _qwen3_moe(cfg: Config) -> tuple[DecoderBuilder, list[int], int, int]:
    """Qwen3-MoE's block with a bias that steers the choice of experts: the draft, its sparse layers, experts, experts a token.

    Every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name is sparse.
    """
    m = DecoderBuilder(cfg)
    bias = cfg.flag("attention_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head")
    dense, step = cfg.numbers("mlp_only_layers") or [], cfg.opt_int("decoder_sparse_step") or 1
    sparse = [i for i in m.every if i not in dense and (i + 1) % step == 0]
    m.gated(cfg.positive("intermediate_size"), layers=others(m.d.num_layers, sparse))
    width, count, top_k = (
        cfg.positive("moe_intermediate_size"),
        cfg.positive(*EXPERTS),
        cfg.positive("num_experts_per_tok"),
    )
    m.experts("mlp", width, count, top_k, layers=sparse, correction="expert_bias")
    m.norms(*_PAIR)
    return m, sparse, count, top_k


def grove_moe(cfg: Config) -> Architecture:
    """GroveMoE: Qwen3-MoE whose experts share a small expert, two by two."""
    m, sparse, count, top_k = _qwen3_moe(cfg)
    groups = count // _GROVE_GROUP  # a token's experts lie in as many of them at most
    blocks.routed_experts(
        m.inv,
        m.at("mlp"),
        sparse,
        m.d.hidden,
        _GROVE_WIDTH,
        groups,
        min(top_k, groups),
        router=None,
        stem="chunk_experts",
    )
    return m.close("grove_moe", full_layers(m.d), intermediate=cfg.opt_int("intermediate_size"))


def klear(cfg: Config) -> Architecture:
    """Klear: Qwen3-MoE's block, shared experts and two coefficients that weigh them against the others."""
    m, sparse, _, _ = _qwen3_moe(cfg)
    shared = cfg.opt_int("n_shared_experts")
    if shared:
        m.gated(cfg.positive("moe_intermediate_size") * shared, "mlp.shared_experts", layers=sparse)
        part = Component.EXPERTS
        m.linear("mlp.coefficient", 2, m.d.hidden, Replicated(), bias=True, component=part, layers=sparse)
    return m.close("klear", full_layers(m.d), intermediate=cfg.opt_int("intermediate_size"))


def xverse_moe(cfg: Config) -> Architecture:
    """XVERSE-MoE: Llama's block with experts of `intermediate_size` and shared ones beside them."""
    m = DecoderBuilder(cfg)
    m.attention()
    width, count = cfg.positive("intermediate_size"), cfg.opt_int("num_experts")
    if count:
        m.experts("mlp", width, count, cfg.positive("moe_top_k"), router="router")
        shared = cfg.opt_int("num_shared_experts")
        if shared:
            m.gated(width * shared, "mlp.shared_experts")
    else:
        m.gated(width)
    m.norms(*_PAIR)
    return m.close("xverse_moe", full_layers(m.d), intermediate=width)
