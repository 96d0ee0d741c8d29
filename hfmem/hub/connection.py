"""Kept-alive HTTP/1.1 connections by origin, through a proxy where the environment names one.

Over `http.client`, because a memory estimate reads kilobytes: the HTTP clients of huggingface_hub (httpx in 1.x, httpx2 in 2.x)
take longer to import than a whole estimate.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import ssl
import sys
import threading
import time
from base64 import b64encode
from urllib.parse import SplitResult, unquote, urlsplit

from hfmem.errors import NetworkError
from hfmem.hub.addresses import Address, open_socket, resolve
from hfmem.records import dataclass

_DEFAULT_PORTS = {"http": 80, "https": 443}
#: requests that one host is to answer at once; huggingface_hub's HTTP client (httpx) would open 100 connections
MAX_PER_HOST = 32
_MAX_INFORMATIONAL = 10


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what a connection and a token belong to."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def origin_of(url: str) -> Origin:
    """The origin of `url`.

    Raises:
        NetworkError: not an http(s) address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise NetworkError(f"{shown(url)!r} is not a web address") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise NetworkError(f"{shown(url)!r} is not a web address")
    return Origin(parts.scheme, parts.hostname.lower(), port or _DEFAULT_PORTS[parts.scheme])


def shown(url: str) -> str:
    """`url` for a message: without user, password and query, which may hold a signature, and not too long."""
    place = url.partition("?")[0].partition("#")[0]
    scheme, slashes, rest = place.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"[:200]


class FinalResponse(http.client.HTTPResponse):
    """A response after those that only inform, such as 103 Early Hints; `http.client` skips 100 alone."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MAX_INFORMATIONAL):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 102 <= status <= 199:  # 101 would speak another protocol from here on
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("it answers without an end and never finally")


@dataclass(slots=True, eq=False)
class Connection:
    """One open connection. `proxied` means that requests name the whole address (plain HTTP through a proxy).

    `sock` is kept because `http` lets go of it when the server announces that it will close the connection.
    """

    http: http.client.HTTPConnection
    sock: socket.socket
    proxied: bool
    proxy_headers: dict[str, str]
    reused: bool = False

    def is_quiet(self) -> bool:
        """Whether nothing came that belongs to no request: neither bytes nor the connection's end."""
        try:
            if hasattr(select, "poll"):  # select itself knows no socket above 1023
                waiting = select.poll()
                waiting.register(self.sock, select.POLLIN)
                return not waiting.poll(0)
            return not select.select([self.sock], [], [], 0)[0]
        except (OSError, ValueError):
            return False


