"""Models whose layers are mostly recurrent: RecurrentGemma (Griffin), RWKV 4, OLMo Hybrid.

Source: transformers 5.23.0 `models/{recurrent_gemma,rwkv,olmo_hybrid}` and their checkpoint renames.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HIDDEN, LAYERS, Dims, attention, full, gated_mlp, linear, norm, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.delta_blocks import DeltaNet
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.layers import Layer, RgLruState, RwkvState
from hfmem.model.stack import indices_of, layer_kinds, open_stack
from hfmem.model.state_blocks import state_dtype

PART = Component.ATTENTION


def _recurrent_block(inv: Inventory, prefix: str, indices: Sequence[int], d: Dims, width: int, kernel: int) -> None:
    """Griffin's recurrent block: two branches, a convolution, a gated linear recurrence in as many blocks as there are heads."""
    for name in ("linear_x", "linear_y"):
        linear(inv, f"{prefix}.{name}", indices, width, d.hidden, PART, Column(), bias=True)
    linear(inv, f"{prefix}.linear_out", indices, d.hidden, width, PART, Row(), bias=True)
    inv.each(f"{prefix}.conv_1d.weight", indices, (width, 1, kernel), PART, Column())
    inv.each(f"{prefix}.conv_1d.bias", indices, (width,), PART, Column())
    inv.each(f"{prefix}.rg_lru.recurrent_param", indices, (width,), PART, Column())
    size = width // d.num_heads
    for gate in ("input", "recurrent"):
        inv.each(f"{prefix}.rg_lru.{gate}_gate_weight", indices, (d.num_heads, size, size), PART, Column())
        inv.each(f"{prefix}.rg_lru.{gate}_gate_bias", indices, (d.num_heads, size), PART, Column())


