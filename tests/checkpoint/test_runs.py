"""What comes again from layer to layer is read as what it is, and nothing that differs is taken for it."""

from __future__ import annotations

import json
import random

import pytest
from header_texts import general, said, text_of
from hypothesis import given
from hypothesis import strategies as st

from hfmem.checkpoint import canonical
from hfmem.checkpoint.canonical import Known, read_columns
from hfmem.checkpoint.grouping import Fold, group_facts
from hfmem.checkpoint.runs import Again, Listed, Run, are_distinct
from hfmem.checkpoint.safetensors import parse_header
from hfmem.errors import ContradictionError

Tensors = list[tuple[str, str, tuple[int, ...]]]


def layer(number: int, experts: int = 12, start: str = "model.layers.") -> Tensors:
    """Two tensors an expert, and two of the layer itself."""
    found: Tensors = [(f"{start}{number}.norm", "BF16", (8,))]
    for expert in range(experts):
        found.append((f"{start}{number}.experts.{expert}.w2.weight", "F8_E4M3", (4, 6)))
        found.append((f"{start}{number}.experts.{expert}.w2.scale", "F32", (1,)))
    return [*found, (f"{start}{number}.attn.q_proj.weight", "BF16", (8, 8))]


def taught(*headers: Tensors) -> Known:
    known = Known()
    for tensors in headers:
        assert read_columns(text_of(tensors), known) is not None
    return known


def num_again(tensors: Tensors, known: Known) -> int:
    """How many tensors of a header are not taken apart; what it says is checked."""
    columns = read_columns(text_of(tensors), known)
    assert columns is not None and said(columns) == general(text_of(tensors))
    return sum(len(part) for part in columns.parts if isinstance(part, Again))


def test_the_next_layer_is_not_taken_apart() -> None:
    known = taught(layer(3))
    assert num_again(layer(4), known) == 26
    several = [row for number in range(17, 21) for row in layer(number)]
    assert num_again([("a", "F32", ()), *several], known) == 4 * 26  # what comes first is not known
    assert num_again([*((f"a.{i}", "F32", ()) for i in range(20)), *several], known) == 0
    assert num_again([*layer(17), *layer(18), ("a", "F32", ())], known) == 52
    assert num_again(layer(4, start="model.other."), known) == 26  # what stands before the number may be another thing
    assert num_again(layer(0, experts=3), taught(layer(1, experts=3))) == 0  # too short


def test_layers_cut_at_any_place() -> None:
    rows = layer(3) + layer(4) + layer(5)
    known = taught(rows[:40])
    again = 0
    for cut in range(41, len(rows)):
        again += num_again(rows[40:cut], known) + num_again(rows[cut:], known)
    assert again > 300


def test_a_header_of_many_layers_teaches_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "_PIECE", 4000)
    rows = [row for number in range(12) for row in layer(number)]
    assert num_again(rows, Known()) > 200


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"layers.4.experts.3.w2", b"layers.4.experts.3.w3"),
        (b"layers.4.experts.3.", b"layers.5.experts.3."),
        (b"layers.4.experts.3.", b"layers.04.experts.3."),
        (b"layers.4.experts.3.w2.weight", b"layers.4.experts.2.w2.weight"),  # twice
        (b'experts.3.w2.weight":{"dtype":"F8_E4M3"', b'experts.3.w2.weight":{"dtype":"F8_E5M2"'),
        (
            b'experts.3.w2.weight":{"dtype":"F8_E4M3","shape":[4,6]',
            b'experts.3.w2.weight":{"dtype":"F8_E4M3","shape":[6,4]',
        ),
        (
            b'experts.3.w2.weight":{"dtype":"F8_E4M3","shape":[4,6]',
            b'experts.3.w2.weight":{"dtype":"F8_E4M3","shape":[4,7]',
        ),
        (b"[16,40]", b"[16,41]"),
        (b"[16,40]", b"[16, 40]"),
        (b"[16,40]", b"[16,40,40]"),
        (b"[16,40]},", b"[16,40]} ,"),
        (b"[16,40]},", b"[16,40]}},"),
        (b"[16,40]},", b'[16,40]},"x":{"dtype":"F32","shape":[0],"data_offsets":[40,40]},'),
        (b"[40,44]", b"[40,404]"),
        (b"}}", b"}"),
        (b"}}", b"}}}"),
        (b"}}", b"},}"),
        (b"q_proj", b"q_pr\\u006fj"),
        (b"q_proj", b"q_pr\xc3\xb6j"),
        (b"q_proj", b"q_pr\x01j"),
    ],
)
def test_a_layer_that_differs_is_read_the_same_or_left_alone(old: bytes, new: bytes) -> None:
    right = text_of(layer(4))
    text = right.replace(old, new, 1)
    assert text != right
    columns = read_columns(text, taught(layer(3)))
    assert columns is None or said(columns) == general(text)


