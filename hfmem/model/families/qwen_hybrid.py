"""Qwen3-Next and Qwen3.5/3.6/3.8: gated delta nets with gated full attention in every fourth layer, dense or with experts.

Source: transformers 5.23.0 `models/{qwen3_next,qwen3_5,qwen3_5_moe}`; names from the headers of Qwen3-Next-80B-A3B and of a pruned
Qwen3.5-35B-A3B; the prediction layer's names from vLLM 0.33.0's loader and the Qwen3-Next headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, attention, full, gated_mlp, linear, norm, read_dims, routed_experts
from hfmem.model.config import Config
from hfmem.model.delta_blocks import delta_net, read_delta_net
from hfmem.model.families.multimodal import NESTED, text_config, tower, tower_layers, wrap
from hfmem.model.families.vision import qwen3_vl
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated, Row
from hfmem.model.layers import Layer
from hfmem.model.stack import Stack, as_mtp, indices_of, layer_kinds, open_stack

LAYER = "model.layers.{}"
KINDS = ("linear_attention", "full_attention")


def hybrid_kinds(cfg: Config, num_layers: int) -> list[str]:
    """`layer_types`, else full attention in every `full_attention_interval`-th layer (the class assumes 4)."""
    types = cfg.opt_list("layer_types")
    if types is None:
        interval = cfg.opt_int("full_attention_interval") or 4
        types = [KINDS[0] if (i + 1) % interval else KINDS[1] for i in range(num_layers)]
    return layer_kinds(cfg, "layer_types", types, KINDS, num_layers)


def _sparse(cfg: Config, num_layers: int) -> list[int]:
    """Layers with experts: every `decoder_sparse_step`-th, without those of `mlp_only_layers`."""
    if not cfg.opt_int("num_experts"):
        return []
    step = cfg.opt_int("decoder_sparse_step") or 1
    dense = set(cfg.numbers("mlp_only_layers") or [])
    return [i for i in range(num_layers) if i not in dense and (i + 1) % step == 0]


def stacked_experts(
    inv: Inventory, prefix: str, indices: Sequence[int], hidden: int, width: int, count: int, top_k: int
) -> None:
    """All experts of a layer in two tensors, gate above up (what the Qwen3.5 releases store)."""
    if not 1 <= top_k <= count:
        raise ContradictionError(f"{top_k} experts per token cannot be picked from {count}")
    share, routed = Fraction(top_k, count), Component.EXPERTS
    linear(inv, f"{prefix}.gate", indices, count, hidden, routed, Replicated())
    up, down = ExpertSplit(None, Column((width, width))), ExpertSplit(None, Row())
    inv.each(f"{prefix}.experts.gate_up_proj", indices, (count, 2 * width, hidden), routed, up, active=share)
    inv.each(f"{prefix}.experts.down_proj", indices, (count, hidden, width), routed, down, active=share)


def feed_forward(
    inv: Inventory,
    cfg: Config,
    prefix: str,
    d: Dims,
    sparse: Sequence[int],
    dense: Sequence[int],
    *,
    stacked: bool,
) -> None:
    """Experts with a gated shared expert in the layers of `sparse`, a gated MLP in those of `dense`."""
    if sparse:
        count, top_k = cfg.positive("num_experts"), cfg.positive("num_experts_per_tok")
        width = cfg.positive("moe_intermediate_size")
        if stacked:
            stacked_experts(inv, prefix, sparse, d.hidden, width, count, top_k)
        else:
            routed_experts(inv, prefix, sparse, d.hidden, width, count, top_k)
        shared = cfg.positive("shared_expert_intermediate_size")
        gated_mlp(inv, f"{prefix}.shared_expert", sparse, d.hidden, shared)
        linear(inv, f"{prefix}.shared_expert_gate", sparse, 1, d.hidden, Component.MLP, Replicated())
    if dense:
        gated_mlp(inv, prefix, dense, d.hidden, cfg.positive("intermediate_size"))


def _full_block(inv: Inventory, cfg: Config, prefix: str, indices: Sequence[int], d: Dims) -> None:
    bias = cfg.flag("attention_bias", default=False)
    attention(inv, f"{prefix}.self_attn", indices, d, qkv_bias=bias, o_bias=bias, qk_norm="head", q_gate=True)


def _norms(inv: Inventory, prefix: str, indices: Sequence[int], hidden: int) -> None:
    norm(inv, f"{prefix}.input_layernorm", indices, hidden)
    norm(inv, f"{prefix}.post_attention_layernorm", indices, hidden)


def _prediction(inv: Inventory, cfg: Config, d: Dims, count: int, sparse: bool, stacked: bool) -> None:
    """The `mtp.` stack: full-attention layers behind a projection of two normed inputs."""
    layers, block = list(range(count)), "mtp.layers.{}"

    def describe(part: Inventory) -> None:
        part.add("mtp.fc.weight", (d.hidden, 2 * d.hidden), Component.MTP)
        for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
            norm(part, f"mtp.{name}", None, d.hidden)
        _full_block(part, cfg, block, layers, d)
        _norms(part, block, layers, d.hidden)
        feed_forward(part, cfg, f"{block}.mlp", d, layers if sparse else [], [] if sparse else layers, stacked=stacked)

    as_mtp(inv, describe)


def qwen_hybrid(cfg: Config, *, fused: bool, stacked: bool, mtp_layers: int) -> Stack:
    """The text stack. `fused`: Qwen3-Next's delta-net projections; `stacked`: experts stored in one tensor a layer."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    inv = stack.inv
    kinds = hybrid_kinds(cfg, d.num_layers)
    net = read_delta_net(cfg)
    delta_net(inv, f"{LAYER}.linear_attn", indices_of(kinds, KINDS[0]), d.hidden, net, fused=fused)
    _full_block(inv, cfg, LAYER, indices_of(kinds, KINDS[1]), d)
    _norms(inv, LAYER, range(d.num_layers), d.hidden)
    sparse = _sparse(cfg, d.num_layers)
    dense = [i for i in range(d.num_layers) if i not in set(sparse)]
    feed_forward(inv, cfg, f"{LAYER}.mlp", d, sparse, dense, stacked=stacked)
    if mtp_layers:
        _prediction(inv, cfg, d, mtp_layers, bool(sparse), stacked)
    stack.intermediate = cfg.opt_int("intermediate_size")
    if sparse:
        stack.num_experts, stack.top_k = cfg.opt_int("num_experts"), cfg.opt_int("num_experts_per_tok")
    stack.layers = [Layer((net.cache() if kind == KINDS[0] else full(d),)) for kind in kinds]
    return stack


