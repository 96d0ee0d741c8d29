"""Retrievers of page images: ColPali, ColQwen 2 and 3, ColModernVBERT, and ModernVBERT itself; a projection behind a model.

Source: transformers 5.23.0 `models/{colpali,colqwen2,colmodernvbert,modernvbert}/modeling_*.py`, vLLM 0.33.0 `models/colqwen3*.py`;
names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import read_dtype
from hfmem.model.config import Config
from hfmem.model.families import registry, vision
from hfmem.model.families.heads import task
from hfmem.model.families.multimodal import PLAIN, Renames, rename, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory
from hfmem.records import replace

#: Qwen2-VL's text model has no place of its own in its files, in a retriever's it has
_UNDER_VLM = (
    ("model.visual.", "vlm.visual."),
    ("model.language_model.", "vlm.language_model."),
    ("model.", "vlm.language_model."),
    ("", "vlm."),
)


def retriever(cfg: Config) -> Architecture:
    """Each token's last state through one linear layer. There is no output projection."""
    whole = cfg.sub("vlm_config")
    inner = registry.rule(whole.model_type)(Config({**whole.data, "architectures": None}, whole.file, whole.model_type))
    inv = Inventory()
    out = Part(inv, component=Component.OTHER)
    out.linear("embedding_proj_layer", cfg.positive("embedding_dim"), inner.hidden_size)
    kept = (spec for spec in inner.tensors if spec.component is not Component.LM_HEAD)
    published = cfg.published("architectures")
    return replace(
        inner,
        family="retriever",
        model_type=cfg.model_type,
        architectures=tuple(a for a in published if isinstance(a, str)) if isinstance(published, list) else (),
        tensors=(*rename(kept, _UNDER_VLM), *inv.specs),
        class_defaults=tuple(cfg.used_defaults),
    )


#: where each publisher puts Qwen3-VL's modules (`model.visual`, `model.language_model`)
_COLQWEN3: dict[str, Renames] = {
    "colqwen3": (("model.", "vlm.model."),),
    "ops_colqwen3": (("model.", ""),),
    "qwen3_vl_nemotron_embed": PLAIN,
    "colqwen3_5": (("model.", ""),),
}
_WIDTHS = ("embed_dim", "dims", "dim", "projection_dim", "colbert_dim")


def colqwen3(cfg: Config) -> Architecture:
    """ColQwen3 and ColQwen3.5 of several publishers: a projection of `embed_dim` (or `dims` …) where one is named, no head."""
    newer = cfg.model_type == "colqwen3_5"
    kind = "qwen3_5" if newer else "qwen3_vl"
    whole = cfg.opt_sub("vlm_config", model_type=kind) or cfg
    inner = registry.rule(kind)(Config({**whole.data, "architectures": None}, whole.file, kind, cfg.used_defaults))
    width = cfg.opt_int(*_WIDTHS) or (128 if newer else None)
    inv = Inventory()
    if width:
        out = Part(inv, component=Component.OTHER)
        out.linear("custom_text_proj", width, inner.hidden_size, bias=newer)
    kept = [s for s in inner.tensors if s.component not in (Component.LM_HEAD, Component.MTP)]
    published = cfg.published("architectures")
    return replace(
        inner,
        family="retriever",
        model_type=cfg.model_type,
        architectures=tuple(a for a in published if isinstance(a, str)) if isinstance(published, list) else (),
        dtype=read_dtype(cfg, whole),
        tensors=(*rename(kept, _COLQWEN3[cfg.model_type]), *inv.specs),
        class_defaults=tuple(cfg.used_defaults),
    )


def modernvbert(cfg: Config) -> Architecture:
    """SigLIP, pixel shuffle by `pixel_shuffle_factor`, one linear layer, ModernBERT: nothing is kept between tokens."""
    what = task(cfg, "model", {"Model": "model", "ForMaskedLM": "mlm"})
    text, inner = text_part(cfg)
    inv = Inventory()
    root = "" if what == "model" else "model."
    seen = cfg.sub("vision_config")
    count = vision.siglip(tower(inv, f"{root}vision_model."), seen)
    features = seen.positive("hidden_size") * cfg.positive("pixel_shuffle_factor") ** 2
    tower(inv).linear(f"{root}connector.modality_projection", inner.hidden_size, features, bias=False)
    if what == "mlm":
        top, hidden = Part(inv, component=Component.LM_HEAD), inner.hidden_size
        top.linear("projection_head.dense", hidden, hidden, bias=False)
        top.norm("projection_head.norm", hidden, bias=False)
        top.linear("lm_head", inner.vocab_size, hidden)
    return wrap(cfg, text, inner, "modernvbert", (("", f"{root}text_model."),), inv, tower_layers(count))
