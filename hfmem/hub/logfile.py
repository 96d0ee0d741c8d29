"""A server's log from a file or a pipe, in whatever encoding it was saved, of any length: traffic is left out while reading."""

from __future__ import annotations

import codecs
import os
import stat
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import IO, Final, cast

from hfmem.errors import UsageError

#: a log up to this is kept as it is
MAX_BYTES: Final = 16 << 20
_BLOCK: Final = 1 << 20
#: a line without an end is cut here
_LONGEST: Final = 4 << 20
#: what is kept of a longer log: its last starts
_KEPT: Final = 12 << 20
#: one of these is in every block of a log that holds a line of a start
_STARTS: Final = (
    *("loading took", "weights took", "weights take", "Load weight", "Available KV", "KV cache size", "GPU blocks"),
    *("Maximum concurrency", "engine (v", "server version", "default args", "Namespace(", "ServerArgs(", "allocated"),
    *("max_total_num_tokens", "llama_", "llm_load", "load_tensors", "print_info", "capturing", "graph", "for weight"),
    *("is needed", "vllm serve", "Chunked prefill", "block size", "in use is", "Auto-fit", "launch_server", "for KV"),
)


def read_log(path: str) -> str:
    """The text of a log; `-` is stdin. gzip and UTF-16 are told by their marks, the latter by its zeros too; what cannot
    be decoded is replaced.

    Of a log beyond 16 MiB the lines of blocks without a line of a start are empty: lines keep their numbers.

    Raises:
        UsageError: no such file, or it cannot be read or is empty.
    """
    try:
        if path == "-":
            text = _text(sys.stdin.buffer)
        else:
            if stat.S_ISDIR(os.stat(path).st_mode):
                raise UsageError(f"{path} is a folder, not a log")
            with open(path, "rb") as file:
                text = _text(file)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the log {path} cannot be read: {reason}") from None
    if not text.strip():
        raise UsageError(f"the log {'on stdin' if path == '-' else path} is empty")
    return text


def _text(file: IO[bytes]) -> str:
    peek = getattr(file, "peek", None)
    if peek is not None and peek(2)[:2] == b"\x1f\x8b":  # a rotated log
        import gzip

        file = cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    first = file.read(MAX_BYTES)
    decoder = codecs.getincrementaldecoder(_encoding(first[:4096]))(errors="replace")
    head = decoder.decode(first, len(first) < MAX_BYTES)
    if len(first) < MAX_BYTES:
        return head
    if "\n" not in head and "\0" in head:  # a device, or a checkpoint: there may be terabytes of it
        raise ValueError("it holds zero bytes and no line")
    rest = iter(lambda: file.read(_BLOCK), b"")
    blocks = (decoder.decode(block) for block in rest)
    return _condensed(_whole_lines([*(head[at : at + _BLOCK] for at in range(0, len(head), _BLOCK))], blocks))


def _encoding(head: bytes) -> str:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):  # of Latin text every other byte is zero
        part = head[start::2]
        if len(part) > 8 and part.count(0) > len(part) * 3 // 4:
            return name
    return "utf-8-sig"


def _whole_lines(*parts: Iterable[str]) -> Iterator[str]:
    """The same text in pieces that end where a line does."""
    held = ""
    for part in parts:
        for block in part:
            held += block
            cut = held.rfind("\n") + 1
            if cut or len(held) > _LONGEST:
                yield held[: cut or None]
                held = held[cut:] if cut else ""
    yield held


def _condensed(pieces: Iterable[str]) -> str:
    kept: deque[str] = deque()  # pieces, or runs of empty lines
    size, blanked = 0, 0
    for piece in pieces:
        if not any(word in piece for word in _STARTS):
            kept.append("\n" * piece.count("\n"))
            continue
        rows = [row if any(word in row for word in _STARTS) else "" for row in piece.split("\n")]
        kept.append("\n".join(rows))
        size += len(kept[-1])
        while size > _KEPT and blanked < len(kept) - 1:
            old = kept[blanked]
            kept[blanked] = "\n" * old.count("\n")
            size -= len(old) if old.strip("\n") else 0
            blanked += 1
    return "".join(kept)
