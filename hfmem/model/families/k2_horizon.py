"""K2 Horizon: experts in attention's values (MoVA) and in the feed-forward, an output gate, norms in groups.

Source: vLLM 0.33.0 `model_executor/models/k2_horizon.py`; names as its loader reads them. What first files call `xllm`: SGLang
0.5.23 `srt/models/xllm.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, attention, full, gated_mlp, linear, norm, read_dims, routed_experts
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.layers import Layer
from hfmem.model.stack import open_stack

LAYER = "model.layers.{}"
ATTN = f"{LAYER}.self_attn"


def k2_horizon(cfg: Config) -> Architecture:
    """Sparse is every `decoder_sparse_step`-th layer outside `mlp_only_layers`; only those pick among `mova_num_experts` values."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    inv, every = stack.inv, range(d.num_layers)
    dense = set(cfg.numbers("mlp_only_layers") or [])
    step, count = cfg.opt_int("decoder_sparse_step") or 1, cfg.need_int("num_experts")
    sparse = [i for i in every if count and i not in dense and (i + 1) % step == 0]
    rest = [i for i in every if i not in set(sparse)]
    values = cfg.need_int("mova_num_experts")
    mixed = sparse if values else []
    plain = [i for i in every if i not in set(mixed)]
    bias = cfg.flag("attention_bias", default=False)
    attention(inv, ATTN, plain, d, qkv_bias=bias, o_bias=bias)
    _mova(inv, cfg, mixed, d, values, bias=bias)
    if cfg.opt_str("attention_gate_func") is not None:
        linear(inv, f"{ATTN}.gate_proj", every, d.num_heads * d.head_dim, d.hidden, Component.ATTENTION, Column())
    if cfg.flag("query_key_norm", default=False):
        kv = Column(kv_heads=(d.num_kv_heads,))
        for name, heads, split in (("q_norm", d.num_heads, Column()), ("k_norm", d.num_kv_heads, kv)):
            inv.each(f"{ATTN}.{name}.weight", every, (heads * d.head_dim,), Component.NORM, split)
    if rest:
        gated_mlp(inv, f"{LAYER}.mlp", rest, d.hidden, cfg.positive("intermediate_size"))
    if sparse:
        width, top_k = cfg.positive("moe_intermediate_size"), cfg.positive("num_experts_per_tok")
        routed_experts(inv, f"{LAYER}.mlp", sparse, d.hidden, width, count, top_k)
        if cfg.flag("moe_gate_bias", default=False):
            inv.each(f"{LAYER}.mlp.gate.bias", sparse, (count,), Component.EXPERTS)
        if shared := cfg.opt_int("num_shared_experts"):
            gated_mlp(inv, f"{LAYER}.mlp.shared_experts", sparse, d.hidden, shared * width)
        stack.num_experts, stack.top_k = count, top_k
    for name in ("input_layernorm", "post_attention_layernorm"):
        norm(inv, f"{LAYER}.{name}", every, d.hidden)
    stack.intermediate = cfg.opt_int("intermediate_size")
    stack.layers = [Layer((full(d),))] * d.num_layers
    return stack.finish(cfg, "k2_horizon")


def xllm(cfg: Config) -> Architecture:
    """K2 Horizon under the keys of its first files, dense ones among them: what says nothing of experts has none."""
    data = {"num_experts": 0, **cfg.data, "mova_num_experts": cfg.opt_int("num_values") or 0}
    data["mova_num_experts_per_tok"] = cfg.opt_int("num_values_per_tok")
    data["attention_gate_func"] = "silu" if cfg.flag("apply_attn_gate", default=False) else None
    return k2_horizon(Config(data, cfg.file, cfg.model_type, cfg.used_defaults))


def _mova(inv: Inventory, cfg: Config, layers: Sequence[int], d: Dims, count: int, *, bias: bool) -> None:
    """Attention whose values are picked: a router over `count` value projections, of which a token uses some."""
    if not layers:
        return
    top_k = cfg.positive("mova_num_experts_per_tok")
    if top_k > count:
        raise ContradictionError(f"{cfg.file}: {top_k} value experts per token cannot be picked from {count}")
    kv, rows = d.num_kv_heads * d.head_dim, d.num_heads * d.head_dim
    linear(inv, f"{ATTN}.q_proj", layers, rows, d.hidden, Component.ATTENTION, Column(), bias=bias)
    linear(
        inv, f"{ATTN}.k_proj", layers, kv, d.hidden, Component.ATTENTION, Column(kv_heads=(d.num_kv_heads,)), bias=bias
    )
    linear(inv, f"{ATTN}.o_proj", layers, d.hidden, rows, Component.ATTENTION, Row(), bias=bias)
    gate_bias = cfg.flag("moe_gate_bias", default=False)
    linear(inv, f"{ATTN}.v_router", layers, count, d.hidden, Component.ATTENTION, Replicated(), bias=gate_bias)
    name, split = f"{ATTN}.v_experts.{{}}.weight", Column(kv_heads=(d.num_kv_heads,))
    inv.each(name, layers, (kv, d.hidden), Component.ATTENTION, split, inner=count, active=Fraction(top_k, count))
