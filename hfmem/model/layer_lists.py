"""Which layers are what, as configs spell it: one window for all, `layer_types`, `mlp_layer_types`, or the class's own pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.blocks import Dims
from hfmem.model.config import Config
from hfmem.model.layers import Layer


def full_layers(d: Dims) -> list[Layer]:
    """Full attention everywhere."""
    return [Layer((blocks.full(d),))] * d.num_layers


def windowed_layers(cfg: Config, d: Dims) -> list[Layer]:
    """One window for every layer where `sliding_window` is set, else full attention."""
    window = cfg.opt_int("sliding_window")
    return [Layer((blocks.sliding(d, window),))] * d.num_layers if window else full_layers(d)


def typed_layers(cfg: Config, d: Dims, is_full: Callable[[int], bool] | None) -> list[Layer]:
    """Layers by `layer_types`; where a config has none, layer i is full attention if `is_full(i)` and slides otherwise.

    `is_full` None: absent `layer_types` means full attention everywhere.
    """
    types = cfg.opt_list("layer_types")
    if types is None:
        if is_full is None:
            return full_layers(d)
        types = ["full_attention" if is_full(i) else "sliding_attention" for i in range(d.num_layers)]
    types = exactly(cfg, "layer_types", types, d.num_layers)
    return blocks.attention_by_types(cfg, d, types, cfg.opt_int("sliding_window") or None)


def exactly(cfg: Config, key: str, values: list[object], count: int) -> list[str]:
    """`values` as strings if there are `count` of them. Raises ContradictionError naming the key."""
    if len(values) != count or not all(isinstance(v, str) for v in values):
        raise ContradictionError(f"{cfg.file}: {key!r} has {len(values)} entries, expected {count} names")
    return [str(v) for v in values]


def sparse_layers(cfg: Config, num_layers: int, first_sparse: int) -> list[int]:
    """Layers with routed experts by `mlp_layer_types` (`dense`, `sparse`), else all from `first_sparse` on."""
    kinds = cfg.opt_list("mlp_layer_types")
    if kinds is None:
        return list(range(min(first_sparse, num_layers), num_layers))
    names = exactly(cfg, "mlp_layer_types", kinds, num_layers)
    return [i for i, kind in enumerate(names) if cfg.choice("mlp_layer_types", kind, ("dense", "sparse")) == "sparse"]


def others(num_layers: int, layers: Iterable[int]) -> list[int]:
    """The layers not among `layers`."""
    taken = set(layers)
    return [i for i in range(num_layers) if i not in taken]
