"""Phi-3-vision and 3.5-vision.

Sources: microsoft/Phi-3-vision `image_embedding_phi3_v.py` and the published tensor names and shapes.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import (
    PLAIN,
    text_architecture,
    tower,
    tower_layers,
    wrap,
)
from hfmem.model.inventory import Inventory

#: CLIP ViT-L/14 at 336 pixels (openai/clip-vit-large-patch14-336)
_CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 336,
}


def phi3_v(cfg: Config) -> Architecture:
    """Phi-3-vision and 3.5-vision: Phi-3 with CLIP ViT-L/14-336 and a two-layer projector under `model.vision_embed_tokens`."""
    text = Config(cfg.data, cfg.file, "phi3", cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    processor = cfg.sub("img_processor", model_type="clip_vision_model")
    processor.choice("name", processor.opt_str("name") or "", ("clip_vision_model",))
    known = ("openai/clip-vit-large-patch14-336",)
    processor.choice("model_name", processor.opt_str("model_name") or known[0], known)
    seen = Config(_CLIP_L_336, f"{cfg.file}: img_processor", "", cfg.used_defaults)
    part = tower(inv, "model.vision_embed_tokens.")
    count = vision.clip(part.at("img_processor.vision_model."), seen)
    layer = processor.opt_int("layer_idx")
    depth = vision.feature_depth(processor, "layer_idx", -2 if layer is None else layer, count, from_start=1)
    vision.unread_behind(inv, depth, count, "post_layernorm.")
    wide = 4 * processor.positive("image_dim_out")  # 2 × 2 patches side by side
    part.tensor("glb_GN", (1, 1, wide))
    part.tensor("sub_GN", (1, 1, 1, wide))
    part.linear("img_projection.0", inner.hidden_size, wide)
    part.linear("img_projection.2", inner.hidden_size, inner.hidden_size)
    return wrap(cfg, text, inner, "phi3_v", PLAIN, inv, tower_layers(count))
