"""Headers: facts or one clear error for any bytes; accept and reject as the format's own library does."""

from __future__ import annotations

import csv
import gzip
import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from hfmem.checkpoint.merge import merge
from hfmem.checkpoint.safetensors import header_length, parse_header
from hfmem.checkpoint.shard_stream import ShardStream
from hfmem.dtypes import BITS
from hfmem.errors import ContradictionError, FormatError, HfmemError, UnsupportedError


def entry(dtype: str, shape: list[int], begin: int) -> dict[str, Any]:
    elements = 1
    for size in shape:
        elements *= size
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + elements * BITS[dtype] // 8]}


def as_json(header: Any) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()


def library_accepts(header: bytes, data_bytes: int) -> bool:
    """What the Rust library says to the same header with that many bytes of data behind it."""
    try:
        safetensors.deserialize(struct.pack("<Q", len(header)) + header + bytes(data_bytes))
    except Exception:  # the library raises one of its own
        return False
    return True


def test_facts_of_a_small_header() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b.weight": entry("F32", [2, 3], 0),
        "a.weight": entry("BF16", [4], 24),
        "scalar": entry("I64", [], 32),
        "none": entry("F32", [0, 7], 40),
    }
    text = as_json(header) + b"   "
    facts = parse_header(text, 8 + len(text) + 40, file="m.safetensors")
    assert dict(facts.tensors) == {
        "b.weight": ("F32", (2, 3)),
        "a.weight": ("BF16", (4,)),
        "scalar": ("I64", ()),
        "none": ("F32", (0, 7)),
    }
    assert facts.metadata == (("format", "pt"),)
    assert facts.data_bytes == 40
    assert facts.file_bytes == 8 + len(text) + 40


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_dtype_is_what_the_library_takes(dtype: str) -> None:
    text = as_json({"t": entry(dtype, [8], 0)})
    assert library_accepts(text, BITS[dtype])
    assert parse_header(text, 8 + len(text) + BITS[dtype], file="f").data_bytes == BITS[dtype]


