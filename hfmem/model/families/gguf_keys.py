"""The keys of a GGUF header that describe a model: read under the architecture's exact prefix, with errors that name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfmem.errors import ContradictionError, MissingKeyError

#: llama.cpp's own limit of layers is 512; anything far above it is a broken file
_MAX_LAYERS = 4096
#: beyond what any model has, and far below what would overflow a product
_MAX_VALUE = 1 << 40


class Keys:
    """`<architecture>.<name>` of one file. Numbers are never negative; a scalar stands for every layer where an array may be."""

    def __init__(self, values: Mapping[str, Any], architecture: str, file: str) -> None:
        self.values = values
        self.architecture = architecture
        self.file = file
        self.num_layers = self.need("block_count")
        if not 0 < self.num_layers <= _MAX_LAYERS:
            raise ContradictionError(f"{file}: {self.name('block_count')} is {self.num_layers}, beyond any real model")

    def name(self, key: str) -> str:
        """The key as the file spells it."""
        return f"{self.architecture}.{key}"

    def raw(self, key: str) -> Any:
        """The value as it is, None where the key is absent."""
        return self.values.get(self.name(key))

    def opt(self, key: str) -> int | None:
        """A number, None where the key is absent. Of an array of equal numbers, that number."""
        value = self.raw(key)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        return None if value is None else self._number(key, value)

    def need(self, key: str) -> int:
        """A number.

        Raises:
            MissingKeyError: the key is absent.
        """
        value = self.opt(key)
        if value is None:
            raise MissingKeyError(f"{self.file}: the key {self.name(key)} is missing")
        return value

    def positive(self, key: str) -> int:
        """A number above zero."""
        value = self.need(key)
        if value == 0:
            raise ContradictionError(f"{self.file}: {self.name(key)} is 0")
        return value

    def per_layer(self, key: str, default: list[int] | None = None) -> list[int]:
        """A number for each layer.

        Raises:
            MissingKeyError: the key is absent and there is no default.
            ContradictionError: an array of another length than the model.
        """
        value = self.raw(key)
        if value is None:
            if default is None:
                raise MissingKeyError(f"{self.file}: the key {self.name(key)} is missing")
            return default
        if not isinstance(value, list):
            return [self._number(key, value)] * self.num_layers
        if len(value) < self.num_layers:
            raise ContradictionError(
                f"{self.file}: {self.name(key)} has {len(value)} entries for {self.num_layers} layers"
            )
        return [self._number(key, item) for item in value[: self.num_layers]]

    def _number(self, key: str, value: Any) -> int:
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or not 0 <= value < _MAX_VALUE:
            raise ContradictionError(f"{self.file}: {self.name(key)} is {str(value)[:40]!r}, which is no count")
        return value
