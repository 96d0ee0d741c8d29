"""`python -m hfmem` and the `hfmem` console script: the command line as a process of its own."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

from hfmem import cli


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process as soon as everything is written.

    Taking down all that was loaded would cost a tenth of what an estimate takes, and nothing here waits for it, nor for requests
    in flight after Ctrl-C. What was registered with `atexit` runs all the same. With words of its own (`argv`) this is a call
    inside another program, and raises SystemExit; so it does under a tracer or profiler, which has more to do.
    """
    if argv is not None or _watched():
        cli.main(argv)
    # the collector would look at all that was read again and again, and hardly anything here is ever garbage
    gc.set_threshold(100_000, 50, 100)
    for name in ("stdout", "stderr"):  # one that the shell closed (`>&-`) takes what is written to it
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        cli.main()
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):  # a message: Python's own way
            raise
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed meanwhile; `cli.main` has told what could not be written
                stream.flush()
        os._exit(end.code or 0)


def _watched() -> bool:
    """Whether a tracer or profiler looks on: by the old hooks or, as cProfile does from Python 3.12 on, by `sys.monitoring`."""
    monitoring = getattr(sys, "monitoring", None)
    tools = [] if monitoring is None else [monitoring.get_tool(number) for number in range(6)]
    return sys.gettrace() is not None or sys.getprofile() is not None or any(name is not None for name in tools)


if __name__ == "__main__":
    main()
