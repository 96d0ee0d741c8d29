"""HTTP/1.1 on a socket: one request out, one answer in, every length bounded.

Instead of `http.client`: what that loads (`email`, and `ssl` for plain addresses too) takes a fifth of a whole estimate, and it
reads heads with `email`, at a cost of more than all else about the 300 small answers of a model of many shards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from hfmem.records import dataclass

if TYPE_CHECKING:
    from socket import socket

_MAX_LINE: Final = 1 << 16
_MAX_LINES: Final = 100
_MAX_INFORMATIONAL: Final = 10
#: how much is read at once where the end of a line is looked for
_AHEAD: Final = 1 << 14
_STATUS: Final = r"HTTP/1\.([0-9])[ \t]+([1-9][0-9]{2})(?![0-9])[ \t]*(.*)"
_CHUNK: Final = rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(;.*)?"
#: headers of which the first one counts, where a server sends two
_ONCE: Final = frozenset({"location", "content-length", "content-range"})


class ProtocolError(Exception):
    """An answer that is no HTTP/1.1, or one that ends too early; the text says what."""


class Stream:
    """What comes out of a socket, line by line or in pieces."""

    __slots__ = ("_at", "_data", "sock")

    def __init__(self, sock: socket) -> None:
        self.sock = sock
        self._data = b""  # what was read ahead, used up to `_at`
        self._at = 0

    @property
    def ahead(self) -> bool:
        """Whether something was read that nothing has used."""
        return self._at < len(self._data)

    def line(self, *, first: bool = False) -> bytes:
        """The next line, without its end. `first`: of an answer, which may be no line at all.

        Raises:
            OSError: reading failed, or (`first`) the connection ended before anything came. ProtocolError: a line without an end.
        """
        end = self._data.find(b"\n", self._at)
        while end < 0:
            rest = self._data[self._at :]
            if len(rest) > _MAX_LINE:
                raise ProtocolError("a line of its answer does not end")
            more = self.sock.recv(_AHEAD)
            if not more:
                if first and not rest:
                    raise ConnectionResetError("the connection was closed without an answer")
                if not first:
                    raise ProtocolError("its answer ended early")
                more = b"\n"
            self._data, self._at = rest + more, 0
            end = self._data.find(b"\n", len(rest))
        line = self._data[self._at : end]
        self._at = end + 1
        return line.removesuffix(b"\r")

    def some(self, most: int) -> bytes:
        """At most so many bytes, at least one; none where the connection has ended."""
        if not self.ahead:
            return self.sock.recv(most)
        part = self._data[self._at : self._at + most]
        self._at += len(part)
        return part


@dataclass(slots=True, eq=False)
class Answer:
    """An answer whose head was read. Header names are lower case; `length` is that of the body where it was announced.

    `closes`: the server ends the connection after it. `ended`: all of the body was read.
    """

    stream: Stream
    status: int
    reason: str
    headers: Mapping[str, str]
    length: int | None
    chunked: bool
    closes: bool
    ended: bool
    _left: int

    def read(self, most: int) -> bytes:
        """The next bytes of the body, at most so many; none at its end.

        Raises:
            OSError: reading failed. ProtocolError: the connection ended first, or the chunks are none.
        """
        if self.ended:
            return b""
        bounded = self.chunked or self.length is not None
        if self.chunked and not self._left and not self._begin_chunk():
            return b""
        part = self.stream.some(min(most, self._left) if bounded else most)
        if bounded:
            if not part:
                raise ProtocolError("the body ended early")
            self._left -= len(part)
            if self.chunked and not self._left and self.stream.line():
                raise ProtocolError("a chunk is longer than it says")
        self.ended = not self.chunked and not (self._left if bounded else part)
        return part

    def _begin_chunk(self) -> bool:
        """Reads the length of the next chunk; False where there is none, after what may follow the last one."""
        found = re.fullmatch(_CHUNK, self.stream.line(), re.DOTALL)
        if found is None:
            raise ProtocolError("a chunk's length is no number")
        self._left = int(found[1], 16)
        if self._left:
            return True
        _fields(self.stream)
        self.ended = True
        return False


def request(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """A request without a body.

    Raises:
        ValueError: text that would be another request, or none.
    """
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if " " in target or not all(line.isascii() and line.isprintable() for line in lines):
        raise ValueError("characters that no request has")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def answer(stream: Stream) -> Answer:
    """The answer to a GET or CONNECT, after those that only inform, such as 103 Early Hints.

    Raises:
        OSError, ProtocolError: there is none.
    """
    for _ in range(_MAX_INFORMATIONAL):
        text = stream.line(first=True).decode("latin-1")
        found = re.fullmatch(_STATUS, text, re.DOTALL)
        if found is None:
            raise ProtocolError(f"its answer is no HTTP/1.1: {text[:40]!r}")
        status = int(found[2])
        headers = _fields(stream)
        if status >= 200:
            return _framed(stream, found[1] == "0", status, found[3], headers)
        if status == 101:  # it would speak another protocol from here on
            raise ProtocolError("it answered 101")
    raise ProtocolError("it answers without an end and never finally")


def _framed(stream: Stream, old: bool, status: int, reason: str, headers: dict[str, str]) -> Answer:
    """An answer with what its head says of the body's length; `old` is HTTP/1.0."""
    coding = headers.get("transfer-encoding", "").lower()
    if coding not in ("", "identity", "chunked"):
        raise ProtocolError(f"Transfer-Encoding {coding[:40]!r} was not asked for")
    length: int | None = None
    if status in (204, 304):
        length = 0
    elif coding != "chunked" and is_length(headers.get("content-length", "")):
        length = int(headers["content-length"])
    connection = headers.get("connection", "").lower()
    endless = length is None and coding != "chunked"
    closes = endless or ("keep-alive" not in connection if old else "close" in connection)
    return Answer(stream, status, reason, headers, length, coding == "chunked", closes, length == 0, length or 0)


def is_length(text: str) -> bool:
    """Whether a Content-Length is a number, and one that a file can have."""
    return text.isascii() and text.isdecimal() and len(text) < 20


def _fields(stream: Stream) -> dict[str, str]:
    """Headers up to the empty line, each on one line; of two with one name both, or the first where only one can count."""
    pairs: list[tuple[str, str]] = []
    while line := stream.line().decode("latin-1"):
        if len(pairs) == _MAX_LINES:
            raise ProtocolError("its answer has too many headers")
        if line[0] in " \t" and pairs:  # the line before goes on
            name, begun = pairs.pop()
            pairs.append((name, f"{begun} {line}"))
        else:
            name, _, value = line.partition(":")
            pairs.append((name.lower(), value))
    found: dict[str, str] = {}
    for name, value in pairs:
        value = " ".join(value.split())
        if name not in found:
            found[name] = value
        elif name not in _ONCE:
            found[name] += f", {value}"
    return found
