"""Exact searches: the answer holds, the next number does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hfmem.plan.solver import largest, smallest


@given(limit=st.integers(1, 1 << 30), edge=st.integers(0, 1 << 30))
def test_largest_finds_the_edge(limit: int, edge: int) -> None:
    calls = 0

    def fits(n: int) -> bool:
        nonlocal calls
        calls += 1
        assert 1 <= n <= limit
        return n <= edge

    found = largest(fits, limit)
    assert found == (None if edge >= limit else edge)
    assert calls <= 2 * limit.bit_length() + 3


@given(
    limit=st.integers(1, 1 << 30),
    edge=st.integers(0, 1 << 30),
    start=st.integers(-5, 1 << 31),
    grain=st.integers(1, 600),
)
def test_largest_finds_the_edge_from_anywhere(limit: int, edge: int, start: int, grain: int) -> None:
    def fits(n: int) -> bool:
        assert 1 <= n <= limit
        return n <= edge

    assert largest(fits, limit, start, grain) == (None if edge >= limit else edge)


def test_a_good_guess_of_a_page_takes_three_questions() -> None:
    asked: list[int] = []

    def fits(n: int) -> bool:
        asked.append(n)
        return n <= 4096

    assert largest(fits, 1 << 40, 4100, 16) == 4096
    assert asked == [4096, 4112, 4097]


@given(limit=st.integers(1, 1 << 30), edge=st.integers(1, 1 << 30))
def test_smallest_finds_the_edge(limit: int, edge: int) -> None:
    def fits(n: int) -> bool:
        assert 1 <= n <= limit
        return n >= edge

    assert smallest(fits, limit) == (edge if edge <= limit else None)
