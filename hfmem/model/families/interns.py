"""Intern-S1-Pro, Intern-S2-Preview and Intern-S2-Mobius: Qwen3-VL's tower before Qwen3-MoE or Qwen3.5's hybrid.

Their time series encoder is in the files, no engine reads it and no public code says its shapes: only headers can count it.

Source: vLLM 0.33.0 `models/{interns1_pro,interns2_preview,interns2_mobius}.py`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import NESTED, text_architecture, text_config, tower, tower_layers, wrap
from hfmem.model.families.parts import Part
from hfmem.model.families.qwen_hybrid import qwen_hybrid, stacked_experts
from hfmem.model.inventory import Column, Component, Inventory
from hfmem.records import replace

_SERIES = "the encoder of time series is not counted: its shapes are in no public code"


def _notes(cfg: Config) -> list[Note]:
    return [Note("tower_not_counted", _SERIES)] if cfg.opt_sub("ts_config", "time_series_config") is not None else []


def interns1_pro(cfg: Config) -> Architecture:
    """Qwen3-VL-MoE whose rotary positions mix learned Fourier coefficients, one square matrix a KV head for sines and cosines."""
    text = text_config(cfg)
    inner = text_architecture(text, "qwen3_vl_moe_text")
    inv = Inventory()
    rope = text.sub("rope_scaling", "rope_parameters")
    size = rope.opt_int("num_inv_freq")
    if size is None:
        size = (inner.head_dim or 0) // 2
    for name in ("sin_coef", "cos_coef"):
        heads = inner.num_kv_heads or 0
        split = Column(kv_heads=(heads,))
        place = Part(inv, "model.language_model.rotary_emb.", Component.ATTENTION)
        place.tensor(name, (heads, size, size), split=split)
    count = vision.qwen3_vl(tower(inv, "model.visual."), cfg.sub("vision_config", model_type="qwen3_vl_moe_vision"))
    return wrap(cfg, text, inner, "interns1_pro", NESTED, inv, tower_layers(count), _notes(cfg))


def _tower(cfg: Config, inv: Inventory) -> int:
    seen = cfg.sub("vision_config", model_type="qwen3_5_moe_vision")
    seen = Config(seen.data, seen.file, "qwen3_5_moe_vision", cfg.used_defaults)
    return vision.qwen3_vl(tower(inv, "model.visual."), seen, deepstack=False)


def interns2_preview(cfg: Config) -> Architecture:
    """Qwen3.5-MoE with an encoder of time series."""
    text = _text(cfg)
    count = text.opt_int("mtp_num_hidden_layers", "num_nextn_predict_layers") or 0
    inner = qwen_hybrid(text, fused=False, stacked=True, mtp_layers=count).finish(text, "qwen3_5")
    inv = Inventory()
    seen = _tower(cfg, inv)
    return wrap(cfg, text, inner, "interns2_preview", NESTED, inv, tower_layers(seen), _notes(cfg))


def interns2_mobius(cfg: Config) -> Architecture:
    """`num_blocks` banks of routed experts that all layers share in turn (layer i uses bank i mod `num_blocks`); each layer has its
    own gated shared expert and, with `layer_scale`, two vectors."""
    text = _text(cfg)
    inner = qwen_hybrid(text, fused=False, stacked=True, mtp_layers=0).finish(text, "qwen3_5")
    own = tuple(
        s for s in inner.tensors if ".mlp.experts." not in s.pattern and not s.pattern.endswith(".mlp.gate.weight")
    )
    inv = Inventory()
    hidden, banks = inner.hidden_size, text.positive("num_blocks")
    experts, top_k = text.positive("num_experts"), text.positive("num_experts_per_tok")
    place = "model.language_model.meta_mlp.{}"
    stacked_experts(inv, place, range(banks), hidden, text.positive("moe_intermediate_size"), experts, top_k)
    inv.specs[:] = [replace(spec, layer_axis=None) for spec in inv.specs]  # a bank is no layer
    if text.flag("layer_scale", default=False):
        block = Part(inv).at("model.language_model.layers.{}.", range(inner.num_hidden_layers))
        for name in ("attn_layer_scale", "ffn_layer_scale"):
            block.tensor(name, (1, 1, hidden), Component.NORM)
    count = _tower(cfg, inv)
    return wrap(
        cfg, text, replace(inner, tensors=own), "interns2_mobius", NESTED, inv, tower_layers(count), _notes(cfg)
    )


def _text(cfg: Config) -> Config:
    text = text_config(cfg, model_type="qwen3_5_moe_text")
    return Config(text.data, text.file, "qwen3_5_moe_text", cfg.used_defaults)
