"""The Typer commands: made of the same signatures that `plain` reads, and asked whenever it cannot say what is meant."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from hfmem import __version__
from hfmem.cli.command import ModelFirstGroup, PlainCommand
from hfmem.cli.completion import completer
from hfmem.cli.help import ROOT
from hfmem.cli.params import Option, parameters
from hfmem.cli.plain import COMMANDS, load
from hfmem.errors import UsageError

#: what Typer raises for wrong usage; newer releases carry Click inside, so the class is found through a public one
_ClickError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    cls=ModelFirstGroup,
    name="hfmem",
    rich_markup_mode=None,  # Rich would cost 40 ms at start
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"hfmem {__version__}\n")
        raise typer.Exit


@app.callback(help=ROOT)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def typed(command: Callable[..., Any]) -> Callable[..., Any]:
    """`command` with a signature that Typer understands."""

    def run(**arguments: Any) -> Any:
        return command(**arguments)

    changed = []
    for parameter in parameters(command):
        info: Any
        told = parameter.info
        shown: Any = {"metavar": told.metavar, "help": told.help, "autocompletion": completer(told.words)}
        if isinstance(parameter.info, Option):
            info = typer.Option(*parameter.info.names, **shown)
        else:
            info = typer.Argument(show_default=False, **shown)
        default = inspect.Parameter.empty if parameter.required else parameter.default
        kind: Any = Annotated[parameter.kind, info]
        changed.append(
            inspect.Parameter(parameter.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        )
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in changed}
    run.__signature__ = inspect.Signature(changed)  # type: ignore[attr-defined]
    return run


for _name, _words in COMMANDS.items():
    app.command(_name, cls=PlainCommand, short_help=_words)(typed(load(_name)))


def run(words: Sequence[str]) -> Any:
    """What Typer makes of `words`: the status of the command that they call.

    Raises:
        UsageError: they cannot be understood. KeyboardInterrupt: the user interrupted.
    """
    try:
        return app(args=list(words), prog_name="hfmem", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # which Click makes 1 of, and that means "does not fit" here
            return 0
        raise
    except _ClickError as error:
        format_message = getattr(error, "format_message", error.__str__)
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", None) or "hfmem"
        raise UsageError(f"{' '.join(format_message().split())} ({command} --help)") from None
