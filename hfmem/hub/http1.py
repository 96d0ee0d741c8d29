"""HTTP/1.1 over one socket: a request out, a response in, as RFC 9112 has it, with a bound on everything.

Not `http.client`, which brings the e-mail package along and takes longer to import than a model's headers take to fetch. Nothing
more than reading the Hub needs is here: GET, bodies by length, in chunks or to the connection's end, and tunnels through a proxy.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Mapping
from socket import socket

from hfmem.patterns import bytes_pattern

#: bytes of a response's head, and of one line of a chunked body
_MAX_HEAD = 1 << 16
_MAX_LINE = 1 << 12
_PIECE = 1 << 18
_STATUS = bytes_pattern(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\r\n]*))?")
_HEADER = bytes_pattern(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", re.DOTALL)
_NOT_IN_TARGET = bytes_pattern(rb"[\x00-\x20\x7f-\xff]")


class ProtocolError(Exception):
    """The other side does not speak HTTP/1.1 as it should."""


class EarlyEndError(ProtocolError):
    """The connection ended inside of a response."""

    def __str__(self) -> str:
        return "the body ended early"


class ClosedError(ConnectionResetError):
    """The connection ended before a response began: where it was an idle one, that is nobody's fault."""

    def __str__(self) -> str:
        return "the server closed the connection without an answer"


