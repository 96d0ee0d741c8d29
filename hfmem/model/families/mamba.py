"""Pure state-space models: Mamba, Mamba 2 (Mamba-Codestral), Falcon-Mamba. No attention, nothing grows with the context.

Source: transformers 5.23.0 `models/{mamba,mamba2,falcon_mamba}`; published names (`backbone.layers.N.mixer.…`).
"""

from __future__ import annotations

from hfmem.errors import UnknownArchitectureError
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
    inner = cfg.opt_int("intermediate_size", "d_inner") or int(cfg.positive_float("expand") * hidden)
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
    inner = int(cfg.positive_float("expand") * hidden)
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


def mamba_ssm(cfg: Config) -> Architecture:
    """The `mamba_ssm` package's own checkpoints (state-spaces/mamba-2.8b, mamba2-2.7b): no model_type, sizes in `ssm_cfg`.

    Defaults are those of its `MambaConfig`, `Mamba` and `Mamba2` classes (mamba_ssm 2.2); the vocabulary is padded to a multiple.
    """
    part = cfg.opt_sub("ssm_cfg") or Config({}, f"{cfg.file}: ssm_cfg", "", cfg.used_defaults)
    if cfg.published("attn_layer_idx"):
        raise UnknownArchitectureError(
            f"{cfg.file}: 'attn_layer_idx' puts attention among the layers, which is not known here"
        )
    if cfg.opt_int("d_intermediate"):
        raise UnknownArchitectureError(
            f"{cfg.file}: 'd_intermediate' adds an MLP to each layer, which is not known here"
        )
    d = Dims(cfg.positive(*HIDDEN), cfg.positive(*LAYERS), 0, 0, 0)
    multiple = cfg.opt_int("pad_vocab_size_multiple") or 8
    words = -(-cfg.positive("vocab_size") // multiple) * multiple
    padded = Config({**cfg.data, "vocab_size": words}, cfg.file, cfg.model_type, cfg.used_defaults)
    tied = cfg.published("tie_embeddings")
    embed = "backbone.embedding.weight"
    stack = open_stack(cfg, padded, d, embed=embed, final_norm="backbone.norm_f", tied=tied is not False)
    stack.attention = False
    every = range(d.num_layers)
    norm(stack.inv, f"{PREFIX}.norm", every, d.hidden)
    kind = part.choice("layer", part.opt_str("layer") or "Mamba1", ("Mamba1", "Mamba2"))
    inner = (part.opt_int("expand") or 2) * d.hidden
    kernel, bias = part.opt_int("d_conv") or 4, part.flag("bias", default=False)
    conv_bias = part.flag("conv_bias", default=True)
    if kind == "Mamba1":
        rank = auto_rank(part, d.hidden, "dt_rank")
        first = Mamba1(d.hidden, inner, part.opt_int("d_state") or 16, kernel, rank, conv_bias, bias)
        mamba1(stack.inv, f"{PREFIX}.mixer", every, first)
        stack.layers = [Layer((first.cache(),))] * d.num_layers
    else:
        size, groups = part.opt_int("headdim") or 64, part.opt_int("ngroups") or 1
        check_heads(part, inner // size, size, inner)
        state = part.opt_int("d_state") or 128
        second = Mamba2(d.hidden, inner // size, size, state, groups, kernel, conv_bias, bias, bias)
        mamba2(stack.inv, f"{PREFIX}.mixer", every, second)
        stack.layers = [Layer((second.cache(),))] * d.num_layers
    stack.intermediate = inner
    return stack.finish(cfg, "mamba_ssm")
