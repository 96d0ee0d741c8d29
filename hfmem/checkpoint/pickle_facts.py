"""A pickle machine that can build nothing but facts about tensors.

It reads the opcodes `torch.save` writes, keeps names where pickle would import, and records where pickle would call:
no code of the file or of this machine is ever looked up, so a hostile file can at worst waste the few megabytes it
brings. Values it has no use for become `Opaque` and the globals it met are listed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from hfmem.checkpoint.pickle_values import STORAGE_DTYPES, TORCH_DTYPES, Name, Opaque, Storage, Tensor
from hfmem.errors import FormatError

# a file of 90,000 tensors stores a million values in the memo and keeps some thousands on the stack
_MAX_STACK: Final = 1_000_000
_MAX_MEMO: Final = 1_500_000
_MAX_STEPS: Final = 20_000_000
_MAX_INT_BYTES: Final = 64
#: what builds a tensor that has no storage of its own but tensors in its attributes: torchao's packed weights, `DTensor`
_WRAPPER: Final = "torch._utils._rebuild_wrapper_subclass"


class _Mark:
    __slots__ = ()


_MARK: Final = _Mark()
_OPAQUE: Final = Opaque()


class Unpickler:
    """Runs one pickle. `names` collects every global it named, in order of first appearance."""

    def __init__(self, data: bytes, file: str) -> None:
        self._data = data
        self._file = file
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0
        self.names: dict[Name, None] = {}

    def load(self) -> Any:
        """The root value: dicts, lists, tuples, strings, numbers, `Tensor`, `Storage`, `Name`, `Opaque`.

        Raises:
            FormatError: not a pickle, one cut short, or one that holds what `torch.save` does not write.
        """
        steps = 0
        try:
            while True:
                steps += 1
                opcode = self._take(1)[0]
                if opcode == 0x2E:  # STOP
                    return self._pop()
                action = _OPCODES.get(opcode)
                if action is None:
                    raise FormatError(f"{self._file}: pickle opcode {opcode:#04x} has no place in a file of weights")
                action(self)
                if len(self._stack) > _MAX_STACK or len(self._memo) > _MAX_MEMO or steps > _MAX_STEPS:
                    raise FormatError(f"{self._file}: its pickle holds millions of values")
        except RecursionError:
            raise FormatError(f"{self._file}: its pickle is nested too deeply") from None
        except (IndexError, struct.error):
            raise FormatError(f"{self._file}: its pickle is damaged at byte {self._at:,}") from None

    # -- bytes

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise FormatError(f"{self._file}: its pickle ends early, at byte {len(self._data):,}")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def _unsigned(self, count: int) -> int:
        return int.from_bytes(self._take(count), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 4096)
        if end < 0:
            raise FormatError(f"{self._file}: its pickle holds an endless line")
        return self._text(self._take(end - self._at + 1)[:-1])

    def _text(self, raw: bytes) -> str:
        return raw.decode("utf-8", errors="replace")

    # -- stack

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise IndexError
        return value

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _to_mark(self) -> list[Any]:
        for at in range(len(self._stack) - 1, -1, -1):
            if self._stack[at] is _MARK:
                items = self._stack[at + 1 :]
                del self._stack[at:]
                return items
        raise IndexError

    # -- opcodes

    def _skip_proto(self) -> None:
        if self._take(1)[0] > 5:
            raise FormatError(f"{self._file}: a pickle protocol not known")

    def _frame(self) -> None:
        self._take(8)

    def _string(self, width: int, binary: bool) -> None:
        raw = self._take(self._unsigned(width))
        self._push(_OPAQUE if binary else self._text(raw))

    def _long(self, width: int) -> None:
        size = self._unsigned(width)
        raw = self._take(size)
        self._push(int.from_bytes(raw, "little", signed=True) if size <= _MAX_INT_BYTES else _OPAQUE)

    def _ascii_int(self) -> None:
        line = self._line().rstrip("L")
        digits = line.removeprefix("-")
        if not digits.isascii() or not digits.isdigit() or len(digits) > 40:
            raise FormatError(f"{self._file}: its pickle holds {line[:20]!r} for an integer")
        self._push(int(line) if line not in ("00", "01") else line == "01")

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _global(self) -> None:
        module = self._line()
        self._named(module, self._line())

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise FormatError(f"{self._file}: its pickle builds a name at run time")
        self._named(module, name)

    def _named(self, module: str, name: str) -> None:
        found = Name(module, name)
        self.names[found] = None
        self._push(found)

    def _persistent(self) -> None:
        self._push(self._storage(self._pop()))

    def _storage(self, pid: Any) -> Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], Name)):
            raise FormatError(f"{self._file}: its pickle refers to something that is no storage")
        _, kind, key, _, count = pid[:5]
        dtype = STORAGE_DTYPES.get(kind.name)
        if dtype is None or type(key) is not str or type(count) is not int or not 0 <= count < 1 << 63:
            raise FormatError(f"{self._file}: its pickle holds a storage of {kind} that cannot be")
        return Storage(dtype, key, count)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        self._push(self._call(function, arguments))

    def _new(self) -> None:
        arguments, kind = self._pop(), self._pop()
        self._push(self._call(kind, arguments))

    def _new_ex(self) -> None:
        self._pop()
        self._new()

    def _call(self, function: Any, arguments: Any) -> Any:
        """What the call would have given, for the few that build tensors and containers; `Opaque` for every other."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            return _OPAQUE
        match str(function):
            case "collections.OrderedDict" | "builtins.dict" | "collections.defaultdict":
                return self._dict_of(arguments)
            case "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" | "torch._utils._rebuild_qtensor":
                return self._tensor(arguments, None)
            case "torch._utils._rebuild_tensor_v3":
                return self._tensor(arguments, _dtype(arguments[6]) if len(arguments) > 6 else None)
            case "torch._utils._rebuild_meta_tensor_no_storage":
                if len(arguments) >= 2 and _dtype(arguments[0]):
                    return Tensor(_dtype(arguments[0]) or "", self._sizes(arguments[1]), (), 0, None)
                return _OPAQUE
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
                return arguments[0] if arguments else _OPAQUE
            case "torch._tensor._rebuild_from_type_v2" if len(arguments) > 3 and str(arguments[0]) == _WRAPPER:
                return _attributes(arguments[3])
            case "torch._tensor._rebuild_from_type_v2":
                return self._call(arguments[0], arguments[2]) if len(arguments) > 2 else _OPAQUE
            case "torch.Size":
                return arguments[0] if arguments else ()
            case _:
                return _OPAQUE

    def _dict_of(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """`OrderedDict()` or, as old versions wrote it, `OrderedDict([[key, value], …])`."""
        pairs = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else ()
        self._copied += len(pairs)  # one long list may be named again and again
        if self._copied > _MAX_STACK:
            raise FormatError(f"{self._file}: its pickle holds millions of values")
        out: dict[Any, Any] = {}
        for pair in pairs:
            if isinstance(pair, (list, tuple)) and len(pair) == 2:
                self._set(out, pair[0], pair[1])
        return out

    def _sizes(self, value: Any) -> tuple[int, ...]:
        if not isinstance(value, (tuple, list)) or len(value) > 64 or not all(type(v) is int for v in value):
            raise FormatError(f"{self._file}: its pickle holds a tensor without a shape")
        return tuple(value)

    def _tensor(self, arguments: tuple[Any, ...], dtype: str | None) -> Tensor:
        if len(arguments) < 4 or not isinstance(arguments[0], Storage) or type(arguments[1]) is not int:
            raise FormatError(f"{self._file}: its pickle holds a tensor without a storage")
        storage, offset = arguments[0], arguments[1]
        shape, stride = self._sizes(arguments[2]), self._sizes(arguments[3])
        return Tensor(dtype or storage.dtype, shape, stride, offset, storage)

    def _set_items(self) -> None:
        items = self._to_mark()
        if isinstance(self._stack[-1], dict):
            for key, value in zip(items[::2], items[1::2], strict=False):
                self._set(self._stack[-1], key, value)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        if isinstance(self._stack[-1], dict):
            self._set(self._stack[-1], key, value)

    def _set(self, target: dict[Any, Any], key: Any, value: Any) -> None:
        if type(key) in (str, int):
            target[key] = value

    def _append(self) -> None:
        value = self._pop()
        if isinstance(self._stack[-1], list):
            self._stack[-1].append(value)

    def _appends(self) -> None:
        items = self._to_mark()
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def _build(self) -> None:
        """State of an object: a module saved whole keeps its tensors there, an OrderedDict its `_metadata`, which is no tensor."""
        state = self._pop()
        if isinstance(self._stack[-1], Opaque) and isinstance(state, dict):
            self._stack[-1] = state

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise FormatError(f"{self._file}: its pickle refers to a value it never stored")
        self._push(self._memo[index])

    def _list(self) -> None:
        self._push(self._to_mark())

    def _dict(self) -> None:
        items = self._to_mark()
        out: dict[Any, Any] = {}
        for key, value in zip(items[::2], items[1::2], strict=False):
            self._set(out, key, value)
        self._push(out)

    def _float(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def _discard_to_mark(self) -> None:
        self._to_mark()

    def _set_of_items(self) -> None:
        self._to_mark()
        self._push(_OPAQUE)

    def _add_items(self) -> None:
        self._to_mark()


def _attributes(state: Any) -> Any:
    """The attributes of a wrapping tensor, from the state that it is pickled with: a dict, or a pair of it and of slots."""
    state = state[0] if isinstance(state, tuple) and state else state
    return state if isinstance(state, dict) else _OPAQUE


def _dtype(value: Any) -> str | None:
    return TORCH_DTYPES.get(value.name) if isinstance(value, Name) and value.module == "torch" else None


_Action = Callable[[Unpickler], None]
_U = Unpickler

# the opcodes of protocols 0 to 5 that data can be made of; EXT*, INST, OBJ, PERSID and buffers out of band are not
# among them
_OPCODES: Final[dict[int, _Action]] = {
    0x80: _U._skip_proto,
    0x95: _U._frame,
    ord("("): lambda u: u._push(_MARK),
    ord("0"): lambda u: (u._pop(), None)[1],
    ord("1"): _U._discard_to_mark,
    ord("2"): lambda u: u._push(u._stack[-1]),
    ord("N"): lambda u: u._push(None),
    0x88: lambda u: u._push(True),
    0x89: lambda u: u._push(False),
    ord("J"): lambda u: u._push(int.from_bytes(u._take(4), "little", signed=True)),
    ord("K"): lambda u: u._push(u._unsigned(1)),
    ord("M"): lambda u: u._push(u._unsigned(2)),
    0x8A: lambda u: u._long(1),
    0x8B: lambda u: u._long(4),
    ord("I"): _U._ascii_int,
    ord("L"): _U._ascii_int,
    ord("G"): _U._float,
    ord("X"): lambda u: u._string(4, False),
    0x8C: lambda u: u._string(1, False),
    0x8D: lambda u: u._string(8, False),
    ord("T"): lambda u: u._string(4, False),
    ord("U"): lambda u: u._string(1, False),
    ord("B"): lambda u: u._string(4, True),
    ord("C"): lambda u: u._string(1, True),
    0x8E: lambda u: u._string(8, True),
    ord("c"): _U._global,
    0x93: _U._stack_global,
    ord("Q"): _U._persistent,
    ord("R"): _U._reduce,
    0x81: _U._new,
    0x92: _U._new_ex,
    ord("b"): _U._build,
    ord(")"): lambda u: u._push(()),
    ord("t"): lambda u: u._push(tuple(u._to_mark())),
    0x85: lambda u: u._tuple(1),
    0x86: lambda u: u._tuple(2),
    0x87: lambda u: u._tuple(3),
    ord("]"): lambda u: u._push([]),
    ord("l"): _U._list,
    ord("a"): _U._append,
    ord("e"): _U._appends,
    ord("}"): lambda u: u._push({}),
    ord("d"): _U._dict,
    ord("s"): _U._set_item,
    ord("u"): _U._set_items,
    0x8F: lambda u: u._push(_OPAQUE),
    0x90: _U._add_items,
    0x91: _U._set_of_items,
    ord("q"): lambda u: u._put(u._unsigned(1)),
    ord("r"): lambda u: u._put(u._unsigned(4)),
    0x94: lambda u: u._put(len(u._memo)),
    ord("h"): lambda u: u._get(u._unsigned(1)),
    ord("j"): lambda u: u._get(u._unsigned(4)),
}
