"""Llama and the models built on its block: pre-norm, rotary GQA, gated MLP.

Source: transformers 5.23.0 `models/{llama,mistral,qwen2,qwen3,…}/modeling_*.py`, and the published checkpoints' tensor names.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, attention_by_types, full, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder, read_as
from hfmem.model.layer_lists import full_layers
from hfmem.model.layers import Layer


def decoder(
    cfg: Config,
    family: str,
    *,
    layers: Sequence[Layer] | None = None,
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: str | None = None,
    d: Dims | None = None,
) -> Architecture:
    """The Llama block `num_hidden_layers` times, with `layers` (default: full attention everywhere) as its caches."""
    m = DecoderBuilder(cfg, d=d)
    m.attention(qkv_bias=qkv_bias, o_bias=o_bias, qk_norm=qk_norm)
    m.gated(cfg.positive("intermediate_size"), bias=mlp_bias)
    m.norms("input_layernorm", "post_attention_layernorm")
    return m.close(family, full_layers(m.d) if layers is None else layers)


def llama(cfg: Config) -> Architecture:
    """Llama 1–3 and everything published under its class (Yi, Vicuna, CodeLlama, SmolLM 1–2, …)."""
    bias = cfg.flag("attention_bias", default=False)
    return decoder(cfg, "llama", qkv_bias=bias, o_bias=bias, mlp_bias=cfg.flag("mlp_bias", default=False))


def mistral(cfg: Config) -> Architecture:
    """Mistral: Llama's block; a non-null `sliding_window` holds in every layer.

    A config with `layer_types` is Ministral's (transformers 5.23.0 `models/auto/configuration_auto.py`).
    """
    if cfg.has("layer_types"):
        from hfmem.model.families.dense import ministral  # the module of fewer models' rules

        return read_as(ministral, cfg, "ministral")
    d = read_dims(cfg)
    window = cfg.opt_int("sliding_window")
    return decoder(cfg, "mistral", d=d, layers=[Layer((sliding(d, window) if window else full(d),))] * d.num_layers)


def qwen_layers(cfg: Config, d: Dims) -> list[Layer]:
    """Qwen2's windows: off unless `use_sliding_window`; then `layer_types`, else layers from `max_window_layers` on slide."""
    if not cfg.flag("use_sliding_window", default=False):
        return [Layer((full(d),))] * d.num_layers
    window = cfg.opt_int("sliding_window")
    types = cfg.opt_list("layer_types")
    if types is None:
        first = cfg.need_int("max_window_layers")
        types = ["sliding_attention" if window and i >= first else "full_attention" for i in range(d.num_layers)]
    if len(types) != d.num_layers:
        raise ContradictionError(f"{cfg.file}: 'layer_types' has {len(types)} entries for {d.num_layers} layers")
    return attention_by_types(cfg, d, types, window)


def qwen2(cfg: Config) -> Architecture:
    """Qwen 1.5, 2, 2.5: Llama's block with biases on q, k and v."""
    d = read_dims(cfg)
    return decoder(cfg, "qwen2", d=d, layers=qwen_layers(cfg, d), qkv_bias=True)


def qwen3(cfg: Config) -> Architecture:
    """Qwen3: head_dim of its own, a norm over each head of q and k."""
    d = read_dims(cfg)
    bias = cfg.flag("attention_bias", default=False)
    return decoder(cfg, "qwen3", d=d, layers=qwen_layers(cfg, d), qkv_bias=bias, o_bias=bias, qk_norm="head")