class Pool:
    """Idle connections, shared by threads. A connection is used by one thread at a time."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = threading.Lock()
        self._addresses: dict[tuple[str, int], list[Address]] = {}
        self._slots: dict[Origin, threading.Semaphore] = {}
        self.closed = False

    def warm(self) -> None:
        """Loads the certificates beside what is done until a host is connected, which takes about as long as they do: 25 ms."""

        def load() -> None:
            with contextlib.suppress(NetworkError):  # told when a connection needs them
                self._context()
                "host".encode("idna")  # and the codec by which `ssl` takes a name

        threading.Thread(target=load, daemon=True).start()

    def slot(self, origin: Origin) -> threading.Semaphore:
        """What lets so many requests to one host through as may be at once."""
        with self._lock:
            return self._slots.setdefault(origin, threading.Semaphore(MAX_PER_HOST))

    def take(self, origin: Origin, timeout: float, *, fresh: bool = False) -> Connection:
        """An idle connection to `origin`, else a new one.

        Raises:
            OSError, UnicodeError, http.client.HTTPException: it cannot be opened.
            NetworkError: the proxy or the certificates that the environment names cannot be used.
        """
        while not fresh:
            with self._lock:
                idle = self._idle.get(origin)
                kept = idle.pop() if idle else None
            if kept is None:
                break
            if kept.is_quiet():
                kept.reused = True
                return kept
            self.drop(kept)
        connection = self._connect(origin, timeout)
        with self._lock:
            self._open.add(connection)
            closed = self.closed
        if closed:
            self.drop(connection)
            raise ConnectionAbortedError("closed")
        return connection

    def give(self, origin: Origin, connection: Connection) -> None:
        """Returns a connection whose response was read to its end."""
        with self._lock:
            if not self.closed:
                self._idle.setdefault(origin, []).append(connection)
                return
        self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """Closes a connection that cannot be used again."""
        with self._lock:
            self._open.discard(connection)
        connection.http.close()

    def close(self) -> None:
        """Closes everything; threads that wait for bytes get an error at once."""
        with self._lock:
            self.closed = True
            connections, idle = list(self._open), {id(c) for group in self._idle.values() for c in group}
            self._open.clear()
            self._idle.clear()
        for connection in connections:
            with contextlib.suppress(OSError):
                if id(connection) in idle:
                    connection.http.close()
                else:
                    # Not SSLSocket.shutdown: it drops the TLS state under the thread that reads.
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def _connect(self, origin: Origin, timeout: float) -> Connection:
        proxy = proxy_for(origin)
        headers: dict[str, str] = {}
        host, port = origin.host, origin.port
        if proxy is not None:
            host, port, headers = proxy.hostname or "", proxy.port or 80, _proxy_headers(proxy)
        until = time.monotonic() + timeout
        if (host, port) not in self._addresses:
            self._addresses[host, port] = resolve(host, port, timeout)
        connection: http.client.HTTPConnection
        if origin.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=self._context())
            if proxy is not None:
                connection.set_tunnel(origin.host, origin.port, headers)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
        connection.response_class = FinalResponse
        # what http.client opens a socket by, made an attribute to be replaced
        connection._create_connection = lambda *_: self._dial(host, port, until)  # type: ignore[attr-defined]
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        plain = proxy is not None and origin.scheme == "http"
        return Connection(connection, connection.sock, plain, headers if plain else {})

    def _dial(self, host: str, port: int, until: float) -> socket.socket:
        """A connection to one of the host's addresses, which the next connections try first."""
        known = self._addresses[host, port]
        sock, address = open_socket(known, until)
        self._addresses[host, port] = [address, *(other for other in known if other != address)]
        return sock

    def _context(self) -> ssl.SSLContext:
        with self._tls_lock:
            if self._tls is None:
                self._tls = _tls_context()
            return self._tls


def _tls_context() -> ssl.SSLContext:
    """Verifies against SSL_CERT_FILE/SSL_CERT_DIR, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, the system's store, or certifi's."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(name)
        if path:
            try:
                if os.path.isdir(path):
                    return ssl.create_default_context(capath=path)
                return ssl.create_default_context(cafile=path)
            except (OSError, ssl.SSLError) as error:
                raise NetworkError(f"{name}={path}: no certificates could be read ({error})") from None
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if sys.platform != "win32" and not context.get_ca_certs() and not (paths.capath and os.listdir(paths.capath)):
        return _other_certificates(context)
    return context


def _other_certificates(context: ssl.SSLContext) -> ssl.SSLContext:
    """`context`, which knows no authority, with certifi's; else one that asks the system, where truststore is there."""
    with contextlib.suppress(ImportError):
        import certifi  # type: ignore[import-not-found,unused-ignore]

        context.load_verify_locations(certifi.where())
        return context
    with contextlib.suppress(ImportError):
        import truststore  # type: ignore[import-not-found,unused-ignore]

        found: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return found
    return context


def proxy_for(origin: Origin) -> SplitResult | None:
    """The proxy that http_proxy, https_proxy, all_proxy and no_proxy (or the system's settings) ask for.

    Raises:
        NetworkError: a proxy of a kind not supported.
    """
    if sys.platform not in ("darwin", "win32") and not any(name.lower().endswith("_proxy") for name in os.environ):
        return None  # urllib.request costs 15 ms and most machines have no proxy
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    address = proxies.get(origin.scheme) or proxies.get("all")
    if not address or proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    try:
        proxy = urlsplit(address if "://" in address else f"http://{address}")
        valid = bool(proxy.hostname) and (proxy.port is None or proxy.port > 0)
    except ValueError:
        valid = False
    if not valid or proxy.scheme != "http":
        shown = address.rsplit("@", 1)[-1]  # never show a proxy's password
        raise NetworkError(
            f"the proxy {shown} cannot be used: only http:// proxies are supported (they carry https too)"
        )
    return proxy


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + b64encode(pair).decode("ascii")}
