"""PTX as the compiler writes it, taken apart: instructions with their operands, labels, parameters. Nothing is executed here.

Reference: PTX ISA, "Syntax" and "State spaces, types, and variables". Only what a single kernel of Triton's uses is read;
anything else is an error that shows the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import count

#: bytes of a register by its declared type
WIDTHS = {"pred": 0, "b16": 2, "b32": 4, "b64": 8, "u16": 2, "u32": 4, "u64": 8, "s32": 4, "s64": 8, "f32": 4, "f64": 8}


@dataclass(frozen=True, slots=True)
class Address:
    """`[base + offset]`; base is a register, a parameter or a symbol."""

    base: str
    offset: int


#: a register, label or special register by name; the bits of a number; an address; a vector of registers
Operand = str | int | Address | tuple["Operand", ...]


@dataclass(frozen=True, slots=True)
class Instruction:
    """`@!guard a.b.c operands` → guard "guard", negated, words ("a", "b", "c")."""

    text: str
    words: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: str | None = None
    negated: bool = False


@dataclass(slots=True)
class Program:
    """One kernel. labels: name → index of the instruction behind it. registers: name → bytes, 0 for predicates."""

    parameters: list[str] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, int] = field(default_factory=dict)
    num_threads: int = 0


def parse(ptx: str) -> Program:
    """The one kernel of a module. Raises ValueError with the line that it does not know."""
    program = Program()
    head, _, body = ptx.partition("{\n\t.reg")
    program.parameters = re.findall(r"\.param \.\w+ (?:\.ptr[^,\n]* )?(\w+)", head)
    threads = re.search(r"\.(?:reqntid|maxntid) (\d+)", head)
    if threads is None:
        raise ValueError("ptx: expected .reqntid or .maxntid")
    program.num_threads = int(threads[1])
    numbers = count()
    scopes: list[dict[str, str]] = []
    for line in _lines("\t.reg" + body.partition(".section")[0]):
        if line == "{":
            scopes.append({})
        elif line == "}":
            if not scopes:
                break  # the end of the kernel
            scopes.pop()
        elif line.startswith(".reg"):
            _declare(line, program, scopes, numbers)
        elif line.endswith(":"):
            program.labels[line[:-1]] = len(program.instructions)
        elif not line.startswith("."):
            program.instructions.append(_instruction(line, scopes[-1] if scopes else {}))
    return program


def _lines(body: str) -> list[str]:
    """Statements, one each: without comments, statements on one line apart, braces of scopes alone."""
    lines = []
    for raw in body.splitlines():
        text = raw.split("//")[0].strip()
        if text in ("{", "}", "") or text.endswith(":"):
            lines += [text] if text else []
        else:
            lines += [part.strip() for part in text.split(";") if part.strip()]
    return lines


def _declare(line: str, program: Program, scopes: list[dict[str, str]], numbers: count[int]) -> None:
    """`.reg .b32 %r<10>` or, within braces, `.reg .b32 s, m`: names of a scope are made unique."""
    _, kind, names = line.split(maxsplit=2)
    width = WIDTHS[kind[1:]]
    for name in names.split(","):
        name = name.strip()
        many = re.fullmatch(r"(%\w+)<(\d+)>", name)
        if many:
            program.registers |= {f"{many[1]}{i}": width for i in range(int(many[2]))}
        else:
            unique = f"{name}#{next(numbers)}"
            scopes[-1][name] = unique
            program.registers[unique] = width


def _instruction(line: str, names: dict[str, str]) -> Instruction:
    found = re.match(r"(?:@(!?)([%\w]+)\s+)?([a-z][\w.:]*)\s*(.*)$", line)
    if found is None:
        raise ValueError(f"ptx: not an instruction: {line}")
    negated, guard, op, rest = found.groups()
    words = tuple(op.replace("::", "_").split("."))
    operands = tuple(_operand(part, names) for part in _split(rest))
    return Instruction(line, words, operands, names.get(guard, guard) if guard else None, bool(negated))


def _split(text: str) -> list[str]:
    """Operands apart, vectors and addresses whole."""
    return [part.strip() for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", text)]


def _operand(text: str, names: dict[str, str]) -> Operand:
    if text.startswith("{"):
        return tuple(_operand(part.strip(), names) for part in text.strip("{} ").split(","))
    if text.startswith("["):
        base, _, offset = text.strip("[] ").replace(" ", "").partition("+")
        return Address(names.get(base, base), int(offset or "0", 0))
    if re.fullmatch(r"0[fd][0-9A-Fa-f]+", text):
        return int(text[2:], 16)
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
        return int(text.rstrip("U"), 0)
    return names.get(text, text)
