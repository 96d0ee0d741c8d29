"""The state of a block of threads that `ptx_machine` executes: registers, shared memory, copies under way, and global memory."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Iterable

import numpy as np
import torch
from ptx_arithmetic import VIEWS, Array
from ptx_text import Address, Operand, Program

UNSIGNED = {0: np.bool_, 1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SPECIAL = {"%ctaid.x": 0, "%ctaid.y": 1, "%ctaid.z": 2, "%nctaid.x": 3, "%nctaid.y": 4, "%nctaid.z": 5}


class Fault(Exception):
    """What a device would stop at, or should."""


class GlobalMemory:
    """The bytes of some tensors' storages at their real addresses."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        storages = {s.data_ptr(): s.nbytes() for t in tensors if (s := t.untyped_storage()).nbytes()}
        self.starts = sorted(storages)
        self.spans = [
            np.frombuffer((ctypes.c_uint8 * storages[start]).from_address(start), np.uint8) for start in self.starts
        ]

    def _places(self, addresses: Array, size: int) -> Iterable[tuple[Array, Array | slice, Array]]:
        """For each storage that is touched: its bytes, which addresses lie in it, and the indices [n, size] of their bytes."""
        if np.any(addresses % np.uint64(size)):
            raise Fault(f"misaligned access of {size} bytes at {addresses[addresses % np.uint64(size) != 0][0]:#x}")
        first, last = (self._owner(int(a)) for a in (addresses.min(), addresses.max()))
        for index in range(max(first, 0), last + 1):
            start, span = self.starts[index], self.spans[index]
            lies = (addresses >= np.uint64(start)) & (addresses <= np.uint64(start + max(0, len(span) - size)))
            if lies.all():
                yield span, slice(None), (addresses - np.uint64(start)).astype(np.int64)[:, None] + np.arange(size)
            elif lies.any():
                yield span, lies, (addresses[lies] - np.uint64(start)).astype(np.int64)[:, None] + np.arange(size)

    def _owner(self, address: int) -> int:
        return bisect_right(self.starts, address) - 1

    def read(self, addresses: Array, size: int) -> Array:
        """[n] addresses → [n, size] bytes."""
        result = np.empty((len(addresses), size), np.uint8)
        found = np.zeros(len(addresses), bool)
        for span, lies, places in self._places(addresses, size):
            result[lies] = span[places]
            found[lies] = True
        self._check(found, addresses, size)
        return result

    def write(self, addresses: Array, values: Array) -> None:
        """[n] addresses, [n, size] bytes."""
        found = np.zeros(len(addresses), bool)
        for span, lies, places in self._places(addresses, values.shape[1]):
            span[places] = values[lies]
            found[lies] = True
        self._check(found, addresses, values.shape[1])

    def _check(self, found: Array, addresses: Array, size: int) -> None:
        if not found.all():
            raise Fault(f"{size} bytes at {int(addresses[~found][0]):#x} are in no tensor")


class Block:
    """The state of one block of threads."""

    def __init__(self, program: Program, memory: GlobalMemory, shared_bytes: int, place: tuple[int, ...]) -> None:
        self.program, self.memory, self.place = program, memory, place
        self.shared = np.full(shared_bytes, 0xFF, np.uint8)
        self.registers: dict[str, Array] = {}
        self.numbers: dict[tuple[int, int], Array] = {}
        self.copies: list[tuple[Array, Array]] = []  # asked for, in no group yet: places in shared memory, bytes
        self.groups: list[list[tuple[Array, Array]]] = []
        self.threads = program.num_threads
        self.registers["%tid.x"] = np.arange(self.threads, dtype=np.uint32)
        for name, index in SPECIAL.items():
            self.registers[name] = np.full(self.threads, place[index], np.uint32)
        self.registers["%tid.y"] = self.registers["%tid.z"] = np.zeros(self.threads, np.uint32)
        self.registers["global_smem"] = np.zeros(self.threads, np.uint64)

    def get(self, operand: Operand, kind: str) -> Array:
        """An operand as [threads] of `kind`."""
        view = VIEWS[kind]
        if isinstance(operand, str):
            value = self.registers.get(operand)
            if value is None:
                width = self.program.registers[operand]
                value = np.full(self.threads, False if not width else -1, np.int64).astype(UNSIGNED[width])
            wanted = np.dtype(view).itemsize
            return value if kind == "pred" else value.astype(UNSIGNED[wanted], copy=False).view(view)
        assert isinstance(operand, int)
        if kind == "pred":
            return np.full(self.threads, bool(operand))
        width = np.dtype(view).itemsize
        if (operand, width) not in self.numbers:
            self.numbers[operand, width] = np.full(self.threads, operand % (1 << 8 * width), UNSIGNED[width])
        return self.numbers[operand, width].view(view)

    def put(self, name: Operand, value: Array, lanes: Array | None) -> None:
        """Write a register in the lanes given, or in all; `_` is nowhere."""
        assert isinstance(name, str)
        if name == "_":
            return
        width = self.program.registers[name]
        bits = value if width == 0 else np.ascontiguousarray(value).view(UNSIGNED[value.dtype.itemsize])
        bits = bits.astype(UNSIGNED[width], copy=False)
        if lanes is not None:
            bits = np.where(lanes, bits, self.get(name, {0: "pred", 2: "b16", 4: "b32", 8: "b64"}[width]))
        self.registers[name] = bits

    def addresses(self, operand: Operand, kind: str) -> Array:
        """[threads] of uint64."""
        assert isinstance(operand, Address)
        base = self.get(operand.base, kind).astype(np.uint64)
        return base + np.uint64(operand.offset % (1 << 64))

    def shared_places(self, addresses: Array, size: int) -> Array:
        """Indices [n, size] into shared memory."""
        if np.any(addresses % np.uint64(size)) or np.any(addresses + np.uint64(size) > len(self.shared)):
            raise Fault(f"{size} bytes of shared memory at {int(addresses.max()):#x} of {len(self.shared):#x}")
        return addresses.astype(np.int64)[:, None] + np.arange(size)

    def finish_copies(self, still_under_way: int) -> None:
        """cp.async.wait_group: all groups but the newest have arrived."""
        while len(self.groups) > still_under_way:
            for places, values in self.groups.pop(0):
                self.shared[places] = values
