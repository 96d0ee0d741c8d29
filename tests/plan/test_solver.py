"""Exact searches: the answer holds, the next number does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfmem.plan.solver import crossing, largest, smallest


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


def test_largest_over_every_small_question() -> None:
    """Edges just behind a multiple of the grain, which random draws meet seldom."""
    for limit, grain in itertools.product(range(1, 20), range(1, 7)):
        for edge, start in itertools.product(range(limit + 2), range(limit + 3)):
            found = largest(lambda n, edge=edge: n <= edge, limit, start, grain)  # type: ignore[misc]
            assert found == (None if edge >= limit else edge), (limit, grain, edge, start)


@pytest.mark.parametrize(
    ("room", "first", "zero"),
    [
        (lambda n: 10_000 - 7 * n, 16, 1428),  # 10,000 / 7 = 1428.6
        (lambda n: 10_000 - 7 * n, 3000, 1428),  # from beyond it
        (lambda n: 100_000 - 112 * -(-n // 16), 16, 14_285),  # pages of 16 tokens: 100,000 / 7
        (lambda n: 100_000 - 112 * -(-n // 4096), 16, 3_657_142),  # the first two guesses lie on one page
        (lambda n: 5 - n, 1, 5),
        (lambda n: 100 - n if n < 40 else 80 - n // 2, 1, 160),  # a bend
    ],
)
def test_crossing_is_near_where_the_room_ends(room: Callable[[int], int], first: int, zero: int) -> None:
    assert abs(crossing(room, first, 1 << 40) - zero) <= max(1, zero // 100)


def test_crossing_without_an_end() -> None:
    assert crossing(lambda n: 100, 16, 5000) == 5000  # a model that keeps nothing
    assert crossing(lambda n: None, 16, 5000) == 1
    assert crossing(lambda n: 10_000 - n, 16, 5000) == 5000
    assert crossing(lambda n: -n, 16, 5000) == 1
