"""The response with all headers, cut anywhere and read as it comes, says what it says when read whole."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hub_server import header_bytes
from hypothesis import given
from hypothesis import strategies as st

from hfmem.checkpoint.shard_stream import ShardStream
from hfmem.errors import ContradictionError, FormatError, HfmemError

SHARDS: dict[str, Any] = {
    "a-1.safetensors": [
        ("a.0.w", "BF16", (2, 3)),
        ("a.1.w", "F32", ()),
        ("b", "F8_E4M3", (0, 4)),
        ("c.10", "I64", (1,)),
    ],
    "a-2.safetensors": [("a.2.w", "BF16", (2, 3)), ("d", "BF16", (4,))],
}


def response(shards: dict[str, Any] = SHARDS, **more: Any) -> bytes:
    headers = {name: json.loads(header_bytes(tensors)[0][8:]) for name, tensors in shards.items()}
    return json.dumps({**more, "headers": headers}, separators=(",", ":")).encode()


def read(payload: bytes, *cuts: int, whole: bool = False) -> Any:
    """What the stream makes of a payload in pieces; an error as its type and text."""
    stream = ShardStream("m")
    stream._whole = whole
    places = [0, *sorted(cuts), len(payload)]
    for begin, end in itertools.pairwise(places):
        stream.feed(payload[begin:end])
    try:
        return stream.finish()
    except HfmemError as error:
        return type(error), str(error)


def slowly(payload: bytes) -> Any:
    """As `read`, by the general parser alone."""
    return read(payload, whole=True)


def test_facts() -> None:
    checkpoint, sizes, metadata = read(response(index={"metadata": {"total_size": 44}}))
    assert [(g.pattern, g.dtype, g.shape, g.boxes) for g in checkpoint.groups] == [
        ("a.{}.w", "BF16", (2, 3), ((range(1),), (range(2, 3),))),
        ("a.{}.w", "F32", (), ((range(1, 2),),)),
        ("b", "F8_E4M3", (0, 4), ((),)),
        ("c.{}", "I64", (1,), ((range(10, 11),),)),
        ("d", "BF16", (4,), ((),)),
    ]
    assert (checkpoint.num_files, checkpoint.metadata, metadata) == (2, (("format", "pt"),), {"total_size": 44})
    assert sizes == {name: header_bytes(tensors)[1] for name, tensors in SHARDS.items()}
    assert checkpoint.file_bytes == sum(sizes.values())


@pytest.mark.parametrize(
    "payload",
    [
        response(),
        response(index={"metadata": {"total_size": 44}}),
        response(index={"metadata": {"x": [{"y": {"z": [1]}}]}}),
        response(index={"metadata": {"headers": {"q": 1}}}),
        response().replace(b'{"headers"', b'{"a":{"headers":{"x":1}},"headers"'),
        response()[:-1] + b',"index":{"metadata":{"a":[{"b":{"c":[]}}]}}}',
        response()[:-1] + b',"index":{"metadata":null}}',
        response({**SHARDS, "empty": []}),
        response({"empty": [], **SHARDS}),
        response({"only": []}),
        response({}),
        response().replace(b'"a-2.', b'"\\u0061-2.'),
        response().replace(b'"a-1.', b'"\\u0061-1.'),
        response().replace(b"[4]", b"[4 ]"),
        response().replace(b"[2,3]", b"[2 ,3]", 1),
        response() + b" ",
        response() + b"x",
        response()[:-1],
        response()[:-2],
        response().replace(b"a-2", b"a-1"),
        response().replace(b"[0,8]", b"[0,9]"),
        response()[:-1] + b',"headers":null}',
        response()[:-1] + b',"headers":{}}',
    ],
)
def test_as_the_general_parser_says(payload: bytes) -> None:
    expected = slowly(payload)
    assert read(payload) == expected
    for at in range(0, len(payload), 7):
        assert read(payload, at) == expected


@pytest.mark.parametrize(("name", "twice"), [(b"a.2.w", b"a.0.w"), (b"a.1.w", b"a.0.w"), (b'"a.2.w"', b'"d"')])
def test_a_name_that_occurs_twice(name: bytes, twice: bytes) -> None:
    payload = response().replace(name, twice)
    for found in (read(payload), slowly(payload), *(read(payload, at) for at in range(0, len(payload), 7))):
        assert found[0] is ContradictionError
        assert twice.decode().strip('"') in found[1] and "twice" in found[1]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"<html>",
        b"[1]",
        b"x" + response(),
        b"[" + response() + b"]",
        b'{"x":' + response() + b"}",
        b'{"headers":null}',
    ],
)
def test_other_things_are_no_such_response(payload: bytes) -> None:
    found = read(payload, 5, 40)
    assert found[0] in (FormatError, ContradictionError) and found[1]


@given(st.lists(st.integers(0, len(response())), max_size=6), st.booleans())
def test_cut_anywhere(cuts: list[int], slow: bool) -> None:
    payload = response(index={"metadata": {"total_size": 44}})
    if slow:
        payload = payload.replace(b"[0,8]", b"[0, 8]")
    assert read(payload, *cuts) == slowly(payload)


@given(st.integers(0, len(response()) - 1), st.binary(max_size=3), st.integers(0, 4), st.integers(0, len(response())))
def test_damage_is_what_the_general_parser_says_it_is(at: int, put: bytes, drop: int, cut: int) -> None:
    payload = response()[:at] + put + response()[at + drop :]
    found, expected = read(payload, cut), slowly(payload)
    if type(expected[0]) is type:
        assert found[0] is expected[0] or {found[0], expected[0]} <= {FormatError, ContradictionError}
    else:
        assert found == expected
