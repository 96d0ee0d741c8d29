"""What a command's parameter is on the command line, said once in its signature and without a library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints


class Argument:
    """A word by its place. `metavar` is what help calls it."""

    __slots__ = ("help", "metavar")

    def __init__(self, *, metavar: str, help: str) -> None:
        self.metavar, self.help = metavar, help


class Option:
    """A flag, or a flag with a word after it, under one or more names."""

    __slots__ = ("help", "metavar", "names")

    def __init__(self, *names: str, metavar: str | None = None, help: str) -> None:
        self.names, self.metavar, self.help = names, metavar, help


class Parameter:
    """One parameter of a command: the name that the function has for it, what it takes, and its default.

    `multiple` parameters are lists of words, flags (`is_flag`) are booleans, all others one word.
    """

    __slots__ = ("default", "info", "is_flag", "kind", "multiple", "name", "required")

    def __init__(self, name: str, annotation: Any, default: Any, required: bool) -> None:
        kind = self.kind = annotation.__origin__
        self.name, self.default, self.required = name, default, required
        (self.info,) = annotation.__metadata__
        self.is_flag = kind is bool
        self.multiple = kind in (list[str], list[str] | None)


def parameters(command: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a command, in order, as its signature has them."""
    code, defaults = command.__code__, command.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    first = len(names) - len(defaults)
    kinds = get_type_hints(command, include_extras=True)
    return [
        Parameter(name, kinds[name], defaults[i - first] if i >= first else None, i < first)
        for i, name in enumerate(names)
    ]
