"""What a checkpoint holds of the tensors that its config makes one expect, and what it holds besides."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from hfmem.checkpoint.logical import LogicalGroup
from hfmem.checkpoint.tensors import Box, TensorGroup
from hfmem.model.matching import Matcher, count_boxes
from hfmem.model.names import core, is_buffer_name
from hfmem.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Stored:
    """Tensors that no spec explains."""

    group: TensorGroup
    boxes: tuple[Box, ...]

    @property
    def elements(self) -> int:
        """Elements of all these tensors."""
        return count_boxes(self.boxes) * prod(self.group.shape)


@dataclass(slots=True)
class Ledger:
    """What was found for each expected tensor, and what was not expected."""

    found: dict[int, list[tuple[TensorGroup, tuple[Box, ...]]]] = field(default_factory=dict)
    unexpected: list[Stored] = field(default_factory=list)
    packed_modules: set[str] = field(default_factory=set)


def assign(matcher: Matcher, groups: Iterable[TensorGroup]) -> Ledger:
    """Deal stored groups out to the expected tensors; scales, codes and indices of a packed weight belong to its module."""
    ledger = Ledger()
    biases: list[tuple[str, Stored]] = []
    position = {id(item): number for number, item in enumerate(matcher.expected)}
    modules = {item.core.rpartition(".")[0] for item in matcher.expected} | {item.core for item in matcher.expected}
    for group in groups:
        if isinstance(group, LogicalGroup):
            if not group.parameter:
                continue
            if group.method:
                ledger.packed_modules.add(core(group.pattern).rpartition(".")[0])
        for match in matcher.assign(group.pattern, group.boxes):
            if match.expected is not None:
                ledger.found.setdefault(position[id(match.expected)], []).append((group, match.boxes))
                continue
            module, _, leaf = core(group.pattern).rpartition(".")
            if leaf not in ("weight", "bias"):
                outer = module.rpartition(".")[0]
                stem = leaf.rpartition("_")[0]
                owner = next((m for m in (f"{module}.{stem}", module, outer) if m in modules), None)
                if owner is not None:  # q_proj.qweight, q_proj.weight.absmax, experts.down_proj_blocks
                    ledger.packed_modules.add(owner)
                    continue
            if group.dtype != "BOOL" and not is_buffer_name(group.pattern, group.shape):
                if leaf == "bias":
                    biases.append((module, Stored(group, match.boxes)))
                else:
                    ledger.unexpected.append(Stored(group, match.boxes))
    # GPTQ and AWQ tools write a bias (of zeros) beside every packed weight
    ledger.unexpected += [stored for module, stored in biases if module not in ledger.packed_modules]
    return ledger
