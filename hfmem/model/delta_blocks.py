"""Gated delta nets: what Qwen3-Next's linear attention stores and keeps, in its fused and its split spelling.

Source: transformers 5.23.0 `models/{qwen3_next,qwen3_5,olmo_hybrid}/modeling_*.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from hfmem.errors import ContradictionError
from hfmem.model.blocks import linear
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, Inventory, Row
from hfmem.model.layers import DeltaNetState
from hfmem.model.state_blocks import state_dtype
from hfmem.records import dataclass

PART = Component.ATTENTION


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """Heads of a gated delta net. Keys and values have their own head counts and sizes."""

    k_heads: int
    v_heads: int
    k_dim: int
    v_dim: int
    kernel: int
    dtype: str | None = None

    @property
    def keys(self) -> int:
        """Width of q, and of k."""
        return self.k_heads * self.k_dim

    @property
    def values(self) -> int:
        """Width of v, and of the output gate z."""
        return self.v_heads * self.v_dim

    def cache(self) -> DeltaNetState:
        """What a layer keeps."""
        return DeltaNetState(self.k_heads, self.v_heads, self.k_dim, self.v_dim, self.kernel, self.dtype)


def read_delta_net(cfg: Config) -> DeltaNet:
    """The `linear_*` keys. Value heads must be a multiple of key heads."""
    net = DeltaNet(
        cfg.positive("linear_num_key_heads"),
        cfg.positive("linear_num_value_heads"),
        cfg.positive("linear_key_head_dim"),
        cfg.positive("linear_value_head_dim"),
        cfg.positive("linear_conv_kernel_dim"),
        state_dtype(cfg),
    )
    if net.v_heads % net.k_heads:
        raise ContradictionError(f"{cfg.file}: {net.v_heads} value heads cannot share {net.k_heads} key heads")
    return net


def delta_net(inv: Inventory, prefix: str, indices: Iterable[int], hidden: int, net: DeltaNet, *, fused: bool) -> None:
    """One gated delta net in each layer. `fused`: q, k, v and z in one projection, b and a in another (Qwen3-Next)."""
    layers = list(indices)
    keys, values, heads = net.keys, net.values, net.v_heads
    mixed = Column((keys, keys, values))
    if fused:
        both = Column((keys, keys, values, values))
        linear(inv, f"{prefix}.in_proj_qkvz", layers, 2 * keys + 2 * values, hidden, PART, both)
        linear(inv, f"{prefix}.in_proj_ba", layers, 2 * heads, hidden, PART, Column((heads, heads)))
    else:
        linear(inv, f"{prefix}.in_proj_qkv", layers, 2 * keys + values, hidden, PART, mixed)
        linear(inv, f"{prefix}.in_proj_z", layers, values, hidden, PART, Column())
        linear(inv, f"{prefix}.in_proj_b", layers, heads, hidden, PART, Column())
        linear(inv, f"{prefix}.in_proj_a", layers, heads, hidden, PART, Column())
    inv.each(f"{prefix}.conv1d.weight", layers, (2 * keys + values, 1, net.kernel), PART, mixed)
    for name in ("dt_bias", "A_log"):
        inv.each(f"{prefix}.{name}", layers, (heads,), PART, Column())
    inv.each(f"{prefix}.norm.weight", layers, (net.v_dim,), Component.NORM)
    linear(inv, f"{prefix}.out_proj", layers, hidden, values, PART, Row())
