"""GET with retries, redirects, byte ranges and bounds: every read has a cap, every wait an end, and the token one host."""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from urllib.parse import urljoin, urlsplit, urlunsplit

from hfmem.errors import FormatError, NetworkError
from hfmem.hub.connection import Connection, Origin, Pool, origin_of, proxy_for, shown
from hfmem.hub.facts import FetchStats
from hfmem.hub.wire import (
    Decoder,
    Reader,
    Sink,
    TransientError,
    check_content_range,
    check_length,
    describe,
    header_values,
    is_stale,
    range_total,
    retry_after,
)
from hfmem.records import dataclass, field

_RETRY_STATUS = {
    408: "Request Timeout",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10
#: the Hub by its names, which redirect to one another
_HUB_ORIGINS = frozenset(Origin("https", host, 443) for host in ("huggingface.co", "hf.co", "hub-ci.huggingface.co"))
MAX_RETRIES = 4
#: seconds before the first retry; doubled for each further one, times a random 0.5 to 1
BACKOFF = 0.5
MAX_BACKOFF = 8.0
#: seconds to open a connection where a stored answer could be given instead
QUICK_CONNECT = 3.0
_MAX_ERROR_BODY = 1 << 16
#: a server that ignores Range is read up to here to reach the bytes wanted, never further
MAX_DISCARD = 16 << 20


class Deadline:
    """A moment after which nothing is waited for."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, 0 when it has passed."""
        return max(0.0, self._at - time.monotonic())


@dataclass(frozen=True, slots=True)
class Response:
    """What came back. Header names are lower case; `hops` are the headers of redirects that led here, first one first.

    `total_size` is the size of the whole resource where the server told it. `url` is the address that answered. `sink` took the
    body, which is empty then.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    total_size: int | None = None
    hops: tuple[Mapping[str, str], ...] = ()
    sink: Sink | None = None

    def header(self, name: str) -> str | None:
        """A header of the answer, else of a redirect before it: the Hub describes a file on the hop before the storage host's."""
        for headers in (self.headers, *reversed(self.hops)):
            if name in headers:
                return headers[name]
        return None


@dataclass(slots=True)
class Client:
    """One model's requests: connections, deadline, retries and counts. Threads share it.

    `token` is sent to `home`, the endpoint's origin, and where that redirects to the Hub itself. `quick` means that a stored
    answer exists: a host that cannot be reached is given up at once. `close()` makes every waiting thread stop.
    """

    home: Origin
    deadline: Deadline
    token: str | None
    agent: str
    timeout: float
    quick: bool = False
    pool: Pool = field(default_factory=Pool)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _requests: int = 0
    _bytes: int = 0
    _started: float = field(default_factory=time.monotonic)
    _watch: threading.Timer | None = None

    def __post_init__(self) -> None:
        # a head that trickles in, line by line, is within the limit of each wait and would never end
        self._watch = threading.Timer(self.deadline.remaining(), self.pool.close)
        self._watch.daemon = True
        self._watch.start()
        if self.home.scheme == "https":
            self.pool.warm()

    def stats(self) -> FetchStats:
        """Requests sent (each redirect is one more), body bytes received, seconds since the start."""
        with self._lock:
            return FetchStats(self._requests, self._bytes, False, time.monotonic() - self._started)

    def close(self) -> None:
        """Stops everything in flight."""
        self._stop.set()
        if self._watch is not None:
            self._watch.cancel()
        self.pool.close()

    def get(
        self,
        url: str,
        *,
        max_bytes: int,
        byte_range: tuple[int, int] | None = None,
        timeout: float | None = None,
        retries: int = MAX_RETRIES,
        stop: Callable[[Mapping[str, str]], bool] | None = None,
        sink: Callable[[], Sink] | None = None,
    ) -> Response:
        """The response to GET `url`, whatever its status, unless that is one to try again.

        With `byte_range` (first, past-the-last) the body is exactly those bytes, fewer only where the resource ends
        before; the status is 206 then, also where the server ignored Range and sent all. `stop` sees the headers of
        each redirect: True ends there. `sink` makes something that takes the body of a 200 while it comes, anew for each try.

        Raises:
            NetworkError: unreachable, too many retries or redirects, past the deadline, or a server that breaks the
            protocol. FormatError: the body is longer than `max_bytes`.
        """
        attempt = 0
        while True:
            wait: float | None = None
            try:
                response = self._follow(url, max_bytes, byte_range, timeout or self.timeout, stop, sink)
            except TransientError as error:
                reason, connecting, silent = str(error), error.connecting, error.silent
            else:
                if response.status not in _RETRY_STATUS:
                    return response
                host = origin_of(response.url)
                reason = f"{host} answered {response.status} {_RETRY_STATUS[response.status]}"
                connecting = silent = False
                wait = retry_after(response.status, response.headers)
            attempt += 1
            hopeless = (self.quick and (connecting or silent)) or (connecting and attempt > 2)
            if attempt > retries or hopeless or self._stop.is_set():
                tries = f" ({attempt} tries)" if attempt > 1 else ""
                raise NetworkError(reason + tries)
            if wait is None:
                wait = min(MAX_BACKOFF, BACKOFF * 2 ** (attempt - 1)) * (0.5 + os.urandom(1)[0] / 510)
            if wait >= self.deadline.remaining():
                raise NetworkError(
                    f"{reason}; waiting {wait:.0f} s would pass the deadline of {self.deadline.seconds:g} s"
                )
            if self._stop.wait(wait):
                raise NetworkError("stopped")

    def _follow(
        self,
        url: str,
        max_bytes: int,
        byte_range: tuple[int, int] | None,
        timeout: float,
        stop: Callable[[Mapping[str, str]], bool] | None,
        sink: Callable[[], Sink] | None,
    ) -> Response:
        hops: list[Mapping[str, str]] = []
        token = self.token
        origin = origin_of(url)
        if origin != self.home:
            token = None
        while True:
            headers = {"user-agent": self.agent, "accept": "*/*"}
            if byte_range is not None:
                headers["range"] = f"bytes={byte_range[0]}-{byte_range[1] - 1}"
                headers["accept-encoding"] = "identity"
            else:
                headers["accept-encoding"] = "gzip"
            if token is not None:
                headers["authorization"] = f"Bearer {token}"
            slot = self.pool.slot(origin)
            if not slot.acquire(timeout=self.deadline.remaining()):
                raise NetworkError(self.late(f"waiting for {origin}"))
            try:
                response = self._exchange(origin, url, headers, max_bytes, byte_range, timeout, tuple(hops), sink)
            finally:
                slot.release()
            location = response.headers.get("location")
            if response.status not in _REDIRECT_STATUS:
                return response
            if location is None:
                raise NetworkError(f"{shown(url)}: redirected to nowhere ({response.status} without Location)")
            if stop is not None and stop(response.headers):
                return response
            hops.append(response.headers)
            if len(hops) > MAX_REDIRECTS:
                raise NetworkError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects")
            try:
                url = urljoin(url, location)
            except ValueError:
                raise NetworkError(f"{shown(location)!r} is not a web address") from None
            previous, origin = origin, origin_of(url)
            if not token_follows(previous, origin, self.home):
                token = None  # and it stays dropped: coming back to the first host does not restore it

    def _exchange(
        self,
        origin: Origin,
        url: str,
        headers: dict[str, str],
        max_bytes: int,
        byte_range: tuple[int, int] | None,
        timeout: float,
        hops: tuple[Mapping[str, str], ...],
        sink: Callable[[], Sink] | None,
    ) -> Response:
        """One request and its response, on a kept connection where there is one."""
        fresh = False
        while True:
            connection = self._connection(origin, timeout, fresh)
            keep = False
            try:
                started = self._send(connection, url, headers, timeout)
                reader = Reader(started, connection.sock, lambda: self._limit(timeout), self._count)
                response = self._receive(started, reader, url, max_bytes, byte_range, hops, sink)
                keep = reader.ended and not started.will_close
                return response
            except (OSError, http.client.HTTPException) as error:
                if connection.reused and is_stale(error):
                    fresh = True  # the server closed it while it was idle: not a failure
                    continue
                if self.deadline.remaining() <= 0:
                    raise NetworkError(self.late(f"reading from {origin}")) from None
                raise TransientError(f"{origin}: {describe(error)}", silent=isinstance(error, TimeoutError)) from None
            finally:
                if keep:
                    self.pool.give(origin, connection)
                else:
                    self.pool.drop(connection)

    def late(self, doing: str) -> str:
        """The message of a passed deadline."""
        return f"{doing} took longer than the deadline of {self.deadline.seconds:g} s (HFMEM_DEADLINE)"

    def _count(self, size: int) -> None:
        with self._lock:
            self._bytes += size

    def _limit(self, timeout: float) -> float:
        remaining = self.deadline.remaining()
        if remaining <= 0:
            raise TimeoutError("deadline")
        return min(timeout, remaining)

    def _connection(self, origin: Origin, timeout: float, fresh: bool) -> Connection:
        try:
            limit = self._limit(min(timeout, QUICK_CONNECT) if self.quick else timeout)
            return self.pool.take(origin, limit, fresh=fresh)
        except ssl.SSLCertVerificationError as error:
            raise NetworkError(
                f"the certificate of {origin} is not trusted ({error.verify_message}); SSL_CERT_FILE may name your CA"
            ) from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if self.deadline.remaining() <= 0:
                raise NetworkError(self.late(f"connecting to {origin}")) from None
            proxy = proxy_for(origin)
            way = f" through the proxy {proxy.netloc.rpartition('@')[2]}" if proxy else ""
            raise TransientError(f"{origin} cannot be reached{way}: {describe(error)}", connecting=True) from None

    def _send(
        self, connection: Connection, url: str, headers: dict[str, str], timeout: float
    ) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        if connection.proxied:
            target = urlunsplit((parts.scheme, host, parts.path or "/", parts.query, ""))
        connection.sock.settimeout(self._limit(timeout))
        with self._lock:
            self._requests += 1
        try:
            connection.http.request("GET", target, headers={"host": host, **headers, **connection.proxy_headers})
        except (http.client.InvalidURL, UnicodeError):
            raise NetworkError(f"{shown(url)!r} is not a web address") from None
        started = connection.http.getresponse()
        if started.status < 200:
            raise http.client.HTTPException(f"it answered {started.status}")
        return started

    def _receive(
        self,
        started: http.client.HTTPResponse,
        reader: Reader,
        url: str,
        max_bytes: int,
        byte_range: tuple[int, int] | None,
        hops: tuple[Mapping[str, str], ...],
        sink: Callable[[], Sink] | None,
    ) -> Response:
        """Reads the body within its bounds."""
        headers, status = header_values(started.headers), started.status
        check_length(headers, url)
        if status in _REDIRECT_STATUS or status >= 400:
            body = reader.read(_MAX_ERROR_BODY)
            if status >= 400 and headers.get("content-encoding") == "gzip":
                body = b""
            return Response(status, headers, body, url, range_total(headers), hops)
        if byte_range is None:
            length = started.length
            if length is not None and length > max_bytes:
                raise FormatError(f"{shown(url)}: {length:,} bytes are too many (limit {max_bytes:,})")
            parts: list[bytes] = []
            taker = sink() if sink is not None and status == 200 else None
            take = parts.append if taker is None else taker.feed
            decoder = Decoder(headers.get("content-encoding", ""), max_bytes, url, take)
            reader.read(max_bytes + 1, decoder.feed)
            decoder.finish()
            return Response(status, headers, b"".join(parts), url, length, hops, taker)

        first, end = byte_range
        if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise NetworkError(f"{shown(url)}: the server compressed a byte range, which cannot be used")
        if status == 206:
            stop, total = check_content_range(headers, first, end, url)
            body = reader.read(end - first)
            if len(body) != stop - first:
                raise http.client.IncompleteRead(b"", stop - first - len(body))
            return Response(206, headers, body, url, total, hops)
        if status != 200:
            raise NetworkError(f"{shown(url)}: answered {status} to a range request")
        # The server ignored Range and sends everything: take the bytes wanted and hang up.
        if first > MAX_DISCARD:
            raise NetworkError(
                f"{shown(url)}: the server ignores byte ranges, and {first:,} bytes would have to be read for nothing"
            )
        total = started.length
        body = reader.read(end if total is None else min(end, total))
        if total is not None and len(body) < min(end, total):
            raise http.client.IncompleteRead(b"", min(end, total) - len(body))
        return Response(206, headers, body[first:], url, total, hops)


def token_follows(before: Origin, after: Origin, home: Origin) -> bool:
    """Whether a redirect takes the token along: to the same origin, from one name of the Hub to another, or from http to https of
    one host, as with huggingface_hub (`_is_same_or_hub_host`) and its HTTP client."""
    hub = _HUB_ORIGINS | {home}
    upgrade = before == Origin("http", after.host, 80) and after == Origin("https", before.host, 443)
    return after == before or upgrade or (before in hub and after in hub)
