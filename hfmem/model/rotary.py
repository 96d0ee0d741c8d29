"""What a config says of rotary embeddings, as far as the size of the tables that engines keep of them depends on it.

Keys as transformers 5.23 and published configs spell them: `rope_parameters` (by kind of layer, or one for all), `rope_scaling`,
and beside them `partial_rotary_factor` and its older name `rotary_pct`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hfmem.errors import ContradictionError
from hfmem.records import dataclass

#: any of these, and the model rotates
_SAYS: Final = ("rope_theta", "rope_parameters", "rope_scaling", "rotary_emb_base")
#: words that name the part of a nested config that the language model reads
_TEXT: Final = ("text_config", "llm_config", "language_config", "thinker_config")
#: text models that rotate by images' positions, too, whether their config says it or not: the class has the sections
_SECTIONS: Final = frozenset({"qwen3_vl_text", "qwen3_vl_moe_text"})
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


@dataclass(frozen=True, slots=True)
class Rotation:
    """How the layers of one kind rotate: the scaling's name (`default`: none) and factor, the positions before scaling where they
    are told, the part of a head that has columns in the table, and whether images and videos have positions of their own."""

    scaling: str = "default"
    factor: float | None = None
    original_positions: int | None = None
    part: float = 1.0
    sections: bool = False


@dataclass(frozen=True, slots=True)
class Rotations:
    """A model's: of layers that see everything, of windowed ones (`apart`: the config has them apart, so that they share no table),
    and of DeepSeek V4's layers with a compressor, whose width no cache tells."""

    full: Rotation
    windowed: Rotation
    apart: bool = False
    compressed: Rotation = Rotation()
    compressed_width: int | None = None


def read_rotations(data: Mapping[str, Any], file: str, model_type: str) -> Rotations | None:
    """The rotary embeddings of the language model in a parsed config, of `model_type` where it does not say of which; None where
    neither it nor its class names any.

    Raises:
        ContradictionError: a factor that no model has, infinities and NaN included.
    """
    text = _text(data)
    kind = str(text.get("model_type") or model_type)
    if not any(text.get(key) for key in _SAYS) and kind not in _ROTATES:
        return None
    named = text.get("rope_parameters") or text.get("rope_scaling") or {}
    named = named if isinstance(named, Mapping) else {}
    by_kind = {key: value for key, value in named.items() if isinstance(value, Mapping)}
    common = {} if by_kind else named
    apart = bool(by_kind) or "rope_local_base_freq" in text or kind in _TWO_TABLES
    width = text.get("qk_rope_head_dim")

    def rotation(parameters: Mapping[str, Any]) -> Rotation:
        return _rotation(parameters, text, kind, file)

    return Rotations(
        full=rotation(by_kind.get("full_attention", common)),
        windowed=rotation(by_kind.get("sliding_attention", {} if apart else common)),
        apart=apart,
        compressed=rotation(by_kind.get("compress", named)),
        compressed_width=width if isinstance(width, int) else None,
    )


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The innermost part that describes the language model."""
    for key in _TEXT:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            return _text(inner) if any(isinstance(inner.get(word), Mapping) for word in _TEXT) else inner
    return config


def _rotation(parameters: Mapping[str, Any], text: Mapping[str, Any], kind: str, file: str) -> Rotation:
    original = parameters.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
    return Rotation(
        scaling=str(parameters.get("rope_type") or parameters.get("type") or "default"),
        factor=_number("factor", (parameters,), file),
        original_positions=original if isinstance(original, int) else None,
        part=_part(parameters, text, kind, file),
        sections=bool(parameters.get("mrope_section")) or kind in _SECTIONS,
    )


def _part(parameters: Mapping[str, Any], text: Mapping[str, Any], kind: str, file: str) -> float:
    found = (_number(key, (parameters, text), file) for key in ("partial_rotary_factor", "rotary_pct"))
    part = next((number for number in found if number is not None), None)
    # Gemma 4's global layers rotate a part, with a table as wide as the head (vLLM 0.33.0, `gemma4_rope.py`)
    if part is not None and parameters.get("rope_type") == "proportional":
        return 1.0
    return _ROTATES.get(kind, 1.0) if part is None else part


def _number(key: str, places: tuple[Mapping[str, Any], ...], file: str) -> float | None:
    """The first number of that name. Those of real models lie between a part of a head and some hundreds."""
    value = next((place[key] for place in places if isinstance(place.get(key), int | float)), None)
    if value is not None and not 0 < value <= _MOST_SCALED:
        raise ContradictionError(f"{file}: rotary embeddings: {key!r} is {value}, beyond any real model")
    return value
