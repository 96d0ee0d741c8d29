"""Puts the stored tensors of one layer back together: a packed weight, its scales, its zeros are one module.

Works on groups. Tensors whose groups list the same indices belong together as they are; only where one leaf's group
covers several shapes of another (a model with some layers left unquantized) are the indices spelled out and folded
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations, product
from typing import Final

from hfmem.checkpoint.grouping import boxes_of
from hfmem.checkpoint.logical import Part
from hfmem.checkpoint.tensors import Box, TensorGroup
from hfmem.records import dataclass

#: where torchao's tensors stand: in safetensors files of its two generations, and as attributes of a pickled weight
TORCHAO_STEMS: Final = (
    *("_weight_", "weight:", "weight.", "weight.tensor_impl.", "weight.original_weight_tensor.tensor_impl."),
)
#: its codes, by all the names they have had, and what stands beside them
TORCHAO_CODES: Final = ("qdata", "int_data", "packed_weight", "float8_data")
TORCHAO_SCALES: Final = ("scale_and_zero", "scale", "zero_point", "per_tensor_scale", "act_pre_scale")
#: last components that belong to a quantized weight, by the method that writes them
LEAVES: Final = frozenset(
    [
        "weight",
        # GPTQ, AWQ, AutoRound, FP-Quant, HIGGS
        *("qweight", "qzeros", "scales", "g_idx", "tables", "tables2", "dqweight", "workspace"),
        *("forward_hadamard_matrix", "backward_hadamard_matrix", "act_global_scale"),
        # compressed-tensors, with its sparse and Marlin forms
        *("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_global_scale"),
        *("input_global_scale", "input_zero_point", "compressed", "bitmask", "shape", "row_offsets"),
        *("scale_packed", "meta", "B_24", "B_meta", "s"),
        # FP8, modelopt, Quark, DeepSeek
        *("weight_scale_inv", "weight_scale_2", "input_scale", "activation_scale", "scale", "pre_quant_scale"),
        *(
            "k_scale",
            "v_scale",
            "q_scale",
            "prob_scale",
            "output_scale",
            "output_zero_point",
            "input_scale_ub",
            "k_zero_point",
        ),
        *("v_zero_point", "weight_bias"),
        # bitsandbytes
        *("SCB", "weight_format", "weight.absmax", "weight.quant_map", "weight.nested_absmax"),
        *("weight.nested_quant_map", "weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4"),
        # EETQ, MLX
        *("weight_scales", "biases"),
        # HQQ
        *("W_q", "zero", "nbits", "group_size", "axis", "packing", "view_as_float", "unpack_view_dtype"),
        *("quant_scale", "quant_zero", "compute_dtype", "offload_meta", "encoded_state_dict", "channel_wise"),
        *("stores_quant_config", "optimize", "round_zero"),
        # AQLM
        *("codes", "codebooks"),
        # QuIP#, QTIP, EXL3, EXL2
        *("Qidxs", "SU", "SV", "Wscale", "codebook_id", "fuse_scales", "rescale_WH", "had_left", "had_right"),
        *("trellis", "suh", "svh", "mcg", "mul1", "tlut", "rcp"),
        *("q_weight", "q_scale", "q_scale_max", "q_groups", "q_group_map", "q_perm", "q_invperm"),
        # SINQ, quanto
        *("meta.scale", "meta.scale.x", "meta.scale.s", "meta.scale.m", "meta.scale2", "meta.awq_scale"),
        *("meta.zero", "meta.zero.x", "meta.zero.s", "meta.zero.m"),
        *("weight._data", "weight._data._data", "weight._scale", "weight._shift"),
        # torchao
        *(f"{stem}{part}" for stem in TORCHAO_STEMS for part in (*TORCHAO_CODES, *TORCHAO_SCALES)),
    ]
)

#: endings of stacked experts' parameters, which have no `.weight` of their own → the leaf they stand for
_JOINED: Final = {
    "_blocks": "blocks",
    "_scales": "scales",
    "_weight_scale_2": "weight_scale_2",
    "_weight_scale": "weight_scale",
    "_input_scale": "input_scale",
    "_activation_scale": "activation_scale",
    "_scale_inv": "weight_scale_inv",
    "_scale": "weight_scale",
    "_weight_packed": "weight_packed",
    "_weight_shape": "weight_shape",
    "_weight_g_idx": "weight_g_idx",
}


@dataclass(frozen=True, slots=True)
class Module:
    """Modules with the same leaves, dtypes and shapes. `weight` is the name the unquantized model gives the weight."""

    base: str
    weight: str
    leaves: dict[str, Part]
    boxes: tuple[Box, ...]


def modules(groups: Iterable[TensorGroup]) -> Iterator[Module]:
    """All tensors of `groups` as modules, in order of first appearance; a tensor that is no one's part is a module alone."""
    groups = tuple(groups)
    patterns = {group.pattern for group in groups}
    by_base: dict[tuple[str, str], list[tuple[str, TensorGroup]]] = {}
    for group in groups:
        base, weight, leaf = _split(group.pattern, patterns)
        by_base.setdefault((base, weight), []).append((leaf, group))
    for (base, weight), found in by_base.items():
        by_boxes: dict[tuple[Box, ...], dict[str, Part]] = {}
        for leaf, group in found:
            by_boxes.setdefault(group.boxes, {})[leaf] = Part(group.pattern, group.dtype, group.shape)
        if sum(len(leaves) for leaves in by_boxes.values()) != len(found) or not _disjoint(by_boxes):
            by_boxes = _spelled_out(found)
        for boxes, leaves in by_boxes.items():
            yield Module(base, weight, leaves, boxes)