class Wire:
    """One connection. `limit` is called before every wait for bytes and tells the seconds it may take, or raises."""

    def __init__(self, sock: socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def send(self, target: str, host: str, headers: Mapping[str, str], *, method: str = "GET") -> None:
        """Sends a request.

        Raises:
            ValueError: something in it that no request may hold. OSError: the connection.
        """
        lines = [
            f"{method} {target} HTTP/1.1",
            f"host: {host}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        if _NOT_IN_TARGET.search(target.encode("utf-8")) or any("\r" in line or "\n" in line for line in lines):
            raise ValueError("control characters in a request")
        self.sock.sendall("\r\n".join([*lines, "\r\n"]).encode("latin-1"))

    def receive(self, limit: Callable[[], float]) -> Response:
        """The next response's head; its body is to be read before the next request.

        Raises:
            ClosedError: there is none. ProtocolError: it is no HTTP. OSError: the connection, or too slow.
        """
        while True:
            head = self._head(limit)
            version, status, reason = head[0]
            if status >= 200:
                return Response(self, version, status, reason, head[1], limit)
            if status == 101:
                raise ProtocolError("it wants to speak another protocol")

    def is_quiet(self) -> bool:
        """Whether nothing came that belongs to no request: neither bytes nor the connection's end."""
        if self._buffer:
            return False
        try:
            if hasattr(select, "poll"):  # select itself knows no socket above 1023
                waiting = select.poll()
                waiting.register(self.sock, select.POLLIN)
                return not waiting.poll(0)
            return not select.select([self.sock], [], [], 0)[0]
        except (OSError, ValueError):
            return False

    def _head(self, limit: Callable[[], float]) -> tuple[tuple[int, int, str], dict[str, str]]:
        first = self.line(limit, _MAX_HEAD, begins=True)
        found = _STATUS.fullmatch(first)
        if found is None:
            raise ProtocolError(f"its answer is no HTTP/1.1: {first[:40].decode('latin-1')!r}")
        headers: dict[str, str] = {}
        last = ""
        size = 0
        while line := self.line(limit, _MAX_HEAD):
            size += len(line)
            if size > _MAX_HEAD:
                raise ProtocolError("its headers are too long")
            if line[:1] in b" \t" and last:  # a long value on several lines, as it was once allowed
                headers[last] += " " + line.strip().decode("latin-1")
                continue
            field = _HEADER.fullmatch(line)
            if field is None:
                raise ProtocolError(f"a header of it is none: {line[:40].decode('latin-1')!r}")
            last, value = field[1].decode("ascii").lower(), field[2].decode("latin-1")
            if last not in headers:
                headers[last] = value
            elif last == "content-length" and headers[last] != value:
                raise ProtocolError("it has two lengths")
            elif last not in ("content-length", "location"):
                headers[last] += f", {value}"
        return (int(found[1]), int(found[2]), (found[3] or b"").decode("latin-1").strip()), headers

    def line(self, limit: Callable[[], float], most: int, *, begins: bool = False) -> bytes:
        """A line without its end. `begins`: nothing of the response was read before.

        Raises:
            ProtocolError: it is longer than `most`.
        """
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            if seen > most:
                raise ProtocolError("a line of its answer has no end")
            data = self._recv(limit, _MAX_HEAD)
            if not data:
                raise ClosedError if begins and not self._buffer else EarlyEndError
            self._buffer += data
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def piece(self, limit: Callable[[], float], most: int) -> bytes:
        """Some bytes, at most so many; none at the connection's end."""
        if self._buffer:
            data = bytes(self._buffer[:most])
            del self._buffer[:most]
            return data
        return self._recv(limit, min(most, _PIECE))

    def _recv(self, limit: Callable[[], float], most: int) -> bytes:
        self.sock.settimeout(limit())
        return self.sock.recv(most)


class Response:
    """A response whose head was read. `length` is what its body takes, None where it does not say (chunks, or to the end)."""

    def __init__(
        self, wire: Wire, version: int, status: int, reason: str, headers: dict[str, str], limit: Callable[[], float]
    ) -> None:
        self._wire, self._limit = wire, limit
        self.status, self.reason, self.headers = status, reason, headers
        coding = headers.get("transfer-encoding", "").lower()
        said = headers.get("content-length")
        self.length: int | None = None
        self._chunked = coding == "chunked"
        self._left = 0  # of the body, or of the chunk
        self._first_chunk = True
        if coding not in ("", "identity", "chunked"):
            raise ProtocolError(f"Transfer-Encoding {coding[:40]!r} was not asked for")
        if status in (204, 304):
            self.length = 0
        elif said is not None and not self._chunked:
            if not said.isascii() or not said.isdigit() or len(said) > 19:
                raise ProtocolError(f"Content-Length {said[:40]!r} is no length")
            self.length = self._left = int(said)
        #: whether all of it was read
        self.ended = self.length == 0
        words = [word.strip() for word in headers.get("connection", "").lower().split(",")]
        stays = "keep-alive" in words if version == 0 else "close" not in words
        self._to_the_end = self.length is None and not self._chunked
        #: whether another request may follow once this has ended
        self.stays = stays and not self._to_the_end

    def read(self, most: int) -> bytes:
        """The next piece, at most so many bytes; none when the body has ended.

        Raises:
            EarlyEndError: the connection ended before the body. ProtocolError: broken chunks. OSError: as of any socket.
        """
        if self.ended or most <= 0:
            return b""
        if self._chunked and not self._left and not self._next_chunk():
            return b""
        data = self._wire.piece(self._limit, most if self._to_the_end else min(most, self._left))
        if self._to_the_end:
            self.ended = not data
            return data
        if not data:
            raise EarlyEndError
        self._left -= len(data)
        if not self._left and not self._chunked:
            self.ended = True
        return data

    def _next_chunk(self) -> bool:
        line = self._wire.line
        if not self._first_chunk and line(self._limit, _MAX_LINE):
            raise ProtocolError("a chunk of it is longer than it says")
        self._first_chunk = False
        size = line(self._limit, _MAX_LINE).partition(b";")[0].strip()
        if not 0 < len(size) <= 15 or size.translate(None, b"0123456789abcdefABCDEF"):
            raise ProtocolError(f"a chunk of it has no length: {size[:20]!r}")
        self._left = int(size, 16)
        if self._left:
            return True
        total = 0
        while trailer := line(self._limit, _MAX_LINE):
            total += len(trailer)
            if total > _MAX_HEAD:
                raise ProtocolError("what follows its body has no end")
        self.ended = True
        return False