@given(st.integers(0, len(text_of(layer(4))) - 1), st.binary(max_size=3), st.integers(0, 4))
def test_no_damage_is_taken_for_a_layer(at: int, put: bytes, drop: int) -> None:
    text = text_of(layer(4))
    text = text[:at] + put + text[at + drop :]
    columns = read_columns(text, taught(layer(3)))
    assert columns is None or said(columns) == general(text)


@given(st.integers(0, 10**6))
def test_groups_are_those_of_the_tensors_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    rows: Tensors = [row for number in range(6) for row in layer(number, chance.choice([3, 9, 12]))]
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(rows))
        rows.insert(at, (f"extra.{at}.{len(rows)}.w", "F32", (2,)))
    if chance.random() < 0.3:
        rows.sort(key=lambda row: (row[1], row[0]))
    cuts = sorted(chance.sample(range(len(rows)), 5))
    known, fold = Known(), Fold()
    for first, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        if first < end:
            fold.add_parts(parse_header(text_of(rows[first:end]), file="f", known=known).parts)
    names = [name for name, _, _ in rows]
    assert fold.groups() == group_facts(names, [(dtype, shape) for _, dtype, shape in rows])


def test_a_layer_in_two_files_is_stored_twice() -> None:
    known, fold = Known(), Fold()
    for rows in (layer(3), layer(4), layer(4)):
        fold.add_parts(parse_header(text_of(rows), file="f", known=known).parts)
    with pytest.raises(ContradictionError, match=r"'model\.layers\.4\.norm' is stored twice"):
        fold.groups()


def test_names_of_a_run() -> None:
    rows = layer(4)
    known = taught(layer(3))
    header = parse_header(text_of(rows), file="f", known=known)
    assert any(isinstance(part, Again) for part in header.parts)
    assert header.text_names() == [name for name, _, _ in rows]
    assert header.tensors == {name: (dtype, tuple(shape)) for name, dtype, shape in rows}
    assert json.loads(text_of(rows))["model.layers.4.norm"]["shape"] == [8]


@given(st.data())
def test_names_that_occur_twice_are_found_in_any_parts(data: st.DataObject) -> None:
    rests = data.draw(st.lists(st.sampled_from([b"a.w", b"b.w", b"1.w", b"2.w", b"c"]), min_size=1, max_size=6))
    texts = [rest.decode() for rest in rests]
    facts = [("U8", (1,))] * len(rests)
    runs = [Run(rests, texts, texts, facts, [1] * len(rests)), Run(rests[1:], texts, texts, facts, [1])]
    heads = [b"m.0.", b"m.1.", b"m.10.", b"layers.0."]
    parts: list[Listed | Again] = []
    for _ in range(data.draw(st.integers(0, 5))):
        if data.draw(st.booleans()):
            run = data.draw(st.sampled_from(runs))
            first = data.draw(st.integers(0, len(run.rests)))
            end = data.draw(st.integers(first, len(run.rests)))
            parts.append(Again(data.draw(st.sampled_from(heads)), run, first, end))
        else:
            starts = st.sampled_from([*heads, b"", b"m.", b"norm."])
            names = data.draw(st.lists(st.tuples(starts, st.sampled_from(rests)).map(b"".join), max_size=3))
            parts.append(Listed(names, facts[:1] * len(names)))
    names = [name for part in parts for name in part.names]
    assert are_distinct(parts) == (len(set(names)) == len(names))


def test_a_percent_sign_is_a_character_as_any_other() -> None:
    names = [f"experts.{expert}.100%d%%s.w" for expert in range(20)]
    first, second = ([(f"layers.{number}.{name}", "BF16", (4,)) for name in names] for number in (0, 1))
    assert num_again(second, taught(first)) == len(second)
