"""Faults of the local Hub, to be put into `HubServer.faults`: each is asked about a request before it is answered."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping

from hub_routes import Handler

#: True: it has answered the request itself
Fault = Callable[[Handler], bool]


def fail_times(times: int, status: int, *, on: str = "", headers: Mapping[str, str] | None = None) -> Fault:
    """Answers the first `times` requests whose path matches the pattern `on` with `status`."""
    left = [times]

    def fault(handler: Handler) -> bool:
        if left[0] <= 0 or not re.search(on, handler.path):
            return False
        left[0] -= 1
        handler.answer(status, b"", dict(headers or {}))
        return True

    return fault


def truncate_times(times: int, keep: int, *, on: str) -> Fault:
    """Announces the whole body, sends `keep` bytes of it, and hangs up."""
    left = [times]

    def fault(handler: Handler) -> bool:
        if left[0] > 0 and re.search(on, handler.path):
            left[0] -= 1
            handler.keep = keep
        return False

    return fault


def stall_times(times: int, seconds: float, *, on: str) -> Fault:
    """Waits before it answers."""
    left = [times]

    def fault(handler: Handler) -> bool:
        if left[0] > 0 and re.search(on, handler.path):
            left[0] -= 1
            time.sleep(seconds)
        return False

    return fault


def hold_until(come: str, *, on: str, seconds: float = 5.0) -> tuple[Fault, threading.Event]:
    """Answers what matches `on` only once a request that matches `come` has arrived, or after `seconds`; the event is set by that
    request."""
    arrived = threading.Event()

    def fault(handler: Handler) -> bool:
        if re.search(come, handler.path):
            arrived.set()
        elif re.search(on, handler.path):
            arrived.wait(seconds)
        return False

    return fault, arrived
