"""Does config.json describe the tensors that are really stored? Each disagreement is one `Note` with a stable code.

The codes in `CONTRADICTIONS` mean that the two exclude each other, so that numbers derived from the config are wrong for these
files (`--strict` stops there). The others are differences that published checkpoints have for a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Final

from hfmem.checkpoint.tensors import Box, Checkpoint, TensorGroup
from hfmem.dtypes import BITS
from hfmem.model.architecture import Architecture, Note
from hfmem.model.inventory import Component
from hfmem.model.ledger import Ledger, Stored, assign
from hfmem.model.matching import Expected, Matcher, count_boxes, matcher_of, subtract
from hfmem.model.names import classify, core, is_buffer_name
from hfmem.model.parameters import stored_dtype
from hfmem.model.shape_check import compare_shapes

#: codes that mean the config and the tensors exclude each other
CONTRADICTIONS: Final = frozenset(
    {
        "layers_mismatch",
        "kv_heads_mismatch",
        "heads_mismatch",
        "hidden_mismatch",
        "intermediate_mismatch",
        "vocab_mismatch",
        "experts_mismatch",
        "shape_mismatch",
        "dtype_mismatch",
        "missing_tensors",
        "unexpected_tensors",
    }
)

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
_MTP_ONLY: Final = frozenset(("eh_proj", "enorm", "hnorm", "shared_head"))


def check(
    architecture: Architecture, checkpoint: Checkpoint, logical: Sequence[TensorGroup] | None = None
) -> tuple[Note, ...]:
    """Compare the config's inventory with headers.

    Args:
        logical: what packed tensors stand for; left out, what their layout tells (`logical_groups`). Packed tensors that no layout
            explains count as present, and their shapes are not compared.
    """
    if checkpoint.format == "gguf":  # llama.cpp's own names and layouts: its metadata, not config.json, describes them
        return ()
    if logical is None:
        from hfmem.checkpoint.quantization import logical_groups  # many layouts to load; most models need none

        logical = logical_groups(checkpoint)
    groups = tuple(logical)
    notes = _compare(architecture, groups, shapes=True)
    notes += _dtype(architecture, checkpoint)
    return tuple(notes)


def check_names(architecture: Architecture, names: Sequence[TensorGroup]) -> tuple[Note, ...]:
    """Compare the config's inventory with the names of an index (`expected.index_names`), which say nothing of shapes."""
    return tuple(_compare(architecture, names, shapes=False))


