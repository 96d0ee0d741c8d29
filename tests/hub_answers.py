"""How the local Hub answers: whole bodies, ranges and chunks over HTTP/1.1, each request noted with the bytes that it was sent."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from hub_files import Blob

if TYPE_CHECKING:
    from hub_server import HubServer


@dataclass
class Logged:
    """One request that arrived. `sent` is the number of body bytes that the answer had."""

    host: str
    method: str
    path: str
    headers: Mapping[str, str]
    status: int
    sent: int


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, hub: HubServer, role: str, handler: type[Answers]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub, self.role = hub, role

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up early is what some tests are about


class Answers(BaseHTTPRequestHandler):
    """Writes answers. `keep`: of the body only so many bytes are sent, and then the connection is closed."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server
    keep: int | None = None

    def setup(self) -> None:
        super().setup()
        with self.server.hub.lock:
            self.server.hub.connections[self.server.role] += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def small(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        extra = {"Content-Type": "application/json", **(headers or {})}
        if self.server.hub.gzip and "gzip" in (self.headers.get("accept-encoding") or ""):
            return self.answer(200, gzip.compress(body, 1), extra | {"Content-Encoding": "gzip"})
        self.answer(200, body, extra)

    def blob(self, blob: Blob, headers: dict[str, str]) -> None:
        wanted = self.headers.get("range")
        if wanted is None or not self.server.hub.ranges:
            return self._stream(200, blob, 0, blob.size, headers)
        first_text, _, last_text = wanted.removeprefix("bytes=").partition("-")
        first, end = int(first_text), min(int(last_text) + 1, blob.size)
        if first >= blob.size:
            return self.answer(416, b"", headers | {"Content-Range": f"bytes */{blob.size}"})
        span = {"Content-Range": f"bytes {first}-{end - 1}/{blob.size}"}
        self._stream(206, blob, first, end, headers | span)

    def _stream(self, status: int, blob: Blob, first: int, end: int, headers: Mapping[str, str]) -> None:
        """Sends bytes as they are made: a client that ignores a whole-file answer's end sees how many it was sent."""
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", "Content-Length": str(end - first), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        entry = self._log(status, 0)
        sent = 0
        stop = end if self.keep is None else min(end, first + self.keep)
        try:
            while self.command == "GET" and first + sent < stop:
                part = blob.read(first + sent, min(stop, first + sent + (1 << 16)))
                sent += len(part)
                entry.sent = sent  # before the client can have it and look
                self.wfile.write(part)
                self.wfile.flush()
        except OSError:
            self.close_connection = True
        if self.keep is not None:
            self.close_connection = True

    def error(self, status: int, code: str | None, text: str, headers: Mapping[str, str] | None = None) -> None:
        about = {"X-Error-Code": code, "X-Error-Message": text} if self.server.hub.error_codes else {}
        self.answer(status, text.encode(), {**(headers or {}), **{k: v for k, v in about.items() if v}})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._log(status, len(body))
        self.send_response(status)
        chunked = self.server.hub.chunked and self.keep is None
        length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
        # the Hub tells on every answer what is left
        for name, value in {**length, "RateLimit": '"api";r=499;t=300', **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and chunked:
            for start in range(0, len(body), 1000):
                part = body[start : start + 1000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        elif self.command == "GET":
            self.wfile.write(body if self.keep is None else body[: self.keep])
        if self.keep is not None:
            self.close_connection = True

    def _log(self, status: int, sent: int) -> Logged:
        headers = {name.lower(): value for name, value in self.headers.items()}
        entry = Logged(self.server.role, self.command, self.path, headers, status, sent)
        with self.server.hub.lock:
            self.server.hub.log.append(entry)
        return entry
