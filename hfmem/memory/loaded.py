"""Weights as an engine logs them once loaded: its own parameters, merged and stacked, in the allocator's blocks.

vLLM's "Model loading took … GiB" is what PyTorch's allocator holds, and a block that would leave at most 1 MiB of its segment
counts
whole: 57 MiB of Qwen2.5-7B's 14.2487 GiB (vLLM 0.6 to 0.11) are such remainders. Which checkpoint tensors share a parameter:
`packed_modules_mapping` of vLLM's model classes; experts are stacked (`fused_moe/layer.py`). SGLang loads the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import prod
from typing import Final, Literal

from hfmem.memory.torch_allocator import Allocated, allocate
from hfmem.model.inventory import Box
from hfmem.records import dataclass

#: projections that one parameter holds side by side, by the last words of their modules
_MERGED: Final[tuple[tuple[str, ...], ...]] = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("query", "key", "value"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("in_proj_qkv", "in_proj_z"),
    ("in_proj_b", "in_proj_a"),
)
_PARAMETER_OF: Final = {name: names[0] for names in _MERGED for name in names}


@dataclass(frozen=True, slots=True)
class HeldTensors:
    """Stored tensors of one pattern: `bytes` of each on a rank, how many each pipeline stage holds (and the host, last), and for
    which values of the pattern's `{}` (`layer_axis`: which of them is the layer). `use`: "routed" experts, of which a token uses
    a few; "idle", what no decode step reads; "read", the rest."""

    pattern: str
    bytes: int
    stage_counts: tuple[int, ...]
    boxes: tuple[Box, ...]
    layer_axis: int | None
    use: Literal["read", "routed", "idle"] = "read"


def loaded(held: Iterable[HeldTensors], *, max_split: int | None = None) -> Allocated:
    """What a rank's tensors take in the allocator, of all pipeline stages together.

    Args:
        held: as `hfmem.memory.weights.held_tensors` gives them.
        max_split: as in `allocate`.
    """
    outside: dict[str, int] = {}
    layers: dict[int, dict[str, int]] = {}
    for item in held:
        name = _parameter(item.pattern)
        axis = item.layer_axis
        for box in item.boxes:
            if axis is None or axis >= len(box):
                copies = prod(len(r) for r in box)
                if copies:
                    outside[name] = outside.get(name, 0) + copies * item.bytes
                continue
            copies = prod(len(r) for index, r in enumerate(box) if index != axis)
            for layer in box[axis]:
                own = layers.setdefault(layer, {})
                own[name] = own.get(name, 0) + copies * item.bytes
    sizes = [*outside.values(), *(size for layer in sorted(layers) for size in layers[layer].values())]
    return allocate(sizes, max_split)


def rounding(held: Sequence[HeldTensors], stage_bytes: int, *, max_split: int | None = None) -> Allocated:
    """How much blocks and segments exceed the tensors of a pipeline stage of `stage_bytes`: as they do on all, in proportion."""
    total = sum(item.bytes * sum(item.stage_counts) for item in held)
    if not total:
        return Allocated(0, 0)
    found = loaded(held, max_split=max_split)
    part = Fraction(stage_bytes, total)
    return Allocated(int(max(found.block_bytes - total, 0) * part), int(max(found.segment_bytes - total, 0) * part))


def _parameter(pattern: str) -> str:
    """The engine's parameter that tensors of `pattern` are part of, but for its layer."""
    return ".".join(_PARAMETER_OF.get(word, word) for word in pattern.split(".") if word != "{}")