def contradictions(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Those notes that mean config and tensors exclude each other."""
    return tuple(note for note in notes if note.code in CONTRADICTIONS)


def _compare(architecture: Architecture, groups: Sequence[TensorGroup], *, shapes: bool) -> list[Note]:
    if not architecture.tensors:
        return []
    matcher = matcher_of(architecture.tensors)
    ledger = assign(matcher, groups)
    notes, settled = _layers(architecture, matcher, groups)
    if shapes:
        notes += compare_shapes(architecture, matcher, ledger)
    notes += _tied(matcher, ledger)
    notes += _presence(architecture, matcher, ledger, settled, shapes=shapes)
    return notes


# ---- layers ----------------------------------------------------------------------------------------------------------------


def _stem(item_core: str) -> str | None:
    stem, brace, _ = item_core.partition(".{}")
    return stem if brace else None


def _layers(
    architecture: Architecture, matcher: Matcher, groups: Iterable[TensorGroup]
) -> tuple[list[Note], dict[str, frozenset[int]]]:
    """Layer numbers in names against those expected, stack by stack; and the numbers that this settles, so that the missing and
    unexpected tensors of whole layers are not reported again."""
    needed: dict[str, set[int]] = {}
    allowed: dict[str, set[int]] = {}
    for item in matcher.expected:
        stem = _stem(item.core)
        fields = [part for part in item.spec.pattern.split(".") if part == "{}" or part.isdigit()]
        if stem is None or item.spec.layer_axis != 0 or fields[0] != "{}":
            continue
        for box in item.boxes:
            allowed.setdefault(stem, set()).update(box[0])
            if not item.spec.optional:
                needed.setdefault(stem, set()).update(box[0])
    for item in matcher.expected:
        stem = _stem(item.core)
        if (
            stem in allowed and item.spec.layer_axis is None
        ):  # modules of one list with the layers (MixFormer's embedding, head)
            allowed[stem].update(v for box in item.boxes for v in box[0])
    stored: dict[str, set[int]] = {}
    mtp: dict[str, set[int]] = {}
    for group in groups:
        name = core(group.pattern)
        stem = _stem(name)
        if stem in allowed and not is_buffer_name(group.pattern, group.shape):
            values = {v for box in group.boxes for v in box[0]}
            stored.setdefault(stem, set()).update(values)
            if _MTP_ONLY & set(name.split(".")):
                mtp.setdefault(stem, set()).update(values)
    notes: list[Note] = []
    settled: dict[str, frozenset[int]] = {}
    main = max(needed, key=lambda s: len(needed[s]), default="")
    for stem, found in stored.items():
        extra = found - allowed[stem]
        undeclared = extra & mtp.get(stem, set())
        if undeclared:
            message = f"the files hold multi-token-prediction layers ({_numbers(undeclared)}) that config.json does not declare"
            notes.append(Note("mtp_undeclared", message))
        extra -= undeclared
        lacking = needed.get(stem, set()) - found
        settled[stem] = frozenset(extra | undeclared | lacking)
        if extra or lacking:
            key = f"num_hidden_layers is {architecture.num_hidden_layers}" if stem == main else f"the stack {stem!r}"
            held = f"the files hold {len(found - undeclared)} layers ({_numbers(found - undeclared)})"
            wanted = f"{len(needed.get(stem, ()))} are expected"
            notes.append(Note("layers_mismatch", f"config.json: {key}, {wanted}, and {held}"))
    return notes, settled


def _numbers(values: Iterable[int]) -> str:
    ordered = sorted(values)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}–{ordered[-1]}"
    text = ", ".join(map(str, ordered[:6]))
    return f"{text}, …" if len(ordered) > 6 else text


# ---- presence --------------------------------------------------------------------------------------------------------------


def _tied(matcher: Matcher, ledger: Ledger) -> list[Note]:
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


def _presence(
    architecture: Architecture,
    matcher: Matcher,
    ledger: Ledger,
    settled: Mapping[str, frozenset[int]],
    *,
    shapes: bool,
) -> list[Note]:
    missing = _missing(matcher, ledger, settled)
    unexpected = [left for stored in ledger.unexpected if (left := _outside(stored, settled)) is not None]
    if architecture.partial:  # what stands apart from the stacks that the inventory lists is a part that it does not
        stems = {_stem(item.core) for item in matcher.expected} - {None}
        unexpected = [stored for stored in unexpected if _stem(core(stored.group.pattern)) in stems]
    notes: list[Note] = []
    for component in Component:  # the same elements under other names are another layout, not a contradiction
        lost = sum(count * item.spec.elements for item, count in missing if item.spec.component is component)
        gained = sum(stored.elements for stored in unexpected if _component(matcher, stored) is component)
        others = any(_component(matcher, stored) is component for stored in unexpected)
        if lost and (lost == gained if shapes else others):
            missing = [pair for pair in missing if pair[0].spec.component is not component]
            unexpected = [stored for stored in unexpected if _component(matcher, stored) is not component]
            message = f"{component.value} tensors are laid out in another way than this family's ({lost:,} parameters)"
            notes.append(Note("layout_differs", message))
    towers = [pair for pair in missing if pair[0].spec.component is Component.VISION]
    if towers and not any(
        matcher.expected[n].spec.component is Component.VISION for n in ledger.found
    ):  # a text-only copy of a multimodal model
        missing = [pair for pair in missing if pair not in towers]
        lost = sum(count * item.spec.elements for item, count in towers)
        notes.append(Note("towers_missing", f"the files leave out the vision or audio part ({lost:,} parameters)"))
    heads = [stored for stored in unexpected if _TASK_HEADS & set(core(stored.group.pattern).split(".")[:2])]
    unexpected = [stored for stored in unexpected if stored not in heads]
    headless = [pair for pair in missing if pair[0].spec.component is Component.LM_HEAD]
    if headless and (heads or not _generates(architecture)):
        missing = [pair for pair in missing if pair not in headless]
        notes.append(Note("head_missing", "the files hold no language model head: the class has none, or another head"))
    if heads:
        notes.append(
            Note("task_head", f"the files hold a task's head ({_list((s.group.pattern, s.boxes) for s in heads)})")
        )
    if missing:
        what = ", ".join(f"{item.spec.pattern} × {count}" for item, count in missing[:3]) + (
            ", …" if len(missing) > 3 else ""
        )
        total = sum(count for _, count in missing)
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


def _missing(matcher: Matcher, ledger: Ledger, settled: Mapping[str, frozenset[int]]) -> list[tuple[Expected, int]]:
    missing: list[tuple[Expected, int]] = []
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
        gone = settled.get(_stem(item.core) or "", frozenset())
        count = sum(
            prod(len(r) for r in box[1:]) * sum(v not in gone for v in box[0]) if gone else prod(map(len, box))
            for box in rest
        )
        if count:
            missing.append((item, count))
    return missing


def _outside(stored: Stored, settled: Mapping[str, frozenset[int]]) -> Stored | None:
    """What is left of unexpected tensors once whole layers that were reported are taken out."""
    gone = settled.get(_stem(core(stored.group.pattern)) or "", frozenset())
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


# ---- dtype -----------------------------------------------------------------------------------------------------------------


def _dtype(architecture: Architecture, checkpoint: Checkpoint) -> list[Note]:
    stored = stored_dtype(checkpoint.groups)
    if stored is None or not architecture.dtype_given or stored == architecture.dtype:
        return []
    in_floats = sum(group.total_bytes for group in checkpoint.groups if group.dtype == stored)
    if 2 * in_floats <= checkpoint.total_bytes:  # mostly packed: the floats left say nothing about the model's dtype
        return []
    config, files = architecture.dtype.lower(), stored.lower()
    message = f"config.json says {config} and the files store {files}: engines convert on loading"
    same = BITS[stored] == BITS[architecture.dtype]
    return [Note("dtype_differs" if same else "dtype_mismatch", message)]
