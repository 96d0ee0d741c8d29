"""What fragmentation costs: one contiguous reservation a sequence against pages, for sequences of many lengths.

A server without pages reserves the longest context for every sequence (as FasterTransformer and early servers did). Pages follow
each sequence's own length and waste at most the rest of its last page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Final

from hfmem.errors import UsageError
from hfmem.memory import engines
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.records import dataclass, replace
from hfmem.units import parse_count

ALLOCATORS: Final = ("contiguous", "paged")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of sequences in tokens and how often each comes: shares that add up to 1."""

    shares: tuple[tuple[int, Fraction], ...]

    @property
    def longest(self) -> int:
        """The longest sequence."""
        return max(length for length, _ in self.shares)

    @property
    def mean(self) -> Fraction:
        """Tokens of a sequence on average."""
        return sum((length * share for length, share in self.shares), Fraction(0))


@dataclass(frozen=True, slots=True)
class Allocation:
    """One allocator's answer: bytes a sequence takes on the most loaded rank on average, how many fit, and what lies idle."""

    allocator: str
    bytes_per_seq: int
    num_seqs: int
    idle_share: float


def parse_lengths(text: str) -> Lengths:
    """`1k:6,4k:3,32k:1`: lengths with weights; a weight left out is 1.

    Raises:
        UsageError: not of that form, or weights that are not positive.
    """
    shares: dict[int, Fraction] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([^:\s]+)\s*(?::\s*(\d{1,9}(?:\.\d{1,9})?)\s*%?\s*)?", part)
        if match is None:
            raise UsageError(f"--lengths {part.strip()!r} is not LENGTH or LENGTH:WEIGHT (example: 1k:6,4k:3,32k:1)")
        weight = Fraction(match.group(2) or 1)
        if weight <= 0:
            raise UsageError(f"--lengths {part.strip()!r} has no weight")
        length = parse_count(match.group(1), "--lengths")
        shares[length] = shares.get(length, Fraction(0)) + weight
    total = sum(shares.values(), Fraction(0))
    return Lengths(tuple((length, weight / total) for length, weight in sorted(shares.items())))


def allocations(
    arch: Architecture, serving: Serving, lengths: Lengths, memory_bytes_per_rank: int
) -> tuple[Allocation, ...]:
    """Contiguous and paged, for a cache of `memory_bytes_per_rank`; the context is what a contiguous slot holds.

    Raises:
        UsageError: a length beyond the context. UnsupportedError: the engine refuses the model or the layout.
    """
    if lengths.longest > serving.context:
        raise UsageError(f"--lengths has {lengths.longest:,} tokens, more than the context of {serving.context:,}")
    rules, ideal = engines.engine(serving.engine), engines.engine("ideal")
    one = replace(serving, num_seqs=1, dp=1)

    def paged(length: int) -> int:
        return rules.cache(arch, replace(one, context=length)).bytes_per_rank

    slot = rules.cache(arch, one)
    alone = replace(one.alone("ideal"), kv_dtype=slot.kv_dtype)
    # what a rank holds of the bytes that the model itself needs, copies of replicated heads included
    part = Fraction(slot.bytes_per_rank, ideal.cache(arch, alone).bytes) if slot.bytes_per_rank else Fraction(0)
    needed = _mean(lengths, lambda length: ideal.cache(arch, replace(alone, context=length)).bytes * part)
    mean = _mean(lengths, paged)
    return tuple(
        Allocation(
            allocator=name,
            bytes_per_seq=-(-size.numerator // size.denominator),
            num_seqs=int(memory_bytes_per_rank // size) * serving.dp if size else 0,
            idle_share=float(1 - min(needed / size, Fraction(1))) if size else 0.0,
        )
        for name, size in (("contiguous", Fraction(slot.bytes_per_rank)), ("paged", mean))
    )


def _mean(lengths: Lengths, size: Callable[[int], int | Fraction]) -> Fraction:
    return sum((share * Fraction(size(length)) for length, share in lengths.shares), Fraction(0))
