"""Alice AI: Kimi's delta attention with Qwen3-Next's gated attention between, residuals picked by scores, experts everywhere.

Source: vLLM 0.33.0 `model_executor/models/alice_ai.py`; names as its loader reads them.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import attention, full, gated_mlp, linear, norm, read_dims, routed_experts
from hfmem.model.config import Config
from hfmem.model.families.kimi import delta_attention
from hfmem.model.inventory import Component, Inventory, Replicated
from hfmem.model.layers import KimiDeltaState, Layer
from hfmem.model.stack import indices_of, layer_kinds, open_stack
from hfmem.model.state_blocks import state_dtype

LAYER = "model.layers.{}"
LINEAR, FULL = "linear_attention", "full_attention"


def alice_ai(cfg: Config) -> Architecture:
    """`layer_types` names each layer; delta attention has as many value heads as key heads, of one size."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    inv, every = stack.inv, range(d.num_layers)
    kinds = layer_kinds(cfg, "layer_types", cfg.need_list("layer_types"), (LINEAR, FULL), d.num_layers)
    heads, width = cfg.positive("linear_num_key_heads"), cfg.positive("linear_key_head_dim")
    if (cfg.positive("linear_num_value_heads"), cfg.positive("linear_value_head_dim")) != (heads, width):
        raise ContradictionError(f"{cfg.file}: delta attention needs {heads} value heads of {width}, as it has keys")
    state = KimiDeltaState(heads, width, width, cfg.positive("linear_conv_kernel_dim"), state_dtype(cfg))
    delta_attention(inv, f"{LAYER}.linear_attn", indices_of(kinds, LINEAR), d.hidden, state, full_gate=False)
    attention(inv, f"{LAYER}.self_attn", indices_of(kinds, FULL), d, qk_norm="head", q_gate=True)
    _experts(cfg, inv, d.hidden, every)
    for name in ("input_layernorm", "post_attention_layernorm"):
        norm(inv, f"{LAYER}.{name}", every, d.hidden)
    for name, where in (("attn", range(1, d.num_layers)), ("mlp", every)):
        linear(inv, f"{LAYER}.{name}_res_proj", where, 1, d.hidden, Component.OTHER, Replicated())
        inv.each(f"{LAYER}.{name}_res_norm_weight", where, (d.hidden,), Component.NORM)
    inv.add("model.attnres_final.res_proj.weight", (1, d.hidden), Component.OTHER)
    inv.add("model.attnres_final.res_norm_weight", (d.hidden,), Component.NORM)
    stack.num_experts, stack.top_k = cfg.positive("num_experts"), cfg.positive("num_experts_per_tok")
    stack.intermediate = cfg.opt_int("intermediate_size")
    stack.layers = [Layer((state if kind == LINEAR else full(d),)) for kind in kinds]
    return stack.finish(cfg, "alice_ai")


def _experts(cfg: Config, inv: Inventory, hidden: int, every: range) -> None:
    """Experts with a correction bias; the shared one has a gate, which is stored even where there is no shared expert."""
    count, top_k, prefix = cfg.positive("num_experts"), cfg.positive("num_experts_per_tok"), f"{LAYER}.mlp"
    routed_experts(inv, prefix, every, hidden, cfg.positive("moe_intermediate_size"), count, top_k)
    bias = f"{prefix}.gate.e_score_correction_bias"
    inv.each(bias, every, (count,), Component.EXPERTS, buffer=True, optional=True)
    linear(inv, f"{prefix}.shared_expert_gate", every, 1, hidden, Component.MLP, Replicated())
    shared = cfg.need_int("shared_expert_intermediate_size")
    if shared:
        gated_mlp(inv, f"{prefix}.shared_expert", every, hidden, shared)