def recurrent_gemma(cfg: Config) -> Architecture:
    """RecurrentGemma: two recurrent blocks, then one with a sliding window, over and over (`block_types`).

    `intermediate_size` counts gate and up projection together.
    """
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d, final_norm="model.final_norm", tied_default=True)
    inv, every, layer = stack.inv, range(d.num_layers), "model.layers.{}"
    cycle = cfg.need_list("block_types")
    if not cycle:
        raise ContradictionError(f"{cfg.file}: 'block_types' is empty")
    words = (cycle * (d.num_layers // len(cycle) + 1))[: d.num_layers]
    kinds = layer_kinds(cfg, "block_types", words, ("recurrent", "attention"), d.num_layers)
    width, kernel = cfg.opt_int("lru_width") or d.hidden, cfg.positive("conv1d_width")
    if width % d.num_heads:
        raise ContradictionError(f"{cfg.file}: 'lru_width' {width} does not divide by {d.num_heads} heads")
    block = f"{layer}.temporal_block"
    _recurrent_block(inv, block, indices_of(kinds, "recurrent"), d, width, kernel)
    attending = indices_of(kinds, "attention")
    attention(inv, block, attending, d, qkv_bias=cfg.flag("attention_bias", default=False), o_bias=True)
    stack.intermediate = cfg.positive("intermediate_size") // 2
    gated_mlp(inv, f"{layer}.mlp_block", every, d.hidden, stack.intermediate, bias=True)
    norm(inv, f"{layer}.temporal_pre_norm", every, d.hidden)
    norm(inv, f"{layer}.channel_pre_norm", every, d.hidden)
    window = cfg.positive("attention_window_size", "sliding_window")
    # the recurrence always runs in float32 (modeling_recurrent_gemma.py)
    state = RgLruState(width, kernel, "F32")
    stack.layers = [Layer((sliding(d, window) if kind == "attention" else state,)) for kind in kinds]
    return stack.finish(cfg, "recurrent_gemma")


def rwkv(cfg: Config) -> Architecture:
    """RWKV 4 in transformers' layout: five vectors a layer (two last inputs; numerator, denominator and maximum)."""
    hidden, count = cfg.positive(*HIDDEN), cfg.positive(*LAYERS)
    stack = open_stack(
        cfg, cfg, Dims(hidden, count, 0, 0, 0), embed="rwkv.embeddings.weight", final_norm=None, head="head.weight"
    )
    stack.attention = False
    inv, every, block = stack.inv, range(count), "rwkv.blocks.{}"
    inner = cfg.opt_int("attention_hidden_size") or hidden
    if inner != hidden:
        raise ContradictionError(
            f"{cfg.file}: 'attention_hidden_size' is {inner} and 'hidden_size' {hidden}; only equal is known"
        )
    width = stack.intermediate = cfg.opt_int("intermediate_size") or 4 * hidden
    norm(inv, f"{block}.pre_ln", [0], hidden, bias=True)
    norm(inv, f"{block}.ln1", every, hidden, bias=True)
    norm(inv, f"{block}.ln2", every, hidden, bias=True)
    norm(inv, "rwkv.ln_out", None, hidden, bias=True)
    for name in ("time_decay", "time_first"):
        inv.each(f"{block}.attention.{name}", every, (inner,), PART, Column())
    for name in ("key", "value", "receptance"):
        inv.each(f"{block}.attention.time_mix_{name}", every, (1, 1, hidden), PART)
        linear(inv, f"{block}.attention.{name}", every, inner, hidden, PART, Column())
    linear(inv, f"{block}.attention.output", every, hidden, inner, PART, Row())
    mlp = Component.MLP
    for name in ("key", "receptance"):
        inv.each(f"{block}.feed_forward.time_mix_{name}", every, (1, 1, hidden), mlp)
    linear(inv, f"{block}.feed_forward.key", every, width, hidden, mlp, Column())
    linear(inv, f"{block}.feed_forward.receptance", every, hidden, hidden, mlp, Replicated())
    linear(inv, f"{block}.feed_forward.value", every, hidden, width, mlp, Row())
    stack.layers = [Layer((RwkvState(hidden, 5),))] * count
    return stack.finish(cfg, "rwkv")


def _olmo_kinds(cfg: Config, num_layers: int) -> list[str]:
    """`layer_types`, else full attention in every fourth layer, or in the last where there would be none."""
    words = cfg.opt_list("layer_types")
    if words is None:
        words = ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(num_layers)]
        if "full_attention" not in words:
            words[-1] = "full_attention"
    return layer_kinds(cfg, "layer_types", words, ("linear_attention", "full_attention"), num_layers)


def olmo_hybrid(cfg: Config) -> Architecture:
    """OLMo Hybrid: gated delta nets (pre-norm) with OLMo 3's attention (post-norm) in every fourth layer.

    Key heads default to the attention heads, their width to three quarters of the model's, values to twice that.
    """
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    inv, every, layer = stack.inv, range(d.num_layers), "model.layers.{}"
    kinds = _olmo_kinds(cfg, d.num_layers)
    recurrent, attending = indices_of(kinds, "linear_attention"), indices_of(kinds, "full_attention")
    k_heads = cfg.opt_int("linear_num_key_heads") or d.num_heads
    k_dim = cfg.opt_int("linear_key_head_dim") or 3 * d.hidden // (4 * k_heads)
    v_dim = cfg.opt_int("linear_value_head_dim") or 2 * k_dim
    v_heads = cfg.opt_int("linear_num_value_heads") or d.num_heads
    net = DeltaNet(k_heads, v_heads, k_dim, v_dim, cfg.positive("linear_conv_kernel_dim"), state_dtype(cfg))
    mixer = f"{layer}.linear_attn"
    for name, rows in (("q", net.keys), ("k", net.keys), ("v", net.values)):
        linear(inv, f"{mixer}.{name}_proj", recurrent, rows, d.hidden, PART, Column())
        inv.each(f"{mixer}.{name}_conv1d.weight", recurrent, (rows, 1, net.kernel), PART, Column())
    for name in ("a", "b"):
        linear(inv, f"{mixer}.{name}_proj", recurrent, v_heads, d.hidden, PART, Column())
    linear(inv, f"{mixer}.g_proj", recurrent, net.values, d.hidden, PART, Column())
    linear(inv, f"{mixer}.o_proj", recurrent, d.hidden, net.values, PART, Row())
    for name in ("A_log", "dt_bias"):
        inv.each(f"{mixer}.{name}", recurrent, (v_heads,), PART, Column())
    norm(inv, f"{mixer}.o_norm", recurrent, v_dim)
    bias = cfg.flag("attention_bias", default=False)
    attention(inv, f"{layer}.self_attn", attending, d, qkv_bias=bias, o_bias=bias, qk_norm="full")
    norm(inv, f"{layer}.attention_layer_norm", recurrent, d.hidden)
    norm(inv, f"{layer}.feedforward_layer_norm", recurrent, d.hidden)
    norm(inv, f"{layer}.post_attention_layernorm", attending, d.hidden)
    norm(inv, f"{layer}.post_feedforward_layernorm", attending, d.hidden)
    stack.intermediate = cfg.positive("intermediate_size")
    gated_mlp(inv, f"{layer}.mlp", every, d.hidden, stack.intermediate)
    stack.layers = [Layer((net.cache() if kind == "linear_attention" else full(d),)) for kind in kinds]
    return stack.finish(cfg, "olmo_hybrid")
