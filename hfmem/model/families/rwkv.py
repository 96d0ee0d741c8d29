"""RWKV 5 (Eagle), 6 (Finch) and 7 (Goose) in the layouts of their published remote code: a matrix state for each head.

Source of 5 and 6: the modeling code beside RWKV/rwkv-5-world and rwkv-6-world; RWKV-5-World-1B5 has 1,577,754,624 parameters.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError, UnknownArchitectureError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HIDDEN, LAYERS, Dims, linear, norm
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.layers import Layer, RwkvState
from hfmem.model.stack import Stack, open_stack

BLOCK = "rwkv.blocks.{}"
PART, MLP = Component.ATTENTION, Component.MLP


def _common(cfg: Config, mixes: tuple[str, ...]) -> tuple[Stack, int, int]:
    """What both versions share: embedding, norms, the projections, the channel mix. Returns the stack, heads and head size."""
    hidden, count = cfg.positive(*HIDDEN), cfg.positive(*LAYERS)
    d = Dims(hidden, count, 0, 0, 0)
    stack = open_stack(cfg, cfg, d, embed="rwkv.embeddings.weight", final_norm=None, head="head.weight")
    stack.attention = False
    inv, every = stack.inv, range(count)
    inner, size = cfg.opt_int("attention_hidden_size") or hidden, cfg.positive("head_size")
    if inner % size:
        raise ContradictionError(f"{cfg.file}: 'attention_hidden_size' {inner} does not divide into heads of {size}")
    norm(inv, f"{BLOCK}.pre_ln", [0], hidden, bias=True)
    norm(inv, f"{BLOCK}.ln1", every, hidden, bias=True)
    norm(inv, f"{BLOCK}.ln2", every, hidden, bias=True)
    norm(inv, "rwkv.ln_out", None, hidden, bias=True)
    for name in ("receptance", "key", "value", "gate"):
        linear(inv, f"{BLOCK}.attention.{name}", every, inner, hidden, PART, Column())
    linear(inv, f"{BLOCK}.attention.output", every, hidden, inner, PART, Row())
    norm(inv, f"{BLOCK}.attention.ln_x", every, inner, bias=True)
    inv.each(f"{BLOCK}.attention.time_faaaa", every, (inner // size, size), PART, Column())
    for name in mixes:
        inv.each(f"{BLOCK}.attention.time_{name}", every, (1, 1, hidden), PART)
    # int(3.5 · hidden) rounded down to a multiple of 32, where the config is silent
    width = stack.intermediate = cfg.opt_int("intermediate_size") or int(3.5 * hidden) // 32 * 32
    linear(inv, f"{BLOCK}.feed_forward.key", every, width, hidden, MLP, Column())
    linear(inv, f"{BLOCK}.feed_forward.receptance", every, hidden, hidden, MLP, Replicated())
    linear(inv, f"{BLOCK}.feed_forward.value", every, hidden, width, MLP, Row())
    stack.layers = [Layer((RwkvState(hidden, 2, inner // size, size),))] * count
    return stack, inner, size


def _channel_mixes(inv: Inventory, count: int, hidden: int, names: tuple[str, str]) -> None:
    for name in names:
        inv.each(f"{BLOCK}.feed_forward.time_{name}", range(count), (1, 1, hidden), MLP)


def rwkv5(cfg: Config) -> Architecture:
    """RWKV 5: a fixed decay for each channel of each head."""
    stack, inner, size = _common(cfg, ("mix_key", "mix_value", "mix_receptance", "mix_gate"))
    d = stack.d
    _channel_mixes(stack.inv, d.num_layers, d.hidden, ("mix_key", "mix_receptance"))
    stack.inv.each(f"{BLOCK}.attention.time_decay", range(d.num_layers), (inner // size, size), PART, Column())
    return stack.finish(cfg, "rwkv5")


def rwkv6(cfg: Config) -> Architecture:
    """RWKV 6: token shift and decay depend on the input through low-rank projections, wider in models of 4096 and more."""
    names = tuple(f"maa_{letter}" for letter in "xwkvrg")
    stack, inner, _ = _common(cfg, names)
    d, inv = stack.d, stack.inv
    every = range(d.num_layers)
    _channel_mixes(inv, d.num_layers, d.hidden, ("maa_k", "maa_r"))
    mix, decay = (64, 128) if d.hidden >= 4096 else (32, 64)
    place = f"{BLOCK}.attention.time"
    for name, shape in (
        ("maa_w1", (d.hidden, 5 * mix)),
        ("maa_w2", (5, mix, d.hidden)),
        ("decay", (1, 1, inner)),
        ("decay_w1", (d.hidden, decay)),
        ("decay_w2", (decay, inner)),
    ):
        inv.each(f"{place}_{name}", every, shape, PART)
    return stack.finish(cfg, "rwkv6")


def _low_rank(cfg: Config, key: str, factor: float, hidden: int) -> int:
    """A rank, else `factor` · √hidden to the nearest 32, at least 32 (for heads of 64; wider heads scale all but the gate's)."""
    return cfg.opt_int(key) or max(32, round(factor * hidden**0.5 / 32) * 32)


def rwkv7(cfg: Config) -> Architecture:
    """RWKV 7 (Goose) in flash-linear-attention's layout; RWKV7-Goose-World3-1.5B has 1,527,404,544 parameters.

    Source: fla-org/flash-linear-attention `fla/layers/rwkv7.py`, `fla/models/rwkv7/modeling_rwkv7.py`.
    """
    hidden, count = cfg.positive(*HIDDEN), cfg.positive(*LAYERS)
    d = Dims(hidden, count, 0, 0, 0)
    stack = open_stack(cfg, cfg, d, embed="model.embeddings.weight", final_norm=None)
    stack.attention = False
    if cfg.published("attn") is not None:
        raise UnknownArchitectureError(
            f"{cfg.file}: 'attn' asks for attention layers among RWKV 7's, which are not known here"
        )
    values = cfg.published("value_dim")
    if values is not None and values != hidden and values != [hidden] * count:
        raise UnknownArchitectureError(f"{cfg.file}: 'value_dim' differs from 'hidden_size'; only equal is known")
    size = cfg.opt_int("head_dim") or hidden // cfg.positive("num_heads")
    if hidden % size:
        raise ContradictionError(f"{cfg.file}: 'hidden_size' {hidden} does not divide into heads of {size}")
    inv, every, attn, layer, wide = stack.inv, range(count), "model.layers.{}.attn", "model.layers.{}", size / 64
    for name in ("r_proj", "k_proj", "v_proj"):
        linear(inv, f"{attn}.{name}", every, hidden, hidden, PART, Column())
    linear(inv, f"{attn}.o_proj", every, hidden, hidden, PART, Row())
    for letter in "rwkvag":
        inv.each(f"{attn}.x_{letter}", every, (1, 1, hidden), PART)
    for name in ("k_k", "k_a"):
        inv.each(f"{attn}.{name}", every, (hidden,), PART, Column())
    inv.each(f"{attn}.r_k", every, (hidden // size, size), PART, Column())
    for name, key, factor, where, bias in (
        ("w", "decay_low_rank_dim", 2.5 * wide, every, True),
        ("a", "a_low_rank_dim", 2.5 * wide, every, True),
        ("v", "v_low_rank_dim", 1.7 * wide, range(1, count), True),
        ("g", "gate_low_rank_dim", 5.0, every, False),
    ):
        rank = _low_rank(cfg, key, factor, hidden)
        linear(inv, f"{attn}.{name}_lora.lora.0", where, rank, hidden, PART, Replicated())
        linear(inv, f"{attn}.{name}_lora.lora.2", where, hidden, rank, PART, Column(), bias=bias)
    norm(inv, f"{attn}.g_norm", every, hidden, bias=True)
    norm_bias = cfg.flag("norm_bias", default=True)
    if cfg.flag("norm_first", default=True):
        norm(inv, f"{layer}.pre_norm", [0], hidden, bias=norm_bias)
    for name in ("attn_norm", "ffn_norm"):
        norm(inv, f"{layer}.{name}", every, hidden, bias=norm_bias)
    norm(inv, "model.norm", None, hidden, bias=norm_bias)
    ratio = cfg.opt_float("hidden_ratio")
    width = cfg.opt_int("intermediate_size") or -(-int(hidden * (4 if ratio is None else ratio)) // 32) * 32
    stack.intermediate = width
    inv.each(f"{layer}.ffn.x_k", every, (hidden,), MLP)
    linear(inv, f"{layer}.ffn.key", every, width, hidden, MLP, Column())
    linear(inv, f"{layer}.ffn.value", every, hidden, width, MLP, Row())
    stack.layers = [Layer((RwkvState(hidden, 2, hidden // size, size),))] * count
    return stack.finish(cfg, "rwkv7")
