"""Faults of the local Hub, to be put into `HubServer.faults`: each is asked about a request before it is answered."""

from __future__ import annotations

import re
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
