"""Hybrids of attention and state-space layers: Jamba, Bamba, Granite 4, Falcon-H1, LFM2.

Source: transformers 5.23.0 `models/{jamba,bamba,granitemoehybrid,falcon_h1,lfm2,lfm2_moe}`; published tensor names.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, attention, full, gated_mlp, linear, norm, read_dims, routed_experts
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated, Row
from hfmem.model.layers import Layer, ShortConvState
from hfmem.model.moe import Experts, moe
from hfmem.model.stack import Stack, indices_of, layer_kinds, open_stack
from hfmem.model.state_blocks import Mamba1, auto_rank, mamba1, mamba2, read_bamba_mixer, state_dtype
from hfmem.records import replace

LAYER = "model.layers.{}"
#: words of `layer_types` and their older spellings
MAMBA, ATTENTION = ("linear_attention", "mamba"), ("full_attention", "attention")


def jamba(cfg: Config) -> Architecture:
    """Jamba: attention every `attn_layer_period` layers, experts every `expert_layer_period`; Mamba 1 elsewhere."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d, final_norm="model.final_layernorm")
    inv, every = stack.inv, range(d.num_layers)
    period, offset = cfg.positive("attn_layer_period"), cfg.need_int("attn_layer_offset")
    attending = {i for i in every if i % period == offset}
    mixer = Mamba1(
        d.hidden,
        int(cfg.positive_float("mamba_expand") * d.hidden),
        cfg.positive("mamba_d_state"),
        cfg.positive("mamba_d_conv"),
        auto_rank(cfg, d.hidden, "mamba_dt_rank"),
        cfg.flag("mamba_conv_bias", default=True),
        cfg.flag("mamba_proj_bias", default=False),
        state_dtype(cfg),
        norms=True,
    )
    mamba1(inv, f"{LAYER}.mamba", [i for i in every if i not in attending], mixer)
    attention(inv, f"{LAYER}.self_attn", sorted(attending), d)
    stack.intermediate = cfg.positive("intermediate_size")
    experts = cfg.positive("num_experts")
    e_period, e_offset = cfg.positive("expert_layer_period"), cfg.need_int("expert_layer_offset")
    sparse = [i for i in every if experts > 1 and i % e_period == e_offset]
    gated_mlp(inv, f"{LAYER}.feed_forward", [i for i in every if i not in set(sparse)], d.hidden, stack.intermediate)
    if sparse:
        stack.num_experts, stack.top_k = experts, cfg.positive("num_experts_per_tok")
        routed_experts(
            inv, f"{LAYER}.feed_forward", sparse, d.hidden, stack.intermediate, experts, stack.top_k, router="router"
        )
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.pre_ff_layernorm", every, d.hidden)
    stack.layers = [Layer((full(d) if i in attending else mixer.cache(),)) for i in every]
    return stack.finish(cfg, "jamba")


def _attention_indices(cfg: Config, num_layers: int) -> list[int]:
    """Bamba's attention layers: `attn_layer_indices`, or words in `layers_block_type`; none by default."""
    words = cfg.published("layers_block_type", "layer_types")
    if isinstance(words, list):
        return indices_of(layer_kinds(cfg, "layers_block_type", words, (*MAMBA, *ATTENTION), num_layers), *ATTENTION)
    given = cfg.opt_list("attn_layer_indices") or []
    if any(not isinstance(i, int) or not 0 <= i < num_layers for i in given):
        raise ContradictionError(f"{cfg.file}: 'attn_layer_indices' names a layer beyond {num_layers}")
    return sorted(given)


