"""Sparse latent attention with an output gate: SKT A.X K2 (gated norms too) and Tencent Hunyuan V4.

Source: transformers 5.23.0 `models/{axk2,hy_v4}` and their checkpoint renames; published names (A.X K2 stores its query
projection and gate as `q_b_proj`).
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import gated_mlp, linear, norm
from hfmem.model.config import Config
from hfmem.model.families.deepseek import CORRECTION, shared_indexers
from hfmem.model.inventory import Column, Component, Inventory, Replicated
from hfmem.model.latent_blocks import indexer, latent_attention, latent_dims, read_indexer, read_latent
from hfmem.model.layers import Layer
from hfmem.model.moe import moe, read_experts, sparse_layers
from hfmem.model.stack import Stack, open_stack

LAYER = "model.layers.{}"


def feed_forward(stack: Stack, cfg: Config, correction: str | None) -> list[int]:
    """Dense layers first, experts after; returns the layers with experts."""
    d, experts = stack.d, read_experts(cfg)
    sparse = sparse_layers(cfg, d.num_layers, dense_default=1) if experts else []
    dense = [i for i in range(d.num_layers) if i not in set(sparse)]
    stack.intermediate = cfg.positive("intermediate_size")
    gated_mlp(stack.inv, f"{LAYER}.mlp", dense, d.hidden, stack.intermediate)
    if experts:
        moe(stack.inv, f"{LAYER}.mlp", sparse, d.hidden, experts, correction_bias=correction)
        stack.num_experts, stack.top_k = experts.count, experts.top_k
    return sparse


def axk2(cfg: Config) -> Architecture:
    """SKT A.X K2: DeepSeek V3.2's attention with an output gate, queries from two concatenated latents, low-rank gates on norms."""
    latent, index = read_latent(cfg), read_indexer(cfg)
    if latent.q_lora_rank is None:
        raise ContradictionError(f"{cfg.file}: 'q_lora_rank' is null and A.X K2 projects its gate from it")
    d = latent_dims(cfg, latent)
    stack = open_stack(cfg, cfg, d)
    inv, every = stack.inv, range(d.num_layers)
    rank, mixer = latent.q_lora_rank, f"{LAYER}.self_attn"
    attending = Inventory()
    latent_attention(attending, mixer, every, d.hidden, latent, bias=cfg.flag("attention_bias", default=False))
    fused = f"{mixer}.q_b_proj.weight"
    inv.specs.extend(s for s in attending.specs if s.pattern != fused)
    queries = latent.num_heads * (latent.nope + latent.rope)
    gates = latent.num_heads * latent.v
    inv.each(fused, every, (queries + gates, 2 * rank), Component.ATTENTION, Column((queries, gates)))
    indexer(inv, f"{mixer}.indexer", every, d.hidden, rank, index)
    sparse = feed_forward(stack, cfg, CORRECTION)
    dense = [i for i in every if i not in set(sparse)]
    low = cfg.positive("gated_norm_rank")
    norm(inv, f"{LAYER}.post_attention_layernorm", dense, d.hidden)
    for place, where in (("input_layernorm", list(every)), ("post_attention_layernorm", sparse)):
        norm(inv, f"{LAYER}.{place}.norm", where, d.hidden)
        linear(inv, f"{LAYER}.{place}.W_down", where, low, d.hidden, Component.NORM, Replicated())
        linear(inv, f"{LAYER}.{place}.W_up", where, d.hidden, low, Component.NORM, Replicated())
    stack.layers = [Layer((latent.sparse(index),))] * d.num_layers
    return stack.finish(cfg, "axk2")


def hy_v4(cfg: Config) -> Architecture:
    """Tencent Hunyuan V4: GLM 5.2's attention (shared indexers) with sinks and an output gate, hyper-connections around each half.

    Without `indexer_types` the first layer has an indexer and every fourth from the second on. Source: transformers 5.23.0
    `models/hy_v4` and its checkpoint renames.
    """
    latent, index = read_latent(cfg), read_indexer(cfg)
    d = latent_dims(cfg, latent)
    stack = open_stack(cfg, cfg, d)
    inv, every, mixer = stack.inv, range(d.num_layers), f"{LAYER}.self_attn"
    latent_attention(inv, mixer, every, d.hidden, latent, bias=cfg.flag("attention_bias", default=False))
    if cfg.opt_list("indexer_types") is None:
        indexed = [i for i in every if i == 0 or (i - 1) % 4 == 0]
    else:
        indexed = shared_indexers(cfg, d.num_layers)
    indexer(inv, f"{mixer}.indexer", indexed, d.hidden, latent.q_lora_rank or d.hidden, index)
    inner, part = latent.num_heads * latent.v, Component.ATTENTION
    linear(inv, f"{mixer}.linear_gate", every, inner, d.hidden, part, Column())
    inv.each(f"{mixer}.learnable_sink_param", every, (latent.num_heads,), part, Column())
    feed_forward(stack, cfg, CORRECTION)
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", every, d.hidden)
    streams = cfg.positive("hc_mult")
    for place in ("attn", "mlp"):
        for leaf, shape in (("fn", (2 * streams, streams * d.hidden)), ("base", (2 * streams,)), ("scale", (2,))):
            inv.each(f"{LAYER}.hc_{place}_layer.hc_{leaf}", every, shape, Component.OTHER)
    for leaf, shape in (("fn", (streams, streams * d.hidden)), ("base", (streams,)), ("scale", (1,))):
        inv.add(f"model.hc_head.hc_{leaf}", shape, Component.OTHER)
    has_indexer = set(indexed)
    stack.layers = [Layer((latent.sparse(index, i in has_indexer),)) for i in every]
    return stack.finish(cfg, "hy_v4")
