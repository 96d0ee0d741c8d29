"""VILA and VideoLLaMA 3 as their authors publish them.

Sources: NVlabs/VILA `base_projector.py`, DAMO-NLP-SG/VideoLLaMA3, and the published tensor names and shapes.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.llava import llava_flat, projector_layers
from hfmem.model.families.multimodal import (
    NESTED,
    PLAIN,
    text_architecture,
    text_config,
    text_part,
    tower,
    tower_layers,
    wrap,
)
from hfmem.model.inventory import Inventory


def videollama3_qwen2(cfg: Config) -> Architecture:
    """VideoLLaMA 3: Qwen2 under its own names, SigLIP without positions (rotary), a projector `readout`."""
    text = Config(cfg.data, cfg.file, "qwen2", cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    seen = cfg.sub("vision_encoder_config", model_type="siglip_vision_model")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    part = tower(inv, "model.vision_encoder.")
    part.conv("embeddings.patch_embedding", width, seen.opt_int("num_channels") or 3, vision.side(seen, "patch_size"))
    vision.clip_blocks(part.at("encoder."), count, width, seen.positive("intermediate_size"))
    part.norm("post_layernorm", width)
    readout = tower(inv, "model.mm_projector.readout.")
    for i in range(projector_layers(cfg)):
        readout.linear(str(2 * i), inner.hidden_size, inner.hidden_size if i else width)
    return wrap(cfg, text, inner, "videollama3", PLAIN, inv, tower_layers(count))


def llava_llama(cfg: Config) -> Architecture:
    """VILA: `llm_cfg`, `vision_tower_cfg` and `mm_projector_cfg`, each published in a folder of its own; or LLaVA's first, flat
    layout, whose image tower is loaded from elsewhere."""
    inv = Inventory()
    if cfg.published("llm_cfg") is None:
        return llava_flat(cfg)
    text = text_config(cfg, "llm_cfg")
    inner = text_architecture(text)
    seen = cfg.sub("vision_tower_cfg")
    seen.choice("model_type", seen.model_type, ("siglip_vision_model", "clip_vision_model"))
    at = tower(inv, "vision_tower.vision_model.")
    count = vision.siglip(at, seen) if seen.model_type == "siglip_vision_model" else vision.clip(at, seen)
    shape = cfg.sub("mm_projector_cfg", model_type="v2l_projector")
    kind = shape.opt_str("mm_projector_type") or ""
    width, hidden, project = cfg.positive("mm_hidden_size"), inner.hidden_size, tower(inv, "mm_projector.layers.")
    shape.choice("mm_projector_type", kind, ("mlp_downsample", "mlp_downsample_2x2_fix", "mlp_downsample_3x3_fix"))
    if kind == "mlp_downsample_3x3_fix":
        project.norm("1", 9 * width)
        project.linear("2", 3 * width, 9 * width)
        project.norm("4", 3 * width)
        project.linear("5", hidden, 3 * width)
        project.linear("7", hidden, hidden)
    else:
        project.norm("1", 4 * width)
        project.linear("2", hidden, 4 * width)
        project.linear("4", hidden, hidden)
    return wrap(cfg, text, inner, "vila", (("", "llm."),), inv, tower_layers(count))


def video_llama_3(cfg: Config) -> Architecture:
    """VideoLLaMA 3 in transformers' layout: the same parts, text under `model.language_model`."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    part = tower(inv, "model.vision_model.")
    part.conv("embeddings.patch_embedding", width, seen.opt_int("num_channels") or 3, vision.side(seen, "patch_size"))
    vision.clip_blocks(part.at("encoder."), count, width, seen.positive("intermediate_size"))
    part.norm("post_layernorm", width)
    readout = tower(inv, "model.projector.readout.")
    readout.linear("0", inner.hidden_size, width)
    readout.linear("2", inner.hidden_size, inner.hidden_size)
    return wrap(cfg, text, inner, "videollama3", NESTED, inv, tower_layers(count))
