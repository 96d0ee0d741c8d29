"""From a host's name to an open socket, where the resolver may hang and addresses may be dead."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, Final

#: as `socket.getaddrinfo` lists them
Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
#: seconds after which the next address is tried beside those that have not answered yet (RFC 8305, section 5)
_PATIENCE: Final = 0.25


def resolve(host: str, port: int, timeout: float) -> list[Address]:
    """The host's addresses. The system's resolver cannot be interrupted, so that it is not waited for longer than this.

    Raises:
        OSError: it has none, or is too slow. UnicodeError: not the name of a host.
    """
    # as bytes: a string would be encoded by a codec that takes milliseconds to load
    name = _ascii(host)
    found: list[list[Address]] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            found.append(list(socket.getaddrinfo(name, port, 0, socket.SOCK_STREAM)))
        except BaseException as error:
            errors.append(error)
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    if not done.wait(timeout):
        raise TimeoutError("resolving its name")
    if errors:
        raise errors[0]
    return in_turn(found[0])


def in_turn(addresses: Sequence[Address]) -> list[Address]:
    """The first address's family and the others in turn: a network where one family is dead is noticed at the second address."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    pairs = chain.from_iterable(zip_longest(first, others))
    return [address for address in pairs if address is not None]


def open_socket(addresses: Sequence[Address], until: float) -> tuple[socket.socket, Address]:
    """A connection to one of the addresses, and which one that is: the first to answer, tried in their order.

    Raises:
        OSError: none of them answers in time.
    """
    error: OSError = OSError("the name has no address")
    todo = list(addresses)
    with selectors.DefaultSelector() as waiting:
        try:
            while todo or waiting.get_map():
                if todo:
                    address = todo.pop(0)
                    try:
                        waiting.register(_started(address), selectors.EVENT_WRITE, address)
                    except OSError as failure:
                        error = failure
                        continue
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError("connecting")
                for key, _ in waiting.select(min(left, _PATIENCE) if todo else left):
                    sock: Any = key.fileobj
                    waiting.unregister(sock)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        sock.settimeout(max(until - time.monotonic(), 0.001))
                        return sock, key.data
                    sock.close()
                    error = OSError(code, os.strerror(code))
        finally:
            for key in list(waiting.get_map().values()):
                waiting.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
    raise error


def _started(address: Address) -> socket.socket:
    """A socket that is about to be connected."""
    family, kind, protocol, _, place = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.connect(place)
    except BlockingIOError:
        pass
    except BaseException:
        sock.close()
        raise
    return sock


def _ascii(host: str) -> bytes:
    return host.encode("ascii") if host.isascii() else host.encode("idna")
