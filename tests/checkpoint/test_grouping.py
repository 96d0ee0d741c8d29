"""Groups hold exactly the tensors that went in, in few boxes, and survive a trip through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfmem.checkpoint.grouping import boxes_of, group_tensors, ranges_of
from hfmem.checkpoint.groups_json import dump_checkpoint, dump_groups, load_checkpoint, load_groups
from hfmem.checkpoint.tensors import Checkpoint, TensorGroup
from hfmem.errors import ContradictionError, FormatError


def names_of(groups: tuple[TensorGroup, ...]) -> list[str]:
    return [name for group in groups for name in group.names()]


def test_whole_numeric_components_are_indices_and_digits_in_words_are_not() -> None:
    tensors = [(f"model.layers.{i}.mlp.fc1.w2.weight", "BF16", (8, 4)) for i in range(40)]
    tensors += [("0.auto_model.9", "F32", (2,)), ("model.norm.weight", "BF16", (4,)), ("a.007.b", "F32", ())]
    groups = group_tensors(tensors)
    assert [(g.pattern, g.boxes) for g in groups] == [
        ("model.layers.{}.mlp.fc1.w2.weight", ((range(40),),)),
        ("{}.auto_model.{}", ((range(1), range(9, 10)),)),
        ("model.norm.weight", ((),)),
        ("a.007.b", ((),)),
    ]
    assert groups[0].total_bytes == 40 * 8 * 4 * 2
    assert names_of(groups) == [name for name, _, _ in tensors]


def test_experts_of_some_layers_are_one_box() -> None:
    tensors = [(f"m.layers.{i}.experts.{j}.w", "F8_E4M3", (2, 2)) for i in range(3, 61) for j in range(256)]
    (group,) = group_tensors(tensors)
    assert group.boxes == ((range(3, 61), range(256)),)
    assert group.count == 58 * 256


def test_layers_with_pruned_experts_are_several_exact_boxes() -> None:
    kept = {0: range(8), 1: range(8), 2: [0, 1, 5], 3: range(8)}
    tensors = [(f"layers.{i}.experts.{j}.w", "F32", (1,)) for i, experts in kept.items() for j in experts]
    (group,) = group_tensors(tensors)
    assert sorted(group.indices()) == sorted((i, j) for i, experts in kept.items() for j in experts)
    assert len(group.boxes) <= 4


def test_every_fourth_layer_is_one_stepped_range() -> None:
    assert ranges_of([3, 7, 11, 15]) == [range(3, 16, 4)]
    assert ranges_of([3, 9, 10, 11]) == [range(3, 4), range(9, 12)]
    assert ranges_of([5]) == [range(5, 6)]
    assert ranges_of([1, 4]) == [range(1, 2), range(4, 5)]


def test_one_pattern_of_two_shapes_is_two_groups() -> None:
    tensors = [(f"layers.{i}.w", "F32", (4,) if i % 2 else (8,)) for i in range(6)]
    groups = group_tensors(tensors)
    assert [(g.shape, g.boxes) for g in groups] == [((8,), ((range(0, 5, 2),),)), ((4,), ((range(1, 6, 2),),))]


@pytest.mark.parametrize("shape", [(4,), (5,)])
def test_a_name_that_occurs_twice_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContradictionError, match=r"'layers\.1\.w' is stored twice"):
        group_tensors([("layers.0.w", "F32", (4,)), ("layers.1.w", "F32", (4,)), ("layers.1.w", "F32", shape)])


components = st.one_of(
    st.integers(0, 12).map(str),
    st.sampled_from(
        ["layers", "w2", "{}", "{", "}", "{0}", "", "007", "1" * 30, "a\nb", "٣", "\n", "a\0\nb", "x.3", "é"]
    ),
)
tensor_names = st.lists(components, min_size=1, max_size=4).map(".".join)
facts = st.tuples(st.sampled_from(["F32", "BF16", "F4"]), st.sampled_from([(), (2,), (2, 4)]))


@given(st.dictionaries(tensor_names, facts, max_size=60))
@settings(deadline=None, max_examples=300)
def test_groups_hold_exactly_what_went_in(tensors: dict[str, Any]) -> None:
    groups = group_tensors((name, dtype, shape) for name, (dtype, shape) in tensors.items())
    found = [(name, (g.dtype, g.shape)) for g in groups for name in g.names()]
    assert len(found) == len(tensors)
    assert dict(found) == tensors
    assert sum(g.count for g in groups) == len(tensors)
    assert load_groups(json.loads(json.dumps(dump_groups(groups))), "cache") == groups


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3)), min_size=1), st.randoms())
@settings(deadline=None)
def test_boxes_are_exact_and_disjoint(tuples: set[tuple[int, int, int]], random: Any) -> None:
    shuffled = sorted(tuples)
    random.shuffle(shuffled)
    boxes = boxes_of([value for item in shuffled for value in item], 3)
    inside = [(a, b, c) for x, y, z in boxes for a in x for b in y for c in z]
    assert len(inside) == len(tuples)
    assert set(inside) == tuples


GROUP = ["layers.{}.w", "BF16", [4, 2], [[[0, 3]], [[5, 12, 3]]]]


def test_json_is_what_it_says() -> None:
    (group,) = load_groups([GROUP], "cache")
    assert list(group.names()) == ["layers.0.w", "layers.1.w", "layers.2.w", "layers.5.w", "layers.8.w", "layers.11.w"]
    assert dump_groups([group]) == [GROUP]


@pytest.mark.parametrize(
    "damage",
    [
        None,
        {},
        [None],
        [GROUP[:3]],
        [[7, *GROUP[1:]]],
        [["layers.{.w", *GROUP[1:]]],
        [["layers.{}.{}", *GROUP[1:]]],
        [[GROUP[0], "F33", *GROUP[2:]]],
        [[*GROUP[:2], [4, -2], GROUP[3]]],
        [[*GROUP[:2], [4, 2.0], GROUP[3]]],
        [[*GROUP[:2], [4, True], GROUP[3]]],
        [[*GROUP[:2], [2**40, 2**40], GROUP[3]]],
        [[*GROUP[:3], []]],
        [[*GROUP[:3], [[]]]],
        [[*GROUP[:3], [[[0]]]]],
        [[*GROUP[:3], [[[0, "3"]]]]],
        [[*GROUP[:3], [[[3, 0]]]]],
        [[*GROUP[:3], [[[-1, 3]]]]],
        [[*GROUP[:3], [[[0, 3, 0]]]]],
        [[*GROUP[:3], [[[0, 3]], [[2, 4]]]]],
        [[*GROUP[:3], [[[0, 10**12]]]]],
    ],
)
def test_damaged_json_is_an_error(damage: Any) -> None:
    with pytest.raises(FormatError, match="cache"):
        load_groups(damage, "cache")


def test_checkpoint_round_trip_and_damage() -> None:
    groups = group_tensors([("a.0", "F32", (2,)), ("a.1", "F32", (2,))])
    checkpoint = Checkpoint(groups, "safetensors", 2, 1234, (("format", "pt"),), ("a note",))
    value = json.loads(json.dumps(dump_checkpoint(checkpoint)))
    assert load_checkpoint(value, "cache") == checkpoint
    for key in value:
        for bad in (None, 1.5, "x", [1], {"a": 1}):
            if value[key] == bad or (key == "file_bytes" and bad is None):
                continue
            with pytest.raises(FormatError):
                load_checkpoint({**value, key: bad}, "cache")
    with pytest.raises(FormatError):
        load_checkpoint([], "cache")
