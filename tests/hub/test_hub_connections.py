"""Connections: which are used again, what they are set to, and what is no address to connect to."""

from __future__ import annotations

import socket
import threading

import pytest
from hub_server import HubServer
from raw_http import client

from hfmem.errors import NetworkError
from hfmem.hub.connection import origin_of

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answers", "connections"),
    [
        (OK + b"content-length: 1\r\n\r\na", 1),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na", 1),
        (OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 1),
        (b"HTTP/1.1 204 No\r\n\r\n", 1),
        (OK + b"connection: close\r\ncontent-length: 1\r\n\r\na", 3),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", 3),
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
