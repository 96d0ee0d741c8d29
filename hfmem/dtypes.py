"""Element types: how many bits each takes, and the names that configs, safetensors and engines give it.

One canonical name a type: the safetensors code (`BF16`, `F8_E4M3`, …), because headers are what numbers are exact from.
"""

from __future__ import annotations

from typing import Final

from hfmem.errors import UnsupportedError

#: bits per element of every dtype code the safetensors format knows (safetensors 0.8, `tensor.rs`)
BITS: Final[dict[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

#: elements and bytes of one block of the quantized tensor types of GGUF files (llama.cpp's `ggml-common.h`)
BLOCKS: Final[dict[str, tuple[int, int]]] = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q8_1": (32, 36),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "Q8_K": (256, 292),
    "IQ1_S": (256, 50),
    "IQ1_M": (256, 56),
    "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74),
    "IQ2_S": (256, 82),
    "IQ3_XXS": (256, 98),
    "IQ3_S": (256, 110),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "TQ1_0": (256, 54),
    "TQ2_0": (256, 66),
    "MXFP4": (32, 17),
    "NVFP4": (64, 36),
    "Q1_0": (128, 18),
    "Q2_0": (64, 18),
}

#: spellings of `torch_dtype` / `dtype` in config.json and of command-line flags → canonical code
_ALIASES: Final[dict[str, str]] = {
    "bfloat16": "BF16",
    "bf16": "BF16",
    "float16": "F16",
    "fp16": "F16",
    "half": "F16",
    "f16": "F16",
    "float32": "F32",
    "fp32": "F32",
    "float": "F32",
    "f32": "F32",
    "float64": "F64",
    "double": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3": "F8_E4M3",
    "fp8": "F8_E4M3",
    "fp8_e4m3": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "fp8_e5m2": "F8_E5M2",
    "int8": "I8",
    "uint8": "U8",
}

#: canonical code → the short word a table shows
_WORDS: Final[dict[str, str]] = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F8_E4M3": "fp8", "F8_E5M2": "fp8_e5m2"}

#: canonical code → the word config.json uses for it
CONFIG_NAMES: Final[dict[str, str]] = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


def canonical(name: str) -> str:
    """The canonical code of `name` (`"torch.bfloat16"`, `"fp16"`, `"F8_E4M3"` …).

    Raises:
        UnsupportedError: `name` is no dtype known here.
    """
    word = name.removeprefix("torch.")
    if word.upper() in BITS:
        return word.upper()
    try:
        return _ALIASES[word.lower()]
    except KeyError:
        raise UnsupportedError(f"dtype {name[:80]!r} is not known") from None


def is_stored(dtype: str) -> bool:
    """Whether `dtype` is a code that a tensor in a file can have."""
    return dtype in BITS or dtype in BLOCKS


def num_bytes(dtype: str, num_elements: int) -> int:
    """Bytes of `num_elements` packed elements of `dtype`; sub-byte types round up to a byte, blocks to a block."""
    if dtype in BLOCKS:
        elements, size = BLOCKS[dtype]
        return -(-num_elements // elements) * size
    return (BITS[dtype] * num_elements + 7) // 8


def dtype_word(name: str) -> str:
    """The short word for a dtype under any of its names: `"bfloat16"` → `"bf16"`; a name not known comes back lower-case."""
    try:
        code = canonical(name)
    except UnsupportedError:
        return name.lower()
    return _WORDS.get(code, code.lower())