def qwen3_next(cfg: Config) -> Architecture:
    """Qwen3-Next. Its checkpoints store one prediction layer that the config does not declare."""
    declared = cfg.published("mtp_num_hidden_layers", "num_nextn_predict_layers")
    count = 1 if declared is None else cfg.need_int("mtp_num_hidden_layers", "num_nextn_predict_layers")
    return qwen_hybrid(cfg, fused=True, stacked=False, mtp_layers=count).finish(cfg, "qwen3_next")


def _text(cfg: Config, *, stacked: bool) -> Architecture:
    count = cfg.opt_int("mtp_num_hidden_layers", "num_nextn_predict_layers") or 0
    return qwen_hybrid(cfg, fused=False, stacked=stacked, mtp_layers=count).finish(cfg, "qwen3_5")


def qwen3_5_text(cfg: Config) -> Architecture:
    """The text part of Qwen3.5, dense or with experts, on its own.

    Published on its own it stores experts one by one, and under the wrapper's names when `architectures` names the wrapper.
    """
    arch = _text(cfg, stacked=False)
    if any(name.endswith("ForConditionalGeneration") for name in arch.architectures):
        return wrap(cfg, cfg, arch, arch.family, NESTED, Inventory())
    return arch


def vision_config(cfg: Config) -> Config:
    """The tower's part. Published configs call its type by the wrapper's name; the class reads it as `…_vision`."""
    vision = cfg.sub("vision_config")
    return Config(vision.data, vision.file, f"{cfg.model_type}_vision", cfg.used_defaults)


def qwen3_5(cfg: Config) -> Architecture:
    """Qwen3.5/3.6/3.8 with their vision tower (Qwen3-VL's, without the deepstack mergers)."""
    text = text_config(cfg, model_type=f"{cfg.model_type}_text")
    inv = Inventory()
    count = qwen3_vl(tower(inv, "model.visual."), vision_config(cfg), deepstack=False)
    return wrap(cfg, text, _text(text, stacked=True), "qwen3_5", NESTED, inv, tower_layers(count))
