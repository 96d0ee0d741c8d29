"""Weights as an engine logs them once loaded: its own parameters, merged and stacked, in the allocator's blocks.

vLLM's "Model loading took … GiB" is what PyTorch's allocator holds, and a block that would leave at most 1 MiB of its segment
counts whole: 57 MiB of Qwen2.5-7B's 14.2487 GiB (vLLM 0.6 to 0.11) are such remainders. Which checkpoint tensors share a parameter:
`packed_modules_mapping` of vLLM's model classes; experts are stacked (`fused_moe/layer.py`). SGLang loads the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from math import lcm, prod
from typing import Final, Literal

from hfmem.memory.torch_allocator import Allocated, allocate_runs
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
#: layers, the parameter's name, and its bytes in each of them
_Part = tuple[range, str, int]
_PARAMETER_OF: Final = {name: names[0] for names in _MERGED for name in names}


@dataclass(frozen=True, slots=True)
class HeldTensors:
    """Stored tensors of one pattern: `bytes` of each on a rank, how many each pipeline stage holds (and the host, last), and for
    which values of the pattern's `{}` (`layer_axis`: which of them is the layer). `use`: "routed" experts, of which a token uses
    a few; "idle", what no decode step reads; "read", the rest. `place`: whether it is of the model's layers (else of a tower), and
    where the inventory has it; None: neither."""

    pattern: str
    bytes: int
    stage_counts: tuple[int, ...]
    boxes: tuple[Box, ...]
    layer_axis: int | None
    use: Literal["read", "routed", "idle"] = "read"
    place: tuple[bool, int] | None = None


def loaded(held: Iterable[HeldTensors], *, max_split: int | None = None) -> Allocated:
    """What a rank's tensors take in the allocator, of all pipeline stages together.

    Args:
        held: as `hfmem.memory.weights.held_tensors` gives them.
        max_split: as in `allocate`.
    """
    outside, parts = parts_of(held)
    return allocate_runs([(tuple(outside.values()), 1), *_runs(parts)], max_split)


def parts_of(held: Iterable[HeldTensors]) -> tuple[dict[str, int], list[_Part]]:
    """The bytes of each parameter outside the layers, by name, and the parts of those in layers."""
    outside: dict[str, int] = {}
    parts: list[_Part] = []
    for item in held:
        name = parameter(item.pattern)
        axis = item.layer_axis
        for box in item.boxes:
            if axis is None or axis >= len(box):
                copies = prod(len(r) for r in box)
                if copies:
                    outside[name] = outside.get(name, 0) + copies * item.bytes
                continue
            copies = prod(len(r) for index, r in enumerate(box) if index != axis)
            if box[axis]:
                parts.append((box[axis], name, copies * item.bytes))
    return outside, parts


def _runs(parts: Sequence[_Part]) -> Iterator[tuple[tuple[int, ...], int]]:
    """The sizes of each layer's parameters, first layer first: those of one turn, and how often it comes.

    Between two layers where some part begins or ends, layers repeat after the least common multiple of the parts' steps.
    """
    edges: dict[int, list[int]] = {}
    for index, (layers, _, _) in enumerate(parts):
        for edge in (layers[0], layers[-1] + 1):
            edges.setdefault(edge, []).append(index)
    present: set[int] = set()
    for start, end in pairwise(sorted(edges)):
        present.symmetric_difference_update(edges[start])
        here = [parts[index] for index in sorted(present)]  # as they are held, which is the allocator's order
        turn = min(lcm(*(layers.step for layers, _, _ in here)), end - start)
        times, rest = divmod(end - start, turn)
        sizes = [layer_sizes(here, layer) for layer in range(start, start + turn)]
        yield tuple(size for layer in sizes for size in layer), times
        if rest:
            yield tuple(size for layer in sizes[:rest] for size in layer), 1


def layer_sizes(parts: Iterable[_Part], layer: int) -> list[int]:
    """Bytes of one layer's parameters."""
    own: dict[str, int] = {}
    for layers, name, size in parts:
        if layer in layers:
            own[name] = own.get(name, 0) + size
    return list(own.values())


def rounding(held: Sequence[HeldTensors], stage_bytes: int, *, max_split: int | None = None) -> Allocated:
    """How much blocks and segments exceed the tensors of a pipeline stage of `stage_bytes`: as they do on all, in proportion."""
    total = sum(item.bytes * sum(item.stage_counts) for item in held)
    if not total:
        return Allocated(0, 0)
    found = loaded(held, max_split=max_split)
    part = Fraction(stage_bytes, total)
    return Allocated(int(max(found.block_bytes - total, 0) * part), int(max(found.segment_bytes - total, 0) * part))


def parameter(pattern: str) -> str:
    """The engine's parameter that tensors of `pattern` are part of, but for its layer."""
    return ".".join(_PARAMETER_OF.get(word, word) for word in pattern.split(".") if word != "{}")
