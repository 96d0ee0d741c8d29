"""Lines of styled spans: what the text renderers return, printed plain in a pipe and in colour on a terminal.

Rich is imported only when colour is wanted. Strings from the Hub pass through `safe` here, at the one place where text leaves the
program, and are never parsed as markup.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TextIO

from hfmem.records import dataclass

#: a span is its text and a style word of Rich's ("" for none)
Span = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """One output line. `hang` is where continuation lines begin when the line is wider than the terminal; None: never wrapped."""

    spans: tuple[Span, ...]
    hang: int | None = 0

    @property
    def text(self) -> str:
        """The line without styles, made safe to print."""
        return safe("".join(text for text, _ in self.spans))


def line(*spans: Span | str, hang: int | None = 0) -> Line:
    """A line from spans or plain strings."""
    return Line(tuple((s, "") if isinstance(s, str) else s for s in spans), hang)


def safe(text: str) -> str:
    """`text` with everything that could steer a terminal made visible: control characters, bidi overrides, line separators."""
    if text.isprintable():
        return text
    return "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn")
        else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def wants_color(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that shows colour. NO_COLOR, FORCE_COLOR=0 and TERM=dumb say no, FORCE_COLOR says yes."""
    forced = os.environ.get("FORCE_COLOR")
    if os.environ.get("NO_COLOR") or forced in ("0", "false"):
        return False
    if forced:
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def wrap(item: Line, width: int) -> list[Line]:
    """Break a line at spaces so that no piece is wider than `width`; styles stay on their words."""
    if item.hang is None or len(item.text) <= width:
        return [item]
    hang = min(item.hang, width // 2)
    words: list[Span] = []
    for text, style in item.spans:
        start = 0
        for index, character in enumerate(text):
            if character == " ":
                words.append((text[start : index + 1], style))
                start = index + 1
        if start < len(text):
            words.append((text[start:], style))
    lines: list[Line] = []
    current: list[Span] = []
    used = 0
    for text, style in words:
        if current and used + len(text.rstrip()) > width and any(t.strip() for t, _ in current):
            lines.append(Line(_trim(current), None))
            current, used = ([(" " * hang, "")] if hang else []), hang
            if not text.strip():
                continue
        current.append((text, style))
        used += len(text)
    lines.append(Line(_trim(current), None))
    return lines


def _trim(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Without blanks at the end, words of one style together again."""
    kept: list[Span] = []
    for text, style in spans:
        if kept and kept[-1][1] == style:
            kept[-1] = (kept[-1][0] + text, style)
        else:
            kept.append((text, style))
    while kept and not kept[-1][0].strip():
        kept.pop()
    if kept:
        kept[-1] = (kept[-1][0].rstrip(), kept[-1][1])
    return tuple(kept)


def print_lines(lines: Iterable[Line], stream: TextIO, *, width: int | None, color: bool) -> None:
    """Write `lines` to `stream`; `width` None leaves long lines alone (pipes)."""
    flat = [piece for item in lines for piece in ([item] if width is None else wrap(item, width))]
    if not color:
        stream.write("".join(f"{item.text.rstrip()}\n" for item in flat))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True, force_terminal=True)
    for item in flat:
        text = Text(no_wrap=True, end="\n")
        for content, style in item.spans:
            text.append(safe(content), style or None)
        text.rstrip()
        console.print(text, soft_wrap=True)
