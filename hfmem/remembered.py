"""Answers kept for as long as they are asked for again: a search over devices weighs one model thousands of times."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: answers that one function keeps; a search asks for a handful
_MOST: Final = 256


def remembered(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`function` that answers what it has answered before. Only for what depends on its arguments alone.

    The first argument, a model or its config, is told by identity (hashing one takes longer than most answers) and must not change
    later; the others, by position, by equality. An error is not kept.
    """
    kept: dict[tuple[object, ...], tuple[object, _R]] = {}

    @wraps(function)
    def asked(*args: _P.args, **named: _P.kwargs) -> _R:
        if named:
            return function(*args, **named)
        key = (id(args[0]), *args[1:])
        if key not in kept:
            if len(kept) >= _MOST:
                kept.clear()
            # the argument lives as long as its answer, or another one could take its place in memory
            kept[key] = (args[0], function(*args, **named))
        return kept[key][1]

    return asked
