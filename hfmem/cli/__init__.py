"""The command line: parses, calls the api, renders, exits. Nothing is computed here.

Exit codes: 0 done, 1 does not fit, 2 usage, 3 the model could not be read, 4 read but not supported or contradicting itself.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from hfmem.errors import HfmemError, UsageError

if TYPE_CHECKING:
    from hfmem.cli.typed import app

__all__ = ["app", "main"]

#: 128 + SIGINT, as shells report it
_INTERRUPTED = 130

#: what writing to a full or failing device gives; reading gives errors of ours
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EFBIG)

#: a bug of ours: the model was read, and we cannot go on
_INTERNAL = 4


def __getattr__(name: str) -> Any:
    if name == "app":
        from hfmem.cli.typed import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _run(words: Sequence[str]) -> Any:
    """Do what `words` say; the status, None for 0."""
    from hfmem.cli import plain

    asked = plain.help_wanted(words)
    if asked is not None:
        import shutil

        from hfmem.cli.help import command_help, root_help

        columns = shutil.get_terminal_size().columns
        sys.stdout.write(command_help(asked, columns) if asked else root_help(columns))
        return 0
    if list(words) in (["--version"], ["version"]):
        from hfmem import __version__

        sys.stdout.write(f"hfmem {__version__}\n")
        return 0
    call = plain.read(words)
    if call is not None:
        command, arguments = call
        return command(**arguments)
    from hfmem.cli.typed import run

    return run(words)


def _leave(status: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            _complain(_unwritten(error))
            status = UsageError.exit_code
        # the flush at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _unwritten(error: OSError) -> UsageError:
    return UsageError(f"the output cannot be written: {error.strerror or error}")


def _complain(error: HfmemError | str) -> None:
    from hfmem.cli.output import complain

    complain(error)


def _tell(words: Sequence[str], code: str, message: str) -> None:
    """The error as JSON on stdout, where JSON was asked for: nothing else has been written there."""
    if not wants_json(words):
        return
    import json
    from contextlib import suppress

    with suppress(OSError):  # stderr and the status have said it
        sys.stdout.write(json.dumps({"error": {"code": code, "message": message}}, indent=2) + "\n")


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, wrong as it may be otherwise."""
    after = dict(itertools.pairwise(words))
    return "--json" in words or "--format=json" in words or after.get("--format") == "json"


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status. Every deliberate error is one line on stderr, and with `--json` an object on
    stdout, too."""
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") != "utf8":
            from hfmem.cli.spelling import spell_out

            spell_out(stream)
    try:
        status = _run(words or ["--help"])
    except HfmemError as error:
        _complain(error)
        _tell(words, error.code, error.message)
        _leave(error.exit_code)
    except BrokenPipeError:
        _leave(0)
    except KeyboardInterrupt:
        _leave(_INTERRUPTED)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OUTPUT_ERRORS:
            _complain(_unwritten(error))
            _leave(UsageError.exit_code)
        if os.environ.get("HFMEM_DEBUG"):
            raise
        text = f"internal error, please report it: {type(error).__name__}: {error} (HFMEM_DEBUG=1 shows where)"
        _complain(text)
        _tell(words, "internal", text)
        _leave(_INTERNAL)
    if not words:  # nothing was estimated: a script that forgot its model must not go on
        _leave(UsageError.exit_code)
    _leave(status if isinstance(status, int) else 0)
