"""The size of quantized weights where only config.json is at hand: its quantization section applied to the inventory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from hfmem.checkpoint.config_targets import EVERY_LINEAR, Target
from hfmem.checkpoint.grouping import boxes_of
from hfmem.checkpoint.logical import LogicalGroup, Part
from hfmem.checkpoint.quantization import logical_groups
from hfmem.checkpoint.quantization_config import Quantization
from hfmem.checkpoint.roles import is_expert
from hfmem.checkpoint.schemes import SCHEMES, Scheme
from hfmem.checkpoint.tensors import Box, TensorGroup
from hfmem.checkpoint.whatif import convert
from hfmem.records import replace

#: how a module is stored: the what-if scheme and its group size
Choice = tuple[str | Scheme, int | None]
#: tables of DeepSeek V4.1 that are stored in FP8 with an exponent for each 32 of a row
_NGRAMS: Final = re.compile(r"\.engram\.embed\.weight$")
#: a module that stays as it was
_PLAIN: Final[Choice] = ("", None)


def scheme_of(said: Quantization, target: Target | None = None) -> Choice | None:
    """The what-if scheme that stores weights as the config says, of `target`'s modules or all, and its group size; None where none
    does."""
    word = ((target and target.algorithm) or said.algorithm or "").lower().replace("_", "-")
    bits = (target and target.bits) or said.bits
    size = said.group_size if target is None or target.group_size is None else target.group_size
    group = size if size is not None else -1
    if target is not None and target.plain:
        return _PLAIN
    if target is not None and target.scheme is not None:
        return target.scheme, None
    if said.scheme is not None and target is None:
        return said.scheme, None
    match said.method:
        case "fp8" | "fbgemm_fp8":
            if target is not None and target.algorithm is not None:  # modules that ModelOpt packed in an FP8 file
                return ("nvfp4", 16) if "nvfp4" in word else None
            return ("fp8-block", None) if said.block else ("fp8" if said.method == "fbgemm_fp8" else "fp8-tensor", None)
        case "modelopt":
            if target is not None and target.bits and target.algorithm is None and target.bits != said.bits:
                return None  # bits of its own and a format that the file does not name
            if "nvfp4" in word:
                return ("nvfp4-a16" if word.startswith("w4a16") else "nvfp4"), 16
            if "mxfp4" in word:
                return "mxfp4", 32
            if "mxfp8" in word:
                return "mxfp8", 32
            if word == "fp8-pb-wo":
                return "fp8-block", None
            return ("fp8-tensor", None) if word == "fp8" and bits == 8 else None
        case "gptq" | "awq" | "auto-round":
            packed = "awq" if said.method == "awq" or "awq" in word else "gptq"
            names = {("gptq", 3): "gptq-int3", ("gptq", 4): "gptq", ("gptq", 8): "gptq-int8", ("awq", 4): "awq"}
            return (names[packed, bits], group) if bits is not None and (packed, bits) in names else None
        case "bitsandbytes":
            four = "nf4-double" if word.endswith("-double") else "nf4"
            return ("bnb-int8" if bits == 8 else four), None
        case "mxfp4":
            return "mxfp4", 32
        case "mxfp8":
            return "mxfp8", 32
        case "petit_nvfp4":
            return "nvfp4", 16
        case "eetq":  # a scale of 16 bits a row
            return "int8", None
        case "hqq":
            return ("hqq", size) if bits == 4 else None
        case "mlx":
            return (f"mlx-{bits}bit", size) if bits in (3, 4, 5, 6, 8) else None
        case _:
            return None


def stored_as_said(groups: Iterable[TensorGroup], said: Quantization) -> tuple[LogicalGroup, ...] | None:
    """The inventory's `groups` as a file with this quantization section stores them; None where the layout is not known.

    Modules that the section names as exceptions stay as they are, those with bits or a format of their own have these.
    """
    groups = tuple(groups)
    choose = _chooser(said, [group.pattern for group in groups])
    dealt: dict[Choice, list[TensorGroup]] = {}
    for group in groups:
        for choice, boxes in _deal(group, choose).items():
            if choice is None:
                return None
            dealt.setdefault(choice, []).append(TensorGroup(group.pattern, group.dtype, group.shape, boxes))
    stored = logical_groups(dealt.pop(_PLAIN, ()))
    for (word, group_size), packed in dealt.items():
        fp4 = said.expert_dtype in ("fp4", "mxfp4") and (word if isinstance(word, str) else word.name).startswith("fp8")
        experts = [group for group in packed if fp4 and is_expert(group.pattern)]
        tables = [group for group in packed if fp4 and _NGRAMS.search(group.pattern)]
        rest = [group for group in packed if group not in (*experts, *tables)]
        stored = (
            *stored,
            *convert(logical_groups(rest), word, group_size=group_size),
            *convert(logical_groups(experts), "mxfp4"),
            *convert(logical_groups(tables), replace(SCHEMES["mxfp8"], everything=True)),
        )
    return _with_biases(stored, groups) if said.biases else stored


def _with_biases(stored: Iterable[LogicalGroup], groups: Iterable[TensorGroup]) -> tuple[LogicalGroup, ...]:
    """Packed matrices that have no bias in the inventory with one in half precision beside their codes."""
    there = {group.pattern for group in groups}
    out = []
    for group in stored:
        name = f"{group.pattern.removesuffix('.weight')}.bias"
        if group.method is not None and len(group.shape) > 1 and name not in there:
            group = replace(group, parts=(*group.parts, Part(name, "F16", (*group.shape[:-2], group.shape[-2]))))
        out.append(group)
    return tuple(out)


def _chooser(said: Quantization, patterns_there: Sequence[str]) -> Callable[[str], Choice | None]:
    """How a module of a given name is stored. Sections may name thousands of modules: whole names are looked up, not tried.

    `patterns_there`: of the inventory's weights; prefixes that none of them has are another naming's and say nothing.
    """
    default = _PLAIN if said.others_plain else scheme_of(said, said.target_of(""))
    default = _with_head(default) if said.head else default
    only = said.only if any(_inside(said.only, pattern) for pattern in patterns_there) else ()
    if not said.ignored and not said.targets and not only:
        return lambda module: default
    own = {target: scheme_of(said, target) for target in said.targets}
    own = {target: _with_all(choice) if _names(target) else choice for target, choice in own.items()}
    whole = {target.match: target for target in reversed(said.targets) if not re.search(r"[*?]|^re:", target.match)}
    patterns = [target for target in said.targets if target.match not in whole]

    ignored = said.exceptions()

    def choose(module: str) -> Choice | None:
        if ignored(module):
            return _PLAIN
        named = _named(whole, module.split(".")) if whole else None
        named = named or next((target for target in patterns if target.fits(module)), None)
        if named is None and only and not _inside(only, module):
            return _PLAIN
        return default if named is None else own[named]

    return choose


def _inside(prefixes: Iterable[str], module: str) -> bool:
    return any(module.startswith(f"{prefix}.") or f".{prefix}." in module for prefix in prefixes)


def _names(target: Target) -> bool:
    """Whether the target names modules one by one: a table among them is meant."""
    return target.match != EVERY_LINEAR and not re.search(r"[*?]|^re:", target.match)


def _with_head(choice: Choice | None) -> Choice | None:
    """The same way to store weights, of the output head, too."""
    if choice is None or choice == _PLAIN:
        return choice
    word, group_size = choice
    return replace(SCHEMES[word] if isinstance(word, str) else word, head=True), group_size


def _with_all(choice: Choice | None) -> Choice | None:
    """The same way to store weights, of an embedding or a head that is named, too."""
    if choice is None or choice == _PLAIN:
        return choice
    word, group_size = choice
    return replace(SCHEMES[word] if isinstance(word, str) else word, everything=True), group_size


def _named(whole: Mapping[str, Target], parts: Sequence[str]) -> Target | None:
    """The target of a module, or of what holds it (ModelOpt names `mlp.experts`); the longest name that is one."""
    for end in range(len(parts), 0, -1):
        for start in range(end):
            found = whole.get(".".join(parts[start:end]))
            if found is not None and (end == len(parts) or end - start > 1):
                return found
    return None


def _deal(group: TensorGroup, choose: Callable[[str], Choice | None]) -> dict[Choice | None, tuple[Box, ...]]:
    """Tensors of one group by how they are stored. What holds for one expert holds for its layer."""
    module = group.pattern.removesuffix(".weight")
    if "{}" not in module:
        return {choose(module): group.boxes}
    dealt: dict[Choice | None, list[Box]] = {}
    for first, *rest in group.boxes:
        inner = [r[0] for r in rest]
        values: dict[Choice | None, list[int]] = {}
        for value in first:
            values.setdefault(choose(module.format(value, *inner)), []).append(value)
        for choice, chosen in values.items():
            dealt.setdefault(choice, []).extend((outer, *rest) for (outer,) in boxes_of(chosen, 1))
    return {choice: tuple(boxes) for choice, boxes in dealt.items()}
