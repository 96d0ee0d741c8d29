"""HTTP/1.1 as servers write it, well and badly, in any pieces, and never for longer than the deadline."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from raw_http import client

from hfmem.errors import FormatError, NetworkError
from hfmem.hub.connection import FinalResponse
from hfmem.hub.http import Deadline, Response

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKS = OK + b"transfer-encoding: chunked\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"


@contextmanager
def raw(data: bytes, size: int = 1 << 20, pause: float = 0.0, *, hangs_up: bool = True) -> Iterator[str]:
    """A server that answers every request with `data`, in pieces of `size`, and hangs up, or waits for the client to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer(sock: socket.socket) -> None:
            with sock:
                try:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while b"\r\n\r\n" not in sock.recv(4096):
                        pass
                    for start in range(0, len(data), size):
                        sock.sendall(data[start : start + size])
                        time.sleep(pause)
                    if not hangs_up:
                        sock.recv(1)
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

        def work() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(sock,), daemon=True).start()

        threading.Thread(target=work, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def get(data: bytes, size: int = 1 << 20) -> Response:
    with raw(data, size) as url:
        http = client(url)
        try:
            return http.get(url + "/x", max_bytes=1000, retries=0)
        finally:
            http.close()


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (OK + b"content-length: 3\r\n\r\nabc", 200, b"abc"),
        (b"HTTP/1.1 200\r\ncontent-length: 3\r\n\r\nabcdef", 200, b"abc"),
        (b"HTTP/1.1 200 \nContent-Length:3\n\nabc", 200, b"abc"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: Close\r\n\r\n", 404, b""),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", 200, b"a"),
        (OK + b"\r\nto the end", 200, b"to the end"),
        (b"HTTP/1.1 204 No\r\n\r\n", 204, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 1\r\n\r\na", 200, b"a"),
        (CHUNKS + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 200, b"abcde"),
        (
            OK + b"transfer-encoding: Chunked\r\ncontent-length: 9\r\n\r\nA\r\n0123456789\r\n00\r\nx: y\r\n\r\n",
            200,
            b"0123456789",
        ),
    ],
)
def test_responses(data: bytes, status: int, body: bytes, size: int) -> None:
    response = get(data, size)
    assert (response.status, response.body) == (status, body)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_response_that_closes_the_socket_with_its_last_byte(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # as http.client does from Python 3.12.2 and 3.13 on, where the server says that it will hang up
    class Closing(FinalResponse):
        def read1(self, n: int = -1) -> bytes:
            length = self.length
            data = super().read1(n)
            if length is not None:
                self.length = length - len(data)
                if not self.length:
                    self.close()
            return data

    monkeypatch.setattr("hfmem.hub.connection.FinalResponse", Closing)
    response = get(b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", size)
    assert (response.status, response.body) == (200, b"abc")


def test_headers() -> None:
    response = get(
        OK + b"Location: /a\r\nlocation: /b\r\nX-Error-Message:  two \r\n\twords\r\n"
        b"vary: a\r\nVary: b\r\ncontent-length: 0\r\n\r\n"
    )
    assert response.headers == {
        "location": "/a",
        "x-error-message": "two words",
        "vary": "a, b",
        "content-length": "0",
    }


@pytest.mark.parametrize(
    "before", [HINTS, HINTS * 3, b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + HINTS]
)
def test_answers_that_only_inform_are_skipped(before: bytes) -> None:
    response = get(before + OK + b"content-length: 1\r\n\r\na")
    assert (response.status, response.body) == (200, b"a")
    assert "link" not in response.headers  # a hint is none of the answer's headers


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"<html>\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        HINTS,
        HINTS * 1000 + OK + b"content-length: 1\r\n\r\na",
        b"HTTP/1.1 103 Early Hints\r\n" + b"a: b\r\n" * 20_000,
        CHUNKS + b"\r\n\r\n",
        CHUNKS + b"-1\r\n",
        CHUNKS + b"0x3g\r\nabc\r\n0\r\n\r\n",
        CHUNKS + b"3\r\nab",
        OK + b"content-length: 3\r\n\r\nab",
        OK + b"a: b\r\n" * 20_000,
        OK + b"a: " + b"b" * 200_000,
        b"x" * 200_000,
    ],
)
def test_what_no_server_should_send(data: bytes) -> None:
    with pytest.raises(NetworkError) as raised:
        get(data)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "length", [b"-1", b"-0", b"+3", b"3.0", b"1_0", b"0x3", b"3, 4", b"", b"9" * 30, b"9" * 5000, b"\xb2"]
)
def test_a_length_that_is_none_fails_at_once(length: bytes) -> None:
    # the server says no more and keeps the connection: without an error this would last until the time limit
    with raw(OK + b"content-length: " + length + b"\r\n\r\nabc", hangs_up=False) as url:
        started = time.monotonic()
        with pytest.raises(NetworkError, match="is no length"):
            client(url).get(url + "/x", max_bytes=1000)
        assert time.monotonic() - started < 3


@hypothesis_settings(max_examples=40)
@given(
    st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: OK + b) | st.binary(max_size=60).map(CHUNKS.__add__)
)
def test_any_bytes_are_a_response_or_a_clear_error(data: bytes) -> None:
    try:
        get(data)
    except (NetworkError, FormatError) as error:
        assert str(error)


@pytest.mark.parametrize("data", [OK + b"a: b\r\n" * 90 + b"\r\n", CHUNKS + b"0\r\n" + b"a: b\r\n" * 5000])
def test_heads_and_trailers_that_trickle_meet_the_deadline(data: bytes) -> None:
    with raw(data, size=2, pause=0.05) as url:
        http = client(url, deadline=Deadline(0.5))
        started = time.monotonic()
        with pytest.raises(NetworkError, match=r"deadline of 0\.5 s"):
            http.get(url + "/x", max_bytes=5000)
        assert time.monotonic() - started < 5  # all of it would take 13 seconds, or minutes
