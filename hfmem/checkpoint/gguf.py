"""GGUF headers, read from however much of the file has arrived: keys, tensor names, shapes and types, never a weight.

`GgufParser.feed` takes the next bytes and says how many it must see in all before it can go on, so that a caller may
start small, grow geometrically and never fetch a byte twice; `likely` guesses how far the part being read will reach,
so that it need not overshoot either. Long arrays (the vocabulary) are walked and dropped. The rules are llama.cpp's
(`gguf.cpp`): versions 2 and 3 of either byte order, no key or tensor twice, rows that fill whole blocks, tensors one
after another at the file's alignment.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from math import prod
from typing import Final

from hfmem.checkpoint.gguf_header import FILE_TYPES, TENSOR_TYPES, GgufHeader, LongArray, Value
from hfmem.checkpoint.grouping import group_facts
from hfmem.checkpoint.runs import Fact
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.dtypes import BLOCKS, num_bytes
from hfmem.errors import ContradictionError, FormatError, UnsupportedError

__all__ = ["FILE_TYPES", "TENSOR_TYPES", "GgufHeader", "GgufParser", "LongArray", "merge_gguf", "parse_gguf"]

#: no header is this large: the largest vocabularies make some 20 MB
MAX_HEADER_BYTES: Final = 64 << 20
_MAX_KEYS: Final = 1 << 16
_MAX_TENSORS: Final = 1 << 20
_MAX_NAME: Final = 1024
_MAX_DIMENSIONS: Final = 4
#: bytes of a tensor's entry and of a vocabulary's word, until some have been seen
_TENSOR_GUESS: Final = 64
_WORD_GUESS: Final = 16
#: arrays up to this length are kept (they hold one value a layer), longer ones are counted
_KEPT_ITEMS: Final = 1024
_KEPT_TEXT: Final = 1 << 20

# value type number → struct code; 8 is a string and 9 an array
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING: Final = 8
_ARRAY: Final = 9


class GgufParser:
    """Reads one header from bytes that arrive in order. `header` is None until `feed` has returned 0.

    `likely` is the file offset at which the array or the tensor list being read is expected to end, by the mean size of
    its items so far; 0 where nothing tells.
    """

    def __init__(self, file: str, file_size: int | None = None) -> None:
        self.file = file
        self.header: GgufHeader | None = None
        self.likely = 0
        self._file_size = file_size
        self._buffer = bytearray()
        self._base = 0  # file offset of the buffer's first byte; what lies before was read and dropped
        self._steps = self._parse()
        self._wanted = next(self._steps)

    @property
    def received(self) -> int:
        """Bytes of the file seen so far: where the next `feed` goes on."""
        return self._base + len(self._buffer)

    def feed(self, data: bytes) -> int:
        """Take the file's next bytes; returns how many of the file must have been seen before parsing can go on, 0 when done.

        Raises:
            FormatError: no GGUF file, or one that breaks the format's rules or ends too early.
            ContradictionError: a header that lies: a key or tensor twice, offsets or sizes that exclude each other.
            UnsupportedError: a version or tensor type not known.
        """
        self._buffer += data
        while self.header is None and self.received >= self._wanted:
            try:
                self._wanted = self._steps.send(None)
            except StopIteration as stop:
                self.header = stop.value
        if self.header is not None:
            return 0
        if self._wanted > MAX_HEADER_BYTES:
            raise FormatError(f"{self.file}: its header would take {self._wanted:,} bytes")
        if self._file_size is not None and self._wanted > self._file_size:
            raise FormatError(f"{self.file}: ends inside its header ({self._file_size:,} bytes)")
        return self._wanted

    # -- the grammar, as a generator that yields how far into the file it must see

    def _parse(self) -> Generator[int, None, GgufHeader]:
        at = 8
        yield at
        magic, version = bytes(self._buffer[:4]), bytes(self._buffer[4:8])
        if magic != b"GGUF":
            raise FormatError(f"{self.file}: not a GGUF file: it starts with {magic!r}")
        number = int.from_bytes(version, "little")
        order = "<"
        if number & 0xFFFF == 0:  # the version is small: zeros in its low bytes are the other byte order
            number, order = int.from_bytes(version, "big"), ">"
        if number not in (2, 3):
            raise UnsupportedError(f"{self.file}: GGUF version {number} is not known (2 and 3 are)")
        yield 24
        num_tensors, num_keys = struct.unpack_from(f"{order}QQ", self._buffer, 8)
        if num_tensors > _MAX_TENSORS or num_keys > _MAX_KEYS:
            raise FormatError(f"{self.file}: claims {num_tensors:,} tensors and {num_keys:,} keys")
        at = 24
        keys: dict[str, Value] = {}
        for _ in range(num_keys):
            key, at = yield from self._text(at, order, _MAX_NAME * 64)
            (kind,), at = yield from self._read(at, f"{order}I")
            value, at = yield from self._value(at, order, kind, 0)
            if key in keys:
                raise ContradictionError(f"{self.file}: the key {key!r} occurs twice")
            keys[key] = value
        alignment = keys.get("general.alignment", 32)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise FormatError(f"{self.file}: general.alignment is no power of two")
        tensors: dict[str, Fact] = {}
        last = end = 0  # where the data of the latest tensor ends, without and with its padding
        first = at
        for done in range(num_tensors):
            self.likely = at + (num_tensors - done) * ((at - first) // done if done else _TENSOR_GUESS)
            name, at = yield from self._text(at, order, _MAX_NAME)
            (rank,), at = yield from self._read(at, f"{order}I")
            if rank > _MAX_DIMENSIONS:
                raise FormatError(f"{self.file}: tensor {name!r} has {rank} dimensions")
            (*dims, kind, offset), at = yield from self._read(at, f"{order}{rank}QIQ")
            if name in tensors:
                raise ContradictionError(f"{self.file}: tensor {name!r} occurs twice")
            tensors[name] = fact = self._fact(name, kind, dims)
            if offset != end:
                raise ContradictionError(f"{self.file}: tensor {name!r} lies at {offset:,}, {end:,} is its place")
            last = offset + num_bytes(fact[0], prod(fact[1]))
            end = _aligned(last, alignment)
        start = _aligned(at, alignment) if tensors else at
        if self._file_size is not None and start + last > self._file_size:
            missing = start + last - self._file_size
            raise ContradictionError(f"{self.file}: its tensors end {missing:,} bytes past the file's end")
        return GgufHeader(self.file, number, keys, tensors, start, end)

    def _fact(self, name: str, kind: int, dims: Sequence[int]) -> Fact:
        dtype = TENSOR_TYPES.get(kind)
        if not dtype:
            raise UnsupportedError(f"{self.file}: tensor {name!r} has type {kind}, which is not known")
        elements = 1
        for size in dims:
            elements *= size
            if elements >= 1 << 63 or size >= 1 << 63:
                raise ContradictionError(f"{self.file}: tensor {name!r} overflows 64 bits")
        block = BLOCKS.get(dtype, (1, 1))[0]
        if dims and dims[0] % block:
            raise ContradictionError(
                f"{self.file}: rows of {dims[0]:,} of tensor {name!r} do not fill blocks of {dtype}"
            )
        return dtype, tuple(reversed(dims))

    def _read(self, at: int, code: str) -> Generator[int, None, tuple[tuple[int, ...], int]]:
        end = at + struct.calcsize(code)
        if end > self.received:
            yield end
        return struct.unpack_from(code, self._buffer, at - self._base), end

    def _text(self, at: int, order: str, limit: int) -> Generator[int, None, tuple[str, int]]:
        (length,), at = yield from self._read(at, f"{order}Q")
        if length > limit:
            raise FormatError(f"{self.file}: a name of {length:,} bytes")
        if at + length > self.received:
            yield at + length
        raw = bytes(self._buffer[at - self._base : at - self._base + length])
        try:
            return raw.decode("utf-8"), at + length
        except UnicodeDecodeError:
            raise FormatError(f"{self.file}: a name that is not UTF-8: {raw[:40]!r}") from None

    def _value(self, at: int, order: str, kind: int, depth: int) -> Generator[int, None, tuple[Value, int]]:
        if kind in _SCALARS:
            (scalar,), at = yield from self._read(at, order + _SCALARS[kind])
            return scalar, at
        if kind == _STRING:
            (length,), at = yield from self._read(at, f"{order}Q")
            if at + length > self.received:
                yield at + length
            start = at - self._base
            kept = self._buffer[start : start + min(length, _KEPT_TEXT)].decode("utf-8", errors="replace")
            self._drop(at + length)
            return kept, at + length
        if kind != _ARRAY:
            raise FormatError(f"{self.file}: a value of type {kind}, which GGUF does not have")
        if depth >= 3:
            raise FormatError(f"{self.file}: arrays nested too deeply")
        (inner, length), at = yield from self._read(at, f"{order}IQ")
        if inner in _SCALARS:
            size = struct.calcsize("=" + _SCALARS[inner])
            if length > _KEPT_ITEMS:
                if at + length * size > self.received:
                    yield at + length * size
                self._drop(at + length * size)
                return LongArray(length), at + length * size
            numbers, at = yield from self._read(at, f"{order}{length}{_SCALARS[inner]}")
            return tuple(numbers), at
        if length * 8 > MAX_HEADER_BYTES:
            raise FormatError(f"{self.file}: an array of {length:,} strings")
        if inner == _STRING and length > _KEPT_ITEMS:
            return LongArray(length), (yield from self._skip_texts(at, order, length))
        items: list[Value] = []
        for _ in range(length):
            item, at = yield from self._value(at, order, inner, depth + 1)
            if length <= _KEPT_ITEMS:
                items.append(item)
        return (tuple(items) if length <= _KEPT_ITEMS else LongArray(length)), at

    def _skip_texts(self, at: int, order: str, count: int) -> Generator[int, None, int]:
        """Past `count` strings: the one loop that runs over a whole vocabulary."""
        read = struct.Struct(f"{order}Q").unpack_from
        first, total = at, count
        while count:
            buffer, base, have = self._buffer, self._base, self.received
            while count and at + 8 <= have:
                end = at + 8 + read(buffer, at - base)[0]
                if end > have:
                    break
                at, count = end, count - 1
            self._drop(at)
            if count:
                done = total - count
                self.likely = at + (count * (at - first) // done if done else count * _WORD_GUESS)
                yield at + 8 if at + 8 > have else at + 8 + read(self._buffer, at - self._base)[0]
        return at

    def _drop(self, upto: int) -> None:
        """Forget bytes that were read, once they are worth the copy."""
        if upto - self._base > 1 << 16:
            del self._buffer[: upto - self._base]
            self._base = upto


def _aligned(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def parse_gguf(data: bytes, *, file: str, file_size: int | None = None) -> GgufHeader:
    """The facts of a header that lies whole in `data`.

    Raises:
        FormatError, ContradictionError, UnsupportedError: as `GgufParser.feed`; FormatError too where `data` ends
            early.
    """
    parser = GgufParser(file, file_size)
    wanted = parser.feed(data)
    if parser.header is None:
        raise FormatError(f"{file}: ends inside its header: {wanted:,} bytes are needed, {len(data):,} are there")
    return parser.header


def merge_gguf(headers: Sequence[GgufHeader]) -> Checkpoint:
    """One model of all its files, in the order of their split numbers. `file_bytes` leaves out padding after the last tensors.

    Raises:
        ContradictionError: files of different models, one missing or twice, or a tensor twice.
    """
    ordered = sorted(headers, key=lambda header: header.split or (0, 1))
    first = ordered[0]
    if len(ordered) > 1 or first.split:
        numbers = [header.split for header in ordered]
        count = first.split[1] if first.split else 1
        if numbers != [(number, count) for number in range(count)]:
            have = ", ".join(str(split[0] + 1) if split else "?" for split in numbers)
            raise ContradictionError(f"{first.file}: a model in {count} files, of which {have} are here")
        total = first.keys.get("split.tensors.count")
        found = sum(len(header.tensors) for header in ordered)
        if type(total) is int and total != found:
            raise ContradictionError(f"{first.file}: split.tensors.count is {total:,}, the files hold {found:,}")
    names = [name for header in ordered for name in header.tensors]
    facts = [fact for header in ordered for fact in header.tensors.values()]
    texts = tuple((key, value) for key, value in first.keys.items() if isinstance(value, str) and len(value) < 200)
    return Checkpoint(
        groups=group_facts(names, facts),
        format="gguf",
        num_files=len(ordered),
        file_bytes=sum(header.header_bytes + header.data_bytes for header in ordered),
        metadata=texts,
    )
