"""Xiaomi MiMo: MiMo-7B (Qwen2's block with a prediction layer) and MiMo-V2 (wide keys, narrow values, sliding layers, experts).

Source: transformers 5.23.0 `models/mimo_v2_flash`; vLLM 0.33.0 `mimo.py`, `mimo_mtp.py`, `mimo_v2.py`, `mimo_v2_mtp.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, attention, fused_qkv, gated_mlp, linear, norm, read_dims
from hfmem.model.config import Config
from hfmem.model.families.deepseek import CORRECTION, nextn_layers
from hfmem.model.families.llama import qwen_layers
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.layers import FullAttention, Layer, SlidingAttention
from hfmem.model.moe import moe, read_experts, sparse_layers
from hfmem.model.stack import as_mtp, indices_of, layer_kinds, open_stack
from hfmem.records import replace

LAYER = "model.layers.{}"
FULL, SLIDING = "full_attention", "sliding_attention"
#: prediction layers of MiMo-V2's checkpoints, V2-Flash's and V2.6-Pro's, whose configs do not name them, too
_PREDICTED = 3


def _qwen2_block(inv: Inventory, prefix: str, indices: Sequence[int], d: Dims, width: int) -> None:
    attention(inv, f"{prefix}.self_attn", indices, d, qkv_bias=True)
    gated_mlp(inv, f"{prefix}.mlp", indices, d.hidden, width)
    norm(inv, f"{prefix}.input_layernorm", indices, d.hidden)
    norm(inv, f"{prefix}.post_attention_layernorm", indices, d.hidden)


def mimo(cfg: Config) -> Architecture:
    """MiMo-7B: Qwen2's block; prediction layers under `model.mtp_layers`."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    width = stack.intermediate = cfg.positive("intermediate_size")
    _qwen2_block(stack.inv, LAYER, range(d.num_layers), d, width)
    if count := nextn_layers(cfg):
        run, place = range(count), "model.mtp_layers.{}"

        def mtp(part: Inventory) -> None:
            _qwen2_block(part, place, run, d, width)
            linear(part, f"{place}.input_proj", run, d.hidden, 2 * d.hidden, Component.MTP, Replicated())
            for name in ("token_layernorm", "hidden_layernorm", "final_layernorm"):
                norm(part, f"{place}.{name}", run, d.hidden)

        as_mtp(stack.inv, mtp)
    stack.layers = qwen_layers(cfg, d)
    return stack.finish(cfg, "mimo")


def _kinds(cfg: Config, num_layers: int) -> list[str]:
    """`layer_types`, else `hybrid_layer_pattern` (1 slides), else full attention first and in every sixth layer."""
    words = cfg.opt_list("layer_types")
    if words is None and (pattern := cfg.opt_list("hybrid_layer_pattern")) is not None:
        words = [{"0": FULL, "1": SLIDING}[cfg.choice("hybrid_layer_pattern", str(n), ("0", "1"))] for n in pattern]
    if words is None:
        words = [FULL if i == 0 or (i + 1) % 6 == 0 else SLIDING for i in range(num_layers)]
    return layer_kinds(cfg, "layer_types", words, (FULL, SLIDING), num_layers)


def _sliding_dims(cfg: Config, d: Dims, v: int) -> tuple[Dims, int]:
    """Heads of the sliding layers and their value width: the `swa_*` keys, else twice the KV heads of the full layers."""
    heads = cfg.opt_int("swa_num_attention_heads") or d.num_heads
    kv_heads = cfg.opt_int("swa_num_key_value_heads") or 2 * d.num_kv_heads
    if heads % kv_heads:
        raise ContradictionError(f"{cfg.file}: {heads} sliding attention heads cannot share {kv_heads} KV heads")
    own = replace(d, num_heads=heads, num_kv_heads=kv_heads, head_dim=cfg.opt_int("swa_head_dim") or d.head_dim)
    return own, cfg.opt_int("swa_v_head_dim") or v


