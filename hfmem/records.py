"""Dataclasses with slots that are cheap to define, and cheap to have: `dataclasses` itself is loaded when somebody asks for it.

`dataclasses.dataclass` writes and compiles five to seven methods for each class, about half a millisecond on CPython 3.11, and the
module brings `inspect`, `ast` and `dis` along: together a third of what an estimate would take. `dataclass` here gives the same
fields, slots, `__match_args__`, equality, hash and repr with methods that all classes share. `dataclasses.fields`, `replace`,
`asdict` and `is_dataclass` work on them, and type checkers see the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["dataclass", "field", "replace"]

_MISSING: Any = object()


class _Default:
    """What `field` says of a default."""

    __slots__ = ("factory", "value")

    def __init__(self, value: Any, factory: Any) -> None:
        self.value, self.factory = value, factory


if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:

    def dataclass(*, slots: bool, frozen: bool = False, eq: bool = True):
        """As `dataclasses.dataclass` with these arguments; classes without slots are not needed."""
        if not slots:
            raise TypeError("records have slots")
        return lambda cls: _record(cls, frozen, eq)

    def field(*, default=_MISSING, default_factory=_MISSING):
        """As `dataclasses.field` with these arguments."""
        return _Default(default, default_factory)

    def replace(record, /, **changes):
        """As `dataclasses.replace`: a copy with other values."""
        pop = changes.pop
        values = [pop(name) if name in changes else getattr(record, name) for name in record.__match_args__]
        return record.__class__(*values, **changes)


class _Fields:
    """`__dataclass_fields__`, made when first asked for."""

    def __get__(self, instance: Any, owner: Any) -> Mapping[str, Any]:
        import dataclasses

        kinds = {name: kind for base in reversed(owner.__mro__) for name, kind in _own(base).items()}
        defaults = {
            name: dataclasses.field(default=default.value)
            if default.factory is _MISSING
            else dataclasses.field(default_factory=default.factory)
            for name, default in owner.__defaults__.items()
        }
        parts = [
            (name, kinds[name], defaults[name]) if name in defaults else (name, kinds[name])
            for name in owner.__match_args__
        ]
        made = dataclasses.make_dataclass(owner.__name__, parts)
        owner.__dataclass_fields__ = made.__dataclass_fields__  # type: ignore[attr-defined]
        return owner.__dataclass_fields__  # type: ignore[no-any-return]


def _own(cls: type) -> dict[str, Any]:
    """The fields that a class itself names, with their types."""
    named: dict[str, Any] = getattr(cls, "__annotations__", {})  # never a base's
    return named


def _record(cls: type, frozen: bool, eq: bool) -> Any:
    own = _own(cls)
    space = {name: value for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
    inherited = next((base for base in cls.__mro__[1:] if "__match_args__" in base.__dict__), None)
    defaults = dict(inherited.__defaults__) if inherited else {}  # type: ignore[attr-defined]
    for name in own:
        if name in space:
            default = space.pop(name)
            if type(default).__module__ == "dataclasses":
                raise TypeError(f"{cls.__name__}.{name}: take `field` from hfmem.records")
            defaults[name] = default if isinstance(default, _Default) else _Default(default, _MISSING)
    before = inherited.__match_args__ if inherited else ()  # type: ignore[attr-defined]
    space["__match_args__"] = (*before, *(name for name in own if name not in before))
    space["__slots__"] = tuple(name for name in own if name not in before)
    space["__defaults__"] = defaults
    space["__values__"] = staticmethod(_getter(space["__match_args__"]))
    space["__dataclass_fields__"] = _Fields()
    shared = {
        **_METHODS,
        **(_FROZEN if frozen else {}),
        **({} if eq else {"__eq__": object.__eq__, "__hash__": object.__hash__}),
    }
    if eq and not frozen:
        shared["__hash__"] = None
    for name, method in shared.items():
        space.setdefault(name, method)
    made = type(cls)(cls.__name__, cls.__bases__, space)
    made.__qualname__ = cls.__qualname__
    return made


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """What reads fields of these names, in C where there are several."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda record: tuple([getattr(record, name) for name in names])


def _values(self: Any) -> tuple[Any, ...]:
    return self.__values__(self)  # type: ignore[no-any-return]


def _init(self: Any, *args: Any, **named: Any) -> None:
    put = object.__setattr__
    names = self.__match_args__
    if len(args) > len(names):
        raise TypeError(f"{type(self).__name__} takes {len(names)} fields, not {len(args)}")
    for name, value in zip(names, args, strict=False):
        put(self, name, value)
    if len(args) < len(names):
        for name in names[len(args) :]:
            if name in named:
                put(self, name, named.pop(name))
                continue
            default = self.__defaults__.get(name)
            if default is None:
                raise TypeError(f"{type(self).__name__} needs the field {name!r}")
            put(self, name, default.value if default.factory is _MISSING else default.factory())
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


def _no_setattr(self: Any, name: str, value: Any) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _no_delattr(self: Any, name: str) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return list(_values(self))


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__match_args__, state, strict=True):
        object.__setattr__(self, name, value)


_METHODS: dict[str, Callable[..., Any] | None] = {
    "__init__": _init,
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__getstate__": _getstate,
    "__setstate__": _setstate,
}
_FROZEN: dict[str, Callable[..., Any] | None] = {"__setattr__": _no_setattr, "__delattr__": _no_delattr}
