"""Addresses of a host: one family dead, as on many networks, must not cost the connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hfmem.hub import addresses as module
from hfmem.hub.addresses import Address, in_turn, open_socket

V4, V6 = socket.AF_INET, socket.AF_INET6


def address(port: int, family: socket.AddressFamily = V4) -> Address:
    return (family, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))


@pytest.fixture
def places() -> Iterator[tuple[Address, Address, Address]]:
    """An address that answers, one that never does (its queue is full), and one that refuses."""
    with ExitStack() as stack:
        open_, silent, gone = (stack.enter_context(socket.socket()) for _ in range(3))
        for sock in (open_, silent, gone):
            sock.bind(("127.0.0.1", 0))
        open_.listen(8)
        silent.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        yield address(open_.getsockname()[1]), address(silent.getsockname()[1]), address(gone.getsockname()[1])


def test_families_take_turns() -> None:
    six, four = [address(port, V6) for port in (1, 2, 3)], [address(port) for port in (4, 5)]
    assert in_turn([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert in_turn(four) == four and in_turn([]) == []


def test_dead_addresses_take_none_of_the_time_of_the_living(places: tuple[Address, Address, Address]) -> None:
    living, dead, refusing = places
    started = time.monotonic()
    # all of them before the living one: tried one after the other, the first would take the whole time
    sock, found = open_socket([dead, refusing, dead, living], started + 3)
    with sock:
        assert found == living and sock.getpeername() == living[4] and sock.gettimeout()
    assert time.monotonic() - started < 2.5


def test_nothing_answers(places: tuple[Address, Address, Address], monkeypatch: pytest.MonkeyPatch) -> None:
    _, dead, refusing = places
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    with pytest.raises(TimeoutError):
        open_socket([dead, refusing], time.monotonic() + 0.3)
    with pytest.raises(ConnectionRefusedError):
        open_socket([refusing], time.monotonic() + 5)
    with pytest.raises(OSError, match="no address"):
        open_socket([], time.monotonic() + 5)
