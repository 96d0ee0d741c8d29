"""Zamba and Zamba2: state-space layers, and a few hybrid layers that run a shared transformer block before their own mixer.

The shared block's weights count once (Zamba) or once for each of `num_mem_blocks` (Zamba2); every hybrid layer has a KV cache of
its own, twice as wide as the model, because the block sees the embedding beside the hidden state.

Source: transformers 5.23.0 `models/{zamba,zamba2}`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HEADS, HIDDEN, KV_HEADS, LAYERS, Dims, full, linear, norm
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, Inventory, Row, TensorSpec
from hfmem.model.layers import Layer, Mamba1State
from hfmem.model.stack import Stack, indices_of, layer_kinds, open_stack
from hfmem.model.state_blocks import CHANNELS, PART, Mamba2, auto_rank, mamba2, state_dtype
from hfmem.records import replace

LAYER = "model.layers.{}"
#: newer and older words of `layers_block_type`
WORDS = ("linear_attention", "mamba", "hybrid")


def _dims(cfg: Config) -> Dims:
    hidden, heads = cfg.positive(*HIDDEN), cfg.positive(*HEADS)
    kv_heads = cfg.opt_int(*KV_HEADS) or heads
    head_dim = cfg.opt_int("attention_head_dim") or 2 * hidden // heads
    return Dims(hidden, cfg.positive(*LAYERS), heads, kv_heads, head_dim)


def _shared_block(
    inv: Inventory, prefix: str, indices: Sequence[int], d: Dims, width: int, *, fused: bool, bias: bool
) -> None:
    """The transformer block over hidden state and embedding side by side (twice the model's width in, its own width out)."""
    part, mlp, wide = Component.ATTENTION, Component.MLP, 2 * d.hidden
    kv = Column(kv_heads=(d.num_kv_heads,))
    linear(inv, f"{prefix}.self_attn.q_proj", indices, d.num_heads * d.head_dim, wide, part, Column())
    linear(inv, f"{prefix}.self_attn.k_proj", indices, d.num_kv_heads * d.head_dim, wide, part, kv)
    linear(inv, f"{prefix}.self_attn.v_proj", indices, d.num_kv_heads * d.head_dim, wide, part, kv)
    linear(inv, f"{prefix}.self_attn.o_proj", indices, d.hidden, d.num_heads * d.head_dim, part, Row())
    if fused:
        both = Column((width, width))
        linear(inv, f"{prefix}.feed_forward.gate_up_proj", indices, 2 * width, d.hidden, mlp, both, bias=bias)
    else:
        for name in ("gate_proj", "up_proj"):
            linear(inv, f"{prefix}.feed_forward.{name}", indices, width, d.hidden, mlp, Column(), bias=bias)
    linear(inv, f"{prefix}.feed_forward.down_proj", indices, d.hidden, width, mlp, Row(), bias=bias)
    norm(inv, f"{prefix}.input_layernorm", indices, wide)
    norm(inv, f"{prefix}.pre_ff_layernorm", indices, d.hidden)


def _tied_copies(inv: Inventory, block: Inventory, copies: Inventory) -> None:
    """The block's own tensors, and the same under later hybrid layers: stored or not, they share storage with the first."""
    inv.specs.extend(block.specs)
    for spec in copies.specs:
        inv.specs.append(_tied(spec))


def _tied(spec: TensorSpec) -> TensorSpec:
    return replace(spec, tied_to=spec.pattern, optional=True)


def _kinds(cfg: Config, num_layers: int, default: Sequence[str]) -> list[str]:
    return layer_kinds(
        cfg, "layers_block_type", cfg.opt_list("layers_block_type", "layer_types") or default, WORDS, num_layers
    )


def _open(cfg: Config, kinds: Sequence[str], d: Dims) -> tuple[Stack, list[int]]:
    """Embedding, norms of the mixers and the projections that bring the shared block's output into the stream."""
    stack = open_stack(cfg, cfg, d, final_norm="model.final_layernorm", tied_default=True)
    hybrid = indices_of(kinds, "hybrid")
    norm(stack.inv, f"{LAYER}.input_layernorm", [i for i in range(d.num_layers) if i not in set(hybrid)], d.hidden)
    norm(stack.inv, f"{LAYER}.mamba_decoder.input_layernorm", hybrid, d.hidden)
    linear(stack.inv, f"{LAYER}.linear", hybrid, d.hidden, d.hidden, Component.OTHER, Column())
    return stack, hybrid


def zamba(cfg: Config) -> Architecture:
    """Zamba: one shared block, multi-head Mamba 1 mixers.

    Without `layers_block_type`: two mixers, a hybrid, then one where (i − 3) mod `attn_layer_period` is `attn_layer_offset`.
    """
    d = _dims(cfg)
    period, offset = cfg.positive("attn_layer_period"), cfg.need_int("attn_layer_offset")
    tail = ["hybrid" if i % period == offset else "mamba" for i in range(d.num_layers - 3)]
    kinds = _kinds(cfg, d.num_layers, ["mamba", "mamba", "hybrid", *tail][: d.num_layers])
    stack, hybrid = _open(cfg, kinds, d)
    width = cfg.positive("intermediate_size")
    block, copies = Inventory(), Inventory()
    _shared_block(block, f"{LAYER}.shared_transf", hybrid[:1], d, width, fused=False, bias=False)
    _shared_block(copies, f"{LAYER}.shared_transf", hybrid[1:], d, width, fused=False, bias=False)
    _tied_copies(stack.inv, block, copies)
    inner = int(cfg.positive_float("mamba_expand") * d.hidden)
    state = Mamba1State(inner, cfg.positive("mamba_d_state"), cfg.positive("mamba_d_conv"), state_dtype(cfg))
    plain = [i for i in range(d.num_layers) if i not in set(hybrid)]
    _zamba_mixer(stack.inv, cfg, f"{LAYER}.mamba", plain, d.hidden, state)
    _zamba_mixer(stack.inv, cfg, f"{LAYER}.mamba_decoder.mamba", hybrid, d.hidden, state)
    stack.intermediate = width
    stack.layers = [Layer((full(d), state)) if kind == "hybrid" else Layer((state,)) for kind in kinds]
    return stack.finish(cfg, "zamba")


def _zamba_mixer(inv: Inventory, cfg: Config, prefix: str, indices: Sequence[int], hidden: int, m: Mamba1State) -> None:
    """Mamba 1 whose dt, B and C are computed in `n_mamba_heads` heads (stacked parameters)."""
    heads, rank = cfg.positive("n_mamba_heads"), auto_rank(cfg, hidden, "mamba_dt_rank")
    inner, size, bias = m.intermediate_size, m.intermediate_size // heads, cfg.flag("mamba_proj_bias", default=False)
    linear(inv, f"{prefix}.in_proj", indices, 2 * inner, hidden, PART, Column((inner, inner)), bias=bias)
    inv.each(f"{prefix}.conv1d.weight", indices, (inner, 1, m.conv_kernel), PART, CHANNELS)
    if cfg.flag("mamba_conv_bias", default=True):
        inv.each(f"{prefix}.conv1d.bias", indices, (inner,), PART, CHANNELS)
    for name, shape in (
        ("x_proj_weight", (heads, rank + 2 * m.state_size, size)),
        ("dt_proj_weight", (heads, size, rank)),
        ("dt_proj_bias", (heads, size)),
        ("A_log", (heads, size, m.state_size)),
        ("D", (heads, size)),
    ):
        inv.each(f"{prefix}.{name}", indices, shape, PART, CHANNELS)
    linear(inv, f"{prefix}.out_proj", indices, hidden, inner, PART, Row(), bias=bias)


#: Zamba2Config's pattern when a config names none
_ZAMBA2 = "M" + "MMMMMH" * 7 + "MMMMHMMMHMM"


def zamba2(cfg: Config) -> Architecture:
    """Zamba2: `num_mem_blocks` shared blocks in turn, low-rank adapters of each hybrid layer in them, Mamba 2 mixers."""
    d = _dims(cfg)
    default = ["hybrid" if letter == "H" else "mamba" for letter in _ZAMBA2]
    kinds = _kinds(cfg, d.num_layers, default)
    stack, hybrid = _open(cfg, kinds, d)
    inv = stack.inv
    width = cfg.opt_int("intermediate_size") or 4 * d.hidden
    blocks, bias = cfg.positive("num_mem_blocks"), cfg.flag("add_bias_linear", default=False)
    block, copies = Inventory(), Inventory()
    shared = f"{LAYER}.shared_transformer"
    _shared_block(block, shared, hybrid[:blocks], d, width, fused=True, bias=bias)
    _shared_block(copies, shared, hybrid[blocks:], d, width, fused=True, bias=bias)
    _tied_copies(inv, block, copies)
    _adapters(inv, cfg, shared, hybrid, blocks, d, width)
    inner, heads = int(cfg.positive_float("mamba_expand") * d.hidden), cfg.positive("n_mamba_heads")
    mixer = Mamba2(
        d.hidden,
        heads,
        inner // heads,
        cfg.positive("mamba_d_state"),
        cfg.positive("mamba_ngroups"),
        cfg.positive("mamba_d_conv"),
        True,
        bias,
        bias,
        state_dtype(cfg),
    )
    mamba2(inv, f"{LAYER}.mamba", [i for i in range(d.num_layers) if i not in set(hybrid)], mixer)
    mamba2(inv, f"{LAYER}.mamba_decoder.mamba", hybrid, mixer)
    stack.intermediate = width
    stack.layers = [Layer((full(d), mixer.cache())) if kind == "hybrid" else Layer((mixer.cache(),)) for kind in kinds]
    return stack.finish(cfg, "zamba2")


def _adapters(
    inv: Inventory, cfg: Config, shared: str, hybrid: Sequence[int], blocks: int, d: Dims, width: int
) -> None:
    """Hybrid layer number i has its adapters in slot i of its block (`i mod num_mem_blocks`), under that block's first layer."""
    rank, mlp, part = cfg.positive("adapter_rank"), Component.MLP, Component.ATTENTION
    with_attention = cfg.flag("use_shared_attention_adapter", default=False)
    for owner, layer in enumerate(hybrid[:blocks]):
        slots = [i for i in range(len(hybrid)) if i % blocks == owner]
        place = shared.replace("{}", str(layer))
        inner = f"{place}.feed_forward.gate_up_proj_adapter_list.{{}}"
        inv.each(f"{inner}.0.weight", slots, (rank, d.hidden), mlp)
        inv.each(f"{inner}.1.weight", slots, (2 * width, rank), mlp, Column((width, width)))
        for name in ("q", "k", "v") if with_attention else ():
            inner = f"{place}.self_attn.linear_{name}_adapter_list.{{}}"
            inv.each(f"{inner}.0.weight", slots, (rank, 2 * d.hidden), part)
            inv.each(f"{inner}.1.weight", slots, (2 * d.hidden, rank), part, Column())
