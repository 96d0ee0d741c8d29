"""Output where the locale knows no UTF-8 (`LC_ALL=C`, old Windows consoles): signs are spelled in ASCII, and nothing fails."""

from __future__ import annotations

import codecs
import re
from typing import TextIO

#: the signs that reports are drawn with; anything else becomes a question mark
_SPELLED = str.maketrans(
    {
        "·": "-",
        "×": "x",
        "≈": "~=",
        "≠": "!=",
        "±": "+-",
        "–": "-",
        "—": "-",
        "−": "-",
        "─": "-",
        "…": "..",
        "→": "->",
        "µ": "u",
        "²": "^2",
        "█": "#",
        **dict.fromkeys("▏▎▍▌▋▊▉", " "),
    }
)
_NAME = "hfmem.spelled"
_BLANKS = re.compile(" *")


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_SPELLED)
    blanks = _BLANKS.match(error.object, error.end).end() - error.end  # type: ignore[union-attr]  # matches nothing, too
    # what is longer than its sign takes of the blanks between columns, so that they stay columns; `0 … 61` of the one after it
    room = blanks - 1 if blanks > 1 else blanks if text == ".." else 0
    end = error.end + min(room, len(text) - (error.end - error.start))
    return "".join(character if character.isascii() else "?" for character in text), end


def spell_out(stream: TextIO) -> None:
    """Make `stream` write what its encoding lacks in ASCII."""
    codecs.register_error(_NAME, _spell)
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=_NAME)
