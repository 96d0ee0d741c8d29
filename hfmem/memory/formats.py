"""Formats of cached vectors: how many bytes one token's key, value or latent takes, its scales included."""

from __future__ import annotations

from typing import Final

from hfmem.dtypes import BLOCKS, canonical
from hfmem.errors import UnsupportedError, UsageError

#: canonical KV format → its bits per element, before scales
KV_BITS: Final[dict[str, int]] = {
    "bf16": 16,
    "fp16": 16,
    "fp32": 32,
    "fp8": 8,
    "fp8_e5m2": 8,
    "fp8_per_token_head": 8,
    "int8": 8,
    "int4": 4,
    "nvfp4": 4,
    "mxfp8": 8,
    "fp4_mx_block16": 4,
    "q8_0": 8,
    "q5_1": 5,
    "q5_0": 5,
    "q4_1": 4,
    "q4_0": 4,
    "iq4_nl": 4,
}

#: llama.cpp's block types for a cache → elements and bytes of a block
GGML_BLOCKS: Final = {name: BLOCKS[name.upper()] for name in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")}

_ALIASES: Final[dict[str, str]] = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "f16": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "f32": "fp32",
    "fp4_e2m1": "nvfp4",
    "fp8_e4m3": "fp8",
    "fp8_e4m3fn": "fp8",
    "float8": "fp8",
    "float8_e4m3fn": "fp8",
    "float8_e4m3": "fp8",
    "e4m3": "fp8",
    "float8_e5m2": "fp8_e5m2",
    "e5m2": "fp8_e5m2",
    "int8_per_token_head": "int8",
    "int4_per_token_head": "int4",
    "fp4": "nvfp4",
}

_FROM_MODEL: Final[dict[str, str]] = {
    "BF16": "bf16",
    "F16": "fp16",
    "F32": "fp32",
    "F64": "fp32",
    "F8_E4M3": "fp8",
    "F8_E5M2": "fp8_e5m2",
}

#: floating types of recurrent states → their names in safetensors
STATE_DTYPES: Final = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}

#: bytes of one fp32 scale
SCALE_BYTES: Final = 4


def canonical_kv_dtype(name: str) -> str:
    """`"auto"` or one of `KV_BITS`.

    Raises:
        UsageError: no KV format of that name.
    """
    word = name.strip().lower().removeprefix("torch.")
    if word == "auto":
        return word
    word = _ALIASES.get(word, word)
    if word not in KV_BITS:
        raise UsageError(f"KV dtype {name!r} is not known (auto, {', '.join(KV_BITS)})")
    return word


def canonical_state_dtype(name: str) -> str:
    """The name in safetensors of a floating type that engines keep recurrent states in.

    Raises:
        UsageError: they have none of that name.
    """
    word = canonical_kv_dtype(name)
    if word not in STATE_DTYPES:
        raise UsageError(f"state dtype {name!r} is not one of {', '.join(STATE_DTYPES)}")
    return STATE_DTYPES[word]


def kv_dtype_of_model(dtype: str) -> str:
    """The KV format of a model computing in the canonical `dtype`: the same floating type.

    Raises:
        UnsupportedError: no engine caches in that type.
    """
    code = canonical(dtype)
    try:
        return _FROM_MODEL[code]
    except KeyError:
        raise UnsupportedError(f"a cache in the model's dtype {dtype!r} is not known; give --kv-dtype") from None


def resolve_kv_dtype(model_dtype: str, kv_dtype: str, declared: str | None) -> str:
    """The format that `kv_dtype` means: `auto` is what the checkpoint declares for its cache, else the model's own dtype.

    Quantized weights alone never change the cache: an FP8 checkpoint without a declared cache format keeps the model's dtype.
    """
    if kv_dtype != "auto":
        return kv_dtype
    if declared is not None and declared != "auto":
        return declared
    return kv_dtype_of_model(model_dtype)


def vector_bytes(kv_dtype: str, size: int) -> int:
    """Bytes of one cached vector of `size` elements: one head's key or value of one token, or a latent row.

    - floating formats and `fp8`: elements only; fp8's scales are per tensor and live with the weights.
    - `int8`, `int4`, `fp8_per_token_head`: one fp32 scale beside each vector, as vLLM's `*_per_token_head` formats keep it
      (`TritonAttentionBackend.customize_spec`); int4 packs two elements in a byte.
    - `nvfp4`: two elements in a byte and one fp8 scale for 16 elements (`nvfp4_kv_cache_full_dim`); SGLang's `fp4_mx_block16` too.
    - `mxfp8`: SGLang's, a byte an element and one scale for 32 (`MHATokenToKVPoolMXFP8`).
    - llama.cpp's block types: whole blocks of 32.
    """
    if kv_dtype in GGML_BLOCKS:
        elements, block_bytes = GGML_BLOCKS[kv_dtype]
        return -(-size // elements) * block_bytes
    match kv_dtype:
        case "int8" | "fp8_per_token_head":
            return size + SCALE_BYTES
        case "int4":
            return size // 2 + SCALE_BYTES
        case "nvfp4" | "fp4_mx_block16":
            return size // 2 + size // 16
        case "mxfp8":
            return size + size // 32
        case _:
            return size * KV_BITS[kv_dtype] // 8
