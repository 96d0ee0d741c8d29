"""The lines of a log that may be read, each with its number: out of containers' objects of JSON, and put together where a terminal,
an editor or a page of documentation broke them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from hfmem.server_logs.patterns import (
    ANSI,
    CONTROL,
    DECISIVE,
    ENGINES,
    JSON_KEYS,
    STREAM,
    TRAFFIC,
    WORDS,
)

#: a start-up log is a few hundred kilobytes; of a longer one `hfmem.hub.logfile` has left lines empty
MAX_CHARACTERS: Final = 256 << 20
_LONGEST_LINE: Final = 1 << 20
#: the lines of a start take far less
_RELEVANT: Final = 2 << 20
#: a line this long is a paste that lost its line ends
_PASTE: Final = 1000
#: what a line of a log begins with: a level, a time, a process, a program's own prefix
_HEAD: Final = re.compile(
    r"\b(?:DEBUG|INFO|WARNING|ERROR)\b|\bpid=\d|\b\d\d:\d\d:\d\d|^\W{0,3}\[|^\w{3,30}: |^[\w.-]{1,80} +\| "
)
#: what Kubernetes' nodes write before a line, or before a part of one that is too long for them
_NODE: Final = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.+Z-]{8,30} (stdout|stderr) ([PF]) ")
#: an object of JSON after what else is in a line
_OBJECT: Final = re.compile(r"^[^{]{0,300}(\{.*\}),?$")
_NESTED: Final = 3
#: a line that goes on in the next, and how many such follow at most
_GOES_ON: Final = re.compile(r"(?:,|\bwith config:|\bLLM\(|\\)\s*$")
_ENDS: Final = ",:(\\ "
_MOST_PARTS: Final = 40
#: a terminal's width, and how many lines must fill it to be taken for wrapped
_WIDTHS: Final = range(60, 400)
_FULL_LINES: Final = 4


#: quotes and brackets as pages of HTML and some writers of JSON have them, the ampersand last
_ESCAPED: Final = (
    *((entity, "'") for entity in ("&#39;", "&#x27;", "&apos;", "\\u0027")),
    *((entity, '"') for entity in ("&quot;", "&#34;")),
    *(("&lt;", "<"), ("&gt;", ">"), ("\\u003c", "<"), ("\\u003e", ">"), ("&amp;", "&")),
)


#: colours as terminals and writers of JSON spell the character that begins them
_SPELLED: Final = re.compile(r"(?:\^\[|\\x1[bB]|\\u001[bB]|\\033|\u241b)\[[\d;]{0,20}m")
#: what stands for the end of a line where it was lost
_LINE_ENDS: Final = re.compile(r"[\u23ce\u21b5]|<br ?/?>")
#: so many of `\n` as two characters, and no end of a line, are a string as a program prints it
_PRINTED: Final = 4


def clean(text: str) -> str:
    """`text` without colours, control characters and entities, cut to what a start-up log can be."""
    text = text[:MAX_CHARACTERS]
    if "\n" not in text:
        text = text.replace("\r", "\n")
        if "\n" not in text and text.count("\\n") >= _PRINTED:
            text = text.replace("\\n", "\n")
    text = CONTROL.sub("", ANSI.sub("", _SPELLED.sub("", text))).replace("\r", "")
    text = _LINE_ENDS.sub("\n", text).replace("\u00a0", " ").replace("\\_", "_")
    for escaped, character in _ESCAPED:
        text = text.replace(escaped, character)
    return text


def relevant(text: str) -> tuple[str, list[int]]:
    """The lines of clean `text` that may be read, and the number of each."""
    kept, numbers = [], []
    for row, number in _joined(_whole(_unfolded(text.split("\n")))):
        if any(word in row for word in WORDS) and (len(row) > _PASTE or not any(word in row for word in TRAFFIC)):
            kept.append(row)
            numbers.append(number)
    return "\n".join(kept)[:_RELEVANT], numbers


def _unfolded(rows: list[str]) -> Iterator[tuple[str, int]]:
    """The rows and their numbers; those that a terminal of one width broke are whole again."""
    width = max(map(len, rows), default=0)
    full = sum(len(row) == width for row in rows) if width in _WIDTHS else 0
    # lines of one length that each begin as a log's do are whole already
    full -= (
        sum(len(row) == width and _HEAD.search(after[:200]) is not None for row, after in pairwise(rows)) if full else 0
    )
    wrapped = full >= _FULL_LINES and full * 8 >= len(rows) - rows.count("")
    parts: list[str] = []
    first = 1
    for number, row in enumerate(rows, 1):
        if not parts:
            first = number
        parts.append(row)
        if wrapped and len(row) == width and len(parts) < _MOST_PARTS:
            continue
        yield "".join(parts), first
        parts.clear()
    if parts:
        yield "".join(parts), first


def _whole(rows: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The rows; those that a node of Kubernetes' cut in parts are put together, as it says."""
    begun: dict[str, tuple[str, int]] = {}
    for row, number in rows:
        head = _NODE.match(row)
        if head is None:
            yield row, number
            continue
        before, first = begun.pop(head[1], ("", number))
        joined = (before + row[head.end() :])[:_LONGEST_LINE]
        if head[2] == "P":
            begun[head[1]] = joined, first
        else:
            yield joined, first
    yield from begun.values()


