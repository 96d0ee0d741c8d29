"""Nemotron's multimodal models: Nano VL on Llama, Nano VL V2 and Omni on Nemotron-H (C-RADIO, Parakeet), and the VL embedder.

Sources: transformers 5.23.0 `models/nemotron_h_omni`, vLLM 0.33.0 `nemotron_vl.py`, `nano_nemotron_vl.py` and `parakeet.py`; names
as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import WHOLE, text_architecture, text_config, tower, tower_layers, wrap
from hfmem.model.families.parakeet import fast_conformer
from hfmem.model.families.parts import COLUMN, ROW
from hfmem.model.families.radio import radio
from hfmem.model.inventory import Inventory
from hfmem.model.layers import Layer


def _merged(cfg: Config, width: int) -> int:
    return width * round(1 / cfg.positive_float("downsample_ratio")) ** 2


def nemotron_omni(cfg: Config) -> Architecture:
    """Nano VL V2 and Omni: RADIO for images and, with an embedder of its own, videos; Parakeet for sound if the config has it."""
    cfg = Config(cfg.data, cfg.file, "nemotron_h_omni", cfg.used_defaults)
    text = text_config(
        cfg, "text_config" if cfg.published("llm_config") is None else "llm_config", model_type="nemotron_h"
    )
    inner = text_architecture(text)
    inv = Inventory()
    layers: list[Layer] = []
    hidden, wide = inner.hidden_size, cfg.positive("projector_hidden_size")
    temporal = cfg.published("video_temporal_patch_size")
    seen = cfg.sub("vision_config", model_type="radio", filled=True)
    count, width = radio(
        tower(inv, "vision_model.radio_model."), seen, temporal=temporal if isinstance(temporal, int) else None
    )
    layers += tower_layers(count)
    project = tower(inv, "mlp1.")
    merged = _merged(cfg, width)
    project.norm("0", merged, bias=False)
    project.linear("1", wide, merged, split=COLUMN, bias=False)
    project.linear("3", hidden, wide, split=ROW, bias=False)
    if text.opt_int("num_nextn_predict_layers"):
        tower(inv).norm("vision_projector.vision_final_layernorm", width)
    heard = cfg.opt_sub("sound_config", "audio_config")
    if heard is not None:
        given = {"attention_bias": False, **heard.data}
        heard = Config(given, heard.file, "parakeet_encoder", cfg.used_defaults)
        layers += tower_layers(fast_conformer(tower(inv, "sound_encoder.encoder."), heard), "audio")
        sound, between = heard.positive("hidden_size"), heard.positive("projection_hidden_size")
        bias = heard.flag("projection_bias", default=False)
        at = tower(inv, "sound_projection.")
        at.norm("norm", sound, bias=False)
        at.linear("linear1", between, sound, split=COLUMN, bias=bias)
        at.linear("linear2", hidden, between, split=ROW, bias=bias)
    return wrap(cfg, text, inner, "nemotron_omni", WHOLE, inv, layers)


def nemotron_nano_vl(cfg: Config) -> Architecture:
    """Llama Nemotron Nano VL 8B: RADIO, a normed two-layer projector, Llama."""
    text = text_config(
        cfg, "llm_config" if cfg.published("llm_config") is not None else "text_config", model_type="llama"
    )
    inner = text_architecture(text)
    inv = Inventory()
    count, width = radio(tower(inv, "vision_model.radio_model."), cfg.sub("vision_config", model_type="radio"))
    wide, merged = cfg.positive("projector_hidden_size"), _merged(cfg, width)
    project = tower(inv, "mlp1.")
    project.norm("0", merged)
    project.linear("1", wide, merged, split=COLUMN)
    project.linear("3", inner.hidden_size, wide, split=ROW)
    return wrap(cfg, text, inner, "nemotron_nano_vl", WHOLE, inv, tower_layers(count))


def nemotron_vl_embed(cfg: Config) -> Architecture:
    """Llama Nemotron VL Embed and Rerank: SigLIP, InternVL's projector, a Llama that attends in both directions."""
    text = text_config(
        cfg, "llm_config" if cfg.published("llm_config") is not None else "text_config", model_type="llama"
    )
    inner = text_architecture(Config(text.data, text.file, "llama", text.used_defaults), "llama")
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="siglip_vision_model")
    seen = Config(found.data, found.file, "siglip_vision_model", cfg.used_defaults)
    count = vision.siglip(tower(inv, "vision_model."), seen, head=False)
    merged = _merged(cfg, seen.positive("hidden_size"))
    project = tower(inv, "mlp1.")
    project.norm("0", merged)
    project.linear("1", inner.hidden_size, merged, split=COLUMN)
    project.linear("3", inner.hidden_size, inner.hidden_size, split=ROW)
    return wrap(cfg, text, inner, "nemotron_vl_embed", WHOLE, inv, tower_layers(count))
