"""What a GGUF header says: type numbers, values, and one file's facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hfmem.checkpoint.runs import Fact
from hfmem.records import dataclass

#: tensor type numbers (`ggml_type`); the interleaved copies of Q4_0 and IQ4_NL that older programs wrote take the
#: same bytes
TENSOR_TYPES: Final[Mapping[int, str]] = dict(
    enumerate(
        [
            *("F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1"),
            *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S"),
            *("IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M"),
            *("BF16", "Q4_0", "Q4_0", "Q4_0", "TQ1_0", "TQ2_0", "IQ4_NL", "IQ4_NL", "IQ4_NL", "MXFP4"),
            *("NVFP4", "Q1_0", "Q2_0"),
        ]
    )
)

#: `general.file_type` → the label in file names; empty where a number was never used or has been dropped
FILE_TYPES: Final[Mapping[int, str]] = dict(
    enumerate(
        [
            *("F32", "F16", "Q4_0", "Q4_1", "", "", "", "Q8_0", "Q5_0", "Q5_1"),
            *("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS"),
            *("IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M"),
            *("IQ4_XS", "IQ1_M", "BF16", "", "", "", "TQ1_0", "TQ2_0", "MXFP4_MOE", "NVFP4"),
            *("Q1_0", "Q2_0"),
        ]
    )
)


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array of which only the length was kept."""

    length: int


Value = int | float | bool | str | LongArray | tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """One file's facts. `tensors` maps a name to type and shape (outermost axis first, as in torch); do not change it or `keys`.

    `header_bytes` is where the tensors' data begins, `data_bytes` what it takes with padding between tensors.
    """

    file: str
    version: int
    keys: Mapping[str, Value]
    tensors: Mapping[str, Fact]
    header_bytes: int
    data_bytes: int

    @property
    def architecture(self) -> str | None:
        """`general.architecture`: the prefix of the keys that describe the model."""
        value = self.keys.get("general.architecture")
        return value if isinstance(value, str) else None

    @property
    def file_type(self) -> str | None:
        """The label of `general.file_type`, such as `Q4_K_M`."""
        value = self.keys.get("general.file_type")
        return FILE_TYPES.get(value) or None if type(value) is int else None

    @property
    def is_projector(self) -> bool:
        """Whether the file holds a vision or audio projector (mmproj) and no language model."""
        return self.architecture == "clip" or self.keys.get("general.type") == "mmproj"

    @property
    def split(self) -> tuple[int, int] | None:
        """This file's number (from 0) and how many there are, None for a model in one file."""
        number, count = self.keys.get("split.no"), self.keys.get("split.count")
        return (number, count) if type(number) is int and type(count) is int and count > 1 else None