def _joined(rows: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The rows; what a writer broke after a comma, or before a configuration, follows on its first."""
    begun, at, parts = "", 0, 0
    for whole, number in rows:
        row = whole.removesuffix("\\n")  # as a program prints a string that ends its line
        if not row:
            continue
        if begun and parts < _MOST_PARTS and not _HEAD.search(row[:200]):
            begun, parts = f"{begun.removesuffix(chr(92))} {row.strip()}"[:_LONGEST_LINE], parts + 1
        else:
            if begun:
                yield begun, at
            begun, at, parts = _unwrapped(row[:_LONGEST_LINE]), number, 0
        if begun[-1:] not in _ENDS or not _GOES_ON.search(begun[-80:]):
            yield begun, at
            begun = ""
    if begun:
        yield begun, at


def _unwrapped(row: str) -> str:
    """The line that a container's log keeps in an object of JSON; any other as it stands."""
    found = _OBJECT.match(row) if row.endswith(("}", "},")) else None
    if found is None:
        return row
    import json

    try:
        inner = _message(json.loads(found[1]))
    except (ValueError, RecursionError):
        return row
    return row if inner is None else clean(inner).replace("\n", " ")


def _message(held: object, depth: int = 0) -> str | None:
    """The line in an object of JSON: of the keys that hold one, in objects under them too."""
    if not isinstance(held, dict) or depth > _NESTED:
        return None
    named = {str(key).lower(): value for key, value in held.items()}
    values = [named[key] for key in JSON_KEYS if key in named]
    text = next((said for value in values if (said := _spelled(value)) is not None), None)
    return text or next((inner for value in values if (inner := _message(value, depth + 1))), None)


def _spelled(value: object) -> str | None:
    """A text; journald writes one that has colours as a list of its bytes."""
    if isinstance(value, list) and value and all(isinstance(item, int) and 0 <= item < 256 for item in value):
        return bytes(value).decode(errors="replace")
    return value if isinstance(value, str) else None


def one_stream(text: str, numbers: list[int], about: str = "") -> tuple[str, list[int], tuple[str, ...]]:
    """Of several containers' lines in one log those of the last that printed what only one engine does, and names `about` (in
    lower case) if one does; which were left out."""
    rows = text.split("\n")
    names = [(match[1] or match[2]) if (match := STREAM.match(row)) else None for row in rows]
    if len(set(names) - {None}) < 2:
        return text, numbers, ()
    decisive = re.compile("|".join(f"(?:{pattern})" for _, pattern in ENGINES[:DECISIVE]))
    servers = [name for name, row in zip(names, rows, strict=True) if name is not None and decisive.search(row)]
    if len(set(servers)) < 2:
        return text, numbers, ()
    naming = {name for name, row in zip(names, rows, strict=True) if about in row.lower()}
    chosen = next((name for name in reversed(servers) if name in naming), servers[-1])
    kept = [at for at, name in enumerate(names) if name in (None, chosen)]
    left_out = tuple(dict.fromkeys(name for name in servers if name != chosen))
    return "\n".join(rows[at] for at in kept), [numbers[at] for at in kept], left_out
