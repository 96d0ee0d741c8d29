"""Which GGUF type `llama-quantize` gives each tensor, for the file types people download (`Q4_K_M` and its kin).

The rules are those of llama.cpp's `llama_tensor_get_type` without an importance matrix: a file type has a base type,
and the matrices that hurt most (attention values, MLP outputs, the head) get a better one, in some or all layers.
Matrices whose rows do not fill whole blocks fall back to a type with smaller ones; vectors, routers and convolutions
are stored as F32; vision goes to an mmproj file in F16.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final

from hfmem.checkpoint.grouping import boxes_of
from hfmem.checkpoint.logical import LogicalGroup, Part
from hfmem.checkpoint.roles import Role, is_expert, layer_axis, role_of, vocabulary
from hfmem.checkpoint.tensors import Box
from hfmem.dtypes import BLOCKS
from hfmem.records import dataclass, replace

#: file type → the type of the tensors no rule improves
FILE_TYPES: Final = {
    "Q2_K": "Q2_K",
    "Q2_K_S": "Q2_K",
    "Q3_K_S": "Q3_K",
    "Q3_K_M": "Q3_K",
    "Q3_K_L": "Q3_K",
    "Q4_0": "Q4_0",
    "Q4_1": "Q4_1",
    "Q4_K_S": "Q4_K",
    "Q4_K_M": "Q4_K",
    "Q5_0": "Q5_0",
    "Q5_1": "Q5_1",
    "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K",
    "Q6_K": "Q6_K",
    "Q8_0": "Q8_0",
    "IQ1_S": "IQ1_S",
    "IQ1_M": "IQ1_M",
    "IQ2_XXS": "IQ2_XXS",
    "IQ2_XS": "IQ2_XS",
    "IQ2_S": "IQ2_XS",
    "IQ2_M": "IQ2_S",
    "IQ3_XXS": "IQ3_XXS",
    "IQ3_XS": "IQ3_S",
    "IQ3_S": "IQ3_S",
    "IQ3_M": "IQ3_S",
    "IQ4_NL": "IQ4_NL",
    "IQ4_XS": "IQ4_XS",
    "TQ1_0": "TQ1_0",
    "TQ2_0": "TQ2_0",
    "Q1_0": "Q1_0",
    "Q2_0": "Q2_0",
    "MXFP4_MOE": "MXFP4",
}

_SMALL_IQ: Final = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
# what a type becomes when a row does not fill its blocks of 256
_FALLBACK: Final = {
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q2_0": "Q4_0",
}


@dataclass(frozen=True, slots=True)
class _Model:
    """What the rules ask of the whole model. `grouping` is query heads a KV head, `head` whether a head is stored."""

    file_type: str
    num_layers: int
    num_experts: int
    grouping: int
    head: bool


def gguf_groups(groups: Iterable[LogicalGroup], file_type: str, *, tied: bool = False) -> tuple[LogicalGroup, ...]:
    """The weights as a GGUF file of this type stores them; a tied head is dropped and the embedding takes its type."""
    groups = tuple(group for group in groups if group.elements and (group.parameter or _is_kept(group.pattern)))
    vocab = vocabulary(groups)
    roles = {id(group): role_of(group, vocab) for group in groups}
    if tied and any(role is Role.EMBEDDING for role in roles.values()):
        groups = tuple(group for group in groups if roles[id(group)] is not Role.HEAD)
    model = _model(groups, roles, file_type)
    values = _layers_of(group for group in groups if roles[id(group)] in (Role.V, Role.QKV))
    out: list[LogicalGroup] = []
    for group in groups:
        role = roles[id(group)]
        by_type: dict[str, list[Box]] = {}
        for layer, boxes in _by_layer(group):
            at = values.index(layer) if role is Role.V and layer in values else layer
            kind = _type(model, role, group, at, len(values) if role is Role.V else model.num_layers)
            by_type.setdefault(_fitting(kind, group.shape), []).extend(boxes)
        for kind, boxes in by_type.items():
            folded = boxes if len(by_type) > 1 else list(group.boxes)
            out.append(_stored(group, kind, _fold(folded)))
    return tuple(out)


def _is_kept(pattern: str) -> bool:
    """Buffers that GGUF stores too: routing corrections, rotary factors."""
    return pattern.endswith((".e_score_correction_bias", ".layer_scalar", ".weight"))


def _stored(group: LogicalGroup, kind: str, boxes: tuple[Box, ...]) -> LogicalGroup:
    part = Part(group.pattern, kind, group.shape)
    size = BLOCKS[kind][0] if kind in BLOCKS else None
    quantized = kind in BLOCKS
    return replace(
        group,
        dtype=kind,
        boxes=boxes,
        parts=(part,),
        method="gguf" if quantized else None,
        bits=8 * BLOCKS[kind][1] // BLOCKS[kind][0] if quantized else None,
        group_size=size,
        block=None,
    )


def _model(groups: Sequence[LogicalGroup], roles: dict[int, Role], file_type: str) -> _Model:
    rows: dict[Role, int] = {}
    experts = 0
    for group in groups:
        role = roles[id(group)]
        if len(group.shape) == 2:
            rows[role] = max(rows.get(role, 0), group.shape[0])
        if is_expert(group.pattern):
            inner = max((len(r) for box in group.boxes for r in box[1:]), default=0)
            experts = max(experts, inner, group.shape[0] if len(group.shape) == 3 else 0)
    layers = _layers_of(group for group in groups if roles[id(group)] is not Role.VISION)
    return _Model(
        file_type,
        len(layers),
        experts,
        rows.get(Role.Q, 0) // rows[Role.K] if Role.K in rows else 1,
        any(roles[id(group)] is Role.HEAD for group in groups),
    )


def _layers_of(groups: Iterable[LogicalGroup]) -> list[int]:
    found: set[int] = set()
    for group in groups:
        axis = layer_axis(group.pattern)
        if axis is not None:
            found.update(value for box in group.boxes for value in box[axis])
    return sorted(found)


def _by_layer(group: LogicalGroup) -> Iterable[tuple[int, list[Box]]]:
    axis = layer_axis(group.pattern)
    if axis is None:
        yield 0, list(group.boxes)
        return
    layers: dict[int, list[Box]] = {}
    for box in group.boxes:
        for value in box[axis]:
            layers.setdefault(value, []).append((*box[:axis], range(value, value + 1), *box[axis + 1 :]))
    yield from sorted(layers.items())


def _fold(boxes: Sequence[Box]) -> tuple[Box, ...]:
    if len(boxes) == 1 or not boxes[0]:
        return tuple(boxes)
    tuples = [index for box in boxes for index in product(*box)]
    return boxes_of([value for index in sorted(tuples) for value in index], len(boxes[0]))


def _fitting(kind: str, shape: tuple[int, ...]) -> str:
    """The type itself where each row fills whole blocks, else the one llama.cpp falls back to."""
    for _ in range(2):
        if kind not in BLOCKS or not shape or shape[-1] % BLOCKS[kind][0] == 0:
            return kind
        kind = _FALLBACK.get(kind, "IQ4_NL" if BLOCKS[kind][0] == 256 else "F16")
    return kind if shape[-1] % BLOCKS.get(kind, (1, 1))[0] == 0 else "F16"


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and each third one between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _type(model: _Model, role: Role, group: LogicalGroup, layer: int, layers: int) -> str:
    ftype = model.file_type
    base = FILE_TYPES[ftype]
    match role:
        case Role.VISION:
            return "F16" if len(group.shape) > 1 else "F32"
        case Role.VECTOR | Role.ROUTER | Role.CONVOLUTION | Role.OTHER:
            return "F32"
        case Role.HEAD:
            return _head(base, ftype)
        case Role.EMBEDDING:
            if not model.head and "per_layer" not in group.pattern:
                return _head(base, ftype)
            return "Q8_0" if base == "MXFP4" else _embedding(base, ftype)
        case _:
            pass
    if base == "MXFP4":
        return base if is_expert(group.pattern) else "Q8_0"
    if ftype in _SMALL_IQ:
        return _small_iq(model, role, layer, layers) or base
    match role:
        case Role.V:
            return _value(model, base, layer, layers)
        case Role.K | Role.Q:
            if role is Role.K and model.num_experts == 8:
                return "Q8_0"
            return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(ftype, base)
        case Role.DOWN:
            return _down(model, base, layer, layers)
        case Role.ATTENTION_OUT:
            if model.num_experts == 8:
                five = ("Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S")
                return "Q5_K" if ftype in (*five, "IQ3_M", "IQ4_XS") else base
            raised = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
            return raised.get(ftype, base)
        case Role.QKV:
            return {"Q3_K_M": "Q4_K", "Q3_K_L": "Q4_K", "IQ3_M": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}.get(
                ftype, base
            )
        case Role.GATE | Role.UP:
            middle = layers // 8 <= layer < 7 * layers // 8
            return "IQ3_XXS" if ftype == "IQ3_XS" and middle else base
        case _:
            return base


def _head(base: str, ftype: str) -> str:
    if base == "MXFP4" or base == "Q8_0":
        return "Q8_0"
    return "Q5_K" if ftype in _SMALL_IQ or ftype == "IQ3_XXS" else "Q6_K"


def _embedding(base: str, ftype: str) -> str:
    if ftype in ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"):
        return "Q2_K"
    if ftype in ("IQ2_S", "IQ2_M", "IQ3_XXS"):
        return "IQ3_S"
    return "Q4_K" if base in ("TQ1_0", "TQ2_0", "Q2_0") else base


def _small_iq(model: _Model, role: Role, layer: int, layers: int) -> str | None:
    ftype = model.file_type
    larger = ftype in ("IQ2_S", "IQ2_M")
    if role is Role.V:
        return "Q4_K" if model.grouping >= 4 or model.num_experts >= 4 else "IQ3_S" if larger else "Q2_K"
    if role is Role.K and model.num_experts == 8:
        return "Q4_K"
    if role is Role.DOWN and layer < layers // 8:
        return "IQ3_S" if larger else "Q2_K"
    if role is Role.ATTENTION_OUT:
        if model.num_experts == 8:
            return "Q5_K"
        return "IQ2_XXS" if ftype in ("IQ1_S", "IQ1_M") else "IQ3_S" if larger else None
    return None


def _value(model: _Model, base: str, layer: int, layers: int) -> str:
    ftype, many = model.file_type, model.grouping >= 4
    kind = base
    match ftype:
        case "Q2_K":
            kind = "Q4_K" if many else "Q3_K"
        case "IQ3_XXS":
            kind = "Q4_K" if many else "IQ3_S"
        case "Q2_K_S" | "IQ3_XS" | "IQ3_S":
            kind = "Q4_K" if many else base
        case "IQ3_M":
            kind = "Q4_K"
        case "Q3_K_M":
            kind = "Q5_K" if layer < 2 else "Q4_K"
        case "Q3_K_L":
            kind = "Q5_K"
        case "IQ4_NL" | "IQ4_XS":
            kind = "Q5_K" if many else base
        case "Q4_K_M" | "Q5_K_M":
            kind = "Q6_K" if _more_bits(layer, layers) else base
        case "Q4_K_S":
            kind = "Q5_K" if layer < 4 else base
        case _:
            pass
    if model.num_layers == 80 and kind in ("Q3_K", "Q4_K"):  # the 70 B Llamas share one value head among eight
        kind = "Q5_K"
    return "Q8_0" if model.num_experts == 8 else kind


def _down(model: _Model, base: str, layer: int, layers: int) -> str:
    early, more = layer < layers // 8, _more_bits(layer, layers)
    match model.file_type:
        case "Q2_K":
            return "Q3_K"
        case "Q2_K_S":
            return "Q4_K" if early else base
        case "IQ3_XXS":
            return "Q4_K" if early else "Q3_K"
        case "Q3_K_M":
            return "Q5_K" if layer < layers // 16 else "Q4_K"
        case "Q3_K_L":
            return "Q5_K"
        case "IQ3_M":
            return "Q4_K" if early or (model.num_experts == 8 and more) else base
        case "Q4_K_M" | "Q5_K_M":
            return "Q6_K" if more else base
        case "Q4_K_S" | "IQ4_NL" | "IQ4_XS":
            return "Q5_K" if early else base
        case _:
            return base
