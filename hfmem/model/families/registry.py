"""Which rule reads which model_type: the tables of types together, and how a config finds its rule. Modules load when asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, Literal, Protocol, cast

from hfmem.errors import UnknownArchitectureError, UsageError
from hfmem.model.architecture import Architecture, Note, without_cache
from hfmem.model.blocks import HIDDEN, LAYERS
from hfmem.model.config import Config, class_keys, in_transformers
from hfmem.model.decoder_builder import bare
from hfmem.model.families.common_types import COMMON
from hfmem.model.families.draft_types import draft_head
from hfmem.model.families.file_types import BY_FILES
from hfmem.model.families.multimodal_types import MULTIMODAL
from hfmem.model.families.text_types import TEXT
from hfmem.model.rotary import read_rotations
from hfmem.model.vision_facts import vision_size, vision_tower
from hfmem.records import replace

#: classes that published configs call by another family's model_type (xai-org/grok-2: GIT's; speech models: their text model's),
#: and their own
_MISNAMED: Final = {
    "Grok1ForCausalLM": "grok-1",
    "Grok1ModelForCausalLM": "grok-1",
    "JinaBertModel": "jina_bert",
    "JinaBertForMaskedLM": "jina_bert",
    "JinaBertForSequenceClassification": "jina_bert",
    "FunASRForConditionalGeneration": "funasr",
    "FireRedASR2ForConditionalGeneration": "fireredasr2",
    "MiMoV2ASRForCausalLM": "mimo_v2_asr",
    "HunyuanImage3ForCausalMM": "hunyuan_image_3_moe",
}


#: classes that generate, and so keep a cache
_WRITES: Final = re.compile(r"ForCausalLM|LMHeadModel")


class Family(Protocol):
    """A family's rule: the whole config in, the architecture out."""

    def __call__(self, cfg: Config, /) -> Architecture: ...


#: model_type as config.json spells it → the rule, in `hfmem.model.families`
FAMILIES: Final[dict[str, str]] = {
    **BY_FILES,
    **MULTIMODAL,
    **TEXT,
    **COMMON,
}


def rule(model_type: str) -> Family:
    """The rule of a model type."""
    return _load(FAMILIES[model_type])


def _load(entry: str) -> Family:
    module, _, function = entry.partition(":")
    return cast(Family, getattr(import_module(f"hfmem.model.families.{module}"), function))


def read_architecture(data: Mapping[str, Any], file: str = "config.json", assume: str | None = None) -> Architecture:
    """Derive a model's architecture from its parsed config.json.

    Args:
        data: the config's JSON object.
        file: what messages call it.
        assume: read the config as this model_type whatever it says (`--assume`); the result says so.

    Raises:
        UsageError: `assume` is no type that has a rule. UnknownArchitectureError: no rule for this model_type.
        MissingKeyError, ContradictionError: the family's rule found a key absent or impossible.
    """
    published = data.get("model_type")
    model_type = published if isinstance(published, str) else ""
    classes = data.get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else None
    model_type = _MISNAMED.get(first, model_type) if isinstance(first, str) else model_type
    if not model_type:
        from hfmem.model.nearest import class_family  # a config that says nothing is rare

        model_type = class_family(data, FAMILIES) or ""
    if assume is not None and assume not in FAMILIES:
        import difflib

        near = difflib.get_close_matches(assume, FAMILIES, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"--assume {assume[:80]}: no such architecture{hint}")
    head = draft_head(data, file) if assume is None else None
    if head is not None:
        architecture = _load(head)(Config(data, file, model_type=model_type))
        return replace(with_common_facts(architecture, data, file), code="elsewhere")
    wanted = assume or model_type
    if wanted not in FAMILIES:
        raise UnknownArchitectureError(_refusal(data, file, wanted))
    if assume is None and wanted in BY_FILES and isinstance(first, str) and _WRITES.search(first):
        words = (
            f'{first[:80]} writes text, which no model of the type "{wanted}" does; its layers and cache are not known'
        )
        raise UnknownArchitectureError(f"{file}: {words}")
    place = None if assume is None else _part_meant(data, assume)
    meant = data if place is None else {**_outer_dtype(data), **data[place], "architectures": None}
    architecture = rule(wanted)(Config(meant, file, model_type=wanted))
    if isinstance(first, str) and first.endswith("TextModel"):  # a wrapper's text model, saved alone
        architecture = bare(architecture)
    notes = architecture.notes
    if assume is not None and assume != model_type:
        notes = (*notes, _assumption(meant, f"{file}: {place}" if place else file, model_type, assume))
    elif (own := _own_class(data, file, wanted)) is not None:
        notes = (*notes, own)
    if _looks_both_ways(data):
        architecture = without_cache(architecture)
    return replace(
        with_common_facts(architecture, data, file),
        assumed=assume if assume != model_type else None,
        notes=notes,
        code=_code(data, wanted),
    )


def with_common_facts(architecture: Architecture, data: Mapping[str, Any], file: str) -> Architecture:
    """An architecture by a family's rule, and what configs say in the same words whatever the family."""
    return replace(
        architecture,
        dtype_given=names_dtype(data),
        image_prefix=_image_prefix(data),
        vision_size=vision_size(data),
        vision_tower=vision_tower(data, file),
        rotations=read_rotations(data, file, architecture.model_type),
        residual_streams=_residual_streams(data),
    )


