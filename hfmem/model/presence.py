"""Tensors that the config means and the files do not hold, and the other way about: for which reason, as notes.

What published checkpoints have for a reason (another layout of the same parameters, a text-only copy, a task's head) is told first
and taken out; what is left contradicts the config.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Final

from hfmem.checkpoint.tensors import Box
from hfmem.model.architecture import Architecture, Note
from hfmem.model.inventory import Component
from hfmem.model.ledger import Ledger, Stored
from hfmem.model.matching import Expected, Matcher, count_boxes, subtract
from hfmem.model.names import classify, core

#: modules that a class puts on top of the model for a task other than text generation
_TASK_HEADS: Final = frozenset(
    (
        "score",
        "classifier",
        "pooler",
        "cls",
        "qa_outputs",
        "v_head",
        "classification_head",
        "seq_relationship",
        "dense",
        "value_head",
    )
)
#: expected tensors with how many of each are missing, and stored ones that nothing expects
Missing = list[tuple[Expected, int]]
Unexpected = list[Stored]


def presence(
    architecture: Architecture,
    matcher: Matcher,
    ledger: Ledger,
    settled: Mapping[str, frozenset[int]],
    *,
    shapes: bool,
) -> list[Note]:
    """Notes on what is missing and what is unexpected.

    Args:
        settled: stack → numbers of layers that have been reported as a whole.
        shapes: the shapes stored are known, so that parameters can be counted.
    """
    missing = _missing(matcher, ledger, settled)
    unexpected = [left for stored in ledger.unexpected if (left := _outside(stored, settled)) is not None]
    if architecture.partial:  # what stands apart from the stacks that the inventory lists is a part that it does not
        stems = {stem_of(item.core) for item in matcher.expected} - {None}
        unexpected = [stored for stored in unexpected if stem_of(core(stored.group.pattern)) in stems]
    missing, unexpected, notes = _other_layouts(matcher, missing, unexpected, shapes=shapes)
    missing, without = _text_alone(matcher, ledger, missing)
    missing, unexpected, heads = _heads(architecture, missing, unexpected)
    return [*notes, *without, *heads, *_contradicting(missing, unexpected)]


def _other_layouts(
    matcher: Matcher, missing: Missing, unexpected: Unexpected, *, shapes: bool
) -> tuple[Missing, Unexpected, list[Note]]:
    """The same elements of a component under other names are another layout, not a contradiction."""
    notes: list[Note] = []
    for component in Component:
        lost = sum(count * item.spec.elements for item, count in missing if item.spec.component is component)
        others = [stored for stored in unexpected if _component(matcher, stored) is component]
        if lost and (lost == sum(stored.elements for stored in others) if shapes else others):
            missing = [pair for pair in missing if pair[0].spec.component is not component]
            unexpected = [stored for stored in unexpected if _component(matcher, stored) is not component]
            message = f"{component.value} tensors are laid out in another way than this family's ({lost:,} parameters)"
            notes.append(Note("layout_differs", message))
    return missing, unexpected, notes


def _text_alone(matcher: Matcher, ledger: Ledger, missing: Missing) -> tuple[Missing, list[Note]]:
    """A copy of a multimodal model that holds nothing of its towers."""
    towers = [pair for pair in missing if pair[0].spec.component is Component.VISION]
    if not towers or any(matcher.expected[n].spec.component is Component.VISION for n in ledger.found):
        return missing, []
    lost = sum(count * item.spec.elements for item, count in towers)
    note = Note("towers_missing", f"the files leave out the vision or audio part ({lost:,} parameters)")
    return [pair for pair in missing if pair not in towers], [note]


def _heads(
    architecture: Architecture, missing: Missing, unexpected: Unexpected
) -> tuple[Missing, Unexpected, list[Note]]:
    """A task's head beside or instead of the language model's, and classes that have none."""
    notes: list[Note] = []
    heads = [stored for stored in unexpected if _TASK_HEADS & set(core(stored.group.pattern).split(".")[:2])]
    headless = [pair for pair in missing if pair[0].spec.component is Component.LM_HEAD]
    if headless and (heads or not _generates(architecture)):
        missing = [pair for pair in missing if pair not in headless]
        notes.append(Note("head_missing", "the files hold no language model head: the class has none, or another head"))
    if heads:
        what = _list((stored.group.pattern, stored.boxes) for stored in heads)
        notes.append(Note("task_head", f"the files hold a task's head ({what})"))
    return missing, [stored for stored in unexpected if stored not in heads], notes


def _contradicting(missing: Missing, unexpected: Unexpected) -> list[Note]:
    notes: list[Note] = []
    if missing:
        total = sum(count for _, count in missing)
        what = ", ".join(f"{item.spec.pattern} × {count}" for item, count in missing[:3])
        what += ", …" if len(missing) > 3 else ""
        notes.append(
            Note("missing_tensors", f"config.json means {total:,} tensors that the files do not hold ({what})")
        )
    if unexpected:
        total = sum(count_boxes(stored.boxes) for stored in unexpected)
        what = _list((stored.group.pattern, stored.boxes) for stored in unexpected)
        notes.append(
            Note("unexpected_tensors", f"the files hold {total:,} tensors that config.json does not explain ({what})")
        )
    return notes


def stem_of(item_core: str) -> str | None:
    """The stack that a tensor of a numbered layer belongs to; None for one that is in no layer."""
    stem, brace, _ = item_core.partition(".{}")
    return stem if brace else None


def tied_copies(matcher: Matcher, ledger: Ledger) -> list[Note]:
    """Tensors that are stored although the config ties them to others."""
    copies = [
        (group, boxes)
        for number, pairs in ledger.found.items()
        if matcher.expected[number].spec.tied_to is not None
        for group, boxes in pairs
    ]
    if not copies:
        return []
    size = sum(count_boxes(boxes) * group.tensor_bytes for group, boxes in copies)
    message = (
        f"{copies[0][0].pattern} is stored although the config ties it: {size:,} bytes, its parameters counted once"
    )
    return [Note("tied_stored", message)]


def _missing(matcher: Matcher, ledger: Ledger, settled: Mapping[str, frozenset[int]]) -> Missing:
    missing: Missing = []
    stored_targets = {
        matcher.expected[n].spec.tied_to for n in ledger.found if matcher.expected[n].spec.tied_to is not None
    }
    for number, item in enumerate(matcher.expected):
        spec = item.spec
        if spec.optional or spec.buffer or spec.tied_to is not None or spec.pattern in stored_targets:
            continue
        if {item.core, item.core.rpartition(".")[0]} & ledger.packed_modules and spec.pattern.rpartition(".")[
            2
        ] != "bias":
            continue
        rest: tuple[Box, ...] = item.boxes
        for _, boxes in ledger.found.get(number, ()):
            rest = subtract(rest, boxes)
        gone = settled.get(stem_of(item.core) or "", frozenset())
        count = sum(
            prod(len(r) for r in box[1:]) * sum(v not in gone for v in box[0]) if gone else prod(map(len, box))
            for box in rest
        )
        if count:
            missing.append((item, count))
    return missing


def _outside(stored: Stored, settled: Mapping[str, frozenset[int]]) -> Stored | None:
    """What is left of unexpected tensors once whole layers that were reported are taken out."""
    gone = settled.get(stem_of(core(stored.group.pattern)) or "", frozenset())
    if not gone:
        return stored
    everywhere = tuple((range(v, v + 1), *box[1:]) for box in stored.boxes for v in box[0] if v not in gone)
    return Stored(stored.group, everywhere) if everywhere else None


def _component(matcher: Matcher, stored: Stored) -> Component:
    owner = matcher.owner(stored.group.pattern, stored.boxes)
    return owner.spec.component if owner else classify(stored.group.pattern)


def _generates(architecture: Architecture) -> bool:
    """Whether the class named has a language model head."""
    first = architecture.architectures[0] if architecture.architectures else ""
    return not first or any(
        word in first for word in ("ForCausalLM", "LMHead", "ForConditionalGeneration", "ForMaskedLM")
    )


def _list(items: Iterable[tuple[str, Sequence[Box]]]) -> str:
    pairs = list(items)
    text = ", ".join(f"{pattern} × {count_boxes(boxes)}" for pattern, boxes in pairs[:3])
    return f"{text}, …" if len(pairs) > 3 else text