def bamba(cfg: Config) -> Architecture:
    """Bamba: Mamba 2 with attention in a few layers, a dense feed-forward in all."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d, final_norm="model.final_layernorm")
    inv, every = stack.inv, range(d.num_layers)
    attending = _attention_indices(cfg, d.num_layers)
    mixer = read_bamba_mixer(cfg, d.hidden)
    mamba2(inv, f"{LAYER}.mamba", [i for i in every if i not in set(attending)], mixer)
    bias = cfg.flag("attention_bias", default=False)
    attention(inv, f"{LAYER}.self_attn", attending, d, qkv_bias=bias, o_bias=bias)
    stack.intermediate = cfg.positive("intermediate_size")
    mlp_bias = cfg.flag("mlp_bias", default=False)
    gated_mlp(inv, f"{LAYER}.feed_forward", every, d.hidden, stack.intermediate, bias=mlp_bias)
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.pre_ff_layernorm", every, d.hidden)
    stack.layers = [Layer((full(d) if i in set(attending) else mixer.cache(),)) for i in every]
    return stack.finish(cfg, "bamba")


def granitemoehybrid(cfg: Config) -> Architecture:
    """Granite 4: Mamba 2 or attention by `layer_types`, a shared MLP in every layer, routed experts beside it where there are any.

    Experts are stored stacked (`input_linear` holds gate and up), as in GraniteMoe.
    """
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    inv, every = stack.inv, range(d.num_layers)
    words = cfg.opt_list("layer_types", "layers_block_type")
    kinds = layer_kinds(
        cfg, "layer_types", words or [MAMBA[0]] * d.num_layers, (*MAMBA, *ATTENTION), d.num_layers
    )  # GraniteMoeHybridConfig: no list means state-space layers only
    attending, recurrent = indices_of(kinds, *ATTENTION), indices_of(kinds, *MAMBA)
    bias = cfg.flag("attention_bias", default=False)
    attention(inv, f"{LAYER}.self_attn", attending, d, qkv_bias=bias, o_bias=bias)
    caches = {i: full(d) for i in attending}
    layers = [Layer((caches[i],)) if i in caches else None for i in every]
    if recurrent:
        mixer = read_bamba_mixer(cfg, d.hidden)
        mamba2(inv, f"{LAYER}.mamba", recurrent, mixer)
        layers = [layer or Layer((mixer.cache(),)) for layer in layers]
    stack.layers = [layer for layer in layers if layer is not None]
    shared = cfg.positive("shared_intermediate_size")
    fused = Column((shared, shared))
    linear(inv, f"{LAYER}.shared_mlp.input_linear", every, 2 * shared, d.hidden, Component.MLP, fused)
    linear(inv, f"{LAYER}.shared_mlp.output_linear", every, d.hidden, shared, Component.MLP, Row())
    experts = cfg.opt_int("num_local_experts") or 0
    stack.intermediate = cfg.positive("intermediate_size") if experts else shared
    if experts:
        stack.num_experts, stack.top_k = experts, cfg.positive("num_experts_per_tok")
        _stacked_experts(inv, d, experts, stack.top_k, stack.intermediate)
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", every, d.hidden)
    return stack.finish(cfg, "granitemoehybrid")


def _stacked_experts(inv: Inventory, d: Dims, experts: int, top_k: int, width: int) -> None:
    """GraniteMoe's routed experts: all of a layer's in two tensors, and a router."""
    if not 1 <= top_k <= experts:
        raise ContradictionError(f"{top_k} experts per token cannot be picked from {experts}")
    prefix, every = f"{LAYER}.block_sparse_moe", range(d.num_layers)
    share = Fraction(top_k, experts)
    linear(inv, f"{prefix}.router.layer", every, experts, d.hidden, Component.EXPERTS, Replicated())
    up, down = ExpertSplit(None, Column((width, width))), ExpertSplit(None, Row())
    routed = Component.EXPERTS
    inv.each(f"{prefix}.input_linear.weight", every, (experts, 2 * width, d.hidden), routed, up, active=share)
    inv.each(f"{prefix}.output_linear.weight", every, (experts, d.hidden, width), routed, down, active=share)


def falcon_h1(cfg: Config) -> Architecture:
    """Falcon-H1: attention and Mamba 2 side by side in every layer."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d, final_norm="model.final_layernorm")
    inv, every = stack.inv, range(d.num_layers)
    mixer = replace(
        read_bamba_mixer(cfg, d.hidden),
        out_bias=cfg.flag("projectors_bias", default=False),
        gated_norm=cfg.flag("mamba_rms_norm", default=False),
    )
    mamba2(inv, f"{LAYER}.mamba", every, mixer)
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    attention(inv, f"{LAYER}.self_attn", every, d, qkv_bias=bias, o_bias=bias)
    stack.intermediate = cfg.positive("intermediate_size")
    gated_mlp(inv, f"{LAYER}.feed_forward", every, d.hidden, stack.intermediate, bias=mlp_bias)
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.pre_ff_layernorm", every, d.hidden)
    stack.layers = [Layer((full(d), mixer.cache()))] * d.num_layers
    return stack.finish(cfg, "falcon_h1")


def _lfm2_kinds(cfg: Config, num_layers: int) -> list[str]:
    """LFM2's layers: `layer_types`, else attention at `full_attn_idxs` (all layers where that is absent too) and convolutions."""
    words = cfg.opt_list("layer_types")
    if words is not None:
        return layer_kinds(cfg, "layer_types", words, ("full_attention", "conv"), num_layers)
    attending = cfg.numbers("full_attn_idxs")
    chosen = set(range(num_layers)) if attending is None else set(attending)
    return ["full_attention" if i in chosen else "conv" for i in range(num_layers)]


