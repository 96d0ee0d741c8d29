"""What vLLM and SGLang hold of keys' and values' projections, which they make one matrix with the queries'.

Read from vLLM 0.33.0 (`QKVParallelLinear` in `models/gemma3n.py`, `gemma4.py`, `whisper.py`): layers that attend over another
layer's cache have a query projection alone; where keys are the values too they are held twice; a bias of q and v has room for k's.
SGLang 0.5.23 (`gemma3n_causal.py`, `gemma4_causal.py`) gives every layer all three, those that share a cache as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hfmem.checkpoint.tensors import Box
from hfmem.memory import engines
from hfmem.memory.model_classes import FUSED_BIAS
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component, TensorSpec
from hfmem.model.layers import SharedCache
from hfmem.model.matching import count_boxes, intersect
from hfmem.records import dataclass
from hfmem.remembered import remembered

_KEYS: Final = ".k_proj.weight"
_VALUES: Final = ".v_proj.weight"


@dataclass(frozen=True, slots=True)
class FusedProjections:
    """One model's: `sharing` are the layers whose keys and values are not loaded, `values` the boxes of stored value projections by
    what stands before their name, `picked` the stems whose values are experts, `biased` those with room for a bias that is not
    stored."""

    sharing: frozenset[int]
    values: Mapping[str, tuple[Box, ...]]
    picked: frozenset[str]
    biased: frozenset[str]

    def left_out(self, spec: TensorSpec) -> bool:
        """Whether a tensor that a file may leave out belongs to layers alone that share another's cache."""
        axis = spec.layer_axis
        if not self.sharing or not spec.optional or axis is None:
            return False
        if spec.component not in (Component.ATTENTION, Component.NORM):
            return False
        return all(index in self.sharing for box in spec.boxes for index in box[axis])

    def copies(self, spec: TensorSpec) -> int:
        """How often the fused projection holds the tensor: keys that are the values too twice (Gemma 4)."""
        stem = spec.pattern.removesuffix(_KEYS.removeprefix("."))
        if not spec.pattern.endswith(_KEYS) or stem not in self.values or stem in self.picked:
            return 1
        return 2 if count_boxes(intersect(spec.boxes, self.values[stem])) == 0 else 1

    def bias(self, spec: TensorSpec) -> int:
        """Elements of the bias that the keys' projection has although none is stored; 0 where there is none."""
        return spec.shape[0] if spec.pattern.removesuffix(_KEYS.removeprefix(".")) in self.biased else 0


#: of an engine that holds what is stored
AS_STORED: Final = FusedProjections(frozenset(), {}, frozenset(), frozenset())


@remembered
def fused_projections(arch: Architecture, engine: str) -> FusedProjections:
    """What fused projections make of the model's keys and values; an engine without classes of its own holds what is stored."""
    if not engines.engine(engine).OWN_CLASSES:
        return AS_STORED
    stems = {spec.pattern.partition("v_experts.")[0] for spec in arch.tensors if ".v_experts." in spec.pattern}
    sharing = _sharing_layers(arch) if engine == "vllm" else frozenset[int]()
    return FusedProjections(sharing, _boxes_of_values(arch), frozenset(stems), _biased(arch))


def _boxes_of_values(arch: Architecture) -> dict[str, tuple[Box, ...]]:
    found: dict[str, tuple[Box, ...]] = {}
    for spec in arch.tensors:
        if spec.pattern.endswith(_VALUES):
            stem = spec.pattern.removesuffix(_VALUES.removeprefix("."))
            found[stem] = (*found.get(stem, ()), *spec.boxes)
    return found


def _sharing_layers(arch: Architecture) -> frozenset[int]:
    return frozenset(
        index
        for index, layer in enumerate(layer for layer in arch.layers if layer.stack == "decoder")
        if layer.caches and all(isinstance(cache, SharedCache) for cache in layer.caches)
    )


def _biased(arch: Architecture) -> frozenset[str]:
    """Stems of keys without a bias (Whisper) beside queries with one."""
    if arch.model_type not in FUSED_BIAS:
        return frozenset()
    patterns = {spec.pattern for spec in arch.tensors}
    stems = (pattern.removesuffix("k_proj.weight") for pattern in patterns if pattern.endswith(_KEYS))
    return frozenset(
        stem for stem in stems if f"{stem}q_proj.bias" in patterns and f"{stem}k_proj.bias" not in patterns
    )
