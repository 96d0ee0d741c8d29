"""PLaMo 2: Mamba-2-like mixers with attention in every `mamba_step`-th layer, four norms a layer, a fused gated MLP.

Source: Preferred Networks' published modeling code as vLLM carried it (`vllm/model_executor/models/plamo2.py`, with the
renames of its loader).
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HEADS, HIDDEN, LAYERS, Dims, full, fused_qkv, linear, norm
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, Row
from hfmem.model.layers import Layer, Mamba2State
from hfmem.model.stack import open_stack
from hfmem.model.state_blocks import state_dtype

LAYER = "model.layers.layers.{}"
PART = Component.ATTENTION


def _attending(num_layers: int, step: int) -> list[int]:
    """Attention in the middle of each run of `mamba_step` layers; in the last layer where there is no whole half-run."""
    if num_layers <= step // 2:
        return [num_layers - 1]
    return [i for i in range(num_layers) if i % step == step // 2]


def plamo2(cfg: Config) -> Architecture:
    """PLaMo 2. B and C are shared by all heads and computed after the convolution, which sees the inner width alone."""
    heads, width = cfg.positive(*HEADS), cfg.positive("hidden_size_per_head")
    kv_heads = cfg.positive("num_key_value_heads")
    if heads % kv_heads:
        raise ContradictionError(f"{cfg.file}: {heads} attention heads cannot share {kv_heads} KV heads")
    d = Dims(cfg.positive(*HIDDEN), cfg.positive(*LAYERS), heads, kv_heads, width)
    step = cfg.positive("mamba_step")
    if step < 2:
        raise ContradictionError(f"{cfg.file}: 'mamba_step' is {step}, expected at least 2")
    attending = _attending(d.num_layers, step) if cfg.flag("mamba_enabled", default=True) else list(range(d.num_layers))
    stack = open_stack(cfg, cfg, d, tied_default=True)
    inv, every, mixer = stack.inv, range(d.num_layers), f"{LAYER}.mixer"
    fused_qkv(inv, f"{mixer}.qkv_proj", attending, d)
    linear(inv, f"{mixer}.o_proj", attending, d.hidden, heads * width, PART, Row())
    inv.each(f"{mixer}.q_weight", attending, (heads, width), Component.NORM, Column())
    inv.each(f"{mixer}.k_weight", attending, (kv_heads, width), Component.NORM, Column(kv_heads=(kv_heads,)))
    recurrent = [i for i in every if i not in set(attending)]
    own = Mamba2State(
        cfg.positive("mamba_num_heads"),
        width,
        cfg.positive("mamba_d_state"),
        0,
        cfg.positive("mamba_d_conv"),
        state_dtype(cfg),
    )
    inner, rank = own.num_heads * width, max(64, d.hidden // 16)
    linear(inv, f"{mixer}.in_proj", recurrent, 2 * inner, d.hidden, PART, Column((inner, inner)))
    inv.each(f"{mixer}.conv1d.weight", recurrent, (inner, 1, own.conv_kernel), PART, Column())
    linear(inv, f"{mixer}.bcdt_proj", recurrent, rank + 2 * own.state_size, inner, PART, Row())
    linear(inv, f"{mixer}.dt_proj", recurrent, own.num_heads, rank, PART, Column())
    linear(inv, f"{mixer}.out_proj", recurrent, d.hidden, inner, PART, Row())
    for name in ("A_log", "D", "dt_bias"):
        inv.each(f"{mixer}.{name}", recurrent, (own.num_heads,), PART, Column())
    for name, size in (("dt", rank), ("B", own.state_size), ("C", own.state_size)):
        inv.each(f"{mixer}.{name}_norm_weight", recurrent, (size,), Component.NORM)
    mlp = stack.intermediate = cfg.positive("intermediate_size")
    linear(inv, f"{LAYER}.mlp.gate_up_proj", every, 2 * mlp, d.hidden, Component.MLP, Column((mlp, mlp)))
    linear(inv, f"{LAYER}.mlp.down_proj", every, d.hidden, mlp, Component.MLP, Row())
    for name in ("pre_mixer_norm", "post_mixer_norm", "pre_mlp_norm", "post_mlp_norm"):
        norm(inv, f"{LAYER}.{name}", every, d.hidden)
    stack.layers = [Layer((full(d) if i in set(attending) else own,)) for i in every]
    return stack.finish(cfg, "plamo2")
