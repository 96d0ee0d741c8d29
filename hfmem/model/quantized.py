"""The size of quantized weights where only config.json is at hand: its quantization section applied to the inventory."""

from __future__ import annotations

from collections.abc import Iterable

from hfmem.checkpoint.grouping import boxes_of
from hfmem.checkpoint.logical import LogicalGroup
from hfmem.checkpoint.quantization import logical_groups
from hfmem.checkpoint.quantization_config import Quantization
from hfmem.checkpoint.roles import is_expert
from hfmem.checkpoint.tensors import Box, TensorGroup
from hfmem.checkpoint.whatif import convert


def scheme_of(said: Quantization) -> tuple[str, int | None] | None:
    """The what-if scheme that stores weights as the config says, and its group size; None where none does."""
    word = (said.algorithm or "").lower().replace("_", "-")
    group = said.group_size if said.group_size is not None else -1
    match said.method:
        case "fp8" | "fbgemm_fp8":
            return ("fp8-block", None) if said.block else ("fp8" if said.method == "fbgemm_fp8" else "fp8-tensor", None)
        case "compressed-tensors" | "modelopt" | "quark":
            if "nvfp4" in word:
                return "nvfp4", 16
            if "mxfp4" in word:
                return "mxfp4", 32
            if "mxfp8" in word:
                return "mxfp8", 32
            if word in ("fp8", "float-quantized", "naive-quantized") and said.bits == 8:
                return ("fp8-tensor" if said.method == "modelopt" else "fp8"), None
            if word == "int-quantized" and said.bits == 8:
                return "int8", None
            return ("int4", group) if word == "pack-quantized" and said.bits == 4 else None
        case "gptq":
            names = {3: "gptq-int3", 4: "gptq", 8: "gptq-int8"}
            return (names[said.bits], group) if said.bits in names else None
        case "awq":
            return ("awq", group) if said.bits == 4 else None
        case "bitsandbytes":
            return ("bnb-int8" if said.bits == 8 else "nf4"), None
        case "mxfp4":
            return "mxfp4", 32
        case "hqq":
            return ("hqq", said.group_size) if said.bits == 4 else None
        case "mlx":
            return (f"mlx-{said.bits}bit", said.group_size) if said.bits in (3, 4, 5, 6, 8) else None
        case _:
            return None


def stored_as_said(groups: Iterable[TensorGroup], said: Quantization) -> tuple[LogicalGroup, ...] | None:
    """The inventory's `groups` as a file with this quantization section stores them; None where the layout is not known.

    Modules that the section names as exceptions stay as they are.
    """
    scheme = scheme_of(said)
    if scheme is None:
        return None
    word, group_size = scheme
    kept: list[TensorGroup] = []
    packed: list[TensorGroup] = []
    for group in groups:
        ignored, taken = _split(group, said)
        if ignored:
            kept.append(TensorGroup(group.pattern, group.dtype, group.shape, ignored))
        if taken:
            packed.append(TensorGroup(group.pattern, group.dtype, group.shape, taken))
    experts = [group for group in packed if said.expert_dtype == "fp4" and is_expert(group.pattern)]
    rest = [group for group in packed if group not in experts]
    return (
        *logical_groups(kept),
        *convert(logical_groups(rest), word, group_size=group_size),
        *convert(logical_groups(experts), "mxfp4"),
    )


def _split(group: TensorGroup, said: Quantization) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
    """Tensors of one group that the section leaves alone, and the others. What holds for one expert holds for its layer."""
    if not said.ignored:
        return (), group.boxes
    module = group.pattern.removesuffix(".weight")
    if "{}" not in module:
        return (group.boxes, ()) if said.ignores(module) else ((), group.boxes)
    ignored: list[Box] = []
    taken: list[Box] = []
    for first, *rest in group.boxes:
        inner = [r[0] for r in rest]
        left = [value for value in first if said.ignores(module.format(value, *inner))]
        for values, target in ((left, ignored), (sorted(set(first) - set(left)), taken)):
            if values:
                target += [(outer, *rest) for (outer,) in boxes_of(values, 1)]
    return tuple(ignored), tuple(taken)
