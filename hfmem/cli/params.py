"""What a command's parameter is on the command line, said once in its signature and without a library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, get_type_hints

#: what options are about, in the order in which help lists them
SECTIONS: Final = (
    "Options",
    "Over several devices",
    "The engine's settings",
    "Beside the model",
    "llama.cpp",
    "Reading the model",
    "Output",
)
OPTIONS, DEVICES, ENGINE, BESIDE, LLAMA_CPP, READING, OUTPUT = SECTIONS


#: words that a shell completes, found when it asks
Words = Callable[[], Iterable[str]]


class Argument:
    """A word by its place. `metavar` is what help calls it."""

    __slots__ = ("help", "metavar", "words")

    def __init__(self, *, metavar: str, help: str, words: Words | None = None) -> None:
        self.metavar, self.help, self.words = metavar, help, words


class Option:
    """A flag, or a flag with a word after it, under one or more names; `section` is where help lists it."""

    __slots__ = ("help", "metavar", "names", "section", "words")

    def __init__(
        self, *names: str, metavar: str | None = None, help: str, section: str = OPTIONS, words: Words | None = None
    ) -> None:
        self.names, self.metavar, self.help, self.section, self.words = names, metavar, help, section, words


#: the default of a parameter that has none
REQUIRED: Any = object()


class Parameter:
    """One parameter of a command: the name that the function has for it, what it takes, and its default.

    `multiple` parameters are lists of words, flags (`is_flag`) are booleans, all others one word. Those that are `required` have
    None for a default.
    """

    __slots__ = ("default", "info", "is_flag", "kind", "multiple", "name", "required")

    def __init__(self, name: str, annotation: Any, default: Any) -> None:
        kind = self.kind = annotation.__origin__
        self.name, self.required = name, default is REQUIRED
        self.default = None if self.required else default
        (self.info,) = annotation.__metadata__
        self.is_flag = kind is bool
        self.multiple = kind in (list[str], list[str] | None)


def parameters(command: Callable[..., Any]) -> Sequence[Parameter]:
    """The parameters of a command, in order: those it says it has, or those that can stand by place in its signature."""
    said: Sequence[Parameter] | None = getattr(command, "parameters", None)
    if said is not None:
        return said
    code, defaults = command.__code__, command.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    first = len(names) - len(defaults)
    kinds = get_type_hints(command, include_extras=True)
    return [
        Parameter(name, kinds[name], defaults[i - first] if i >= first else REQUIRED) for i, name in enumerate(names)
    ]
