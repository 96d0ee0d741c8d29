"""Exact search over integers for questions whose answers change once from yes to no."""

from __future__ import annotations

from collections.abc import Callable


def largest(fits: Callable[[int], bool], limit: int) -> int | None:
    """The largest n from 1 to `limit` with `fits(n)`, for a question that stays no once it is no.

    0 where not even 1 fits, None where `limit` itself does: then nothing here bounds n. About 2·log2(n) calls.
    """
    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= limit and fits(high):
        low, high = high, 2 * high
    if high > limit:
        if fits(limit):
            return None
        high = limit
    while high - low > 1:  # low fits, high does not
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def smallest(fits: Callable[[int], bool], limit: int) -> int | None:
    """The smallest n from 1 to `limit` with `fits(n)`, for a question that stays yes once it is yes; None where none fits."""
    if not fits(limit):
        return None
    low, high = 0, limit  # high fits, low does not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle
    return high
