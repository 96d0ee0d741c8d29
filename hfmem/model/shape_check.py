"""Stored shapes against expected ones: which key of the config does a differing size contradict?"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.checkpoint.logical import LogicalGroup
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.model.architecture import Architecture, Note
from hfmem.model.inventory import Column, Component, Vocab
from hfmem.model.ledger import Ledger
from hfmem.model.matching import Expected, Matcher, count_boxes


def compare_shapes(architecture: Architecture, matcher: Matcher, ledger: Ledger) -> list[Note]:
    """One note for each key of the config that stored shapes contradict, with the first tensor that does."""
    seen: dict[str, list[str]] = {}
    for number, pairs in ledger.found.items():
        item = matcher.expected[number]
        for group, boxes in pairs:
            if isinstance(group, LogicalGroup) and not group.shape_known:
                if group.elements != item.spec.elements:
                    text = f"{item.spec.elements:,} elements are expected, {group.elements:,} packed"
                    seen.setdefault("shape_mismatch", []).append(f"{text} in {group.pattern} × {count_boxes(boxes)}")
            elif not _same_shape(group, item.spec.shape):
                code, text = _explain(architecture, item, group)
                seen.setdefault(code, []).append(f"{text} in {group.pattern} × {count_boxes(boxes)}")
    return [
        Note(
            code,
            f"config.json: {texts[0]}" + (f", and {len(texts) - 1} more kinds of tensor" if len(texts) > 1 else ""),
        )
        for code, texts in seen.items()
    ]


def _same_shape(group: TensorGroup, expected: Sequence[int]) -> bool:
    """Whether the stored shape is the expected one; stacked experts and packed matrices may lie either way round."""
    have, want = _squeezed(group.shape), _squeezed(expected)
    turned = len(want) == 3 or (isinstance(group, LogicalGroup) and group.method is not None)
    return have == want or (turned and sorted(have) == sorted(want))


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Dimensions of one do not change what a tensor holds: `[1, 1, hidden]` is `[hidden]`."""
    return tuple(size for size in shape if size != 1)


def _explain(architecture: Architecture, item: Expected, group: TensorGroup) -> tuple[str, str]:
    """The code and the sentence for one shape that is not the expected one: which key of the config it contradicts."""
    want, have = item.spec.shape, group.shape
    shapes = f"{list(want)} is expected, {list(have)} stored"
    if len(want) != len(have):
        return "shape_mismatch", shapes
    wrong = [axis for axis, (a, b) in enumerate(zip(want, have, strict=True)) if a != b]
    if isinstance(item.spec.split, Vocab) and wrong == [0]:
        return "vocab_mismatch", f"vocab_size means {want[0]:,} rows, {have[0]:,} are stored"
    if architecture.hidden_size in (want[axis] for axis in wrong) and wrong != [0]:
        return "hidden_mismatch", f"hidden_size is {architecture.hidden_size:,} and {shapes}"
    if item.spec.component is Component.ATTENTION and 0 in wrong and isinstance(item.spec.split, Column):
        heads = [count for count in item.spec.split.kv_heads if count]
        if heads:
            width = want[0] // heads[0]
            held = (
                f"{have[0] // width} × {width}"
                if len(item.spec.split.parts) < 2 and width and not have[0] % width
                else shapes
            )
            return (
                "kv_heads_mismatch",
                f"{heads[0]} KV heads × {width} mean {want[0]:,} rows, {have[0]:,} ({held}) are stored",
            )
        return "heads_mismatch", f"the attention heads mean {want[0]:,} rows, {have[0]:,} are stored"
    if item.spec.component is Component.ATTENTION and wrong == [1]:
        return "heads_mismatch", f"the attention heads mean {want[1]:,} columns, {have[1]:,} are stored"
    sizes = [want[axis] for axis in wrong]
    if item.spec.component is Component.EXPERTS and architecture.num_experts in sizes:
        return "experts_mismatch", f"there are {architecture.num_experts} experts and {shapes}"
    if architecture.hidden_size in sizes:
        return "hidden_mismatch", f"hidden_size is {architecture.hidden_size:,} and {shapes}"
    if item.spec.component in (Component.MLP, Component.EXPERTS):
        return "intermediate_mismatch", f"the feed-forward width: {shapes}"
    return "shape_mismatch", shapes
