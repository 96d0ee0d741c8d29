"""The Typer classes of this command line: a group whose first word may be a model, and commands that parse words cheaply."""

from __future__ import annotations

from functools import partial
from typing import Any

from typer.core import TyperCommand, TyperGroup

#: options of the group itself; every other first word is a model or an option of `estimate`
_GROUP_OPTIONS = ("--help", "-h", "--version", "--install-completion", "--show-completion")


class ModelFirstGroup(TyperGroup):
    """`hfmem MODEL …` means `hfmem estimate MODEL …`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _take_words(self)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front of a first word that is none."""
        if args and args[0] not in self.commands and args[0] not in _GROUP_OPTIONS:
            args = ["estimate", *args]
        return super().parse_args(ctx, args)


class PlainCommand(TyperCommand):
    """A command whose parameters are words, lists of words and flags, checked by the command itself.

    Typer ≥ 0.27 builds a pydantic adapter for every parameter, which alone takes longer than `import typer`. Words need no
    conversion: they are handed on as they are. A missing required argument still goes the usual way, for its message.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _take_words(self)


def _take_words(command: Any) -> None:
    for parameter in command.params:
        parameter.process_value = partial(_word, parameter, parameter.process_value)


def _word(parameter: Any, usual: Any, ctx: Any, value: Any) -> Any:
    if not value if parameter.required else (value and parameter.callback is not None):
        return usual(ctx, value)
    if parameter.multiple or parameter.nargs != 1:
        return list(value or ())
    return value
