"""Executes a kernel in PTX on the CPU, block after block, with the memory of CPU tensors, and is stricter than a device.

What it refuses where a device might go on in silence: accesses outside every tensor, misaligned ones, instructions of a warp that
its lanes do not reach together. What it shows at once where a device mostly hides it: shared memory begins as NaN, registers
as all ones, and an asynchronous copy writes NaN until its group has been waited for. Blocks run in any order that is asked
for, one after the other, so it finds no race between blocks. Threads that part company meet again at the lowest instruction.

Reference: PTX ISA. Only what Triton makes of the kernels here is known; anything else is an error that shows the instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from ptx_arithmetic import (
    COMPARE,
    ELEMENTWISE,
    VIEWS,
    WIDER,
    Array,
    convert,
    elementwise,
    extract,
    high_half,
    insert,
    lop3,
)
from ptx_state import UNSIGNED, Block, Fault, GlobalMemory
from ptx_text import Address, Instruction, Operand, Program
from ptx_warp import collect, matrix_rows, multiply, reduce, shuffle, spread

Step = Callable[[Block, Array | None], None]


def _vector(operand: Operand) -> tuple[Operand, ...]:
    return operand if isinstance(operand, tuple) else (operand,)


def _space(words: tuple[str, ...]) -> str:
    return next(("shared" for w in words if w.startswith("shared")), "global")


def _load(i: Instruction) -> Step:
    kind = i.words[-1]
    size = np.dtype(VIEWS[kind]).itemsize
    targets = _vector(i.operands[0])
    space = _space(i.words)

    def step(block: Block, lanes: Array | None) -> None:
        at = block.addresses(i.operands[1], "b32" if space == "shared" else "b64")
        chosen = at if lanes is None else at[lanes]
        total = size * len(targets)
        raw = (
            block.shared[block.shared_places(chosen, total)] if space == "shared" else block.memory.read(chosen, total)
        )
        values = raw.view(VIEWS[kind])
        for column, target in enumerate(targets):
            full = values[:, column]
            if lanes is not None:
                full = np.zeros(block.threads, VIEWS[kind])
                full[lanes] = values[:, column]
            block.put(target, full if kind[0] != "s" else full.astype(np.int32), lanes)

    return step


def _store(i: Instruction) -> Step:
    kind = i.words[-1]
    sources = _vector(i.operands[1])
    space = _space(i.words)

    def step(block: Block, lanes: Array | None) -> None:
        at = block.addresses(i.operands[0], "b32" if space == "shared" else "b64")
        values = np.stack([block.get(s, kind) for s in sources], -1)
        raw = values.view(np.uint8).reshape(block.threads, -1)
        if lanes is not None:
            at, raw = at[lanes], raw[lanes]
        if space == "shared":
            block.shared[block.shared_places(at, raw.shape[1])] = raw
        else:
            block.memory.write(at, raw)

    return step


def _async_copy(i: Instruction) -> Step:
    if "commit_group" in i.words:
        return lambda block, lanes: (block.groups.append(block.copies), setattr(block, "copies", []))[1]
    if "wait_group" in i.words:
        newest = i.operands[0]
        assert isinstance(newest, int)
        return lambda block, lanes: block.finish_copies(newest)
    target, source, size, *rest = i.operands
    assert isinstance(size, int)

    def step(block: Block, lanes: Array | None) -> None:
        to, at = block.addresses(target, "b32"), block.addresses(source, "b64")
        wanted = block.get(rest[0], "b32") if rest else np.full(block.threads, size, np.uint32)
        if np.any((wanted != 0) & (wanted != size)):
            raise Fault(f"a copy of a part: {i.text}")
        use = np.ones(block.threads, bool) if lanes is None else lanes
        values = np.zeros((block.threads, size), np.uint8)
        read = use & (wanted == size)
        if read.any():
            values[read] = block.memory.read(at[read], size)
        places = block.shared_places(to[use], size)
        block.shared[places] = 0xFF  # nobody may look yet
        block.copies.append((places, values[use]))

    return step


def _atomic(i: Instruction) -> Step:
    if i.words[-2] != "add":
        raise ValueError(f"ptx: unknown: {i.text}")
    kind = i.words[-1]
    size = np.dtype(VIEWS[kind]).itemsize

    def step(block: Block, lanes: Array | None) -> None:
        at, value = block.addresses(i.operands[1], "b64"), block.get(i.operands[2], kind)
        old = np.zeros(block.threads, VIEWS[kind])
        for lane in range(block.threads) if lanes is None else np.flatnonzero(lanes):
            one = slice(lane, lane + 1)
            old[one] = block.memory.read(at[one], size).view(VIEWS[kind])[:, 0]
            block.memory.write(at[one], (old[one] + value[one]).view(np.uint8).reshape(1, size))
        block.put(i.operands[0], old, lanes)

    return step


def _matrix(i: Instruction) -> Step:
    """ldmatrix, stmatrix."""
    loads, transposed = i.words[0] == "ldmatrix", "trans" in i.words
    address, registers = (i.operands[1], i.operands[0]) if loads else (i.operands[0], i.operands[1])
    names = _vector(registers)

    def step(block: Block, lanes: Array | None) -> None:
        rows = matrix_rows(block.addresses(address, "b32"), len(names))
        if loads:
            raw = block.shared[block.shared_places(rows.reshape(-1), 16)]
            for name, value in zip(names, spread(raw.view(np.uint16).reshape(*rows.shape, 8), transposed), strict=True):
                block.put(name, value, lanes)
        else:
            values = collect([block.get(n, "b32") for n in names], transposed)
            active = np.ones(len(rows), bool) if lanes is None else lanes.reshape(-1, 32)[:, 0]
            places = block.shared_places(rows[active].reshape(-1), 16)
            block.shared[places] = np.ascontiguousarray(values[active]).view(np.uint8).reshape(-1, 16)

    return step


def _warp_wide(i: Instruction) -> Step:
    """mma, shfl, redux."""
    op, kind = i.words[0], i.words[-1]
    if op == "mma":
        if i.words[3] != "m16n8k16" or kind != "f32" or i.words[-2] not in ("bf16", "f16"):
            raise ValueError(f"ptx: unknown: {i.text}")

        def product(block: Block, lanes: Array | None) -> None:
            a, b, c = ([block.get(x, "b32") for x in _vector(o)] for o in i.operands[1:])
            for name, value in zip(_vector(i.operands[0]), multiply(a, b, c, i.words[-2]), strict=True):
                block.put(name, value, lanes)

        return product
    if op == "redux":
        if len(i.words) != 4:  # .abs, .NaN
            raise ValueError(f"ptx: unknown: {i.text}")
        return lambda block, lanes: block.put(i.operands[0], reduce(i.words[2], block.get(i.operands[1], kind)), lanes)

    def exchange(block: Block, lanes: Array | None) -> None:
        value, by, limits = (block.get(o, "b32") for o in i.operands[1:4])
        block.put(i.operands[0], shuffle(i.words[2], value, by, limits)[0], lanes)

    return exchange


def _move(i: Instruction) -> Step:
    """mov, with vectors to take a register apart or to put one together."""
    kind = i.words[-1]
    target, source = i.operands
    if isinstance(target, tuple):
        part = UNSIGNED[np.dtype(VIEWS[kind]).itemsize // len(target)]

        def unpack(block: Block, lanes: Array | None) -> None:
            parts = np.ascontiguousarray(block.get(source, kind)).view(part).reshape(block.threads, -1)
            for column, name in enumerate(target):
                block.put(name, parts[:, column].copy(), lanes)

        return unpack
    if isinstance(source, tuple):
        narrow = {1: "b8", 2: "b16", 4: "b32"}[np.dtype(VIEWS[kind]).itemsize // len(source)]

        def pack(block: Block, lanes: Array | None) -> None:
            parts = np.stack([block.get(s, narrow) for s in source], -1)
            block.put(target, parts.view(VIEWS[kind]).reshape(-1), lanes)

        return pack
    return lambda block, lanes: block.put(target, block.get(source, kind), lanes)


def _compute(i: Instruction) -> Step:
    """Everything that works on registers thread by thread."""
    if len(i.operands) < 2:
        raise ValueError(f"ptx: unknown: {i.text}")
    op, kind, target = i.words[0], i.words[-1], i.operands[0]
    sources = i.operands[1:]
    if op == "setp":
        compare = COMPARE[i.words[1]]
        return lambda b, lanes: b.put(target, compare(*(b.get(s, kind) for s in sources)), lanes)
    if op == "selp":
        yes, no, which = sources
        return lambda b, lanes: b.put(target, np.where(b.get(which, "pred"), b.get(yes, kind), b.get(no, kind)), lanes)
    if op == "cvt":
        to = i.words[-2]
        return lambda b, lanes: b.put(target, convert(to, kind, [b.get(s, kind) for s in sources]), lanes)
    if op == "bfe":
        value, position, length = sources

        def field(b: Block, lanes: Array | None) -> None:
            b.put(
                target, extract(b.get(value, kind), b.get(position, "u32"), b.get(length, "u32"), kind == "s32"), lanes
            )

        return field
    if op == "bfi":
        return lambda b, lanes: b.put(target, insert(*(b.get(s, "b32") for s in sources)), lanes)
    if op == "lop3":
        *three, table = sources
        assert isinstance(table, int)
        return lambda b, lanes: b.put(target, lop3(*(b.get(s, kind) for s in three), table=table), lanes)
    if op in ("mul", "mad") and i.words[1] in ("wide", "hi", "lo"):
        return _integer_product(i)
    if op in ("shl", "shr"):
        return lambda b, lanes: b.put(target, ELEMENTWISE[op](b.get(sources[0], kind), b.get(sources[1], "u32")), lanes)
    if op not in ELEMENTWISE:
        raise ValueError(f"ptx: unknown: {i.text}")
    ftz = "ftz" in i.words
    return lambda b, lanes: b.put(target, elementwise(op, kind, [b.get(s, kind) for s in sources], ftz), lanes)


def _integer_product(i: Instruction) -> Step:
    how, kind = i.words[1], i.words[-1]

    def step(block: Block, lanes: Array | None) -> None:
        a, b = (block.get(o, kind) for o in i.operands[1:3])
        if how == "lo":
            result = a * b
        elif how == "hi" and a.dtype.itemsize == 8:
            result = high_half(a, b)
        else:
            result = a.astype(WIDER[kind]) * b.astype(WIDER[kind])
            if how == "hi":
                result = (result >> result.dtype.type(a.dtype.itemsize * 8)).astype(a.dtype)
        if i.words[0] == "mad":
            result = result + block.get(i.operands[3], {np.dtype(v): k for k, v in VIEWS.items()}[result.dtype])
        block.put(i.operands[0], result, lanes)

    return step


_STEPS: dict[str, Callable[[Instruction], Step]] = {
    "ld": _load, "st": _store, "cp": _async_copy, "atom": _atomic, "ldmatrix": _matrix, "stmatrix": _matrix,
    "mma": _warp_wide, "shfl": _warp_wide, "redux": _warp_wide, "mov": _move,
}  # fmt: skip
#: every lane of a warp takes part in these
_TOGETHER = ("ldmatrix", "stmatrix", "mma", "shfl", "redux")


def prepare(program: Program) -> list[Step | None]:
    """What each instruction does; None for those that decide where to go on. Raises ValueError on an unknown one."""
    steps: list[Step | None] = []
    for i in program.instructions:
        if i.words[0] in ("bra", "ret", "bar"):
            steps.append(None)
        elif i.words[:2] == ("ld", "param"):
            steps.append(_move(Instruction(i.text, i.words, (i.operands[0], _parameter(i)))))
        else:
            steps.append(_STEPS.get(i.words[0], _compute)(i))
    return steps


def _parameter(i: Instruction) -> str:
    address = i.operands[1]
    assert isinstance(address, Address)
    return address.base


def run_block(block: Block, steps: list[Step | None]) -> None:
    """From the first instruction to where the last thread returns."""
    instructions, labels = block.program.instructions, block.program.labels
    everybody = np.ones(block.threads, bool)
    ready: dict[int, Array] = {0: everybody}  # instruction → the threads that are there
    waiting: dict[int, Array] = {}  # the same, at barriers
    while ready:
        at = min(ready)
        mask = ready.pop(at)
        whole = bool(mask.all())
        while True:
            i, step = instructions[at], steps[at]
            lanes = None if whole else mask
            if i.guard is not None:
                guard = block.get(i.guard, "pred") ^ i.negated
                lanes = guard if whole else mask & guard
                if lanes.all():
                    lanes = None
            if step is not None:
                if lanes is None or lanes.any():
                    if lanes is not None and i.words[0] in _TOGETHER and np.any(lanes.reshape(-1, 32).sum(1) % 32):
                        raise Fault(f"some lanes of a warp alone: {i.text}")
                    step(block, lanes)
                at += 1
                if ready and at in ready:
                    _add(ready, at, mask)
                    break
                continue
            if i.words[0] == "bra":
                goes = everybody if lanes is None else lanes
                stays = mask & ~goes
                target = i.operands[-1]
                assert isinstance(target, str)
                if goes.any():
                    _add(ready, labels[target], goes)
                if stays.any():
                    _add(ready, at + 1, stays)
            elif i.words[0] == "bar":
                _add(waiting, at + 1, mask)
            elif lanes is not None and (mask & ~lanes).any():
                _add(ready, at + 1, mask & ~lanes)
            break
        if not ready:
            ready, waiting = waiting, {}


def _add(places: dict[int, Array], at: int, mask: Array) -> None:
    places[at] = places[at] | mask if at in places else mask


def execute(
    program: Program, steps: list[Step | None], memory: GlobalMemory, arguments: list[int], shared_bytes: int,
    grid: tuple[int, int, int], blocks: Iterable[tuple[int, int, int]],
) -> None:  # fmt: skip
    """Run blocks of a grid one after the other. arguments: the bits of each parameter. Raises Fault."""
    with np.errstate(all="ignore"):
        for place in blocks:
            block = Block(program, memory, shared_bytes, (*place, *grid))
            for name, bits in zip(program.parameters, arguments, strict=True):
                block.registers[name] = np.full(block.threads, bits % (1 << 64), np.uint64)
            run_block(block, steps)