def _window(cfg: Config) -> int:
    """transformers' window counts the token itself: `sliding_window_size` + 1, else `sliding_window`."""
    size = cfg.published("sliding_window_size")
    return cfg.positive("sliding_window") if size is None else cfg.positive("sliding_window_size") + 1


def _attention(inv: Inventory, cfg: Config, prefix: str, layers: Sequence[int], d: Dims, v: int) -> None:
    """Queries, keys and values apart (V2 Flash), or in one matrix (from V2.5 on), and the way out."""
    bias = cfg.flag("attention_bias", default=False)
    key = "attention_projection_layout"
    if cfg.choice(key, cfg.opt_str(key) or "split", ("split", "fused_qkv")) == "split":
        attention(inv, prefix, layers, d, qkv_bias=bias, v_head_dim=v)
        return
    fused_qkv(inv, f"{prefix}.qkv_proj", layers, d, bias=bias, v_head_dim=v)
    linear(inv, f"{prefix}.o_proj", layers, d.hidden, d.num_heads * v, Component.ATTENTION, Row())


def mimo_v2(cfg: Config) -> Architecture:
    """MiMo-V2 Flash and Pro. Keys are wider than values; sliding layers have attention sinks and more KV heads."""
    d, v = read_dims(cfg), cfg.positive("v_head_dim")
    sliding, sliding_v = _sliding_dims(cfg, d, v)
    stack = open_stack(cfg, cfg, d)
    inv, every = stack.inv, range(d.num_layers)
    kinds = _kinds(cfg, d.num_layers)
    mixer = f"{LAYER}.self_attn"
    full_layers, sliding_layers = indices_of(kinds, FULL), indices_of(kinds, SLIDING)
    _attention(inv, cfg, mixer, full_layers, d, v)
    _attention(inv, cfg, mixer, sliding_layers, sliding, sliding_v)
    sinks = "attention_sink_bias"
    if cfg.flag("add_swa_attention_sink_bias", default=True):
        inv.each(f"{mixer}.{sinks}", sliding_layers, (sliding.num_heads,), Component.ATTENTION, Column())
    if cfg.flag("add_full_attention_sink_bias", default=False):
        inv.each(f"{mixer}.{sinks}", full_layers, (d.num_heads,), Component.ATTENTION, Column())
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", every, d.hidden)
    experts = read_experts(cfg)
    sparse = sparse_layers(cfg, d.num_layers, dense_default=1) if experts else []
    width = stack.intermediate = cfg.positive("intermediate_size")
    gated_mlp(inv, f"{LAYER}.mlp", [i for i in every if i not in set(sparse)], d.hidden, width)
    if experts:
        moe(inv, f"{LAYER}.mlp", sparse, d.hidden, experts, correction_bias=CORRECTION)
        stack.num_experts, stack.top_k = experts.count, experts.top_k
    count = _PREDICTED if cfg.published("num_nextn_predict_layers") is None else nextn_layers(cfg)
    if count:
        run, place = range(count), "model.mtp.layers.{}"

        def mtp(part: Inventory) -> None:
            _attention(part, cfg, f"{place}.self_attn", run, sliding, sliding_v)
            part.each(f"{place}.self_attn.{sinks}", run, (sliding.num_heads,), Component.MTP)
            gated_mlp(part, f"{place}.mlp", run, d.hidden, width)
            linear(part, f"{place}.eh_proj", run, d.hidden, 2 * d.hidden, Component.MTP, Replicated())
            for name in ("enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm"):
                norm(part, f"{place}.{name}", run, d.hidden)

        as_mtp(inv, mtp)
    caches = {FULL: FullAttention(d.num_heads, d.num_kv_heads, d.head_dim, v)}
    slide = SlidingAttention(sliding.num_heads, sliding.num_kv_heads, sliding.head_dim, sliding_v, _window(cfg))
    stack.layers = [Layer((caches.get(kind, slide),)) for kind in kinds]
    stack.towers += [Layer((slide,), "mtp")] * count
    return stack.finish(cfg, "mimo_v2")
