"""Servers that answer as a test says, and clients of the transport, which `tests/hub/conftest.py` closes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hfmem.hub import FetchOptions
from hfmem.hub.connection import origin_of
from hfmem.hub.http import Client, Deadline

FRESH = FetchOptions(no_cache=True)

CLIENTS: list[Client] = []


def client(url: str, **settings: Any) -> Client:
    settings = {"deadline": Deadline(10), "token": None, "agent": "test", "timeout": 5.0, **settings}
    CLIENTS.append(Client(home=origin_of(url), **settings))
    return CLIENTS[-1]


@contextmanager
def serve(respond: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server whose every answer `respond` writes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            respond(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[assignment,misc]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"content_length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
