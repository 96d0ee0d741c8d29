"""Headers read by columns are what the general parser reads, and whatever that refuses is left to it."""

from __future__ import annotations

from typing import Any

import pytest
from header_texts import general, said, text_of
from hub_server import header_bytes
from hypothesis import given
from hypothesis import strategies as st

from hfmem.checkpoint.canonical import Known, read_columns
from hfmem.checkpoint.safetensors import parse_header

TENSORS = [("a.0.w", "BF16", (2, 3)), ("a.1.w", "F32", ()), ("b", "F8_E4M3", (0, 4)), ("c.10", "I64", (1,))]


def by_columns(text: bytes) -> Any:
    columns = read_columns(text, Known())
    return None if columns is None else said(columns)


def test_a_plain_header_is_read_by_columns() -> None:
    found = by_columns(text_of(TENSORS))
    assert found == general(text_of(TENSORS))
    assert found[0] == [b"a.0.w", b"a.1.w", b"b", b"c.10"] and found[3] == 12 + 4 + 0 + 8


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"BF16"', b'"BF17"'),
        (b"[2,3]", b"[2,03]"),
        (b"[2,3]", b"[2,+3]"),
        (b"[2,3]", b"[2, 3]"),
        (b"[2,3]", b"[2,3.0]"),
        (b"[2,3]", b"[2,,3]"),
        (b"[2,3]", b"[2,3,]"),
        (b"[2,3]", b"[-2,-3]"),
        (b"[2,3]", b"[2,18446744073709551616]"),
        (b"[0,12]", b"[0,13]"),
        (b"[0,12]", b"[00,12]"),
        (b"[0,12]", b"[0,12,12]"),
        (b"[0,12]", b"[0]"),
        (b"[0,12]", b"[0,012]"),
        (b"[0,12]", b"[0,1_2]"),
        (b"[0,12]}", b"[0,12]},:[12,16]}"),
        (b":[12,16]},", b""),
        (b"[12,16]", b"[12,12]"),
        (b"[16,16]", b"[12,16]"),
        (b"}}", b"}"),
        (b"}}", b"}} "),
        (b"}}", b"}}}"),
        (b"}}", b"},}"),
        (b'{"__metadata__"', b'{ "__metadata__"'),
        (b'"__metadata__":{"format":"pt"},', b""),
        (b'"__metadata__":{"format":"pt"}', b'"__metadata__":{}'),
        (b'"__metadata__":{"format":"pt"}', b'"__metadata__":{"format":1}'),
        (b'"__metadata__":{"format":"pt"}', b'"__metadata__":{"format":"pt","format":"pt"}'),
        (b'"__metadata__":{"format":"pt"}', b'"__metadata__":{"format":"},"}'),
        (b'"__metadata__":{"format":"pt"}', b'"__metadata__":{"format":"pt"},"__metadata__":{"format":"pt"}'),
        (b'"format":"pt"', b'"format":"p\tt"'),
        (b'"a.0.w"', b'"a.1.w"'),
        (b'"a.0.w"', b'"__metadata__"'),
        (b'"a.0.w"', b'"a\n.0.w"'),
        (b'"a.0.w"', b'"a\x00"'),
        (b'"a.0.w"', b'"a\x7f"'),
        (b'"a.0.w"', b'"a\\u0041"'),
        (b'"a.0.w"', b'"a\xc3\xa9"'),
        (b'"a.0.w"', b'"a\xff"'),
        (b'"a.0.w"', b'""'),
        (b'"a.0.w":', b'"a.0.w" :'),
        (b'"dtype"', b'"Dtype"'),
        (b'"dtype":"BF16","shape":[2,3]', b'"shape":[2,3],"dtype":"BF16"'),
        (b'"shape":[2,3],', b""),
        (b"true", b"false"),
    ],
)
def test_a_changed_header_is_read_the_same_or_left_alone(old: bytes, new: bytes) -> None:
    text = text_of(TENSORS).replace(old, new, 1)
    assert by_columns(text) in (None, general(text))


@given(st.integers(0, len(text_of(TENSORS)) - 1), st.binary(max_size=3), st.integers(0, 4))
def test_no_damage_is_taken_for_a_header(at: int, put: bytes, cut: int) -> None:
    text = text_of(TENSORS)[:at] + put + text_of(TENSORS)[at + cut :]
    assert by_columns(text) in (None, general(text))


names = st.text(st.characters(max_codepoint=0x7F), max_size=6)
sizes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@given(st.dictionaries(names, st.tuples(st.sampled_from(["BF16", "F32", "I8", "F64"]), sizes), min_size=1, max_size=8))
def test_any_header_of_the_library(tensors: dict[str, Any]) -> None:
    text = text_of([(name, dtype, shape) for name, (dtype, shape) in tensors.items()])
    found = by_columns(text)
    plain = not any(not 32 <= ord(letter) < 127 or letter in '"\\' for name in tensors for letter in name)
    assert found == general(text) if plain and "__metadata__" not in tensors else found in (None, general(text))


def test_a_file_padded_with_spaces() -> None:
    data, size = header_bytes(TENSORS, pad_to=1000)
    header = parse_header(data[8:], size, file="f")
    assert header.header_bytes == 1000 and header.tensors == {name: (dtype, shape) for name, dtype, shape in TENSORS}
