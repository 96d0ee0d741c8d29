"""Pointers that stand in a clone for files that were not fetched: those of Git LFS and of git-annex, which tell the file's size.

Source: git-lfs `docs/spec.md`; git-annex `internals/pointer_file` and `internals/key_format`.
"""

from __future__ import annotations

import re
from typing import Final

from hfmem.errors import FormatError

#: no pointer is longer
MAX_POINTER_BYTES: Final = 1024
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_LFS_SIZE: Final = re.compile(rb"^size (\d{1,18})\s*$", re.MULTILINE)
_ANNEX: Final = re.compile(rb"/annex/objects/[A-Z0-9]+(?:-s(\d{1,18}))?[-\w]*--")


class PointerError(FormatError):
    """A pointer of Git LFS or git-annex stands where the file should."""


def pointer_size(data: bytes) -> int | None:
    """Bytes of the file that a pointer stands for; None: it is no pointer, or does not say."""
    found = _LFS_SIZE.search(data) if data.startswith(_LFS) else _ANNEX.match(data)
    return int(found[1]) if found and found[1] else None


def refuse_pointer(data: bytes, what: str) -> None:
    """Raises if `data`, the first bytes of the file `what`, are a pointer's.

    Raises:
        PointerError: naming the file and how to get it.
    """
    if data.startswith(_LFS):
        raise PointerError(f"{what} is a Git LFS pointer, not the file (`git lfs pull` fetches it)")
    if _ANNEX.match(data):
        raise PointerError(f"{what} is a git-annex pointer, not the file (`git annex get` fetches it)")
