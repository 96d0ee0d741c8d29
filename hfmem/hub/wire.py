"""What `http.client` leaves to its caller: bounded bodies, compression, ranges, and when to try again."""

from __future__ import annotations

import http.client
import re
import ssl
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from socket import gaierror, socket
from typing import Protocol

from hfmem.errors import FormatError, NetworkError
from hfmem.hub.connection import shown

#: a limit of which nothing remains
_RATE_LIMIT = r'"\s*;\s*r\s*=\s*0+\s*;\s*t\s*=\s*([0-9]{1,9})\b'
_PIECE = 1 << 18
#: what a piece is unpacked to at once
_UNPACKED = 1 << 20


class TransientError(Exception):
    """A failure that another try may mend. `connecting`: no connection came about; `silent`: nothing came in time."""

    def __init__(self, text: str, *, connecting: bool = False, silent: bool = False) -> None:
        super().__init__(text)
        self.connecting = connecting
        self.silent = silent


class Sink(Protocol):
    """Takes a body in pieces, as they come."""

    def feed(self, data: bytes) -> None:
        """The next piece; never raises."""


class Reader:
    """Reads a body piece by piece, each piece within the time limit."""

    def __init__(
        self,
        response: http.client.HTTPResponse,
        sock: socket,
        limit: Callable[[], float],
        count: Callable[[int], None],
    ) -> None:
        """`limit` tells the seconds that the next piece may take, `count` takes the size of each."""
        self._response, self._sock, self._limit, self._count = response, sock, limit, count
        #: whether all of the body was read
        self.ended = False

    def read(self, limit: int, take: Callable[[bytes], None] | None = None) -> bytes:
        """At most `limit` bytes; with `take` that gets them, piece by piece.

        Raises:
            http.client.IncompleteRead: the connection ended before the announced length.
        """
        response = self._response
        expected = response.length
        parts: list[bytes] = []
        take = take or parts.append
        size = 0
        while (
            size < limit and not response.isclosed()
        ):  # from Python 3.12 on the last byte closes it, and the socket with it
            self._sock.settimeout(self._limit())
            part = response.read1(min(_PIECE, limit - size))
            if not part:
                break
            take(part)
            size += len(part)
            self._count(len(part))
        if expected is not None and size < min(limit, expected):
            raise http.client.IncompleteRead(b"", expected - size)
        self.ended = response.isclosed() or expected == size
        response.close()  # http.client refuses the next request on the connection before this
        return b"".join(parts)


class Decoder:
    """Undoes a body's compression piece by piece and hands on what is in it, at most `max_bytes` of that."""

    def __init__(self, encoding: str, max_bytes: int, url: str, take: Callable[[bytes], None]) -> None:
        """
        Raises:
            NetworkError: a compression that was not asked for.
        """
        self._left, self._limit, self._url, self._take = max_bytes, max_bytes, url, take
        self._unpacker = None
        if encoding.lower() in ("gzip", "x-gzip"):
            self._unpacker = zlib.decompressobj(wbits=31)
        elif encoding.lower() not in ("", "identity"):
            raise NetworkError(f"{shown(url)}: Content-Encoding {encoding[:40]!r} was not asked for")

    def feed(self, data: bytes) -> None:
        """The next piece as it came.

        Raises:
            FormatError: more than allowed. TransientError: not what gzip writes.
        """
        while data:
            plain = data
            if self._unpacker is not None:
                try:
                    plain = self._unpacker.decompress(data, min(_UNPACKED, self._left + 1))
                except zlib.error as error:
                    raise TransientError(f"{shown(self._url)}: broken compression: {error}") from None
            self._left -= len(plain)
            if self._left < 0:
                raise FormatError(f"{shown(self._url)}: more than {self._limit:,} bytes")
            if plain:
                self._take(plain)
            data = b"" if self._unpacker is None else self._unpacker.unconsumed_tail

    def finish(self) -> None:
        """
        Raises:
            TransientError: there should be more.
        """
        if self._unpacker is not None and not self._unpacker.eof:
            raise TransientError(f"{shown(self._url)}: the compressed body ends early")


def header_values(message: Message) -> dict[str, str]:
    """Headers by their names in lower case, each on one line; of those that say where and how long, the first one counts."""
    found: dict[str, str] = {}
    for name, value in message.items():
        name, value = name.lower(), " ".join(line.strip() for line in value.splitlines())
        if name not in found:
            found[name] = value
        elif name not in ("location", "content-length", "content-range"):
            found[name] += f", {value}"
    return found


def check_length(headers: Mapping[str, str], url: str) -> None:
    """`http.client` reads on until the connection closes where Content-Length is not a length; that may be never.

    Raises:
        NetworkError: it is negative, or no number, or one that no file has.
    """
    text = headers.get("content-length")
    if text is None or "transfer-encoding" in headers:  # chunks have lengths of their own
        return
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise NetworkError(f"{shown(url)}: Content-Length {text[:40]!r} is no length")


def check_content_range(headers: Mapping[str, str], first: int, end: int, url: str) -> tuple[int, int | None]:
    """Where the bytes that Content-Range tells end, and the total size, None for `*`.

    Raises:
        NetworkError: the header is missing or names other bytes than those from `first` to `end` (or to the end of all).
    """
    text = headers.get("content-range", "")
    unit, _, rest = text.strip().partition(" ")
    span, _, total_text = rest.strip().partition("/")
    begin, _, last = span.partition("-")
    if unit.lower() == "bytes" and begin.isdecimal() and last.isdecimal() and int(begin) == first:
        stop = int(last) + 1
        total = int(total_text) if total_text.isdecimal() else None
        if first < stop <= end and (total is None or stop == min(end, total)):
            return stop, total
    raise NetworkError(f"{shown(url)}: asked for bytes {first}-{end - 1}, got Content-Range {text[:80]!r}")


def range_total(headers: Mapping[str, str]) -> int | None:
    """The total of `Content-Range: bytes */123`, which a 416 carries."""
    total = headers.get("content-range", "").rpartition("/")[2]
    return int(total) if total.isdecimal() else None


def retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: of a 429 by the Hub's `ratelimit: "api";r=0;t=55`, which other answers carry too, else by Retry-After
    (seconds or an HTTP date)."""
    limited = re.search(_RATE_LIMIT, headers.get("ratelimit", "")) if status == 429 else None
    if limited is not None:
        return float(limited[1]) + 1
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    if not text:
        return None
    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def is_stale(error: Exception) -> bool:
    """Whether this is what a kept connection gives that the server closed while it was idle."""
    closed = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return isinstance(error, closed)


def describe(error: Exception) -> str:
    """What went wrong, in a few words."""
    match error:
        case TimeoutError():
            return "timed out"
        case gaierror():
            return "the name cannot be resolved"
        case http.client.IncompleteRead():
            return "the body ended early"
        case OSError():
            return error.strerror or str(error) or type(error).__name__
        case http.client.BadStatusLine():
            return f"its answer is no HTTP/1.1: {str(error)[:40]!r}"
        case _:
            return str(error) or type(error).__name__
