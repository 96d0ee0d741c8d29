"""IQuest Q1: windows by three lists that make up the layers, sandwich norms, a sink key a KV head, experts stacked.

Source: SGLang 0.5.23 `configs/iquest_q1.py` (its defaults) and `models/{iquest_q1,iquest_q1_mtp}.py`, names as its loader
reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Final

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated, Row
from hfmem.model.layers import Layer
from hfmem.model.stack import as_mtp, open_stack
from hfmem.records import replace

_LAYER: Final = "model.layers.{}"
_FULL, _SLIDING = "full_attention", "sliding_attention"
#: what the class assumes of keys that a config leaves out, as far as they say anything about bytes
_DEFAULTS: Final[dict[str, Any]] = {
    "tie_word_embeddings": False,
    "sliding_window": 4096,
    "use_hybrid_layers": True,
    "use_sliding_window": True,
    "first_layers_types": [_FULL],
    "hybrid_layers_types_block": [_FULL, _SLIDING, _SLIDING, _SLIDING],
    "num_hybrid_layers_block": 21,
    "last_layers_types": [_FULL] * 3,
    "mlp_only_layers": [0],
    "enable_sink_attention": True,
    "num_mtp_layers": 0,
}


def iquest_q1(cfg: Config) -> Architecture:
    """Dense layers are those that `mlp_only_layers` names; the prediction layer has experts."""
    given = {key: value for key, value in cfg.data.items() if value is not None}
    cfg = Config({**_DEFAULTS, **given}, cfg.file, cfg.model_type, cfg.used_defaults)
    d = blocks.read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    dense = [i for i in cfg.numbers("mlp_only_layers") or [] if i < d.num_layers]
    _layers(stack.inv, cfg, d, range(d.num_layers), dense, [0])
    if cfg.need_int("num_mtp_layers"):
        as_mtp(stack.inv, lambda part: _prediction(part, cfg, d))
    stack.intermediate = cfg.positive("intermediate_size")
    stack.num_experts, stack.top_k = cfg.positive("num_experts"), cfg.positive("num_experts_per_tok")
    kinds = _kinds(cfg, d.num_layers)
    window = cfg.positive("sliding_window") if _SLIDING in kinds else 0
    stack.layers = [Layer((blocks.sliding(d, window) if kind == _SLIDING else blocks.full(d),)) for kind in kinds]
    return stack.finish(cfg, "iquest_q1")


def _kinds(cfg: Config, num_layers: int) -> list[str]:
    if not (cfg.flag("use_hybrid_layers") and cfg.flag("use_sliding_window")):
        return [_FULL] * num_layers
    first, block, last = (
        cfg.need_list(key) for key in ("first_layers_types", "hybrid_layers_types_block", "last_layers_types")
    )
    kinds = [*first, *block * cfg.need_int("num_hybrid_layers_block"), *last]
    if len(kinds) != num_layers:
        words = f"'num_hybrid_layers_block' and the lists around it make {len(kinds)} layers of {num_layers}"
        raise ContradictionError(f"{cfg.file}: {words}")
    return [cfg.choice("hybrid_layers_types_block", str(kind), (_FULL, _SLIDING)) for kind in kinds]


def _layers(inv: Inventory, cfg: Config, d: Dims, layers: range, dense: list[int], normed: Iterable[int]) -> None:
    """Attention and feed-forward under three norms, a fourth in the layers of `normed`."""
    attn, mlp, part = f"{_LAYER}.self_attn", f"{_LAYER}.mlp", Component.EXPERTS
    blocks.attention(inv, attn, layers, d, qkv_bias=False, o_bias=False, qk_norm="head")
    if cfg.flag("enable_sink_attention"):
        split = Column(kv_heads=(d.num_kv_heads,))
        inv.each(f"{attn}.sink_k", layers, (d.num_kv_heads, d.head_dim), Component.ATTENTION, split)
    if dense:
        blocks.gated_mlp(inv, mlp, dense, d.hidden, cfg.positive("dense_intermediate_size"))
    count, top_k, width = (cfg.positive(key) for key in ("num_experts", "num_experts_per_tok", "intermediate_size"))
    if top_k > count:
        raise ContradictionError(f"{cfg.file}: {top_k} experts per token cannot be picked from {count}")
    sparse, share = [i for i in layers if i not in dense], Fraction(top_k, count)
    blocks.linear(inv, f"{mlp}.router", sparse, count, d.hidden, part, Replicated())
    for leaf, shape, inner in (
        ("fc", (count, 2 * width, d.hidden), Column((width, width), (None, None))),
        ("proj", (count, d.hidden, width), Row()),
    ):
        inv.each(f"{mlp}.experts.{leaf}", sparse, shape, part, ExpertSplit(None, inner), active=share)
    for name in ("attention_norm", "attn_out_norm", "feed_forward_norm"):
        blocks.norm(inv, f"{_LAYER}.{name}", layers, d.hidden)
    blocks.norm(inv, f"{_LAYER}.ffn_out_norm", normed, d.hidden)


def _prediction(inv: Inventory, cfg: Config, d: Dims) -> None:
    """One layer with experts behind a projection of embedding and hidden state."""
    part = Inventory()
    _layers(part, cfg, d, range(1), [], [0])
    for spec in part.specs:
        inv.specs.append(
            replace(spec, pattern=spec.pattern.replace(_LAYER, "mtp.mtp_model_layer"), boxes=((),), layer_axis=None)
        )
    inv.add("mtp.eh_proj.weight", (d.hidden, 2 * d.hidden), Component.MTP, Replicated())
    for name in ("enorm", "hnorm", "final_layernorm"):
        blocks.norm(inv, f"mtp.{name}", None, d.hidden)
