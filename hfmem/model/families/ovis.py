"""Ovis 2 (in transformers' layout) and 2.5: a visual vocabulary and its embedding table before any text model.

Sources: transformers 5.23.0 `models/ovis2/modeling_ovis2.py`, vLLM 0.33.0 `ovis2_5.py` and `siglip2navit.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import NESTED, text_architecture, text_config, text_part, tower, tower_layers, wrap
from hfmem.model.inventory import Inventory


def ovis2(cfg: Config) -> Architecture:
    """Ovis 2: AIMv2 blocks, a visual vocabulary and its embedding table, any text model."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    vocab, marks = seen.positive("vocab_size"), seen.need_int("num_visual_indicator_tokens")
    if marks >= vocab:
        raise ContradictionError(f"{seen.file}: {marks} indicator tokens of a visual vocabulary of {vocab}")
    part = tower(inv, "model.vision_tower.")
    body = part.at("transformer.")
    body.conv("embeddings.patch_embedding", width, seen.positive("num_channels"), vision.side(seen, "patch_size"))
    body.tensor("embeddings.position_embedding.weight", (vision.patches(seen), width))
    body.norm("embeddings.rms_norm", width, bias=False)
    block = body.at("encoder.layers.{}.", range(count))
    vision.projections(block.at("attention."), width, bias=seen.flag("qkv_bias", default=False))
    mlp_bias = seen.flag("mlp_bias", default=False)
    vision.gated(block.at("ffn."), width, seen.positive("intermediate_size"), bias=mlp_bias)
    block.norms(("rms_norm1", "rms_norm2"), width, bias=False)
    body.norm("rms_norm", width, bias=False)
    part.linear("head_linear", vocab - marks, width * seen.positive("hidden_stride") ** 2, bias=False)
    part.norm("head_norm", vocab - marks)
    tower(inv).tensor("model.visual_embeddings_table.weight", (vocab, cfg.positive("hidden_size")))
    return wrap(cfg, text, inner, "ovis2", NESTED, inv, tower_layers(count))


#: special tokens that the visual vocabulary reserves at its end (Ovis 2.5)
_RESERVED = 4


def ovis2_5(cfg: Config) -> Architecture:
    """Ovis 2.5 and 2.6: SigLIP 2 with rotary positions (stored ones too), text under `llm`."""
    text = text_config(cfg, "llm_config")
    inner = text_architecture(text)
    inv = Inventory()
    seen = cfg.sub("vit_config", model_type="siglip2_navit")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    part = tower(inv, "visual_tokenizer.vit.vision_model.")
    channels, patch, rows = (
        seen.opt_int("num_channels") or 3,
        seen.positive("patch_size"),
        seen.published("num_patches"),
    )
    if isinstance(rows, int) and rows > 0:  # -1 where patches are cut by a convolution
        part.linear("embeddings.patch_embedding", width, channels * patch**2)
    else:
        part.conv("embeddings.patch_embedding", width, channels, (patch, patch))
        rows = (seen.positive("image_size") // patch) ** 2
    if seen.flag("preserve_original_pe"):
        part.tensor("embeddings.position_embedding.weight", (rows, width))
    vision.clip_blocks(part.at("encoder."), count, width, seen.positive("intermediate_size"))
    part.norm("post_layernorm", width)
    words = cfg.positive("visual_vocab_size")
    head = tower(inv, "visual_tokenizer.head.")
    head.linear("0", words - _RESERVED, width * seen.positive("hidden_stride") ** 2, bias=False)
    head.norm("1", words - _RESERVED)
    tower(inv).tensor("vte.weight", (words, inner.hidden_size))
    return wrap(cfg, text, inner, "ovis2_5", (("", "llm."),), inv, tower_layers(count))
