"""`python -m hfmem` and the `hfmem` console script: the command line as a process of its own."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

from hfmem import cli


def main() -> NoReturn:
    """Run the command line and end the process as soon as everything is written.

    Taking down all that was loaded would cost a tenth of what an estimate takes, and nothing here waits for it.
    """
    # the collector would look at all that was read again and again, and hardly anything here is ever garbage
    gc.set_threshold(100_000, 50, 100)
    for name in ("stdout", "stderr"):  # one that the shell closed (`>&-`) takes what is written to it
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        cli.main()
    except SystemExit as end:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


if __name__ == "__main__":
    main()
