"""Output where the locale knows no UTF-8 (`LC_ALL=C`, old Windows consoles): signs are spelled in ASCII, and nothing fails."""

from __future__ import annotations

import codecs
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
        "…": "...",
        "→": "->",
        "µ": "u",
        "²": "^2",
        "█": "#",
        **dict.fromkeys("▏▎▍▌▋▊▉", " "),
    }
)
_NAME = "hfmem.spelled"


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_SPELLED)
    return "".join(character if character.isascii() else "?" for character in text), error.end


def spell_out(stream: TextIO) -> None:
    """Make `stream` write what its encoding lacks in ASCII."""
    codecs.register_error(_NAME, _spell)
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=_NAME)
