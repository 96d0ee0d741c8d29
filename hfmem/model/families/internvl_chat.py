"""InternVL-Chat as its authors publish it, and what shares its tower or projector: Skywork R1V, H2OVL, NVLM, Qianfan-OCR,
Eagle 2.5, LocateAnything.

Sources: OpenGVLab/InternVL2 `modeling_intern_vit.py`, transformers 5.23.0 `models/qianfan_ocr`, vLLM 0.33.0 `nvlm_d.py`,
`eagle2_5_vl.py`, nvidia/LocateAnything-3B, and the published tensor names and shapes.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import (
    WHOLE,
    text_architecture,
    text_config,
    tower,
    tower_layers,
    wrap,
)
from hfmem.model.families.parts import ROW, Part
from hfmem.model.inventory import Column, Inventory, Row


def intern_vit(part: Part, seen: Config) -> int:
    """InternViT as its authors store it: q, k and v in one matrix, scaled residuals. Keys in their words or in transformers'."""
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    channels = seen.opt_int("num_channels") or 3
    part.tensor("embeddings.class_embedding", (1, 1, width))
    part.conv("embeddings.patch_embedding", width, channels, vision.side(seen, "patch_size"))
    if seen.flag("use_absolute_position_embeddings", default=True):
        part.tensor("embeddings.position_embedding", (1, vision.patches(seen) + 1, width))
    block = part.at("encoder.layers.{}.", range(count))
    heads = seen.positive("num_attention_heads")  # InternViT-6B has 25: attention then stays whole on every rank
    fused = Column((width, width, width), (None, None, None), divides=heads)
    block.linear("attn.qkv", 3 * width, width, split=fused, bias=seen.flag("qkv_bias", "attention_bias"))
    block.linear("attn.proj", width, width, split=Row(divides=heads))
    if seen.flag("qk_normalization", "use_qk_norm"):
        block.norms(("attn.q_norm", "attn.k_norm"), width, bias=False)
    vision.mlp(block.at("mlp."), width, seen.positive("intermediate_size"))
    kind = seen.choice("norm_type", seen.opt_str("norm_type") or "rms_norm", ("layer_norm", "rms_norm"))
    block.norms(("norm1", "norm2"), width, bias=kind == "layer_norm")
    block.tensor("ls1", (width,))
    block.tensor("ls2", (width,))
    return count


def internvl_chat(cfg: Config) -> Architecture:
    """InternVL-Chat 1.5 to 3.5, Skywork R1V, H2OVL, Qianfan-OCR: InternViT, a normed two-layer projector `mlp1`, any text model.

    NVLM's projector is as wide as the text model's feed-forward and has no biases.
    """
    text = text_config(cfg, "text_config" if cfg.published("llm_config") is None else "llm_config")
    inner = text_architecture(text)
    inv = Inventory()
    seen = cfg.sub("vision_config", model_type="intern_vit_6b")
    count = intern_vit(tower(inv, "vision_model."), seen)
    _unread(inv, cfg, count)
    merged = seen.positive("hidden_size") * int(1 / cfg.positive_float("downsample_ratio")) ** 2
    project = tower(inv, "mlp1.")
    if cfg.model_type == "NVLM_D":
        wide = text.positive("intermediate_size")
        project.norm("0", merged)
        project.linear("1", wide, merged, bias=False)
        project.linear("3", inner.hidden_size, wide, bias=False)
    else:
        _mlp1(project, inner.hidden_size, merged)
    return wrap(cfg, text, inner, "internvl_chat", WHOLE, inv, tower_layers(count))


def _unread(inv: Inventory, cfg: Config, count: int, norm: str | None = None) -> None:
    """vLLM builds the tower up to `select_layer` (`internvl.py`, `nvlm_d.py`, `h2ovl.py`, `skyworkr1v.py`, `eagle2_5_vl.py`)."""
    value = cfg.published("select_layer")
    depth = vision.feature_depth(cfg, "select_layer", -1 if value is None else value, count, from_start=1)
    vision.unread_behind(inv, depth, count, norm)


def eagle2_5(cfg: Config) -> Architecture:
    """Eagle 2.5: SigLIP and InternVL's projector before Qwen."""
    text = text_config(cfg)
    inner = text_architecture(text)
    inv = Inventory()
    seen = cfg.sub("vision_config", model_type="siglip_vision_model")
    count = vision.siglip(tower(inv, "vision_model.vision_model."), seen)
    _unread(inv, cfg, count, "post_layernorm.")
    merged = seen.positive("hidden_size") * int(1 / cfg.positive_float("downsample_ratio")) ** 2
    _mlp1(tower(inv, "mlp1."), inner.hidden_size, merged)
    return wrap(cfg, text, inner, "eagle2_5", WHOLE, inv, tower_layers(count))


def _mlp1(part: Part, hidden: int, features: int) -> None:
    """A norm and two linear layers with an activation between, as `nn.Sequential` numbers them; every rank holds them whole."""
    part.norm("0", features)
    part.linear("1", hidden, features)
    part.linear("3", hidden, hidden)


def locateanything(cfg: Config) -> Architecture:
    """LocateAnything: MoonViT under `vision_model`, `mlp1`, Qwen2 under `language_model`."""
    text = text_config(cfg)
    inner = text_architecture(text)
    inv = Inventory()
    seen = cfg.sub("vision_config", model_type="moonvit")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    inside = seen.positive("intermediate_size")
    part = tower(inv, "vision_model.")
    part.conv("patch_embed.proj", width, 3, vision.side(seen, "patch_size"))
    rows = (seen.positive("init_pos_emb_height"), seen.positive("init_pos_emb_width"), width)
    part.tensor("patch_embed.pos_emb.weight", rows)
    block = part.at("encoder.blocks.{}.", range(count))
    block.norms(("norm0", "norm1"), width)
    vision.fused_projection(block, "wqkv", width, bias=True)
    block.linear("wo", width, width, split=ROW)
    vision.mlp(block.at("mlp."), width, inside, ("fc0", "fc1"))
    part.norm("encoder.final_layernorm", width)
    height, breadth = vision.side(seen, "merge_kernel_size")
    _mlp1(tower(inv, "mlp1."), inner.hidden_size, width * height * breadth)
    return wrap(cfg, text, inner, "locateanything", WHOLE, inv, tower_layers(count))
