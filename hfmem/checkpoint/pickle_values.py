"""What a pickle of weights can hold: names, storages, views of storages, and the dtypes torch calls them by."""

from __future__ import annotations

from typing import Final

from hfmem.records import dataclass

#: the storage classes of torch, by name, and the element type they hold; an untyped storage counts bytes
STORAGE_DTYPES: Final = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "QInt8Storage": "I8",
    "QUInt8Storage": "U8",
    "QInt32Storage": "I32",
    "UntypedStorage": "U8",
}
#: dtypes that a tensor over an untyped storage names
TORCH_DTYPES: Final = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}


@dataclass(frozen=True, slots=True)
class Name:
    """A global that pickle would have imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A value that no tensor fact needs."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage of `num_elements` of `dtype`, in the archive's entry `data/<key>`."""

    dtype: str
    key: str
    num_elements: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage. `offset` and `stride` count elements; `storage` is None for a meta tensor."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: Storage | None
