"""Pure state-space models: Mamba, Mamba 2 (Mamba-Codestral), Falcon-Mamba. No attention, nothing grows with the context.

Source: transformers 5.23.0 `models/{mamba,mamba2,falcon_mamba}`; published names (`backbone.layers.N.mixer.…`).
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HIDDEN, LAYERS, Dims, norm
from hfmem.model.config import Config
from hfmem.model.layers import Layer
from hfmem.model.stack import Stack, open_stack
from hfmem.model.state_blocks import Mamba1, Mamba2, auto_rank, check_heads, mamba1, mamba2, state_dtype

PREFIX = "backbone.layers.{}"


def _backbone(cfg: Config, tied_default: bool) -> Stack:
    d = Dims(cfg.positive(*HIDDEN), cfg.positive(*LAYERS), 0, 0, 0)
    stack = open_stack(
        cfg, cfg, d, embed="backbone.embeddings.weight", final_norm="backbone.norm_f", tied_default=tied_default
    )
    stack.attention = False
    norm(stack.inv, f"{PREFIX}.norm", range(d.num_layers), d.hidden)
    return stack


def _mamba1(cfg: Config, family: str) -> Architecture:
    stack = _backbone(cfg, True)
    hidden = stack.d.hidden
    # a published inner width wins over `expand` (Falcon-Mamba-7B says expand 16 and 8192 for a hidden size of 4096)
    inner = cfg.opt_int("intermediate_size", "d_inner") or int(cfg.need_float("expand") * hidden)
    mixer = Mamba1(
        hidden,
        inner,
        cfg.positive("state_size"),
        cfg.positive("conv_kernel"),
        auto_rank(cfg, hidden, "time_step_rank"),
        cfg.flag("use_conv_bias", default=True),
        cfg.flag("use_bias", default=False),
        state_dtype(cfg),
    )
    mamba1(stack.inv, f"{PREFIX}.mixer", range(stack.d.num_layers), mixer)
    stack.intermediate = inner
    stack.layers = [Layer((mixer.cache(),))] * stack.d.num_layers
    return stack.finish(cfg, family)


def mamba(cfg: Config) -> Architecture:
    """Mamba 1 in transformers' layout (`…-hf`)."""
    return _mamba1(cfg, "mamba")


def falcon_mamba(cfg: Config) -> Architecture:
    """Falcon-Mamba: Mamba 1 with weightless norms on dt, B and C."""
    return _mamba1(cfg, "falcon_mamba")


def mamba2_model(cfg: Config) -> Architecture:
    """Mamba 2 in transformers' layout."""
    stack = _backbone(cfg, False)
    hidden = stack.d.hidden
    inner = int(cfg.need_float("expand") * hidden)
    heads, head_dim = cfg.positive("num_heads"), cfg.positive("head_dim")
    check_heads(cfg, heads, head_dim, inner)
    bias = cfg.flag("use_bias", default=False)
    mixer = Mamba2(
        hidden,
        heads,
        head_dim,
        cfg.positive("state_size"),
        cfg.positive("n_groups"),
        cfg.positive("conv_kernel"),
        cfg.flag("use_conv_bias", default=True),
        bias,
        bias,
        state_dtype(cfg),
    )
    mamba2(stack.inv, f"{PREFIX}.mixer", range(stack.d.num_layers), mixer)
    stack.intermediate = inner
    stack.layers = [Layer((mixer.cache(),))] * stack.d.num_layers
    return stack.finish(cfg, "mamba2")