def _split(pattern: str, patterns: set[str]) -> tuple[str, str, str]:
    """Base, name of the weight, and leaf of a stored name."""
    base, _, leaf = pattern.rpartition(".")
    for word in ("meta", "weight"):  # leaves of several words
        head, _, tail = pattern.rpartition(f".{word}.")
        if head and f"{word}.{tail}" in LEAVES:
            return head, f"{head}.weight", f"{word}.{tail}"
    if leaf in LEAVES and base:
        return base, f"{base}.weight", leaf
    for ending, means in _JOINED.items():
        if leaf.endswith(ending) and leaf != ending:
            stem = pattern.removesuffix(ending)
            if any(stem + main in patterns for main in ("", "_blocks", "_weight_packed")):
                return stem, stem, means
    if any(pattern + ending in patterns for ending in _JOINED):
        return pattern, pattern, "weight"
    return pattern, pattern, ""


def _disjoint(keys: Iterable[tuple[Box, ...]]) -> bool:
    """Whether no index is in two of the boxes (those of one key are disjoint)."""
    return not any(
        len(left) == len(right) and all(map(_meet, left, right))
        for one, other in combinations(keys, 2)
        for left, right in product(one, other)
    )


def _meet(one: range, other: range) -> bool:
    if one.step == other.step == 1:
        return one.start < other.stop and other.start < one.stop
    short, long = sorted((one, other), key=len)
    return any(value in long for value in short)


def _spelled_out(found: list[tuple[str, TensorGroup]]) -> dict[tuple[Box, ...], dict[str, Part]]:
    at: dict[tuple[int, ...], dict[str, Part]] = {}
    for leaf, group in found:
        part = Part(group.pattern, group.dtype, group.shape)
        for index in group.indices():
            at.setdefault(index, {})[leaf] = part
    alike: dict[tuple[tuple[str, Part], ...], list[tuple[int, ...]]] = {}
    for index, leaves in at.items():
        alike.setdefault(tuple(sorted(leaves.items(), key=lambda item: item[0])), []).append(index)
    return {
        boxes_of([value for index in sorted(indices) for value in index], len(indices[0])): dict(leaves)
        for leaves, indices in alike.items()
    }
