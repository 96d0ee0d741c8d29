"""HTTP/1.1 as servers write it, well and badly, in any pieces."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfmem.hub.http1 import ClosedError, EarlyEndError, ProtocolError, Response, Wire

OK = b"HTTP/1.1 200 OK\r\n"


class Given:
    """A socket that gives what it was given, in pieces, and then ends."""

    def __init__(self, data: bytes, sizes: Iterator[int]) -> None:
        self.data, self.sizes, self.sent = data, sizes, b""

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def recv(self, most: int) -> bytes:
        size = min(most, next(self.sizes, most))
        part, self.data = self.data[:size], self.data[size:]
        return part

    def sendall(self, data: bytes) -> None:
        self.sent += data


def wire_of(data: bytes, *sizes: int) -> Wire:
    return Wire(Given(data, iter(sizes)))  # type: ignore[arg-type]


def read(response: Response) -> bytes:
    parts = []
    while part := response.read(1 << 20):
        parts.append(part)
    return b"".join(parts)


def whole(data: bytes, *sizes: int) -> tuple[int, bytes, bool, bool]:
    """Status, body, and whether the connection is at the response's end and stays open."""
    response = wire_of(data, *sizes).receive(lambda: 1.0)
    body = read(response)
    return response.status, body, response.ended, response.stays


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", (200, b"abc", True, True)),
        (b"HTTP/1.1 200\r\ncontent-length: 3\r\n\r\nabcdef", (200, b"abc", True, True)),
        (b"HTTP/1.1 200 \nContent-Length:3\n\nabc", (200, b"abc", True, True)),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: Close\r\n\r\n", (404, b"", True, False)),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", (200, b"a", True, False)),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\na", (200, b"a", True, True)),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", (200, b"to the end", True, False)),
        (b"HTTP/1.1 204 No\r\n\r\n", (204, b"", True, True)),
        (b"HTTP/1.1 304 No\r\ncontent-length: 5\r\n\r\n", (304, b"", True, True)),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + OK + b"content-length: 1\r\n\r\na",
            (200, b"a", True, True),
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            (200, b"abcde", True, True),
        ),
        (
            OK + b"transfer-encoding: Chunked\r\ncontent-length: 9\r\n\r\nA\r\n0123456789\r\n00\r\nx: y\r\n\r\n",
            (200, b"0123456789", True, True),
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab", (200, b"ab", True, True)),
    ],
)
def test_responses(data: bytes, expected: tuple[int, bytes, bool, bool]) -> None:
    assert whole(data) == expected
    for size in (1, 2, 7):
        assert whole(data, *[size] * len(data)) == expected


def test_headers() -> None:
    response = wire_of(
        b"HTTP/1.1 302 Found\r\nLocation: /a\r\nlocation: /b\r\nX-Error-Message:  two \r\n\twords\r\n"
        b"vary: a\r\nVary: b\r\ncontent-length: 0\r\n\r\n"
    ).receive(lambda: 1.0)
    assert response.headers == {
        "location": "/a",
        "x-error-message": "two words",
        "vary": "a, b",
        "content-length": "0",
    }
    assert response.reason == "Found"


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"<html>\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1e3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 16 + b"\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000,
        b"x" * 200_000,
    ],
)
def test_what_no_server_should_send(data: bytes) -> None:
    with pytest.raises(ProtocolError) as raised:
        whole(data)
    assert not isinstance(raised.value, EarlyEndError) and str(raised.value).isprintable()


def test_ends() -> None:
    with pytest.raises(ClosedError):
        whole(b"")
    for data in (
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ):
        for end in range(1, len(data)):
            with pytest.raises(EarlyEndError):
                whole(data[:end])


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"HTTP/1.1 200 OK\r\n" + b), st.integers(1, 9))
def test_any_bytes_are_a_response_or_a_clear_error(data: bytes, size: int) -> None:
    try:
        whole(data, *[size] * 200)
    except (ProtocolError, ClosedError) as error:
        assert str(error)


def test_a_request() -> None:
    wire = wire_of(b"")
    wire.send("/a?b=%20", "[::1]:80", {"accept": "*/*"})
    assert wire.sock.sent == b"GET /a?b=%20 HTTP/1.1\r\nhost: [::1]:80\r\naccept: */*\r\n\r\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", ["/a b", "/a\r\nx: y", "/é", "/\x00", "/\x7f"])
def test_what_cannot_be_asked_for(target: str) -> None:
    with pytest.raises(ValueError, match="control"):
        wire_of(b"").send(target, "h", {})


@pytest.mark.parametrize("header", ["a\r\nb: c", "a\n", "\N{SNOWMAN}"])
def test_what_cannot_be_a_header(header: str) -> None:
    with pytest.raises(ValueError):
        wire_of(b"").send("/", "h", {"x": header})


def test_every_wait_has_its_limit() -> None:
    left, right = socket.socketpair()
    with left, right:
        right.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
        response = Wire(left).receive(lambda: 0.05)
        assert response.read(2) == b"ab"
        with pytest.raises(TimeoutError):
            response.read(2)
