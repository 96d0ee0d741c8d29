"""Mixture-of-experts blocks as DeepSeek and its successors store them: a router, routed experts one by one, shared experts."""

from __future__ import annotations

from collections.abc import Iterable

from hfmem.errors import ContradictionError
from hfmem.model.blocks import gated_mlp, routed_experts
from hfmem.model.config import Config
from hfmem.model.inventory import Component, Inventory
from hfmem.model.stack import layer_kinds
from hfmem.records import dataclass

#: the width of one shared expert where it is not the routed ones' (Bailing, Sarvam)
SHARED_WIDTH = "moe_shared_expert_intermediate_size"


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts of one layer and the width of the shared ones beside them (0: none)."""

    count: int
    top_k: int
    width: int
    shared_width: int


def read_experts(cfg: Config) -> Experts | None:
    """DeepSeek's keys: `n_routed_experts` (or an alias), top-k, expert width, shared experts. None: the model is dense."""
    count = cfg.opt_int("n_routed_experts", "num_experts", "num_local_experts")
    if not count:
        return None
    width = cfg.positive("moe_intermediate_size")
    shared = cfg.opt_int("n_shared_experts", "num_shared_experts") or 0
    top_k = cfg.positive("num_experts_per_tok", "num_experts_per_token", "moe_topk")
    own = cfg.opt_int(SHARED_WIDTH) if cfg.published(SHARED_WIDTH) is not None else None
    return Experts(count, top_k, width, shared * (own or width))


def sparse_layers(cfg: Config, num_layers: int, *, dense_default: int = 0) -> list[int]:
    """Which layers hold experts: `mlp_layer_types`, else from `first_k_dense_replace` on every `moe_layer_freq`-th layer.

    `moe_layer_freq` may be a list of 0 and 1, one a layer (MiMo, MiniMax). `dense_default`: how many layers a class leaves dense
    when the config is silent.
    """
    types = cfg.opt_list("mlp_layer_types")
    if types is not None:
        kinds = layer_kinds(cfg, "mlp_layer_types", types, ("dense", "sparse"), num_layers)
        return [i for i, kind in enumerate(kinds) if kind == "sparse"]
    freq = cfg.published("moe_layer_freq")
    if isinstance(freq, list):
        if len(freq) != num_layers:
            raise ContradictionError(f"{cfg.file}: 'moe_layer_freq' has {len(freq)} entries for {num_layers} layers")
        return [i for i, sparse in enumerate(freq) if sparse]
    first = cfg.opt_int("first_k_dense_replace")
    first = dense_default if first is None else first
    step = cfg.opt_int("moe_layer_freq") or 1
    return [i for i in range(num_layers) if i >= first and i % step == 0]


def moe(
    inv: Inventory,
    prefix: str,
    indices: Iterable[int],
    hidden: int,
    experts: Experts,
    *,
    names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj"),
    correction_bias: str | None = None,
    shared_bias: bool = False,
) -> None:
    """Router, routed and shared experts in each layer; the shared ones may have biases.

    `correction_bias` names the load-balancing buffer (DeepSeek V3's `gate.e_score_correction_bias`): in files, not a parameter.
    """
    layers = list(indices)
    routed_experts(inv, prefix, layers, hidden, experts.width, experts.count, experts.top_k, names=names)
    if correction_bias is not None:
        inv.each(f"{prefix}.{correction_bias}", layers, (experts.count,), Component.EXPERTS, buffer=True, optional=True)
    if experts.shared_width:
        gated_mlp(inv, f"{prefix}.shared_experts", layers, hidden, experts.shared_width, bias=shared_bias)
