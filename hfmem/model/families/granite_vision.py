"""Granite 4 Vision (window Q-Formers that feed several layers of the text model) and Granite Docling (pixel shuffle on two scales).

Source: transformers 5.23.0 `models/{granite4_vision,granite_docling}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.llava import image_tower
from hfmem.model.families.multimodal import NESTED, keep_whole, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import Part
from hfmem.model.families.qformer import qformer
from hfmem.model.inventory import Inventory

#: the offsets from which the spatial projectors read the image
_SPATIAL = 4
#: layers whose features go to the text model where `deepstack_visual_indexes` names none
_DOCLING_DEEPSTACK = (3, 7, 10)


def _window_qformer(part: Part, cfg: Config, width: int, hidden: int) -> None:
    """A Q-Former over windows of the image; `downsample_rate` "q/w" gives both window sides."""
    rate = cfg.opt_str("downsample_rate") or ""
    sides = [int(n) for n in rate.split("/") if n.isdigit()]
    if len(sides) != 2 or not all(sides):
        raise ContradictionError(f"{cfg.file}: 'downsample_rate' is {rate[:40]!r}, expected a fraction such as '4/8'")
    part.norm("norm", width)
    part.tensor("query", (1, sides[0] ** 2, width))
    part.tensor("image_positions", (1, sides[1] ** 2, width))
    part.linear("out_linear", hidden, width)
    inside = part.at("qformer.")
    inside.norm("layernorm", width)
    words = cfg.sub("qformer_config")
    text = words.flag("use_qformer_text_input", default=False)
    qformer(inside, words, width, text=text, hidden=width)


def granite4_vision(cfg: Config) -> Architecture:
    """One projector for each pair of `deepstack_layer_map`, and four that read the image at four offsets."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    width, hidden = seen.positive("hidden_size"), inner.hidden_size
    count = image_tower(tower(inv, "model.vision_tower."), seen)
    tower(inv).tensor("model.image_newline", (hidden,))
    layers = cfg.need_list("deepstack_layer_map")
    for name, copies in (("layerwise_projectors", len(layers)), ("spatial_projectors", _SPATIAL)):
        _window_qformer(tower(inv).at(f"model.{name}.{{}}.", range(copies)), cfg, width, hidden)
    keep_whole(inv, ".qformer.")
    return wrap(cfg, text, inner, "granite4_vision", NESTED, inv, tower_layers(count))


def _route(part: Part, width: int, out: int, scale: int, mergers: int) -> None:
    """Patches side by side, `scale` in each direction, into the text model's width; a merger for each layer fed from below."""
    merged = width * scale**2
    part.linear("projection", out, merged, bias=False)
    merger = part.at("deepstack_mergers.{}.", range(mergers))
    merger.norm("layer_norm", merged)
    merger.linear("linear_1", out, merged)
    merger.linear("linear_2", out, out)


def granite_docling(cfg: Config) -> Architecture:
    """Granite Docling: SigLIP, a coarse and maybe a fine route, maybe a router that chooses between them."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    width, out, scale = seen.positive("hidden_size"), seen.positive("out_hidden_size"), seen.positive("scale_factor")
    count = vision.siglip(tower(inv, "model.vision_model."), seen, head=False)
    mergers = len(seen.opt_list("deepstack_visual_indexes") or _DOCLING_DEEPSTACK)
    part = tower(inv, "model.vision_model.connector.")
    part.norm("ln_in", width)
    _route(part.at("coarse."), width, out, scale, mergers)
    if seen.flag("use_fine_route"):
        _route(part.at("fine."), width, out, scale // 2, mergers)
    part.norm("ln_mid", out)
    part.linear("mlp_fc2", out, out, bias=False)
    part.norm("ln_out", out)
    if routed := cfg.opt_int("density_router_hidden_size"):
        router = tower(inv, "model.density_router.")
        router.linear("att", 1, width)
        router.norm("norm", width)
        router.linear("fc1", routed, width)
        router.linear("fc2", 1, routed)
    return wrap(cfg, text, inner, "granite_docling", (("model.", "model.text_model."),), inv, tower_layers(count))
