"""GLM 4.5, 4.6, 4.7: grouped-query attention, DeepSeek V3's experts and prediction layer.

Source: transformers 5.23.0 `models/glm4_moe`; names from the headers of GLM-4.5.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import attention, full, gated_mlp, norm, read_dims
from hfmem.model.config import Config
from hfmem.model.families.deepseek import CORRECTION, mtp_head, nextn_layers
from hfmem.model.inventory import Inventory
from hfmem.model.layers import Layer
from hfmem.model.moe import moe, read_experts, sparse_layers
from hfmem.model.stack import as_mtp, open_stack

LAYER = "model.layers.{}"


def glm4_moe(cfg: Config) -> Architecture:
    """GLM-4.5 and its successors without latent attention; the text part of GLM-4.5V."""
    d = read_dims(cfg, rounded=True)
    stack = open_stack(cfg, cfg, d)
    inv, every = stack.inv, range(d.num_layers)
    bias = cfg.flag("attention_bias", default=False)
    how = "head" if cfg.flag("use_qk_norm", default=False) else None
    experts = read_experts(cfg)

    def block(part: Inventory, indices: Sequence[int], sparse: Sequence[int]) -> None:
        attention(part, f"{LAYER}.self_attn", indices, d, qkv_bias=bias, qk_norm=how)
        norm(part, f"{LAYER}.input_layernorm", indices, d.hidden)
        norm(part, f"{LAYER}.post_attention_layernorm", indices, d.hidden)
        dense = [i for i in indices if i not in set(sparse)]
        if dense:
            gated_mlp(part, f"{LAYER}.mlp", dense, d.hidden, cfg.positive("intermediate_size"))
        if experts:
            moe(part, f"{LAYER}.mlp", sparse, d.hidden, experts, correction_bias=CORRECTION)

    block(inv, every, sparse_layers(cfg, d.num_layers) if experts else [])
    if count := nextn_layers(cfg):
        last = range(d.num_layers, d.num_layers + count)

        def mtp(part: Inventory) -> None:
            block(part, last, last if experts else [])
            mtp_head(part, LAYER, last, d.hidden, stack.vocab)

        as_mtp(inv, mtp)
    stack.intermediate = cfg.opt_int("intermediate_size")
    if experts:
        stack.num_experts, stack.top_k = experts.count, experts.top_k
    stack.layers = [Layer((full(d),))] * d.num_layers
    return stack.finish(cfg, "glm4_moe")
