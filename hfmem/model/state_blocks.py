"""State-space mixers that hybrids share: what Mamba 1 and Mamba 2 blocks store and keep.

Source: transformers 5.23.0 `models/{mamba,mamba2,jamba,bamba,nemotron_h}/modeling_*.py`. Shapes of the states are in `layers.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from hfmem.dtypes import canonical
from hfmem.errors import ContradictionError
from hfmem.model.blocks import linear
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, Inventory, Row
from hfmem.model.layers import Mamba1State, Mamba2State
from hfmem.records import dataclass

PART = Component.ATTENTION
CHANNELS = Column()

#: spellings under which configs name the recurrent state's dtype
STATE_DTYPE = ("mamba_ssm_cache_dtype", "mamba_ssm_dtype", "ssm_state_dtype")


def state_dtype(cfg: Config) -> str | None:
    """The canonical dtype that the config names for recurrent states, else None (the model's)."""
    name = cfg.opt_str(*STATE_DTYPE)
    return None if name is None or name == "auto" else canonical(name)


def auto_rank(cfg: Config, hidden: int, *names: str) -> int:
    """A time-step rank: a number, or `"auto"` = ceil(hidden / 16)."""
    value = cfg.lookup(*names)
    return -(-hidden // 16) if value is None or value == "auto" else cfg.positive(*names)


@dataclass(frozen=True, slots=True)
class Mamba1:
    """Sizes of a Mamba 1 mixer. `norms`: Jamba's extra norms on dt, B and C."""

    hidden: int
    intermediate: int
    state: int
    kernel: int
    rank: int
    conv_bias: bool
    bias: bool
    dtype: str | None = None
    norms: bool = False

    def cache(self) -> Mamba1State:
        """What a layer keeps."""
        return Mamba1State(self.intermediate, self.state, self.kernel, self.dtype)


@dataclass(frozen=True, slots=True)
class Mamba2:
    """Sizes of a Mamba 2 mixer. `gated_norm`: a norm over the gated output (all but most Falcon-H1)."""

    hidden: int
    num_heads: int
    head_dim: int
    state: int
    groups: int
    kernel: int
    conv_bias: bool
    bias: bool
    out_bias: bool
    dtype: str | None = None
    gated_norm: bool = True

    def cache(self) -> Mamba2State:
        """What a layer keeps."""
        return Mamba2State(self.num_heads, self.head_dim, self.state, self.groups, self.kernel, self.dtype)


def check_heads(cfg: Config, heads: int, head_dim: int, intermediate: int) -> None:
    """Mamba 2 heads must fill the inner width. Raises ContradictionError."""
    if heads * head_dim != intermediate:
        raise ContradictionError(
            f"{cfg.file}: {heads} Mamba heads of {head_dim} do not fill an inner width of {intermediate}"
        )


def mamba1(inv: Inventory, prefix: str, indices: Iterable[int], m: Mamba1) -> None:
    """One Mamba 1 mixer in each layer. `prefix` ends before `.in_proj`."""
    layers = list(indices)
    inner = m.intermediate
    linear(inv, f"{prefix}.in_proj", layers, 2 * inner, m.hidden, PART, Column((inner, inner)), bias=m.bias)
    inv.each(f"{prefix}.conv1d.weight", layers, (inner, 1, m.kernel), PART, CHANNELS)
    if m.conv_bias:
        inv.each(f"{prefix}.conv1d.bias", layers, (inner,), PART, CHANNELS)
    linear(inv, f"{prefix}.x_proj", layers, m.rank + 2 * m.state, inner, PART, Row())
    linear(inv, f"{prefix}.dt_proj", layers, inner, m.rank, PART, CHANNELS, bias=True)
    inv.each(f"{prefix}.A_log", layers, (inner, m.state), PART, CHANNELS)
    inv.each(f"{prefix}.D", layers, (inner,), PART, CHANNELS)
    linear(inv, f"{prefix}.out_proj", layers, m.hidden, inner, PART, Row(), bias=m.bias)
    if m.norms:
        for name, size in (("dt", m.rank), ("b", m.state), ("c", m.state)):
            inv.each(f"{prefix}.{name}_layernorm.weight", layers, (size,), Component.NORM)


def mamba2(inv: Inventory, prefix: str, indices: Iterable[int], m: Mamba2) -> None:
    """One Mamba 2 mixer in each layer. Groups of B and C are replicated when there are more ranks than groups."""
    layers = list(indices)
    inner, shared = m.num_heads * m.head_dim, m.groups * m.state
    channels = Column((inner, shared, shared), (None, m.groups, m.groups))
    projected = Column((inner, inner, shared, shared, m.num_heads), (None, None, m.groups, m.groups, None))
    rows = 2 * inner + 2 * shared + m.num_heads
    linear(inv, f"{prefix}.in_proj", layers, rows, m.hidden, PART, projected, bias=m.bias)
    inv.each(f"{prefix}.conv1d.weight", layers, (inner + 2 * shared, 1, m.kernel), PART, channels)
    if m.conv_bias:
        inv.each(f"{prefix}.conv1d.bias", layers, (inner + 2 * shared,), PART, channels)
    for name in ("A_log", "D", "dt_bias"):
        inv.each(f"{prefix}.{name}", layers, (m.num_heads,), PART, CHANNELS)
    if m.gated_norm:
        inv.each(f"{prefix}.norm.weight", layers, (inner,), Component.NORM, CHANNELS)
    linear(inv, f"{prefix}.out_proj", layers, m.hidden, inner, PART, Row(), bias=m.out_bias)


def read_bamba_mixer(cfg: Config, hidden: int) -> Mamba2:
    """The `mamba_*` keys of Bamba, Granite 4 and Falcon-H1. `mamba_d_head` "auto" divides the inner width among the heads."""
    inner = cfg.opt_int("mamba_d_ssm") or int(cfg.positive_float("mamba_expand") * hidden)
    heads = cfg.positive("mamba_n_heads")
    head_dim = inner // heads if cfg.lookup("mamba_d_head") in (None, "auto") else cfg.positive("mamba_d_head")
    check_heads(cfg, heads, head_dim, inner)
    bias = cfg.flag("mamba_proj_bias", default=False)
    return Mamba2(
        hidden,
        heads,
        head_dim,
        cfg.positive("mamba_d_state"),
        cfg.positive("mamba_n_groups"),
        cfg.positive("mamba_d_conv"),
        cfg.flag("mamba_conv_bias", default=True),
        bias,
        bias,
        state_dtype(cfg),
    )