@pytest.mark.parametrize(
    ("file_bytes", "message"),
    [
        (b"", "too few"),
        (b"\x01\x02\x03", "too few"),
        (bytes(8), "length of 0"),
        (struct.pack("<Q", 100_000_001), "limit 100 MB"),
        (struct.pack("<Q", 2**63), "limit 100 MB"),
        (b"PK\x03\x04abcd", "zip archive"),
        (b"version https://git-lfs", "Git LFS pointer"),
    ],
)
def test_lengths_that_cannot_be(file_bytes: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        header_length(file_bytes, "model.safetensors")


def test_length_past_the_end_is_truncation() -> None:
    assert header_length(struct.pack("<Q", 100), "m", 108) == 100
    with pytest.raises(FormatError, match="truncated"):
        header_length(struct.pack("<Q", 100), "m", 107)


GOOD = entry("F32", [1], 0)
ONE = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (b"[]", FormatError, "starts with"),
        (b"\xff\xfe{}", FormatError, "starts with"),
        (b"{", FormatError, "not JSON"),
        (b'{"a":' + ONE + b"}\0", FormatError, "not JSON"),
        (b'{"a":\xff}', FormatError, "not UTF-8"),
        (b'{"a":NaN}', FormatError, "NaN"),
        (b'{"a":[' + b"[" * 100_000 + b"}", FormatError, "nested too deeply"),
        (b'{"a":{"dtype":"F32","shape":[1]}}', FormatError, "'a' lacks data_offsets"),
        (b'{"a":7}', FormatError, "'a' lacks dtype, shape, data_offsets"),
        (b'{"a":' + ONE.replace(b"[1]", b"[1.0]") + b"}", FormatError, "'a': shape"),
        (b'{"a":' + ONE.replace(b"[1]", b"[true]") + b"}", FormatError, "'a': shape"),
        (b'{"a":' + ONE.replace(b"[1]", b'"1"') + b"}", FormatError, "'a': shape"),
        (b'{"a":' + ONE.replace(b"[0,4]", b"[0,4,4]") + b"}", FormatError, "'a': data_offsets"),
        (b'{"a":' + ONE.replace(b"[0,4]", b"[-0,4]") + b"}", FormatError, "'a': data_offsets"),
        (b'{"a":' + ONE.replace(b'"F32"', b"32") + b"}", FormatError, "'a': dtype"),
        (b'{"a":' + ONE.replace(b'"F32"', b'"F33"') + b"}", UnsupportedError, "'a': dtype 'F33'"),
        (b'{"a":' + ONE.replace(b"[1]", b"[-1]") + b"}", ContradictionError, "'a': shape .*negative"),
        (b'{"a":' + ONE.replace(b"[1]", b"[2]") + b"}", ContradictionError, "'a': data_offsets span 4 bytes"),
        (b'{"a":' + ONE.replace(b"[0,4]", b"[4,0]") + b"}", ContradictionError, "'a': data_offsets"),
        (
            b'{"a":' + ONE.replace(b"[1]", b"[9223372036854775808,9223372036854775808]") + b"}",
            ContradictionError,
            "'a': .*overflows",
        ),
        (b'{"a":' + ONE.replace(b"[1]", b"[" + b"9" * 5000 + b"]") + b"}", ContradictionError, "thousands of digits"),
        (b'{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}', ContradictionError, "'a': .*whole bytes"),
        (b'{"a":' + ONE + b',"a":' + ONE + b"}", ContradictionError, "'a' occurs twice"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', ContradictionError, "'dtype' occurs"),
        (b'{"a":' + ONE + b',"b":' + ONE.replace(b"[0,4]", b"[5,9]") + b"}", ContradictionError, "hole of 1 .*'b'"),
        (b'{"a":' + ONE + b',"b":' + ONE.replace(b"[0,4]", b"[3,7]") + b"}", ContradictionError, "'b' overlaps 'a'"),
        (b'{"a":' + ONE.replace(b"[0,4]", b"[4,8]") + b"}", ContradictionError, "hole of 4 .*'a'"),
        (b'{"__metadata__":{"n":1},"a":' + ONE + b"}", FormatError, "__metadata__"),
        (b'{"\\ud800":' + ONE + b"}", FormatError, "surrogate"),
    ],
)
def test_each_lie_has_its_message(text: bytes, error: type[HfmemError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        parse_header(text, file="dir/m.safetensors")
    assert type(caught.value) is error
    assert "dir/m.safetensors" in caught.value.message
    assert len(caught.value.message) < 400


def test_a_number_equal_to_a_checked_one_is_still_checked() -> None:
    for bad in (b"1.0", b"true", b"-0"):
        text = b'{"a":' + ONE + b',"b":' + ONE.replace(b"[1]", b"[" + bad + b"]").replace(b"[0,4]", b"[4,8]") + b"}"
        with pytest.raises(FormatError, match="'b': shape"):
            parse_header(text, file="f")


def test_the_end_must_be_the_files_end() -> None:
    text = as_json({"a": GOOD})
    parse_header(text, 8 + len(text) + 4, file="f")
    with pytest.raises(ContradictionError, match="1 bytes past the file's end"):
        parse_header(text, 8 + len(text) + 3, file="f")
    with pytest.raises(ContradictionError, match="3 bytes after the last tensor"):
        parse_header(text, 8 + len(text) + 7, file="f")


def test_order_in_the_json_need_not_be_order_in_the_file() -> None:
    header = {"b": entry("F32", [1], 4), "a": entry("F32", [1], 0), "z": entry("U8", [0], 4)}
    assert library_accepts(as_json(header), 8)
    assert list(parse_header(as_json(header), file="f").tensors) == ["b", "a", "z"]


# ------------------------------------------------------------------ against the library

names = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name != "__metadata__")
arrays = st.tuples(
    st.sampled_from(["float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]),
    st.lists(st.integers(0, 4), max_size=4),
)


@given(
    st.dictionaries(names, arrays, max_size=6),
    st.none() | st.dictionaries(names, st.text(st.characters(codec="utf-8")), min_size=1),
)
@settings(deadline=None, max_examples=60)
def test_round_trip_with_the_library(tensors: dict[str, Any], metadata: dict[str, str] | None) -> None:
    made = {name: np.zeros(shape, dtype) for name, (dtype, shape) in tensors.items()}
    file = safetensors.numpy.save(made, metadata)
    length = header_length(file[:8], "f", len(file))
    header = parse_header(file[8 : 8 + length], len(file), file="f")
    assert header.tensors.keys() == made.keys()
    assert all(header.tensors[name][1] == array.shape for name, array in made.items())
    assert header.data_bytes == sum(array.nbytes for array in made.values())
    assert merge({"f": header}).total_bytes == header.data_bytes
    assert sorted(n for g in merge({"f": header}).groups for n in g.names()) == sorted(made)
    assert dict(header.metadata) == (metadata or {})


valid_texts = st.lists(st.tuples(st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 5), max_size=3)), max_size=4)


@given(valid_texts, st.data())
@settings(deadline=None, max_examples=300)
def test_mutated_headers_are_judged_as_the_library_judges(kinds: list[Any], data: st.DataObject) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for i, (dtype, shape) in enumerate(kinds):
        header[f"t.{i}"] = made = entry(dtype, shape, at)
        at = made["data_offsets"][1]
    text = bytearray(as_json(header))
    for _ in range(data.draw(st.integers(0, 2))):
        where = data.draw(st.integers(0, len(text) - 1))
        what = data.draw(
            st.sampled_from([b"0", b"1", b"-", b".", b"e", b",", b'"', b" ", b"\\", b"}", b"]", b"\x80", b""])
        )
        text[where : where + data.draw(st.integers(0, 1))] = what
    if not text.startswith(b"{"):
        return
    size = at + data.draw(st.sampled_from([0, 0, 0, 1]))
    try:
        parse_header(bytes(text), 8 + len(text) + size, file="f")
        ours = True
    except HfmemError as error:
        ours = False
        if "occurs twice" in str(error):  # the one rule that is stricter here
            return
    assert ours == library_accepts(bytes(text), size), bytes(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a", "__metadata__"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(
    st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda b: b"{" + b)
    | st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), json_values).map(as_json)
)
@settings(deadline=None, max_examples=400)
def test_any_bytes_give_facts_or_a_clear_error(text: bytes) -> None:
    for parse in (lambda: parse_header(text, file="f"), lambda: stream_of(text).finish()):
        try:
            parse()
        except HfmemError as error:
            assert error.message


