"""Threads for waiting on the network: daemons, so that neither Ctrl-C nor a deadline ever waits for one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from hfmem.errors import NetworkError
from hfmem.hub.connection import MAX_PER_HOST
from hfmem.hub.http import Client

T = TypeVar("T")
S = TypeVar("S")

#: requests in flight for one model: bound by the network, not by cores. A file's first one goes to the Hub and its second one to a
#: storage host, so that each of two hosts is busy with half of them
MAX_IN_FLIGHT = 2 * MAX_PER_HOST
# A wait without an end cannot be interrupted on every platform, one of this many seconds can.
_TICK = 0.25


class Task(Generic[T]):
    """A call that runs in its own thread from the moment this is made."""

    def __init__(self, client: Client, call: Callable[[], T]) -> None:
        self._client = client
        self._call = call
        self._done = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error
        self._done.set()

    def is_waiting(self) -> bool:
        """Whether the call still runs."""
        return not self._done.is_set()

    def result(self) -> T:
        """The value, or the exception, of the call.

        Raises:
            NetworkError: the deadline passed first.
        """
        while not self._done.wait(min(_TICK, max(0.001, self._client.deadline.remaining()))):
            if self._client.deadline.remaining() <= 0:
                raise NetworkError(self._client.late("reading the model"))
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


def run_all(
    client: Client, items: Sequence[S], call: Callable[[S], T], on_done: Callable[[int, int], None] | None = None
) -> list[T]:
    """`call` of every item, many at once, in the order of `items`; the first exception ends all.

    Raises:
        NetworkError: the deadline passed first. Whatever `call` raises.
    """
    from queue import Empty, SimpleQueue

    results: SimpleQueue[tuple[int, T | None, BaseException | None]] = SimpleQueue()
    todo = iter(enumerate(items))
    lock = threading.Lock()
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            with lock:
                at, item = next(todo, (-1, None))
            if at < 0:
                return
            try:
                results.put((at, call(item), None))  # type: ignore[arg-type]
            except BaseException as error:
                stopped.set()
                results.put((at, None, error))
                return

    for _ in range(min(MAX_IN_FLIGHT, len(items))):
        threading.Thread(target=work, daemon=True).start()
    values: dict[int, T | None] = {}
    try:
        while len(values) < len(items):
            try:
                at, value, failure = results.get(timeout=min(_TICK, max(0.001, client.deadline.remaining())))
            except Empty:
                if client.deadline.remaining() <= 0:
                    raise NetworkError(client.late("reading the model")) from None
                continue
            if failure is not None:
                raise failure
            values[at] = value
            if on_done is not None:
                on_done(len(values), len(items))
    finally:
        stopped.set()
    return [values[at] for at in range(len(items))]  # type: ignore[misc]
