"""Gemma 4's relatives: Unified (patches and sound straight into the decoder), DiffusionGemma, EmbeddingGemma 2, ShieldGemma 2.

Source: transformers 5.23.0 `models/{gemma4_unified,diffusion_gemma,embedding_gemma2,shieldgemma2}`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.gemma4 import gemma4_text
from hfmem.model.families.gemma_mm import gemma3, gemma4_audio, gemma4_vision
from hfmem.model.families.multimodal import (
    NESTED,
    keep_whole,
    respelled,
    text_config,
    text_part,
    tower,
    tower_layers,
    wrap,
)
from hfmem.model.families.parts import COLUMN, Part
from hfmem.model.inventory import Component, Inventory
from hfmem.model.layers import Layer, NoCache
from hfmem.records import replace


def gemma4_unified(cfg: Config) -> Architecture:
    """No towers: pooled patches go through one normed linear layer, sound frames through none, then into the decoder's width."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen, heard = cfg.opt_sub("vision_config"), cfg.opt_sub("audio_config")
    if seen is not None:
        width, side = seen.positive("mm_embed_dim"), seen.positive("patch_size") * seen.positive("pooling_kernel_size")
        part = tower(inv, "model.vision_embedder.")
        part.norm("patch_ln1", 3 * side**2)
        part.linear("patch_dense", width, 3 * side**2, split=COLUMN)
        part.norms(("patch_ln2", "pos_norm"), width)
        part.tensor("pos_embedding", (seen.positive("mm_posemb_size"), 2, width))
        out = seen.positive("output_proj_dims")
        tower(inv).linear("model.embed_vision.embedding_projection", inner.hidden_size, out, bias=False)
    if heard is not None:
        width = heard.positive("audio_embed_dim", "output_proj_dims")
        tower(inv).linear("model.embed_audio.embedding_projection", inner.hidden_size, width, bias=False)
    return wrap(cfg, text, inner, "gemma4_unified", NESTED, inv)


def diffusion_gemma(cfg: Config) -> Architecture:
    """DiffusionGemma: Gemma 4 with experts; its cache is filled as usual, a block of tokens is then refined while reading it.

    Filling and refining share every weight but the layers' scalars, of which each has its own.
    """
    text = text_config(cfg)
    fixed = {"attention_k_eq_v": True, "enable_moe_block": True, "num_kv_shared_layers": 0}
    inner = gemma4_text(Config({**fixed, **text.data}, text.file, text.model_type, cfg.used_defaults))
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = gemma4_vision(tower(inv, "model.encoder.vision_tower."), seen)
    width, hidden = seen.positive("hidden_size"), inner.hidden_size
    tower(inv).linear("model.encoder.embed_vision.embedding_projection", hidden, width, bias=False)
    part = Part(inv, "model.decoder.self_conditioning.", Component.MLP)
    part.norm("pre_norm", hidden, bias=False)
    vision.gated(part, hidden, text.positive("intermediate_size"), bias=False)
    scalars = Part(inv).at("model.encoder.language_model.layers.{}.", range(inner.num_hidden_layers))
    scalars.tensor("layer_scalar", (1,), Component.OTHER, buffer=True)
    keep_whole(inv, ".vision_tower.", ".self_conditioning.")
    return wrap(cfg, text, inner, "diffusion_gemma", (("model.", "model.decoder."),), inv, tower_layers(count))


def _embedding_text(cfg: Config, text: Config, prefix: str) -> tuple[Architecture, Inventory]:
    """EmbeddingGemma 2's text encoder below `prefix`, and beside it what its gated per-layer inputs and its embedding store."""
    count, hidden = text.positive("num_hidden_layers"), text.positive("hidden_size")
    size, out = text.positive("hidden_size_per_layer_input"), text.positive("embedding_dim")
    fixed = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "tie_word_embeddings": True}
    plain = {"per_layer_config": _wide_layers(text, count), **text.data, **fixed}
    inner = gemma4_text(Config(plain, text.file, text.model_type, cfg.used_defaults))
    kept = tuple(spec for spec in inner.tensors if spec.component is not Component.LM_HEAD)
    inner = replace(inner, tensors=kept, layers=(Layer((NoCache("encoder"),), stack="encoder"),) * count)
    inner = respelled(inner, {"model.": prefix})
    inv = Inventory()
    part = Part(inv, prefix, Component.OTHER)
    part.linear("ple.per_layer_model_projection", count * size, hidden, split=COLUMN, bias=False)
    part.norm("ple.per_layer_projection_norm", size, bias=False)
    block = part.at("layers.{}.ple_block.", range(count))
    block.linear("per_layer_input_gate", size, hidden, bias=False)
    block.linear("per_layer_projection", hidden, size, bias=False)
    block.norm("post_per_layer_input_norm", hidden, bias=False)
    part.linear("embedding_projection", out, hidden, bias=False)
    return inner, inv


def embedding_gemma2(cfg: Config) -> Architecture:
    """EmbeddingGemma 2: Gemma 4's block in both directions with gated per-layer inputs, no second embedding; keeps nothing."""
    text = text_config(cfg)
    inner, inv = _embedding_text(cfg, text, "language_model.")
    hidden = text.positive("hidden_size")
    layers: list[Layer] = []
    seen, heard = cfg.opt_sub("vision_config"), cfg.opt_sub("audio_config")
    if seen is not None:
        layers += tower_layers(gemma4_vision(tower(inv, "vision_tower."), seen))
        tower(inv).linear("embed_vision.embedding_projection", hidden, seen.positive("hidden_size"), bias=False)
    if heard is not None:
        layers += tower_layers(gemma4_audio(tower(inv, "audio_tower."), heard), "audio")
        tower(inv).linear("embed_audio.embedding_projection", hidden, heard.positive("output_proj_dims"), bias=False)
    return wrap(cfg, text, inner, "embedding_gemma2", (), inv, layers)


def embedding_gemma2_text(cfg: Config) -> Architecture:
    """EmbeddingGemma 2's text encoder saved alone."""
    inner, inv = _embedding_text(cfg, cfg, "")
    return replace(inner, tensors=(*inner.tensors, *inv.specs))


def _wide_layers(text: Config, count: int) -> dict[str, dict[str, int]]:
    """What the class puts into `per_layer_config` where none is given: layers with full attention have one head of 512."""
    pattern = text.opt_int("sliding_window_pattern") or 6
    types = text.opt_list("layer_types") or ["full_attention" if (i + 1) % pattern == 0 else "" for i in range(count)]
    wide = {
        "head_dim": text.opt_int("global_head_dim") or 512,
        "num_key_value_heads": text.opt_int("num_global_key_value_heads") or 1,
    }
    return {str(i): wide for i, kind in enumerate(types) if kind == "full_attention" or i == count - 1}


def shieldgemma2(cfg: Config) -> Architecture:
    """ShieldGemma 2: Gemma 3 whole, under one more `model.`."""
    arch = gemma3(Config(cfg.data, cfg.file, "gemma3", cfg.used_defaults))
    return replace(arch, model_type=cfg.model_type, family="shieldgemma2")
