"""The Typer classes of this command line: a group whose first word may be a model, and parameters that are read cheaply.

Typer ≥ 0.27 builds a pydantic adapter for every parameter, which takes longer than `import typer` itself. All parameters here are
words, lists of words and flags, which need no conversion: they are handed on as they are, and `units` and the api judge them.
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

from typer.core import TyperCommand, TyperGroup

from hfmem.cli.help import command_help, root_help
from hfmem.cli.plain import DEFAULT, GROUP_OPTIONS


class PlainCommand(TyperCommand):
    """A command whose parameters are words, lists of words and flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, `--help` included, none of which converts its value."""
        return [_plain(parameter) for parameter in super().get_params(ctx)]

    def get_help(self, ctx: Any) -> str:
        """The command's help, without its last line break."""
        return command_help(ctx.info_name, shutil.get_terminal_size().columns).rstrip("\n")


class ModelFirstGroup(TyperGroup):
    """`hfmem MODEL …` means `hfmem estimate MODEL …`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The group's own options, `--help` included, none of which converts its value."""
        return [_plain(parameter) for parameter in super().get_params(ctx)]

    def get_help(self, ctx: Any) -> str:
        """The program's help, without its last line break."""
        return root_help(shutil.get_terminal_size().columns).rstrip("\n")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front of a first word that is none."""
        if args and args[0] not in self.commands and args[0] not in GROUP_OPTIONS:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


def _plain(parameter: Any) -> Any:
    if not isinstance(parameter.process_value, partial):
        parameter.process_value = partial(_process, parameter, parameter.process_value)
    return parameter


def _process(parameter: Any, usual: Any, ctx: Any, value: Any) -> Any:
    """`value` as it is. A missing required value, and a callback that has something to do, go Typer's own way."""
    if not value if parameter.required else (value and parameter.callback is not None):
        return usual(ctx, value)
    if parameter.multiple or parameter.nargs != 1:
        return list(value or ())
    return value
