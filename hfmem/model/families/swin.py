"""Swin transformers: stages of windowed blocks that halve the image between them. Swin 1 and 2, Donut's encoder, CLAP's.

Source: transformers 5.23.0 `models/{swin,swinv2,donut,clap}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory

_TASKS = {"Model": "model", "ForImageClassification": "classification"}


def _positions(block: Part, cfg: Config, width: int, heads: int, window: int, *, second: bool) -> None:
    """Relative positions in a window: a table a head (Swin), or a small network over offsets (Swin 2)."""
    at = block.at("attention.self.")
    pairs = (window * window, window * window)
    at.tensor("relative_position_index", pairs, buffer=True, optional=True)
    if second:
        at.tensor("logit_scale", (heads, 1, 1))
        at.linear("continuous_position_bias_mlp.0", 512, 2)
        at.linear("continuous_position_bias_mlp.2", heads, 512, bias=False)
        table = (1, 2 * window - 1, 2 * window - 1, 2)
        at.tensor("relative_coords_table", table, buffer=True, optional=True)
    else:
        at.tensor("relative_position_bias_table", ((2 * window - 1) ** 2, heads))


def stages(part: Part, cfg: Config, width: int, *, heads_key: str = "num_heads", second: bool = False) -> int:
    """The blocks of all stages below `layers.{stage}.blocks.{}.`, `width` channels in the first. Returns their number."""
    depths, heads = cfg.need_numbers("depths"), cfg.need_numbers(heads_key)
    window, ratio = cfg.positive("window_size"), cfg.positive_float("mlp_ratio")
    if len(depths) != len(heads):
        raise ContradictionError(f"{cfg.file}: {len(depths)} 'depths' and {len(heads)} {heads_key!r}")
    bias = cfg.flag("qkv_bias", default=True)
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        at = part.at(f"layers.{stage}.")
        block = at.at("blocks.{}.", range(depth))
        block.norms(("layernorm_before", "layernorm_after"), width)
        _positions(block, cfg, width, count, window, second=second)
        for name in ("query", "key", "value"):
            biased = bias and not (second and name == "key")
            block.linear(f"attention.self.{name}", width, width, split=COLUMN, bias=biased)
        block.linear("attention.output.dense", width, width, split=ROW)
        block.linear("intermediate.dense", int(ratio * width), width, split=COLUMN)
        block.linear("output.dense", width, int(ratio * width), split=ROW)
        if stage + 1 < len(depths):
            at.linear("downsample.reduction", 2 * width, 4 * width, bias=False)
            at.norm("downsample.norm", 2 * width if second else 4 * width)
            width *= 2
    return sum(depths)


def swin(cfg: Config) -> Architecture:
    """An image encoder alone, with a classifier if saved with one. Donut's has no norm after the last stage."""
    what = task(cfg, "model", _TASKS)
    base = "donut" if cfg.model_type == "donut-swin" else cfg.model_type
    inv = Inventory()
    part = tower(inv, "" if what == "model" else f"{base}.")
    first, levels = cfg.positive("embed_dim"), len(cfg.need_numbers("depths"))
    width = first << (levels - 1)
    height, breadth = vision.side(cfg, "patch_size")
    part.conv("embeddings.patch_embeddings.projection", first, cfg.positive("num_channels"), (height, breadth))
    part.norm("embeddings.norm", first)
    if cfg.flag("use_absolute_embeddings", default=False):
        part.tensor("embeddings.position_embeddings", (1, vision.patches(cfg) + (base != "swin"), first))
    count = stages(part.at("encoder."), cfg, first, second=cfg.model_type == "swinv2")
    if base != "donut":
        part.norm("layernorm", width)
    if what == "classification":
        Part(inv, component=Component.OTHER).linear("classifier", num_labels(cfg), width)
    heads = cfg.need_numbers("num_heads")[-1]
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise ContradictionError(f"{cfg.file}: 'num_heads' does not divide the width {width}")
    d = Dims(width, count, heads, heads, width // heads)
    return assemble(cfg, cfg, "vision", d, tower_layers(count), inv, vocab=0, tied=False)
