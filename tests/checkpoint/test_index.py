"""Indices and what merging shards against them finds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfmem.checkpoint.index import natural_key, parse_index
from hfmem.checkpoint.merge import merge
from hfmem.checkpoint.safetensors import Header, parse_header
from hfmem.errors import ContradictionError, FormatError, HfmemError, MissingFileError

ONE = "model-00001-of-00002.safetensors"
TWO = "model-00002-of-00002.safetensors"


def index(weight_map: Any, **metadata: Any) -> bytes:
    return json.dumps({"metadata": metadata, "weight_map": weight_map}).encode()


def header(file: str, *names: str, shape: tuple[int, ...] = (2,), metadata: dict[str, str] | None = None) -> Header:
    size = 4
    for dim in shape:
        size *= dim
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for i, name in enumerate(names):
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [i * size, (i + 1) * size]}
    return parse_header(json.dumps(entries).encode(), file=file)


def test_facts() -> None:
    facts = parse_index(index({"b": TWO, "a": ONE}, total_size=16, total_parameters=4), "i.json")
    assert facts.shards == (ONE, TWO)
    assert facts.weight_map == {"b": TWO, "a": ONE}
    assert (facts.total_size, facts.total_parameters, facts.notes) == (16, 4, ())


@pytest.mark.parametrize(
    ("given", "read"),
    [(0, None), (None, None), (-5, None), (True, None), ("12", None), (1.5, None), (2.0**80, None), (12.0, 12), (7, 7)],
)
def test_total_size_is_taken_only_when_it_is_a_size(given: Any, read: int | None) -> None:
    assert parse_index(index({"a": ONE}, total_size=given), "i").total_size == read


@pytest.mark.parametrize("metadata", [None, [], "x", 3])
def test_metadata_may_be_anything(metadata: Any) -> None:
    data = json.dumps({"metadata": metadata, "weight_map": {"a": ONE}}).encode()
    assert parse_index(data, "i").total_size is None


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([ONE, TWO])), min_size=1, max_size=5),
    st.sampled_from(['"metadata":{},', '"metadata":{"x":["y",{"z":"w"}]},', '"weight_map":{"a":"x"},', ""]),
)
def test_a_key_given_twice_is_seen(entries: list[tuple[str, str]], before: str) -> None:
    text = "{" + before + '"weight_map":{' + ",".join(f'"{name}":"{shard}"' for name, shard in entries) + "}}"
    shards: dict[str, set[str]] = {}
    for name, shard in entries:
        shards.setdefault(name, set()).add(shard)
    if max(map(len, shards.values())) > 1 or before.startswith('"weight_map"'):
        with pytest.raises(ContradictionError, match="twice"):
            parse_index(text.encode(), "i")
    else:
        assert parse_index(text.encode(), "i").weight_map == dict(entries)


def test_garbage_after_the_json_is_a_note() -> None:
    facts = parse_index(b" \n" + index({"a": ONE}) + b"\n}\n</html>\xff\x00", "i.json")
    assert facts.shards == (ONE,)
    assert len(facts.notes) == 1
    assert "after the JSON" in facts.notes[0]


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "./a",
        "",
        ".",
        "..",
        "C:/x",
        "c:x",
        "a\\b",
        "a\0b",
        "a\nb",
        "x/",
        "\ud800",
        "a" * 2000,
    ],
)
def test_a_file_outside_the_folder_is_refused(shard: str) -> None:
    with pytest.raises(ContradictionError, match=r"i\.json: the weight_map names"):
        parse_index(index({"a": ONE, "b": shard}), "i.json")


@pytest.mark.parametrize("shard", [None, 3, ["x"], {}, True])
def test_a_shard_that_is_no_string_is_refused(shard: Any) -> None:
    with pytest.raises(ContradictionError, match="tensor 'b'"):
        parse_index(index({"a": ONE, "b": shard}), "i")


def test_a_subfolder_is_a_file_of_the_repository() -> None:
    assert parse_index(index({"a": "sub/m.safetensors"}), "i").shards == ("sub/m.safetensors",)


def test_two_files_for_one_tensor_are_refused_and_the_same_twice_is_not() -> None:
    with pytest.raises(ContradictionError, match="'a' occurs twice"):
        parse_index(f'{{"weight_map":{{"a":"{ONE}","a":"{TWO}"}}}}'.encode(), "i")
    assert parse_index(f'{{"weight_map":{{"a":"{ONE}","a":"{ONE}"}}}}'.encode(), "i").shards == (ONE,)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"   ",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"weight_map":{}}',
        b'{"weight_map":[]}',
        b'{"weight_map":{"a":"\xff"}}',
        b"[" * 100_000,
        b'{"weight_map":{"a":' + b"9" * 5000 + b"}}",
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^i\.json: "):
        parse_index(data, "i.json")


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda b: b'{"weight_map":{"a":"x' + b))
@settings(deadline=None, max_examples=300)
def test_any_bytes_give_facts_or_a_clear_error(data: bytes) -> None:
    try:
        parse_index(data, "i")
    except HfmemError as error:
        assert error.message


def test_natural_order() -> None:
    names = ["m-10-of-12", "m-2-of-12", "m-1-of-12", "a", "m-x", "9"]
    assert sorted(names, key=natural_key) == ["9", "a", "m-1-of-12", "m-2-of-12", "m-10-of-12", "m-x"]


# ------------------------------------------------------------------ merge


def test_merge_counts_all_shards() -> None:
    headers = {
        ONE: header(ONE, "l.0.w", "l.1.w", metadata={"format": "pt", "who": "one"}),
        TWO: header(TWO, "l.2.w", "n", metadata={"who": "two", "more": "x"}),
    }
    merged = merge(headers, parse_index(index({"l.0.w": ONE, "l.1.w": ONE, "l.2.w": TWO, "n": TWO}), "i"))
    assert [(g.pattern, g.boxes) for g in merged.groups] == [("l.{}.w", ((range(3),),)), ("n", ((),))]
    assert merged.total_bytes == 4 * 8
    assert merged.file_bytes == sum(8 + (h.header_bytes or 0) + h.data_bytes for h in headers.values())
    assert merged.metadata == (("format", "pt"), ("who", "one"), ("more", "x"))
    assert merged.notes == ()


def test_merge_of_nothing_is_empty() -> None:
    assert merge({}).total_bytes == 0


def test_merge_refuses_a_tensor_that_no_file_holds() -> None:
    with pytest.raises(ContradictionError, match=f"i: {ONE} does not hold tensor 'gone'"):
        merge({ONE: header(ONE, "a")}, parse_index(index({"a": ONE, "gone": ONE}), "i"))


def test_merge_refuses_a_file_that_is_not_there() -> None:
    with pytest.raises(MissingFileError, match=f"i names {TWO}"):
        merge({ONE: header(ONE, "a")}, parse_index(index({"a": ONE, "b": TWO}), "i"))


def test_merge_notes_what_the_index_has_wrong() -> None:
    headers = {ONE: header(ONE, "a", "b", "extra"), TWO: header(TWO, "c")}
    merged = merge(headers, parse_index(index({"a": ONE, "b": TWO, "c": TWO}), "i"))
    assert merged.num_tensors == 4
    assert any("other files" in note and "(b," in note for note in merged.notes)
    assert any("leaves out 1 stored" in note and "extra" in note for note in merged.notes)


def test_merge_of_doubles_needs_an_index_that_chooses() -> None:
    headers = {ONE: header(ONE, "a", "b"), TWO: header(TWO, "b", "c", shape=(4,))}
    with pytest.raises(ContradictionError, match=f"'b' is stored in both {ONE} and {TWO}"):
        merge(headers)
    with pytest.raises(ContradictionError, match="'b' is stored in both"):
        merge(headers, parse_index(index({"a": ONE, "c": TWO}), "i"))
    first = merge(headers, parse_index(index({"a": ONE, "b": ONE, "c": TWO}), "i"))
    second = merge(headers, parse_index(index({"a": ONE, "b": TWO, "c": TWO}), "i"))
    assert (first.total_bytes, second.total_bytes) == (8 + 8 + 16, 8 + 16 + 16)
    assert any("several files" in note for note in first.notes)


@pytest.mark.conformance
@pytest.mark.skipif("HFMEM_CORPUS" not in os.environ, reason="HFMEM_CORPUS names no folder")
def test_real_indices_parse() -> None:
    paths = sorted((Path(os.environ["HFMEM_CORPUS"]) / "models").glob("*/*.index.json"))
    assert len(paths) > 20
    for path in paths:
        facts = parse_index(path.read_bytes(), path.name)
        assert facts.shards
        assert facts.weight_map


def test_a_pointer_is_called_one() -> None:
    with pytest.raises(FormatError, match=r"i\.json is a Git LFS pointer, not the file \(`git lfs pull` fetches it\)"):
        parse_index(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "i.json")
