"""dots.ocr: a vision transformer with RMS norms and a gated feed-forward, a patch merger, Qwen2 under its own names.

Source: vLLM 0.33.0 `dots_ocr.py` and `transformers_utils/configs/dotsocr.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import PLAIN, text_architecture, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory

#: what the class assumes for keys of `vision_config`
_ASSUMED = {
    "embed_dim": 1536,
    "hidden_size": 1536,
    "intermediate_size": 4224,
    "num_hidden_layers": 42,
    "num_attention_heads": 12,
    "num_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "use_bias": False,
    "post_norm": True,
}


def _tower(part: Part, cfg: Config) -> int:
    width, count = cfg.positive("embed_dim"), cfg.positive("num_hidden_layers")
    bias, inner = cfg.flag("use_bias"), cfg.positive("intermediate_size")
    part.conv("patch_embed.patchifier.proj", width, cfg.positive("num_channels"), vision.side(cfg, "patch_size"))
    part.norm("patch_embed.patchifier.norm", width, bias=False)
    block = part.at("blocks.{}.", range(count))
    vision.fused_projection(block.at("attn."), "qkv", width, bias=bias)
    block.linear("attn.proj", width, width, split=ROW, bias=bias)
    for name in ("fc1", "fc3"):
        block.linear(f"mlp.{name}", inner, width, split=COLUMN, bias=bias)
    block.linear("mlp.fc2", width, inner, split=ROW, bias=bias)
    block.norms(("norm1", "norm2"), width, bias=False)
    if cfg.flag("post_norm"):
        part.norm("post_trunk_norm", width, bias=False)
    merged = width * cfg.positive("spatial_merge_size") ** 2
    part.norm("merger.ln_q", width)
    part.linear("merger.mlp.0", merged, merged, split=COLUMN)
    part.linear("merger.mlp.2", cfg.positive("hidden_size"), merged, split=ROW)
    return count


def dots_ocr(cfg: Config) -> Architecture:
    """Qwen2's keys at the top level, the tower under `vision_tower`."""
    text = Config(cfg.data, cfg.file, "qwen2", cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="dots_vit")
    seen = Config({**_ASSUMED, **found.data}, found.file, "", cfg.used_defaults)
    count = _tower(tower(inv, "vision_tower."), seen)
    return wrap(cfg, text, inner, "dots_ocr", PLAIN, inv, tower_layers(count))
