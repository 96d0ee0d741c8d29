"""RWKV 5 (Eagle) and 6 (Finch) in the layout of their published remote code: a matrix state for each head.

Source: the modeling code beside RWKV/rwkv-5-world and rwkv-6-world; RWKV-5-World-1B5 has 1,577,754,624 parameters.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
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
