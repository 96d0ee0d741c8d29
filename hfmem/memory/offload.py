"""Weights that vLLM leaves in the host's memory (`--cpu-offload-gb`), read by the device over its link to the host.

Every rank moves whole parameters, as it builds them, until the budget is spent (`model_executor/offloader/uva.py`): those of towers
(`_mark_tower_model`), then of its layers, first layer first (`make_layers`); never embeddings, the last norm, the head, or what
drafts. The parameter that reaches the budget moves whole. Which one that is follows from the order within a layer, as vLLM's usual
classes have it; where another registers its parameters otherwise, the sum is off by less than one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from hfmem.memory.loaded import HeldTensors, layer_sizes, parameter, parts_of
from hfmem.memory.model_classes import through_transformers
from hfmem.memory.serving import Serving
from hfmem.memory.stages import Stages
from hfmem.model.architecture import Architecture


def offloaded(arch: Architecture, held: Iterable[HeldTensors], stages: Stages, serving: Serving) -> tuple[int, ...]:
    """Bytes that a rank of each pipeline stage leaves in the host's memory. The Transformers backend, BERT's classes and
    ModernBERT's build their layers where none is moved.

    Args:
        held: what the ranks hold, as `hfmem.memory.weights.held_tensors` gives it.
    """
    budget = serving.cpu_offload_bytes
    if not budget or all(layer.stack == "encoder" for layer in arch.layers) or through_transformers(arch):
        return (0,) * stages.host
    moving = tuple(item for item in held if item.place is not None)
    towers = _as_built([item for item in moving if item.place and not item.place[0]])
    _, parts = parts_of(_as_built([item for item in moving if item.place and item.place[0]]))
    found = []
    for index, stage in enumerate(stages.where.stages):
        in_front = _tower_sizes(towers) if index == 0 else ()
        own = (size for layer in stage for size in layer_sizes(parts, layer))
        found.append(_spent(chain(in_front, own), budget))
    return tuple(found)


def _tower_sizes(towers: Sequence[HeldTensors]) -> Iterator[int]:
    """Sizes of the towers' parameters: what the inventory has before their layers, these, and the rest."""
    _, parts = parts_of(towers)
    first = min((_place(item) for item in towers if item.layer_axis is not None), default=0)
    outside = [item for item in towers if item.layer_axis is None]
    before, _ = parts_of(item for item in outside if _place(item) < first)
    after, _ = parts_of(item for item in outside if _place(item) >= first)
    numbers = sorted({layer for layers, _, _ in parts for layer in layers})
    yield from before.values()
    yield from (size for layer in numbers for size in layer_sizes(parts, layer))
    yield from after.values()


def _as_built(held: Sequence[HeldTensors]) -> list[HeldTensors]:
    """In the order in which a layer's parameters are registered: blocks (attention, feed-forward, norms) and modules as the
    inventory has them, a module's weight, scales and bias together, routed experts after what else is in their block."""
    blocks: dict[str, int] = {}
    modules: dict[str, int] = {}
    for item in held:
        for name, places in ((_block(item), blocks), (_module(item), modules)):
            places[name] = min(_place(item), places.get(name, _place(item)))

    def order(item: HeldTensors) -> tuple[int, bool, int, int]:
        return blocks[_block(item)], item.use == "routed", modules[_module(item)], _place(item)

    return sorted(held, key=order)


def _place(item: HeldTensors) -> int:
    return item.place[1] if item.place else 0


def _module(item: HeldTensors) -> str:
    return parameter(item.pattern).rpartition(".")[0]


def _block(item: HeldTensors) -> str:
    """The layer's own part that the tensor is in: `self_attn` of `model.layers.{}.self_attn.q_proj.weight`."""
    before, _, inside = item.pattern.partition(".{}.")
    return f"{before}.{inside.partition('.')[0]}"


def _spent(sizes: Iterable[int], budget: int) -> int:
    spent = 0
    for size in sizes:
        if spent >= budget:
            break
        spent += size
    return spent
