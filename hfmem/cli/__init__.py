"""The command line: parses, calls the api, renders, exits. Nothing is computed here.

Exit codes: 0 done, 1 does not fit, 2 usage, 3 the model could not be read, 4 read but not supported or contradicting itself.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from hfmem import __version__
from hfmem.cli.bench import bench
from hfmem.cli.cache import cache
from hfmem.cli.command import ModelFirstGroup, PlainCommand
from hfmem.cli.compare import compare
from hfmem.cli.devices import devices
from hfmem.cli.estimate import estimate
from hfmem.cli.explain import explain
from hfmem.cli.files import files
from hfmem.cli.fit import fit
from hfmem.cli.layers import layers
from hfmem.cli.output import complain
from hfmem.cli.plan import plan
from hfmem.cli.verify import verify
from hfmem.errors import HfmemError, UsageError

_EXAMPLES = """\b
Examples:
  hfmem meta-llama/Meta-Llama-3-8B --ctx 128k
  hfmem Qwen/Qwen2.5-7B-Instruct mistralai/Mistral-7B-v0.1 --ctx 32k --batch 8 --json
  hfmem fit ./my-checkout --gpu 2xh100 --kv-dtype fp8"""

#: 128 + SIGINT, as shells report it
_INTERRUPTED = 130

#: a bug of ours: the model was read, and we cannot go on
_INTERNAL = 4

#: what Typer raises for wrong usage; newer releases carry Click inside, so the class is found through a public one
_ClickError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    cls=ModelFirstGroup,
    name="hfmem",
    rich_markup_mode=None,  # Rich would cost 40 ms at start, and help is the first thing people run
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"hfmem {__version__}\n")
        raise typer.Exit


@app.callback(epilog=_EXAMPLES)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Exactly how much memory a Hugging Face model needs to be served, before a byte of weights is downloaded.

    `hfmem MODEL...` estimates; its options: `hfmem estimate --help`. A model called like a command is reached as ./name or
    hf://org/name.
    """


#: commands and what `hfmem --help` says of each, on one line
_COMMANDS = (
    (estimate, "Weights, KV cache and total (the default)."),
    (fit, "Does it fit, and what would make it fit."),
    (plan, "The smallest layouts that serve a load."),
    (compare, "Models and formats side by side."),
    (layers, "What each layer keeps."),
    (explain, "The arithmetic, step by step."),
    (files, "What a download takes, and what is redundant."),
    (devices, "Devices that --gpu knows."),
    (bench, "A decode step's attention on this GPU."),
    (verify, "An engine's log against the prediction."),
    (cache, "Stored facts: list, clear."),
)
for _command, _words in _COMMANDS:
    app.command(cls=PlainCommand, short_help=_words)(_command)


def _leave(status: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader left; nothing is owed to it, and the flush at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if status == _INTERRUPTED:
        os._exit(status)  # do not wait for requests in flight
    sys.exit(status)


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status. Every deliberate error is one line on stderr."""
    words = sys.argv[1:] if argv is None else argv
    try:
        status = app(args=words or ["--help"], prog_name="hfmem", standalone_mode=False)
    except HfmemError as error:
        complain(error)
        _leave(error.exit_code)
    except BrokenPipeError:
        _leave(0)
    except (KeyboardInterrupt, typer.Abort):
        _leave(_INTERRUPTED)
    except _ClickError as error:
        format_message = getattr(error, "format_message", error.__str__)
        text = " ".join(format_message().split())
        complain(f"{text} (hfmem --help)")
        _leave(UsageError.exit_code)
    except Exception as error:
        if os.environ.get("HFMEM_DEBUG"):
            raise
        complain(f"internal error, please report it: {type(error).__name__}: {error} (HFMEM_DEBUG=1 shows where)")
        _leave(_INTERNAL)
    if not words:  # nothing was estimated: a script that forgot its model must not go on
        _leave(UsageError.exit_code)
    _leave(status if isinstance(status, int) else 0)
