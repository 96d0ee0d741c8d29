"""Does config.json describe the tensors that are really stored? Each disagreement is one `Note` with a stable code.

The codes in `CONTRADICTIONS` mean that the two exclude each other, so that numbers derived from the config are wrong for these
files (`--strict` stops there). The others are differences that published checkpoints have for a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from hfmem.checkpoint.tensors import Checkpoint, TensorGroup
from hfmem.dtypes import BITS
from hfmem.model.architecture import Architecture, Note
from hfmem.model.ledger import assign
from hfmem.model.matching import Matcher, matcher_of
from hfmem.model.names import core, is_buffer_name
from hfmem.model.parameters import stored_dtype
from hfmem.model.presence import presence, stem_of, tied_copies
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
    notes += tied_copies(matcher, ledger)
    notes += presence(architecture, matcher, ledger, settled, shapes=shapes)
    return notes


def _layers(
    architecture: Architecture, matcher: Matcher, groups: Iterable[TensorGroup]
) -> tuple[list[Note], dict[str, frozenset[int]]]:
    """Layer numbers in names against those expected, stack by stack; and the numbers that this settles, so that the missing and
    unexpected tensors of whole layers are not reported again."""
    needed: dict[str, set[int]] = {}
    allowed: dict[str, set[int]] = {}
    for item in matcher.expected:
        stem = stem_of(item.core)
        fields = [part for part in item.spec.pattern.split(".") if part == "{}" or part.isdigit()]
        if stem is None or item.spec.layer_axis != 0 or fields[0] != "{}":
            continue
        for box in item.boxes:
            allowed.setdefault(stem, set()).update(box[0])
            if not item.spec.optional:
                needed.setdefault(stem, set()).update(box[0])
    for item in matcher.expected:
        stem = stem_of(item.core)
        if (
            stem in allowed and item.spec.layer_axis is None
        ):  # modules of one list with the layers (MixFormer's embedding, head)
            allowed[stem].update(v for box in item.boxes for v in box[0])
    stored: dict[str, set[int]] = {}
    mtp: dict[str, set[int]] = {}
    for group in groups:
        name = core(group.pattern)
        stem = stem_of(name)
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
    if len(ordered) > 2 and len(ordered) == ordered[-1] - ordered[0] + 1:  # numbers differ; a file may hold any
        return f"{ordered[0]}–{ordered[-1]}"
    text = ", ".join(map(str, ordered[:6]))
    return f"{text}, …" if len(ordered) > 6 else text


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
