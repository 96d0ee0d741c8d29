"""What a config of a type that no rule covers may be read as; whoever asks must let the files' headers confirm it (`api.reading`).

Two kinds are looked for: a wrapper that holds a known text model under a key, and a model whose own keys are those of a known type.
A key without a meaning for that type that may speak of layers or their cache rules it out: files can confirm what is stored, not
what is kept between tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from hfmem.errors import UnsupportedError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families import registry
from hfmem.model.families.file_types import BY_FILES
from hfmem.model.families.wrapped import wrapped
from hfmem.model.nearest import class_family, family_keys, nearest_family, relevant_keys
from hfmem.records import replace

#: types that others are copies of, in the order in which they are tried
_USUAL: Final = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "phi",
    "phi3",
    "gemma",
    "gemma2",
    "qwen2_moe",
    "qwen3_moe",
    "mixtral",
)
#: words of keys that may change what a layer keeps
_KEPT: Final = re.compile(
    r"window|swa|attn|attention|cache|kv|key|value|sparse|chunk|recurr|state|conv|mamba|ssm|loop|layer|pattern|block|share|mixer"
    r"|latent|lora|index|head|compress|memory|stride|cross"
)
#: keys of towers and projectors, and of training
_ELSEWHERE: Final = re.compile(
    r"^(mm|vision|visual|image|video|audio|speech|tune|freeze|unfreeze|projector)_|_tower$|token_index$"
)


def candidates(data: Mapping[str, Any], file: str) -> Iterator[Architecture]:
    """The architectures that the config may mean, the likeliest first. `assumed` is the known type that each was read as."""
    model_type = data.get("model_type")
    if not isinstance(model_type, str) or model_type in registry.FAMILIES:
        return
    code: Literal["remote", "elsewhere"] = "remote" if isinstance(data.get("auto_map"), Mapping) else "elsewhere"
    for kind, arch in _readings(data, model_type, file):
        arch = registry.with_common_facts(arch, data, file)
        yield replace(arch, model_type=model_type, assumed=kind, code=code)


def _readings(data: Mapping[str, Any], model_type: str, file: str) -> Iterator[tuple[str, Architecture]]:
    for place in registry.TEXT_PLACES:
        part = data.get(place)
        if not isinstance(part, Mapping):
            continue
        said = part.get("model_type") or class_family(part, registry.FAMILIES)
        named = isinstance(said, str) and said in registry.FAMILIES
        if said in BY_FILES:
            return
        for kind in [str(said)] if named else _like(part):
            for tied in _ties({**part, **data}):
                outer = {**data, **tied, place: {**part, "model_type": kind}}
                yield from _read(kind, Config(outer, file), None)
        return
    for kind in _like(data):
        for tied in _ties(data):
            for _, arch in _read(kind, Config({**data, **tied, "model_type": model_type}, file, kind), kind):
                words = f"is not known; its keys and its files' tensors are those of {kind}, as which it is read"
                note = Note("assumed_architecture", f"{file}: model_type {model_type[:80]!r} {words}")
                rest = (n for n in arch.notes if n.code != "parts_by_files")
                yield kind, replace(arch, notes=(note, *rest), text_type="")


def _read(kind: str, cfg: Config, flat: str | None) -> Iterator[tuple[str, Architecture]]:
    try:
        yield kind, wrapped(cfg, flat)
    except UnsupportedError:  # a key that this type needs is missing or means something else
        return


def _ties(data: Mapping[str, Any]) -> tuple[dict[str, bool], ...]:
    """What may stand for an absent flag: the type's own default, or what configs of before transformers 5 left out as usual."""
    return ({},) if data.get("tie_word_embeddings") is not None else ({}, {"tie_word_embeddings": True})


def _like(data: Mapping[str, Any]) -> list[str]:
    """Known types that give every telling key of the config a meaning."""
    if not registry.sized(data):
        return []
    said = data.get("model_type")
    known = [name for name in registry.FAMILIES if name not in BY_FILES]
    near = nearest_family(data, said if isinstance(said, str) else "", known)
    if near is None:
        return []
    keys = {key for key in relevant_keys(data) if data.get(key) not in (None, False)}
    telling = {key for key in keys if _KEPT.search(key) and not _ELSEWHERE.search(key)}
    names = dict.fromkeys((class_family(data, known), near.model_type, *_USUAL))
    return [name for name in names if name and telling <= family_keys(name)]