@pytest.mark.parametrize(
    "text",
    [
        b"{" + b'"":{},' * 250_000,
        b'{"a":[' + b"[]," * 250_000,
        b'{"a":[' + b"300," * 5_000_001,
        b'{"a":' + b'{"a":' * 1_000_000,
        b'{"' + b"a" * 20_000_000,
    ],
    ids=["objects", "lists", "numbers", "depth", "name"],
)
def test_hostile_sizes_cost_no_gigabytes(text: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            parse_header(text, file="f")
        assert tracemalloc.get_traced_memory()[1] < max(125_000_000, 25 * len(text))
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------ the Hub's endpoint


def stream_of(payload: bytes) -> ShardStream:
    stream = ShardStream("m")
    stream.feed(payload)
    return stream


def test_metadata_endpoint() -> None:
    payload = {
        "index": {"metadata": {"total_size": 12.0}},
        "headers": {
            "model-00001-of-00002.safetensors": {"__metadata__": {"format": "pt"}, "a": entry("F32", [1], 0)},
            "model-00002-of-00002.safetensors": {"b": entry("F32", [2], 0)},
        },
    }
    merged, sizes, metadata = stream_of(as_json(payload)).finish()
    assert metadata == {"total_size": 12.0}
    assert list(sizes) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert (merged.total_bytes, merged.num_tensors, merged.num_files) == (12, 2, 2)


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b'{"headers":{}}', b'{"headers":[]}', b'{"headers":{"f":3}}'])
def test_metadata_endpoint_refuses(payload: bytes) -> None:
    with pytest.raises(FormatError):
        stream_of(payload).finish()


def test_metadata_endpoint_names_the_shard_that_lies() -> None:
    payload = {"headers": {"m-1.safetensors": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 5]}}}}
    with pytest.raises(ContradictionError, match=r"m-1\.safetensors: tensor 'a'"):
        stream_of(as_json(payload)).finish()


# ------------------------------------------------------------------ real layouts


@pytest.mark.conformance
@pytest.mark.skipif("HFMEM_CORPUS" not in os.environ, reason="HFMEM_CORPUS names no folder")
def test_real_headers_add_up() -> None:
    folder = Path(os.environ["HFMEM_CORPUS"]).parent / "headers"
    with (folder / "INDEX.tsv").open() as lines:
        rows = {row["id"].replace("/", "__"): row for row in csv.DictReader(lines, delimiter="\t")}
    paths = sorted(folder.glob("*.json.gz"))
    assert len(paths) > 50
    for path in paths:
        shards = json.loads(gzip.decompress(path.read_bytes()))["shards"]
        row = rows[path.name.removesuffix(".json.gz")]
        merged = merge({file: parse_header(as_json(header), file=file) for file, header in shards.items()})
        by_dtype: dict[str, int] = {}
        for group in merged.groups:
            by_dtype[group.dtype] = by_dtype.get(group.dtype, 0) + group.total_bytes
        assert merged.total_bytes == int(row["total_bytes"]), path.name
        assert merged.num_tensors == int(row["n_tensors"]), path.name
        assert by_dtype == json.loads(row["bytes_by_dtype"]), path.name
        assert merged.num_files == int(row["n_shards"]), path.name
        assert sum(len(group.boxes) for group in merged.groups) < 2500, path.name
