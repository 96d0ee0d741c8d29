"""Inkling 2 Mini: Inkling 2's decoder with a run of layers passed several times, each pass reading messages of the one before.

Every pass keeps keys, values and convolution states of its own. Source: transformers 5.24.0 `models/inkling2_loop/` and
`conversion_mapping.py`; names as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families.inkling2 import ROOT, inkling2_text
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory
from hfmem.model.layers import Layer
from hfmem.records import replace

#: the class's keys and what the published `loop_config` calls them
_KEYS = {
    "loop_layer_index_start": "core_start",
    "loop_layer_index_end": "core_end",
    "loop_num_passes": "num_passes",
    "loop_gate_rank": "gate_rank",
}


def inkling2_loop_text(cfg: Config) -> Architecture:
    """The decoder. A gate of low rank mixes each of four messages into what a looped layer reads, by queries of that layer."""
    once = inkling2_text(cfg)
    part = cfg.opt_sub("loop_config")
    given: Mapping[str, Any] = {} if part is None else part.data
    named = {key: given[word] for key, word in _KEYS.items() if given.get(word) is not None}
    own = Config({**cfg.data, **named}, cfg.file, cfg.model_type, cfg.used_defaults)
    first, end, passes, rank = (own.positive(key) for key in _KEYS)
    if not first <= end <= len(once.layers):
        raise ContradictionError(f"{cfg.file}: layers {first} to {end} are not a run of {len(once.layers)}")
    inv, hidden = Inventory(), once.hidden_size
    model = Part(inv, ROOT, Component.OTHER)
    for word in ("attn", "k", "v", "mlp"):
        gate = model.at(f"layers.{{}}.controllers.{word}.", range(first, end))
        gate.tensor("down_weight", (rank, 2 * hidden))
        gate.tensor("gain_weight", (hidden, rank))
        gate.tensor("forget_weight", (hidden, rank))
    for word in ("queries", "kv_queries"):
        model.tensor(f"middle_cycle_cross_pass_{word}", (2 * (end - first), hidden))
    layers = tuple(Layer(layer.caches * passes) if first <= i < end else layer for i, layer in enumerate(once.layers))
    return replace(once, family="inkling2_loop", layers=layers, tensors=(*once.tensors, *inv.specs))
