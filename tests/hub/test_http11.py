"""HTTP/1.1 beside the standard library's own reader, and where ours is stricter."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading

import pytest
from hub_models import add_single
from hub_server import HubServer
from hypothesis import example, given
from hypothesis import strategies as st
from raw_http import client
from repository import ROOT

from hfmem.errors import NetworkError
from hfmem.hub.connection import origin_of
from hfmem.hub.http11 import Answer, ProtocolError, Stream, answer, is_length, request

OK = b"HTTP/1.1 200 OK\r\n"


def received(data: bytes, size: int = 1 << 20) -> tuple[Answer, bytes]:
    """The answer that `data` is, and its body, read in pieces of `size`; the connection ends after it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        found = answer(Stream(ours))
        body = b""
        while not found.ended:
            body += found.read(size)
        return found, body


def by_the_library(data: bytes) -> tuple[int, bytes, bool] | None:
    """Status, body and whether the connection ends, as `http.client` reads it; None where it does not."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(ours, method="GET")
        try:
            response.begin()
            return response.status, response.read(), bool(response.will_close)
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            response.close()


LINES = st.sampled_from(
    [
        b"Content-Length: 5",
        b"content-length:3",
        b"Content-Length: 0",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding:  CHUNKED",
        b"Connection: close",
        b"connection: Keep-Alive",
        b"X: y",
        b"X-Folded: a\r\n\tb",
        b"Empty:",
    ]
)
STATUS = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 404", b"HTTP/1.1 204 None", b"HTTP/1.1 304 Not Modified"]
)
BODIES = st.sampled_from(
    [b"", b"abc", b"abcde", b"3\r\nabc\r\n0\r\n\r\n", b"5;x=y\r\nabcde\r\n00\r\nt: u\r\n\r\n", b"3\r\nab"]
)


@given(STATUS, st.lists(LINES, max_size=4, unique=True), BODIES, st.sampled_from([b"\r\n", b"\n"]), st.integers(1, 9))
@example(b"HTTP/1.0 200 OK", [b"connection: Keep-Alive", b"Content-Length: 5"], b"abcde", b"\r\n", 2)
def test_answers_are_what_the_library_reads(
    status: bytes, lines: list[bytes], body: bytes, end: bytes, size: int
) -> None:
    lines = list(
        {line.partition(b":")[0].lower(): line for line in lines}.values()
    )  # of two of one name another test tells
    if status[9:12] in (b"204", b"304"):
        lines = [
            line for line in lines if b"chunked" not in line.lower()
        ]  # no body by RFC 9112; the library looks for one
    data = end.join([status, *lines, b"", b""]) + body
    theirs = by_the_library(data)
    try:
        found, ours = received(data, size)
    except ProtocolError:
        assert theirs is None
        return
    assert theirs == (found.status, ours, found.closes)


def test_headers_on_several_lines_and_of_one_name() -> None:
    found, _ = received(OK + b"A: b\r\n  c\r\n\td\r\nLOCATION: /x\r\nlocation: /y\r\n z\r\na: e\r\n\r\n")
    assert found.headers == {"a": "b c d, e", "location": "/x"}
    assert (found.status, found.reason) == (200, "OK")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding 'gzip, chunked'"),
        (OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", "longer than it says"),
        (OK + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 16 + b"\r\n", "no number"),
        (OK + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 101 + b"\r\n", "too many headers"),
        (OK + b"a: b\r\n" * 101 + b"\r\n", "too many headers"),
        (OK + b"a: b\r\n", "ended early"),
        (OK + b"a: " + b"b" * (1 << 17), "does not end"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "no HTTP/1.1: 'HTTP/1.1 2000 OK'"),
        (b"SSH-2.0-x", "no HTTP/1.1: 'SSH-2.0-x'"),
        (b"HTTP/1.1 103 Hints\r\n\r\n" * 10 + OK + b"\r\n", "never finally"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "101"),
    ],
)
def test_what_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        received(data)
    assert said in str(raised.value)


def test_limits_are_met_exactly() -> None:
    assert len(received(OK + b"".join(b"h%d: x\r\n" % i for i in range(100)) + b"\r\n")[0].headers) == 100
    assert is_length("9" * 19) and not is_length("9" * 20)
    assert received(b"HTTP/1.1 103 Hints\r\n\r\n" * 9 + OK + b"content-length: 1\r\n\r\na")[1] == b"a"


def test_no_answer_at_all_is_a_closed_connection() -> None:
    with pytest.raises(ConnectionResetError):
        received(b"")


@pytest.mark.parametrize(
    ("target", "headers"),
    [("/a b", {}), ("/a\r\nx: y", {}), ("/ä", {}), ("/a\x7f", {}), ("/", {"a": "b\r\nc: d"}), ("/", {"a": "ü"})],
)
def test_requests_that_would_be_others(target: str, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="characters"):
        request("GET", target, headers)


def test_a_request() -> None:
    expected = b"GET /x?y=%20 HTTP/1.1\r\nhost: h\r\nrange: bytes=0-1\r\n\r\n"
    assert request("GET", "/x?y=%20", {"host": "h", "range": "bytes=0-1"}) == expected


@pytest.mark.parametrize(
    ("answers", "connections"),
    [
        (OK + b"content-length: 1\r\n\r\na", 1),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na", 1),
        (OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 1),
        (b"HTTP/1.1 204 No\r\n\r\n", 1),
        (OK + b"connection: close\r\ncontent-length: 1\r\n\r\na", 3),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", 3),
        (OK + b"content-length: 1\r\n\r\nab", 3),  # what belongs to no request
    ],
)
def test_connections_that_are_used_again(answers: bytes, connections: int) -> None:
    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(sock: socket.socket) -> None:
            with sock:
                while sock.recv(4096):
                    sock.sendall(answers)

        def work() -> None:
            while True:
                try:
                    opened.append(listening.accept()[0])
                except OSError:
                    return
                threading.Thread(target=serve, args=(opened[-1],), daemon=True).start()

        threading.Thread(target=work, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        http = client(url)
        for _ in range(3):
            assert http.get(url + "/x", max_bytes=10).status in (200, 204)
        listening.shutdown(socket.SHUT_RDWR)
    assert len(opened) == connections


def test_an_address_that_is_no_request(hub: HubServer) -> None:
    with pytest.raises(NetworkError, match="not a web address"):
        client(hub.url).get(hub.url + "/a b", max_bytes=10)


def test_plain_addresses_load_neither_mail_nor_certificates(hub: HubServer) -> None:
    add_single(hub)
    code = (
        "import sys; from hfmem.hub import load_model\nload_model('org/single')\n"
        "print([name for name in ('email', 'http.client', 'ssl', 'datetime') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("url", ["ftp://host/x", "http:///x", "//host/x", "host/x", "http://h:x/", "http://[::/"])
def test_what_is_no_web_address(url: str) -> None:
    with pytest.raises(NetworkError, match="not a web address"):
        origin_of(url)


def test_connections_send_small_requests_at_once_and_none_after_the_end(hub: HubServer) -> None:
    http, origin = client(hub.url), origin_of(hub.url)
    connection = http.pool.take(origin, 5)
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    http.pool.give(origin, connection)
    assert http.pool.take(origin, 5) is connection
    http.close()
    http.pool.drop(connection)
    with pytest.raises(ConnectionAbortedError):
        http.pool.take(origin, 5)
