"""Tables of cosines and sines that vLLM and SGLang keep beside the weights, each shared by the layers that rotate alike.

Read from vLLM 0.33.0, `model_executor/layers/rotary_embedding/`: one row a position, as wide as the rotated part of a head, in the
model's dtype; and from SGLang, `srt/layers/rotary_embedding/base.py`: in fp32. vLLM counts them as loaded weights: Llama 3.1 8B
logs 14.9889 GiB of which 1/32 GiB are the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from hfmem.dtypes import BITS
from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    ChunkedAttention,
    CompressedAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)

#: positions of images and videos outrun those of the text (`mrope.py`)
_MROPE_POSITIONS: Final = 4
#: text models that rotate so whether their config says it or not: the class has the sections
_MROPE: Final = frozenset({"qwen3_vl_text", "qwen3_vl_moe_text"})
#: scalings whose table holds `factor` times the positions before scaling
_STRETCHED: Final = frozenset({"yarn", "linear", "dynamic", "deepseek_yarn"})
_MOST_SCALED: Final = 1 << 20
#: types whose classes rotate though a config says nothing of it, and the part of a head that they rotate then (transformers 5.23.0,
#: `models/*/configuration_*.py`; ChatGLM's from vLLM's `models/chatglm.py`)
_ROTATES: Final[Mapping[str, float]] = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "starcoder2"), 1.0),
    **dict.fromkeys(
        ("gemma", "gemma2", "gemma3_text", "gemma3n_text", "cohere", "cohere2", "olmo", "olmo2", "olmoe"), 1.0
    ),
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "dbrx", "phi3", "phimoe", "granite", "granitemoe"), 1.0
    ),
    **dict.fromkeys(("chatglm", "glm4_moe", "phi", "persimmon"), 0.5),
    **dict.fromkeys(("gpt_neox", "stablelm"), 0.25),
}
#: … whose windowed layers rotate otherwise than full ones, said or not
_TWO_TABLES: Final = frozenset({"gemma3_text", "gemma3n_text"})
#: words that name the part of a nested config that the language model reads
_TEXT: Final = ("text_config", "llm_config", "language_config", "thinker_config")


def rotary_table_bytes(config: Mapping[str, Any], arch: Architecture, engine: str = "vllm") -> int:
    """Bytes of all tables; 0 where neither the config nor its class names a rotary embedding.

    SGLang keeps them in fp32, and adds no rows for images.
    """
    text = _text(config)
    named = any(text.get(key) for key in ("rope_theta", "rope_parameters", "rope_scaling", "rotary_emb_base"))
    if not named and _type(arch, text) not in _ROTATES:
        return 0
    positions = arch.max_position_embeddings or 0
    if compressed := _compressed(arch, text, positions):
        return compressed
    sglang = engine == "sglang"
    width = 4 if sglang else 2 if arch.dtype in ("F32", "F64") else BITS[arch.dtype] // 8
    return sum(
        _rows(parameters, text, positions, stretched=not sglang)
        * int(head * _partial(parameters, text, _type(arch, text)))
        * width
        for head, parameters in _kinds(arch, text)
    )


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The innermost part that describes the language model."""
    for key in _TEXT:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            return _text(inner) if any(isinstance(inner.get(word), Mapping) for word in _TEXT) else inner
    return config


def _type(arch: Architecture, text: Mapping[str, Any]) -> str:
    return str(text.get("model_type") or arch.model_type)


def _kinds(arch: Architecture, text: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(rotated width of a head, scaling) of each table: one for full layers, and one for windowed ones that rotate otherwise."""
    full = windowed = None
    for cache in arch.kinds():
        match cache:
            case SlidingAttention() | ChunkedAttention():
                windowed = windowed or cache.head_dim
            case FullAttention() | IndexedAttention():
                full = full or cache.head_dim
            case LatentAttention() | SparseLatentAttention():
                full = full or cache.qk_rope_head_dim
            case CompressedAttention():
                return  # `_compressed`
            case _:
                pass
    named = text.get("rope_parameters") or text.get("rope_scaling") or {}
    named = named if isinstance(named, Mapping) else {}
    by_kind = {key: value for key, value in named.items() if isinstance(value, Mapping)}
    common: Mapping[str, Any] = {} if by_kind else named
    apart = bool(by_kind) or "rope_local_base_freq" in text or _type(arch, text) in _TWO_TABLES
    if full:
        yield full, by_kind.get("full_attention", common)
    if windowed and (apart or windowed != full):
        yield windowed, by_kind.get("sliding_attention", {} if apart else common)


def _compressed(arch: Architecture, text: Mapping[str, Any], positions: int) -> int:
    """DeepSeek V4's tables, in fp32: of layers with a compressor, stretched, and of those with a window alone, as they are
    (`models/deepseek_v4/common/rope.py`, `DeepseekV4ScalingRotaryEmbedding`)."""
    ratios = {cache.ratio for cache in arch.kinds() if isinstance(cache, CompressedAttention)}
    width = text.get("qk_rope_head_dim")
    if not ratios or not isinstance(width, int):
        return 0
    named = text.get("rope_parameters") or text.get("rope_scaling") or {}
    stretched = named.get("compress", named) if isinstance(named, Mapping) else {}
    kind = stretched.get("rope_type") or stretched.get("type") or "default"
    rows = positions if kind == "default" else _rows({**stretched, "rope_type": "deepseek_yarn"}, text, positions)
    return 4 * width * (rows * any(ratio > 1 for ratio in ratios) + positions * any(ratio <= 1 for ratio in ratios))


def _partial(parameters: Mapping[str, Any], text: Mapping[str, Any], kind: str) -> float:
    for key in ("partial_rotary_factor", "rotary_pct"):
        for part in (parameters, text):
            value = part.get(key)
            if isinstance(value, int | float):
                _check(key, value)
                # Gemma 4's global layers rotate a part, with a table as wide as the head (`gemma4_rope.py`)
                return 1.0 if parameters.get("rope_type") == "proportional" else float(value)
    return _ROTATES.get(kind, 1.0)


def _check(key: str, value: float) -> None:
    """Scalings of real models lie between a part of a head and some hundreds.

    Raises:
        ContradictionError: a number that none has, infinities and NaN included.
    """
    if not 0 < value <= _MOST_SCALED:
        raise ContradictionError(f"config.json: rotary embeddings: {key!r} is {value}, beyond any real model")


def _rows(parameters: Mapping[str, Any], text: Mapping[str, Any], positions: int, *, stretched: bool = True) -> int:
    """Positions that one table holds."""
    kind = str(parameters.get("rope_type") or parameters.get("type") or "default")
    original = parameters.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
    if kind in ("longrope", "su"):  # short factors' and long factors' tables
        return positions + (original if isinstance(original, int) else positions)
    factor = parameters.get("factor")
    if kind in _STRETCHED and isinstance(factor, int | float):
        base = original if isinstance(original, int) else positions
        _check("factor", factor)
        return int(base * factor)
    if stretched and (parameters.get("mrope_section") or str(text.get("model_type")) in _MROPE):
        return positions * _MROPE_POSITIONS
    return positions
