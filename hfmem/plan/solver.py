"""Exact search over integers for questions whose answers change once from yes to no."""

from __future__ import annotations

from collections.abc import Callable


def largest(fits: Callable[[int], bool], limit: int, start: int = 1, grain: int = 1) -> int | None:
    """The largest n from 1 to `limit` with `fits(n)`, for a question that stays no once it is no.

    0 where not even 1 fits, None where `limit` itself does: then nothing here bounds n. About 2·log2(|n − start| / grain) calls,
    and log2(grain) more unless n is a multiple of `grain`, which is where answers mostly change (a page).
    """
    low, high, step = 0, limit + 1, grain  # low fits, or is 0; high does not, or is past the limit
    tried = min(max(start // grain * grain, 1), limit)
    if fits(tried):
        low = tried
        while low < limit:
            tried = min(low // grain * grain + step, limit)
            if not fits(tried):
                high = tried
                break
            low, step = tried, 2 * step
        else:
            return None
    else:
        high = tried
        while high > 1:
            tried = max(high - step, 1)
            if fits(tried):
                low = tried
                break
            high, step = tried, 2 * step
    while high - low > grain:
        middle = (low + high) // 2 // grain * grain
        if middle <= low:
            middle = (low // grain + 1) * grain
        if fits(middle):
            low = middle
        else:
            high = middle
    if grain > 1 and high - low > 1:
        if not fits(low + 1):
            return low
        low += 1
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def crossing(room: Callable[[int], int | None], first: int, limit: int) -> int:
    """About where `room`, nearly linear and falling, reaches zero: three secants from `first` and twice (or more) of it on.
    `limit` where it does not fall at first, 1 where it is not known."""
    start, second = room(first), 2 * first
    while (fallen := room(second)) == start is not None and second < limit:
        second *= 64  # both on one page
    points = [(first, start), (second, fallen)]
    for _ in range(3):
        (x0, y0), (x1, y1) = points[-2:]
        if y0 is None or y1 is None:
            return 1
        if x0 == x1:
            break
        if (y1 - y0) * (x1 - x0) >= 0:
            # flat from the start, or only between the last two guesses, which lie on one page
            return min(limit, x1) if len(points) > 2 else limit
        guess = min(max(x1 - y1 * (x1 - x0) // (y1 - y0), 1), limit)
        points.append((guess, room(guess)))
    return points[-1][0]


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
