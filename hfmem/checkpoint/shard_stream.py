"""The Hub's safetensors-metadata response, the headers of all shards of a model, read while it comes.

The response is `{"headers": {shard: header, …}, "index": {"metadata": …}}`, as `HfApi.get_sharded_safetensors_metadata` reads it:
12 MB for a model of 90,000 tensors. Where it is compact JSON it is cut at its shards as they arrive, each is read and folded and
let go, and what is left at the end is a small object with a null where the headers were. Whatever does not look like that is kept
as it came and read whole. Sizes of files are not in it, so that an end past a file's end cannot show here.
"""

from __future__ import annotations

from typing import Any, Final

from hfmem.checkpoint.canonical import Known, plain_text, read_columns
from hfmem.checkpoint.file_size import file_size, padded_bytes
from hfmem.checkpoint.grouping import Fold
from hfmem.checkpoint.runs import Part, are_distinct
from hfmem.checkpoint.safetensors import header_of
from hfmem.checkpoint.safetensors_entries import load
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.errors import ContradictionError, FormatError, HfmemError

_HEADERS: Final = b'"headers":{'
#: between the last tensor of a shard and the name of the next one, and after the last tensor of the last one
_NEXT: Final = b']}},"'
_LAST: Final = b"]}}}"
#: the most that may come before the headers
_MAX_FRONT: Final = 1 << 20
_MAX_TENSORS: Final = 1_000_000


class ShardStream:
    """Takes the response in pieces; `finish` gives what it says, or raises what is wrong with it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._fold = Fold()
        self._parts: list[Part] = []
        self._known = Known()
        #: bytes of each shard's file
        self._files: dict[str, int] = {}
        self._metadata: dict[str, str] = {}
        self._front: bytes | None = None  # what comes before the first shard
        self._rest = bytearray()
        self._seen = 0  # of `_rest`, what was looked at for an end of a shard
        self._whole = False  # keep what comes: it is not cut any more
        self._count = 0
        self._dropped = 0
        self._error: HfmemError | None = None

    def feed(self, data: bytes) -> None:
        """The next piece; never raises for what is in it."""
        if self._error is not None:
            return
        self._rest += data
        if self._whole:
            return
        if self._front is None and not self._found_front():
            return
        try:
            while not self._whole and (end := self._rest.find(_NEXT, max(self._seen - len(_NEXT), 0))) >= 0:
                self._whole = not self._shard(end + 3)
                if not self._whole:
                    del self._rest[: end + 4]
                    self._dropped += end + 4
                self._seen = 0
            self._seen = len(self._rest)
        except HfmemError as error:
            self._error = error

    def finish(self) -> tuple[Checkpoint, dict[str, int], Any]:
        """The tensors, the size of each shard's file, and the index's `metadata`.

        Raises:
            FormatError: not such a response. ContradictionError, UnsupportedError: one of the headers is wrong.
        """
        if self._error is not None:
            raise self._error
        root = self._end()
        index = root.get("index")
        checkpoint = Checkpoint(
            groups=self._fold.groups(unique=are_distinct(self._parts)),
            format="safetensors",
            num_files=len(self._files),
            file_bytes=sum(self._files.values()),
            metadata=tuple(self._metadata.items()),
        )
        return checkpoint, self._files, index.get("metadata") if isinstance(index, dict) else None

    def _found_front(self) -> bool:
        at = self._rest.find(_HEADERS)
        if at < 0:
            self._whole = len(self._rest) > _MAX_FRONT
            return False
        front = bytes(self._rest[: at + len(_HEADERS) - 1])
        outside = self._loaded(front + b"null}")
        if outside is None or outside.get("headers", ()) is not None:
            self._whole = True  # they are inside of something else
            return False
        self._front = front
        del self._rest[: at + len(_HEADERS)]
        return True

    def _shard(self, end: int) -> bool:
        """Reads `"name":{…}`, which ends there in what is left; False where it is not in the library's form."""
        colon = self._rest.find(b'":', 0, end)
        with memoryview(self._rest) as view:
            quoted, text = bytes(view[: max(colon, 0)]), bytes(view[colon + 2 : end])
        name = plain_text(quoted[1:]) if quoted.startswith(b'"') else None
        columns = None if name is None or name in self._files else read_columns(text, self._known, checks_names=False)
        if name is None or columns is None:
            return False
        self._fold.add_parts(columns.parts)
        self._parts += columns.parts
        self._count += columns.count
        if self._count > _MAX_TENSORS:
            raise FormatError(f"{self._what}: more tensors than any checkpoint has")
        self._note(name, padded_bytes(columns.json_bytes) + columns.end, columns.metadata)
        return True

    def _note(self, name: str, size: int, metadata: tuple[tuple[str, str], ...]) -> None:
        self._files[name] = size
        for key, value in metadata:
            self._metadata.setdefault(key, value)

    def _end(self) -> dict[str, Any]:
        """Reads what is left; the response without its headers."""
        if self._front is not None and not self._whole:
            last = self._rest.rfind(_LAST)
            outside = self._front + b"null" + bytes(self._rest[last + len(_LAST) :])
            root = self._loaded(outside) if last >= 0 else None
            if root is not None and root.get("headers", ()) is None and self._shard(last + 3):
                return root
        before = b"" if self._front is None else self._front + b"{"
        root = load(before + bytes(self._rest), self._what, self._dropped)
        headers = root.get("headers") if isinstance(root, dict) else None
        if not isinstance(headers, dict) or not headers:
            raise FormatError(f"{self._what}: the response holds no headers")
        for name, value in headers.items():
            if name in self._files:
                raise ContradictionError(f"{self._what}: the key {name!r} occurs twice")
            header = header_of(value, name, None)
            self._fold.add_parts(header.parts)
            self._parts += header.parts
            self._note(name, file_size(header), header.metadata)
        assert isinstance(root, dict)
        return root

    def _loaded(self, text: bytes) -> dict[str, Any] | None:
        try:
            root = load(text, self._what)
        except HfmemError:
            return None
        return root if isinstance(root, dict) else None
