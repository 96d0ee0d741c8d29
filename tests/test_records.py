"""Records behave as the standard library's frozen dataclasses with slots do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from typing import Any

import pytest

from hfmem import records


def _make(decorate: Any, field: Any) -> Any:
    @decorate(frozen=True, slots=True)
    class Point:
        x: int
        y: int = 2
        tags: tuple[str, ...] = field(default_factory=tuple)

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("negative")

    return Point


@records.dataclass(frozen=True, slots=True)
class Kept:
    """At module level, so that it can be pickled."""

    a: int
    b: str = "b"


OURS, THEIRS = _make(records.dataclass, records.field), _make(dataclasses.dataclass, dataclasses.field)
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, 3), {}),
    ((1,), {"tags": ("t",)}),
    ((), {"x": 4, "y": 5}),
    ((), {}),
    ((1, 2, (), 4), {}),
    ((1,), {"z": 1}),
    ((1,), {"x": 1}),
    ((-1,), {}),
]


@pytest.mark.parametrize(("args", "named"), CALLS)
def test_same_construction(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    try:
        theirs = THEIRS(*args, **named)
    except (TypeError, ValueError) as error:
        with pytest.raises(type(error)):
            OURS(*args, **named)
        return
    ours = OURS(*args, **named)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert repr(ours) == repr(theirs)
    assert hash(ours) == hash(theirs)


def test_same_behaviour() -> None:
    assert [f.name for f in dataclasses.fields(OURS)] == [f.name for f in dataclasses.fields(THEIRS)]
    assert OURS.__match_args__ == THEIRS.__match_args__ and OURS.__slots__ == THEIRS.__slots__
    one = OURS(1)
    assert one == OURS(1, 2) and one != OURS(2) and one != THEIRS(1)
    assert dataclasses.replace(one, y=9) == OURS(1, 9)
    for change in (lambda: setattr(one, "x", 2), lambda: delattr(one, "x"), lambda: setattr(one, "new", 2)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    match one:
        case OURS(x=1, y=y):
            assert y == 2
        case _:
            pytest.fail("no match")


def test_a_derived_record_has_the_fields_of_its_base() -> None:
    def derived(decorate: Any) -> Any:
        @decorate(frozen=True, slots=True)
        class Base:
            a: int
            b: int = 2

        @decorate(frozen=True, slots=True)
        class Derived(Base):
            c: int = 3

        return Derived

    ours, theirs = derived(records.dataclass), derived(dataclasses.dataclass)
    assert ours.__match_args__ == theirs.__match_args__ and ours.__slots__ == theirs.__slots__
    assert repr(ours(1, c=4)) == repr(theirs(1, c=4))
    assert dataclasses.asdict(ours(1)) == dataclasses.asdict(theirs(1))


def test_open_records_can_be_changed_and_hashed_only_by_identity() -> None:
    def open_record(decorate: Any, **more: Any) -> Any:
        @decorate(slots=True, **more)
        class Open:
            x: int

        return Open

    for decorate in (records.dataclass, dataclasses.dataclass):
        one = open_record(decorate)(1)
        one.x = 2
        assert one.x == 2 and one == type(one)(2)
        with pytest.raises(TypeError):
            hash(one)
        other = open_record(decorate, eq=False)
        assert other(1) != other(1) and hash(other(1)) is not None


def test_a_field_of_the_standard_library_is_refused() -> None:
    with pytest.raises(TypeError, match=r"hfmem\.records"):
        _make(records.dataclass, dataclasses.field)


def test_records_do_not_load_dataclasses() -> None:
    code = "import sys, hfmem.report, hfmem.model.layers; print('dataclasses' in sys.modules, 'inspect' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]


def test_replace_as_dataclasses_does() -> None:
    one = OURS(1, 3)
    assert records.replace(one, y=9) == dataclasses.replace(one, y=9) == OURS(1, 9)
    with pytest.raises(TypeError):
        records.replace(one, nothing=1)


def test_copies_and_pickles() -> None:
    one = Kept(1, "c")
    assert copy.deepcopy(one) == one and pickle.loads(pickle.dumps(one)) == one


def test_two_kinds_with_equal_fields_differ() -> None:
    """Layer kinds are keys of dicts: equal numbers in another kind are another cache."""
    from hfmem.model.layers import ChunkedAttention, SlidingAttention

    assert SlidingAttention(1, 1, 2, 2, 3) != ChunkedAttention(1, 1, 2, 2, 3)
    assert len({SlidingAttention(1, 1, 2, 2, 3), ChunkedAttention(1, 1, 2, 2, 3)}) == 2
