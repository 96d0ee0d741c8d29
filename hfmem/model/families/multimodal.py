"""How a model with towers is put together: the text model by its own family's rule under other names, towers and projectors beside.

A wrapper's rule is four lines: `text_part` (which nested config, whose rule), towers into an `Inventory`, `wrap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hfmem.errors import UnknownArchitectureError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import read_dtype
from hfmem.model.config import Config
from hfmem.model.families import registry
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row, TensorSpec
from hfmem.model.layers import Layer, NoCache
from hfmem.records import replace

#: pairs (old prefix, new prefix); the first whose old prefix fits a tensor's name applies
Renames = Sequence[tuple[str, str]]

#: text model under `model.language_model`, head beside it: what transformers ≥ 4.52 saves
NESTED: Renames = (("model.", "model.language_model."),)
#: the whole text model, head too, under `language_model.`
WHOLE: Renames = (("", "language_model."),)
#: the text model keeps its own names (Qwen2-VL and kin)
PLAIN: Renames = ()


#: classes that tie as soon as one of the two flags says so (`__post_init__` of their configs hands the inner one on)
_EITHER_TIES = frozenset(
    {
        "fast_vlm",
        "glm4v",
        "glm4v_moe",
        "glm_ocr",
        "hunyuan_vl",
        "llava",
        "llava_next_video",
        "llava_onevision",
        "minimax_m3_vl",
        "paddleocr_vl",
        "qwen2_5_vl",
        "qwen2_vl",
        "shieldgemma2",
        "video_llama_3",
    }
)


def text_config(cfg: Config, *names: str, model_type: str | None = None, inner_tie: bool = False) -> Config:
    """The part of the config that describes the text model.

    Args:
        cfg: the whole config.
        names: where it may be nested (default `text_config`).
        model_type: whose rule and class defaults apply where the part names no type, or when it is not nested: early configs of
            a family keep the text model's keys at the top level.
        inner_tie: where no flag is published the text model's own class decides, whatever the outer class assumes.

    The outer `tie_word_embeddings` decides where config.json gives it, else the inner one if that is given: releases before
    transformers 5 looked there, so that is what a file with only the inner flag was saved by. Else the outer class's default, for
    LLaVA (`inner_tie`) and types that transformers does not know the inner one's.
    """
    names = names or ("text_config",)
    nested = cfg.opt_sub(*names, model_type=model_type)
    if nested is None and cfg.published("num_hidden_layers", "n_layer") is not None:
        nested = Config(cfg.data, cfg.file, model_type or cfg.assumed_type(names[0]), cfg.used_defaults)
    if nested is None:
        nested = cfg.sub(*names, model_type=model_type)
    tied = cfg.published("tie_word_embeddings")
    if tied is False and cfg.model_type in _EITHER_TIES:
        tied = nested.lookup("tie_word_embeddings")
    if tied is None:
        tied = nested.published("tie_word_embeddings")
    if tied is None:
        tied = None if inner_tie else cfg.lookup("tie_word_embeddings")
    data = nested.data if tied is None else {**nested.data, "tie_word_embeddings": tied}
    return Config(data, nested.file, nested.model_type, cfg.used_defaults)


def text_architecture(text: Config, model_type: str | None = None) -> Architecture:
    """The text model by the rule registered for its type (or `model_type`). Raises UnknownArchitectureError naming the type."""
    wanted = model_type or text.model_type
    if wanted not in registry.FAMILIES:
        from hfmem.model.nearest import class_family, nearest_family

        by_class = class_family(
            text.data, registry.FAMILIES
        )  # a type of the repository's own for a class that is known
        if by_class is not None:
            return text_architecture(Config(text.data, text.file, by_class, text.used_defaults), by_class)

        near = nearest_family(text.data, wanted, registry.FAMILIES)
        hint = f"; nearest: {near.model_type}" if near is not None else ""
        raise UnknownArchitectureError(f'{text.file}: model_type "{wanted[:80]}" is not known{hint}')
    # the outer class says what was saved; a text part's own `architectures` (or a flat config's) would speak of another checkpoint
    data = {key: value for key, value in text.data.items() if key != "architectures"}
    defaults = text.model_type or wanted
    return registry.rule(wanted)(Config(data, text.file, defaults, text.used_defaults))


def text_part(
    cfg: Config, *names: str, model_type: str | None = None, filled: bool = False
) -> tuple[Config, Architecture]:
    """`text_config` and its architecture in one step; `filled`: the outer class puts values of its own behind the part's keys."""
    text = text_config(cfg, *names, model_type=model_type)
    if filled:
        values = cfg.sub(*(names or ("text_config",)), filled=True).data
        text = Config({**values, **text.data}, text.file, text.model_type, cfg.used_defaults)
    return text, text_architecture(text)


