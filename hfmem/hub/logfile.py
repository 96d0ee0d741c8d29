"""A server's log from a file or a pipe: at most what a start-up log can be, in whatever encoding it was saved."""

from __future__ import annotations

import os
import stat
import sys
from typing import Final

from hfmem.errors import UsageError

#: what is read of a log, from its start: the start-up is there
MAX_BYTES: Final = 16 << 20


def read_log(path: str) -> str:
    """The text of a log; `-` is stdin. Windows' UTF-16 is told by its mark, and what cannot be decoded is replaced.

    Raises:
        UsageError: no such file, or it cannot be read or is empty.
    """
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES)
        else:
            if stat.S_ISDIR(os.stat(path).st_mode):
                raise UsageError(f"{path} is a folder, not a log")
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the log {path} cannot be read: {reason}") from None
    if not data.strip():
        raise UsageError(f"the log {'on stdin' if path == '-' else path} is empty")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding, errors="replace")