#: where a wrapper's config may hold its text model's
TEXT_PLACES: Final = ("text_config", "llm_config", "language_config", "language_model_config", "llm_cfg", "lm_config")


def _part_meant(data: Mapping[str, Any], assume: str) -> str | None:
    """The part of a wrapper's config that an assumed type can speak of: its text model's, where that alone holds the sizes.

    Read at the top level, a type whose class has a default for every size would be another model.
    """
    place = None if sized(data) else next((name for name in TEXT_PLACES if sized(data.get(name))), None)
    return None if place is None or place in class_keys(assume) else place


def sized(part: Any) -> bool:
    """Whether a part of a config says how wide or deep a model is."""
    return isinstance(part, Mapping) and any(part.get(name) is not None for name in (*HIDDEN, *LAYERS))


def _outer_dtype(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: data[key] for key in ("dtype", "torch_dtype") if key in data}


def _looks_both_ways(data: Mapping[str, Any]) -> bool:
    """Whether a decoder's layers are used as an encoder's: by `is_causal`, which engines read, or by the name of type or class."""
    parts = [data, *(part for name in TEXT_PLACES if isinstance(part := data.get(name), Mapping))]
    if any(part.get("is_causal") is False for part in parts):
        return True
    words = [data.get("architectures"), *(part.get("model_type") for part in parts)]
    return any("bidirec" in str(word).lower() for word in words)


def _image_prefix(data: Mapping[str, Any]) -> bool:
    """Whether the config says that the tokens of an image see each other (Gemma 4's larger models)."""
    text = data.get("text_config")
    key = "use_bidirectional_attention"
    return data.get(key) == "vision" or (isinstance(text, Mapping) and text.get(key) == "vision")


def _residual_streams(data: Mapping[str, Any]) -> int | None:
    """How many streams a token's residual has, as configs of DeepSeek V4 and of Qwen4 say it."""
    text = data.get("text_config")
    told = text if isinstance(text, Mapping) else data
    return next((told[key] for key in ("hc_mult", "hc_count") if type(told.get(key)) is int), None)


def _code(data: Mapping[str, Any], model_type: str) -> Literal["transformers", "remote", "elsewhere"]:
    if in_transformers(model_type):
        return "transformers"
    from hfmem.model.nearest import class_family  # types of a repository's own are few

    by_class = class_family(data, FAMILIES)  # Kimi K2 has a type of its own and DeepSeek-V3's class
    if by_class is not None and in_transformers(by_class):
        return "transformers"
    return "remote" if isinstance(data.get("auto_map"), Mapping) else "elsewhere"


def _own_class(data: Mapping[str, Any], file: str, model_type: str) -> Note | None:
    """A word where the repository's code brings a language model of another class than this type's (a hybrid called `llama`)."""
    classes, code = data.get("architectures"), data.get("auto_map")
    first = classes[0] if isinstance(classes, list) and classes else None
    if not isinstance(first, str) or "ForCausalLM" not in first or not isinstance(code, Mapping):
        return None
    if not in_transformers(model_type) or not any(str(key).startswith("AutoModel") for key in code):
        return None
    from hfmem.model.nearest import class_family  # few configs come this far

    if first.endswith("ForCausalLM") and class_family(data, FAMILIES) is not None:
        return None
    words = f"{file}: {first[:80]} is a class of the repository's own; read as {model_type}, which it need not be"
    return Note("class_of_its_own", words)


def _refusal(data: Mapping[str, Any], file: str, model_type: str) -> str:
    """`config.json: model_type "foo9" is not known; nearest: llama (differs in: attn_mix). --assume llama to go on`."""
    from hfmem.model.nearest import nearest_family  # for refusals only

    near = nearest_family(data, model_type, [name for name in FAMILIES if name not in BY_FILES])
    hint = ""
    if near is not None:
        differs = f" (differs in: {near.differences})" if near.differences else " (same keys)"
        hint = f"; nearest: {near.model_type}{differs}. --assume {near.model_type} to go on"
    if near is not None and (place := _part_meant(data, near.model_type)) is not None:
        kind = data[place].get("model_type")
        kind = kind if isinstance(kind, str) and kind in FAMILIES else near.model_type
        hint = f"; its {place!r} looks like {kind}. --assume {kind} to go on with that part alone"
    if not model_type:
        return f"{file}: neither 'model_type' nor 'architectures' says what this model is{hint}"
    return f'{file}: model_type "{model_type[:80]}" is not known{hint}'


def _assumption(data: Mapping[str, Any], file: str, model_type: str, assumed: str) -> Note:
    from hfmem.model.nearest import family_keys, relevant_keys

    known = family_keys(assumed)
    unknown = sorted(relevant_keys(data) - known) if known else []
    ignored = f"; keys without a meaning there: {', '.join(unknown[:8])}" if unknown else ""
    what = f'model_type "{model_type[:80]}"' if model_type else "a config without model_type"
    return Note("assumed_architecture", f"{file}: {what} is read as {assumed}, as told (--assume){ignored}")


def names_dtype(data: Mapping[str, Any]) -> bool:
    """Whether the config, or the part of it that describes the text model, names the dtype it was saved in."""
    if any(isinstance(data.get(key), str) and data[key] != "auto" for key in ("dtype", "torch_dtype")):
        return True
    texts = (
        data.get(key)
        for key in ("text_config", "llm_config", "language_config", "thinker_config", "llm_cfg", "decoder")
    )
    return any(names_dtype(part) for part in texts if isinstance(part, Mapping))