def _lfm2_width(cfg: Config) -> int:
    """LFM2's feed-forward width: two thirds of `block_ff_dim`, scaled, rounded up to `block_multiple_of`, unless adjusting is off.

    `intermediate_size` holds the unadjusted width too. Source: transformers 5.23.0 `Lfm2MLP`.
    """
    width = (
        cfg.positive("block_ff_dim") if cfg.published("block_ff_dim") is not None else cfg.positive("intermediate_size")
    )
    if not cfg.flag("block_auto_adjust_ff_dim", default=True):
        return width
    width = 2 * width // 3
    key = "block_ffn_dim_multiplier"
    multiplier = (
        cfg.opt_float(key) if cfg.has(key) else 1.0
    )  # Lfm2Config's default; an explicit null turns rounding off
    if multiplier is not None:
        step = cfg.positive("block_multiple_of")
        width = -(-int(multiplier * width) // step) * step
    return width


def _lfm2(cfg: Config, family: str) -> Stack:
    d = read_dims(cfg)
    tied = cfg.published("tie_embedding")
    stack = open_stack(
        cfg,
        cfg,
        d,
        final_norm="model.embedding_norm",
        tied=tied if isinstance(tied, bool) else None,
        tied_default=True,
    )
    inv, every = stack.inv, range(d.num_layers)
    kinds = _lfm2_kinds(cfg, d.num_layers)
    attending, convolving = indices_of(kinds, "full_attention"), indices_of(kinds, "conv")
    attention(
        inv,
        f"{LAYER}.self_attn",
        attending,
        d,
        names=("q_proj", "k_proj", "v_proj", "out_proj"),
        qk_norm="head",
        qk_norm_names=("q_layernorm", "k_layernorm"),
    )
    kernel, bias, part = cfg.positive("conv_L_cache"), cfg.flag("conv_bias", default=False), Component.ATTENTION
    parts = Column((d.hidden, d.hidden, d.hidden))
    linear(inv, f"{LAYER}.conv.in_proj", convolving, 3 * d.hidden, d.hidden, part, parts, bias=bias)
    linear(inv, f"{LAYER}.conv.out_proj", convolving, d.hidden, d.hidden, part, Row(), bias=bias)
    inv.each(f"{LAYER}.conv.conv.weight", convolving, (d.hidden, 1, kernel), part, Column())
    if bias:
        inv.each(f"{LAYER}.conv.conv.bias", convolving, (d.hidden,), part, Column())
    norm(inv, f"{LAYER}.operator_norm", every, d.hidden)
    norm(inv, f"{LAYER}.ffn_norm", every, d.hidden)
    conv = ShortConvState(d.hidden, kernel)
    stack.layers = [Layer((full(d) if kind == "full_attention" else conv,)) for kind in kinds]
    return stack


def lfm2(cfg: Config) -> Architecture:
    """LFM2: short gated convolutions with attention in some layers."""
    stack = _lfm2(cfg, "lfm2")
    stack.intermediate = _lfm2_width(cfg)
    gated_mlp(
        stack.inv,
        f"{LAYER}.feed_forward",
        range(stack.d.num_layers),
        stack.d.hidden,
        stack.intermediate,
        names=("w1", "w3", "w2"),
    )
    return stack.finish(cfg, "lfm2")


def lfm2_moe(cfg: Config) -> Architecture:
    """LFM2-MoE: experts after `num_dense_layers`; their load-balancing bias is a buffer."""
    stack = _lfm2(cfg, "lfm2_moe")
    d, inv = stack.d, stack.inv
    stack.intermediate = cfg.positive("intermediate_size")
    first = min(cfg.need_int("num_dense_layers"), d.num_layers)
    names = ("w1", "w3", "w2")
    gated_mlp(inv, f"{LAYER}.feed_forward", range(first), d.hidden, stack.intermediate, names=names)
    experts = Experts(
        cfg.positive("num_experts"), cfg.positive("num_experts_per_tok"), cfg.positive("moe_intermediate_size"), 0
    )
    bias = "expert_bias" if cfg.flag("use_expert_bias", default=True) else None
    moe(inv, f"{LAYER}.feed_forward", range(first, d.num_layers), d.hidden, experts, names=names, correction_bias=bias)
    stack.num_experts, stack.top_k = experts.count, experts.top_k
    return stack.finish(cfg, "lfm2_moe")
