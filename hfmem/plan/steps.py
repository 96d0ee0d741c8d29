"""The pieces that an explanation is made of."""

from __future__ import annotations

from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One line of arithmetic: `title`: `formula` = `result` `unit`. `running` is the sum so far where the steps add up."""

    title: str
    formula: str
    result: int
    unit: str  # "parameters" | "bytes" | "bytes/token" | "tokens" | "GPUs"
    note: str | None = None
    running: int | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """Steps that lead to one number, with that number."""

    title: str
    steps: tuple[Step, ...]
    result: int
    unit: str


def bytes_of(bits: int) -> str:
    """`2 bytes`, `1 byte`, `4 bits`: what one element takes."""
    if bits % 8:
        return f"{bits} bits"
    return f"{bits // 8} byte{'s' if bits > 8 else ''}"