def _renamed(name: str, renames: Renames) -> str:
    for old, new in renames:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def rename(tensors: Iterable[TensorSpec], renames: Renames) -> tuple[TensorSpec, ...]:
    """The same tensors under other names; ties follow."""
    return tuple(
        replace(
            spec,
            pattern=_renamed(spec.pattern, renames),
            tied_to=None if spec.tied_to is None else _renamed(spec.tied_to, renames),
        )
        for spec in tensors
    )


def respelled(inner: Architecture, words: Mapping[str, str]) -> Architecture:
    """The same model with parts of its tensors' names replaced: for files that call the text model's modules otherwise."""

    def spell(name: str) -> str:
        for own, theirs in words.items():
            name = name.replace(own, theirs)
        return name

    specs = (replace(s, pattern=spell(s.pattern), tied_to=s.tied_to and spell(s.tied_to)) for s in inner.tensors)
    return replace(inner, tensors=tuple(specs))


def tower(inv: Inventory, prefix: str = "") -> Part:
    """Where a tower or projector puts its tensors: all of it counts as `Component.VISION`."""
    return Part(inv, prefix, Component.VISION)


def keep_whole(inv: Inventory, *places: str) -> None:
    """Undo the split of tensors whose names hold one of `places`: modules that vLLM builds as plain linear layers or runs as
    transformers' own have all their weights on every rank."""
    inv.specs[:] = [replace(s, split=Replicated()) if any(p in s.pattern for p in places) else s for s in inv.specs]


def cut_by_heads(specs: Iterable[TensorSpec], heads: int) -> list[TensorSpec]:
    """Modules that every rank holds whole where the ranks do not divide `heads` (vLLM's `is_vit_use_data_parallel`)."""
    return [
        replace(s, split=replace(s.split, divides=heads)) if isinstance(s.split, Column | Row) else s for s in specs
    ]


def tower_layers(count: int, stack: str = "vision") -> tuple[Layer, ...]:
    """The layers of a vision or audio tower: nothing is kept between tokens."""
    return (Layer((NoCache(stack),), stack=stack),) * count


def _vision_heads(cfg: Config) -> int | None:
    seen = cfg.opt_sub("vision_config")
    if seen is None:
        return None
    own = Config(seen.data, seen.file, seen.model_type)  # not one of the facts that decide a size
    heads = own.lookup("num_attention_heads", "num_heads", "vt_num_attention_heads")
    return heads if type(heads) is int else None  # towers in stages list one for each


def wrap(
    cfg: Config,
    text: Config,
    inner: Architecture,
    family: str,
    renames: Renames,
    inv: Inventory,
    layers: Iterable[Layer] = (),
    notes: Iterable[Note] = (),
) -> Architecture:
    """The whole model: `inner` (the text model) under `renames`, with `inv`'s tensors and the towers' `layers` after its own.

    The decoder's layers come first so that a layer's place is also its index in tensor names and in `SharedCache.source_layer`.
    """
    published = cfg.published("architectures")
    architectures = tuple(a for a in published if isinstance(a, str)) if isinstance(published, list) else ()
    return replace(
        inner,
        family=family,
        model_type=cfg.model_type,
        text_type=inner.text_type or inner.model_type,
        vision_heads=_vision_heads(cfg),
        architectures=architectures,
        dtype=read_dtype(cfg, text),
        layers=(*inner.layers, *layers),
        tensors=(*rename(inner.tensors, renames), *inv.specs),
        class_defaults=tuple(cfg.used_defaults),
        notes=(*inner.notes, *notes),
    )
