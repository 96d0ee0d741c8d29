"""Ling's hybrid (Bailing V3): Kimi's delta attention with a latent-attention layer at the end of each group, DeepSeek's experts.

Source: transformers 5.23.0 `models/bailing_hybrid` and its checkpoint renames.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import gated_mlp, linear, norm
from hfmem.model.config import Config
from hfmem.model.families.bailing_linear import bailing_linear, is_linear
from hfmem.model.inventory import Column, Component, Inventory, Row
from hfmem.model.latent_blocks import latent_attention, latent_dims, read_latent
from hfmem.model.layers import KimiDeltaState, Layer
from hfmem.model.moe import moe, read_experts, sparse_layers
from hfmem.model.stack import indices_of, layer_kinds, open_stack
from hfmem.model.state_blocks import state_dtype
from hfmem.records import replace

LAYER = "model.layers.{}"
LINEAR, FULL = "linear_attention", "full_attention"
PART = Component.ATTENTION


def bailing_hybrid(cfg: Config) -> Architecture:
    """Delta attention except in every `layer_group_size`-th layer, whose latent attention has a gate for each head.

    A config of the same model_type and V2.5's class is `bailing_linear`'s.
    """
    if is_linear(cfg):
        return bailing_linear(cfg)
    rank = cfg.published("q_lora_rank")  # the class has none, whatever its base assumes
    one_step = Config({**cfg.data, "q_lora_rank": rank}, cfg.file, cfg.model_type, cfg.used_defaults)
    latent = read_latent(one_step)
    d = latent_dims(cfg, latent)
    stack = open_stack(cfg, cfg, d, embed="model.word_embeddings.weight")
    inv, every, mixer = stack.inv, range(d.num_layers), f"{LAYER}.attention"
    words = cfg.opt_list("layer_types")
    if words is None:
        group = cfg.positive("layer_group_size")
        whole = d.num_layers // group * group  # an unfinished last group is full attention
        words = [LINEAR if (i + 1) % group and i < whole else FULL for i in every]
    kinds = layer_kinds(cfg, "layer_types", words, (LINEAR, FULL), d.num_layers)
    # saved by transformers, `head_dim` is the latent attention's rotary part and `linear_*` are what it was
    width, heads = cfg.positive("linear_head_dim", "head_dim"), cfg.opt_int("linear_num_heads") or d.num_heads
    kernel = cfg.positive("linear_conv_kernel_dim", "short_conv_kernel_size")
    state = KimiDeltaState(heads, width, width, kernel, state_dtype(cfg))
    recurrent, inner = indices_of(kinds, LINEAR), heads * width
    for name in ("q", "k", "v"):
        linear(inv, f"{mixer}.{name}_proj", recurrent, inner, d.hidden, PART, Column())
        inv.each(f"{mixer}.{name}_conv1d.weight", recurrent, (inner, 1, state.conv_kernel), PART, Column())
    for name, rows in (("f_proj", inner), ("g_proj", inner), ("b_proj", heads)):
        linear(inv, f"{mixer}.{name}", recurrent, rows, d.hidden, PART, Column())
    inv.each(f"{mixer}.A_log", recurrent, (heads,), PART, Column())
    inv.each(f"{mixer}.dt_bias", recurrent, (inner,), PART, Column())
    norm(inv, f"{mixer}.o_norm", recurrent, width)
    linear(inv, f"{mixer}.dense", recurrent, d.hidden, inner, PART, Row())
    full, part = indices_of(kinds, FULL), Inventory()
    latent_attention(part, mixer, full, d.hidden, latent, bias=cfg.flag("attention_bias", default=False))
    inv.specs.extend(replace(s, pattern=s.pattern.replace(".o_proj.", ".dense.")) for s in part.specs)
    key = "gated_attention_proj_granularity_type"
    gate = cfg.choice(key, cfg.opt_str(key) or "head_wise", ("head_wise", "element_wise"))
    if cfg.opt_str(key) is not None or not cfg.has(
        key
    ):  # vLLM reads null as no gate; transformers' class has one a head
        rows = heads if gate == "head_wise" else heads * latent.v
        linear(inv, f"{mixer}.g_proj", full, rows, d.hidden, PART, Column())
    experts = read_experts(cfg)
    sparse = sparse_layers(cfg, d.num_layers) if experts else []
    stack.intermediate = cfg.positive("intermediate_size")
    gated_mlp(inv, f"{LAYER}.mlp", [i for i in every if i not in set(sparse)], d.hidden, stack.intermediate)
    if experts:
        moe(inv, f"{LAYER}.mlp", sparse, d.hidden, experts, correction_bias="gate.expert_bias")
        stack.num_experts, stack.top_k = experts.count, experts.top_k
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", every, d.hidden)
    stack.layers = [Layer((state if kind == LINEAR else latent.cache(),)) for kind in kinds]
    return stack.finish(cfg, "bailing_hybrid")
