"""Reading config.json: null-safe, alias-aware, and honest about where each value came from.

A value is what config.json says; else what the configuration class assumes (`data/class_defaults.json.gz`, read off transformers'
class fields, source and version inside); else an error that names the key and the file. Only `hfmem.model` reads a config.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from hfmem.errors import ContradictionError, MissingKeyError, UnknownArchitectureError

_T = TypeVar("_T", int, float, str, bool)

#: no real dimension comes near; a larger one would only overflow what reads it
_MAX_INT = 1 << 40

#: what a model has many of is listed one by one; no real one has near as many layers or experts
_MAX_REPEATS = 1 << 16
_REPEATED = r"layers?$|^n_layer|experts$|blocks$|^depth$|_depth$|depths$"


@cache
def _class_text() -> str:
    packed = Path(__file__).with_name("data").joinpath("class_defaults.json.gz").read_bytes()
    return zlib.decompress(packed, wbits=31).decode("utf-8")


@cache
def _class_entry(model_type: str) -> Mapping[str, dict[str, Any]]:
    """The `defaults` and `aliases` of one model type, empty for one not in the table, which has a line for each: reading the
    whole of it would take ten milliseconds."""
    text = _class_text()
    start = f"\n{json.dumps(model_type)}:"
    at = text.find(start)
    if at < 0:
        return {}
    found: dict[str, dict[str, Any]] = json.JSONDecoder().raw_decode(text, at + len(start))[0]
    return found


def _defaults(model_type: str) -> dict[str, Any]:
    return _class_entry(model_type).get("defaults", {})


def _aliases(model_type: str) -> dict[str, str]:
    return _class_entry(model_type).get("aliases", {})


def in_transformers(model_type: str) -> bool:
    """Whether the transformers release of the table has the type: every type that its auto classes know has a line there."""
    return bool(_class_entry(model_type))


def class_keys(model_type: str) -> frozenset[str]:
    """Keys that the configuration class of `model_type` knows, attribute aliases included; empty for a class not in the table."""
    defaults, aliases = _defaults(model_type), _aliases(model_type)
    keys = {*defaults, *aliases, *aliases.values()}
    for key in [key for key in keys if key.endswith(".model_type")]:
        keys |= _defaults(defaults[key]).keys() - {"model_type"}
    return frozenset(key for key in keys if "." not in key)


class Config:
    """A config.json, or a nested part of it, with the class defaults of its model type behind it.

    Args:
        data: the parsed JSON object.
        file: what messages call it (`config.json`, `config.json: text_config`).
        model_type: whose class defaults apply; `data["model_type"]` when None. "" applies none.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        file: str = "config.json",
        model_type: str | None = None,
        used_defaults: list[str] | None = None,
    ) -> None:
        self.data = data
        self.file = file
        own = data.get("model_type")
        self.model_type: str = model_type if model_type is not None else (own if isinstance(own, str) else "")
        #: keys that the class default table supplied so far, shared with nested parts
        self.used_defaults: list[str] = used_defaults if used_defaults is not None else []

    # ---- looking up -------------------------------------------------------------------------------------------------------

    def published(self, *names: str) -> Any:
        """The first non-null value that config.json itself gives under one of `names`, else None."""
        for name in names:
            value = self.data.get(name)
            if value is not None:
                return value
        return None

    def has(self, name: str) -> bool:
        """Whether config.json itself has the key, null included."""
        return name in self.data

    def lookup(self, *names: str) -> Any:
        """The published value, else the class default (recorded in `used_defaults`), else None."""
        value = self.published(*names)
        if value is not None:
            return value
        aliases = _aliases(self.model_type)
        for name in names:  # attribute aliases of the class: `num_local_experts` published for `num_experts`
            for alias, target in aliases.items():
                if name == target and (value := self.data.get(alias)) is not None:
                    return value
                if name == alias and (value := self.data.get(target)) is not None:
                    return value
        for name in names:
            if self.has(name):  # an explicit null is a value: the class default does not replace it
                return None
        defaults = _defaults(self.model_type)
        for name in names:
            for key in (name, aliases.get(name, name)):
                if defaults.get(key) is not None:
                    if key not in self.used_defaults:
                        self.used_defaults.append(key)
                    return defaults[key]
        return None

    def _missing(self, names: Sequence[str]) -> MissingKeyError:
        also = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
        return MissingKeyError(
            f"{self.file}: {names[0]!r}{also} is missing and {self.model_type or 'this model'!r} needs it"
        )

    def _typed(self, kind: type[_T], names: Sequence[str], value: Any) -> _T:
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) is not (kind is bool) or not isinstance(value, kind):
            raise ContradictionError(f"{self.file}: {names[0]!r} is {json.dumps(value)[:80]}, expected {kind.__name__}")
        if isinstance(value, int | float) and not -_MAX_INT <= value <= _MAX_INT:  # NaN is in no range
            raise ContradictionError(f"{self.file}: {names[0]!r} is {str(value)[:40]}, beyond any real model")
        return value

    # ---- typed access -----------------------------------------------------------------------------------------------------

    def opt_int(self, *names: str) -> int | None:
        """An integer or None. Raises ContradictionError for another type, a negative number, or more layers than any model has."""
        value = self.lookup(*names)
        if value is None:
            return None
        number = self._typed(int, names, value)
        if number < 0:
            raise ContradictionError(f"{self.file}: {names[0]!r} is {number}, expected a non-negative integer")
        if number > _MAX_REPEATS and re.search(_REPEATED, names[0]):
            raise ContradictionError(f"{self.file}: {names[0]!r} is {number:,}, beyond any real model")
        return number

    def need_int(self, *names: str) -> int:
        """An integer ≥ 0 that must be there. Raises MissingKeyError naming key and file."""
        value = self.opt_int(*names)
        if value is None:
            raise self._missing(names)
        return value

    def positive(self, *names: str) -> int:
        """An integer ≥ 1 that must be there. Raises MissingKeyError or ContradictionError."""
        value = self.need_int(*names)
        if value < 1:
            raise ContradictionError(f"{self.file}: {names[0]!r} is {value}, expected at least 1")
        return value

    def opt_float(self, *names: str) -> float | None:
        """A number or None."""
        value = self.lookup(*names)
        if value is None:
            return None
        return float(self._typed(float if isinstance(value, float) else int, names, value))

    def positive_float(self, *names: str) -> float:
        """A number that must be there: a ratio of sizes, above 0 and with an inverse. Raises as `positive`."""
        value = self.opt_float(*names)
        if value is None:
            raise self._missing(names)
        if value < 1 / _MAX_INT:
            raise ContradictionError(f"{self.file}: {names[0]!r} is {value}, expected a number above 0")
        return value

    def flag(self, *names: str, default: bool | None = None) -> bool:
        """A flag. `default` is the meaning of its absence, to be given only where the model's code defines it.

        Raises:
            MissingKeyError: it is absent and has no such meaning. ContradictionError: it is no flag.
        """
        value = self.lookup(*names)
        if value is None:
            if default is None:
                raise self._missing(names)
            return default
        return self._typed(bool, names, value)

    def opt_str(self, *names: str) -> str | None:
        """A string or None."""
        value = self.lookup(*names)
        return None if value is None else self._typed(str, names, value)

    def opt_list(self, *names: str) -> list[Any] | None:
        """A list or None. Raises ContradictionError for anything else."""
        value: list[Any] | None = self.lookup(*names)
        if value is not None and not isinstance(value, list):
            raise ContradictionError(f"{self.file}: {names[0]!r} is {json.dumps(value)[:80]}, expected a list")
        return value

    def numbers(self, *names: str) -> list[int] | None:
        """A list of whole numbers, such as layers' indices, or None."""
        values = self.opt_list(*names)
        return None if values is None else [self._typed(int, names, value) for value in values]

    def need_numbers(self, *names: str) -> list[int]:
        """A list of whole numbers that must be there and holds some. Raises as `positive`."""
        values = self.numbers(*names)
        if values is None:
            raise self._missing(names)
        if not values:
            raise ContradictionError(f"{self.file}: {names[0]!r} is an empty list")
        return values

    def need_list(self, *names: str) -> list[Any]:
        """A list that must be there. Raises as `positive`."""
        value = self.opt_list(*names)
        if value is None:
            raise self._missing(names)
        return value

    def opt_sub(self, *names: str, model_type: str | None = None) -> Config | None:
        """A nested object as a Config of its own.

        Its class defaults are those of its own `model_type`, else of the type that the outer class assumes for it, else of
        `model_type` when given.
        """
        for name in names:
            value = self.data.get(name)
            if value is None:
                continue
            if not isinstance(value, dict):
                raise ContradictionError(f"{self.file}: {name!r} is {json.dumps(value)[:80]}, expected an object")
            return Config(value, f"{self.file}: {name}", self._sub_type(name, value, model_type), self.used_defaults)
        return None

    def _sub_type(self, name: str, value: Mapping[str, Any], model_type: str | None) -> str:
        assumed = _defaults(self.model_type)
        fixed: str | None = assumed.get(f"{name}.model_type")
        if fixed and assumed.get(
            f"{name}.fixed"
        ):  # the class reads this part by one class, whatever the part calls itself
            return fixed
        own = value.get("model_type")
        if isinstance(own, str) and (model_type is None or _class_entry(own)):
            return own
        return fixed or model_type or ""

    def assumed_type(self, name: str) -> str:
        """The model_type that the class assumes for the nested part `name`, "" where it assumes none."""
        return self._sub_type(name, {}, None)

    def sub(self, *names: str, model_type: str | None = None, filled: bool = False) -> Config:
        """A nested object that the class may assume whole: an absent one holds what the class puts there, often nothing.

        With `filled` what the class puts there also stands behind the keys of one that is given.
        """
        found = self.opt_sub(*names, model_type=model_type)
        values: dict[str, Any] = _defaults(self.model_type).get(f"{names[0]}.values") or {}
        if found is not None:
            found.data = {**values, **found.data} if filled else found.data
            return found
        kind = self._sub_type(names[0], {}, model_type)
        if not kind:
            raise self._missing(names)
        self.used_defaults.extend(
            f"{names[0]}.{key}" for key in values if f"{names[0]}.{key}" not in self.used_defaults
        )
        return Config(values, f"{self.file}: {names[0]}", kind, self.used_defaults)

    def choice(self, name: str, value: str, known: Sequence[str]) -> str:
        """`value` if it is one of `known`. Raises UnknownArchitectureError naming the key otherwise."""
        if value not in known:
            raise UnknownArchitectureError(
                f"{self.file}: {name!r} is {value[:80]!r}, which is not known for {self.model_type!r} (known: {', '.join(known)})"
            )
        return value
