"""Frozen dataclasses that are cheap to define.

`dataclasses.dataclass` writes and compiles five to seven methods for each class, about half a millisecond on CPython 3.11. An
estimate defines some eighty such classes before it prints a line: a quarter of its whole run time. `dataclass` here gives the same
fields, slots, `__match_args__`, equality, hash and repr with methods that all classes share. Type checkers see the original.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool, slots: bool):
        """As `dataclasses.dataclass(frozen=True, slots=True)`; no other combination is needed."""
        if not (frozen and slots):
            raise TypeError("records are frozen and have slots")
        return _record


def _record(cls: Any) -> Any:
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    for name, method in _METHODS.items():
        if name not in made.__dict__:
            setattr(made, name, method)
    return made


def _values(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__match_args__])


def _init(self: Any, *args: Any, **named: Any) -> None:
    put = object.__setattr__
    names = self.__match_args__
    if len(args) > len(names):
        raise TypeError(f"{type(self).__name__} takes {len(names)} fields, not {len(args)}")
    for name, value in zip(names, args, strict=False):
        put(self, name, value)
    for name in names[len(args) :]:
        if name in named:
            put(self, name, named.pop(name))
            continue
        field = self.__dataclass_fields__[name]
        if field.default is not dataclasses.MISSING:
            put(self, name, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            put(self, name, field.default_factory())
        else:
            raise TypeError(f"{type(self).__name__} needs the field {name!r}")
    if named:
        raise TypeError(f"{type(self).__name__} has no free field {next(iter(named))!r}")
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _eq(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({shown})"


def _no_setattr(self: Any, name: str, value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _no_delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return list(_values(self))


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__match_args__, state, strict=True):
        object.__setattr__(self, name, value)


_METHODS = {
    "__init__": _init,
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _no_setattr,
    "__delattr__": _no_delattr,
    "__getstate__": _getstate,
    "__setstate__": _setstate,
}
