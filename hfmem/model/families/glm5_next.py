"""GLM-5 Next: Kimi's delta attention with a latent-attention layer in every fourth, a pooled indexer, hyper-connections, a tower.

Sources: transformers 5.23.0 `models/glm5_next` and its checkpoint renames; vLLM 0.33.0 `models/glm5next/common/mtp.py` and the
bytes of the published GLM-5.3-Flash, part by part, for the prediction layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, gated_mlp, norm
from hfmem.model.config import Config
from hfmem.model.families.deepseek import CORRECTION, mtp_head, nextn_layers, shared_indexers
from hfmem.model.families.kimi import delta_attention
from hfmem.model.families.multimodal import NESTED, text_config, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.families.vision import side
from hfmem.model.inventory import Column, Component, Inventory
from hfmem.model.latent_blocks import indexer, latent_attention, latent_dims, read_indexer, read_latent
from hfmem.model.layers import KimiDeltaState, Layer
from hfmem.model.moe import Experts, moe, read_experts, sparse_layers
from hfmem.model.stack import as_mtp, indices_of, layer_kinds, open_stack
from hfmem.model.state_blocks import state_dtype
from hfmem.records import replace

LAYER = "model.layers.{}"
LINEAR, INDEXED = "linear_attention", "indexed_attention"


def glm5_next_text(cfg: Config) -> Architecture:
    """The text model. The indexer caches each token's key beside the score that weighs it in its pool of `index_kpool` tokens."""
    latent, index = read_latent(cfg), read_indexer(cfg)
    d = latent_dims(cfg, latent)
    stack = open_stack(cfg, cfg, d)
    inv, every, mixer = stack.inv, range(d.num_layers), f"{LAYER}.self_attn"
    words = cfg.opt_list("layer_types")
    if words is None:
        words = [INDEXED if i % 4 == 3 else LINEAR for i in every]
    named = [INDEXED if word in ("full_attention", "deepseek_sparse_attention") else word for word in words]
    kinds = layer_kinds(cfg, "layer_types", named, (LINEAR, INDEXED), d.num_layers)
    part = cfg.opt_sub("linear_attn_config") or Config({}, cfg.file, "", cfg.used_defaults)
    width = part.opt_int("head_dim") or cfg.positive("linear_head_dim")
    heads = part.opt_int("num_heads") or cfg.positive("linear_num_heads")
    kernel = part.opt_int("short_conv_kernel_size") or cfg.positive("linear_conv_kernel_dim")
    bounded = "linear_lower_bound" not in cfg.data or cfg.published("linear_lower_bound") is not None
    state = KimiDeltaState(heads, width, width, kernel, state_dtype(cfg), bounded)
    found = Inventory()
    delta_attention(found, mixer, indices_of(kinds, LINEAR), d.hidden, state, full_gate=False)
    decay = f"{mixer}.A_log"
    inv.specs.extend(
        replace(s, shape=(heads,), split=Column()) if s.pattern == decay else s for s in found.specs
    )  # Kimi's shape is [1, 1, heads, 1]
    latents = indices_of(kinds, INDEXED)
    own = set(shared_indexers(cfg, d.num_layers))
    _attention(inv, cfg, d.hidden, latents, [i for i in latents if i in own])
    experts = read_experts(cfg)
    sparse = sparse_layers(cfg, d.num_layers, dense_default=3) if experts else []
    stack.intermediate = cfg.positive("intermediate_size")
    gated_mlp(inv, f"{LAYER}.mlp", [i for i in every if i not in set(sparse)], d.hidden, stack.intermediate)
    if experts:
        moe(inv, f"{LAYER}.mlp", sparse, d.hidden, experts, correction_bias=CORRECTION)
        stack.num_experts, stack.top_k = experts.count, experts.top_k
    _norms(inv, d.hidden, every)
    if extra := nextn_layers(cfg):
        _prediction(inv, cfg, d, range(d.num_layers, d.num_layers + extra), experts)
    streams = cfg.positive("hc_mult")
    mixes = streams * (2 + streams)
    for place in ("attn", "ffn"):
        inv.each(f"{LAYER}.hc_{place}_fn", every, (mixes, streams * d.hidden), Component.OTHER)
        inv.each(f"{LAYER}.hc_{place}_base", every, (mixes,), Component.OTHER)
        inv.each(f"{LAYER}.hc_{place}_scale", every, (3,), Component.OTHER)
    packed = replace(index, head_dim=2 * index.head_dim + 1)  # key, score, and whether the token is there at all
    pool = cfg.positive("index_kpool")
    stack.layers = [
        Layer((state if kind == LINEAR else replace(latent.sparse(packed, i in own), index_pool=pool),))
        for i, kind in enumerate(kinds)
    ]
    return stack.finish(cfg, "glm5_next")


def _attention(inv: Inventory, cfg: Config, hidden: int, layers: Sequence[int], indexed: Sequence[int]) -> None:
    """Latent attention, and in the layers of `indexed` an indexer that scores pools of `index_kpool` tokens."""
    latent, index, mixer = read_latent(cfg), read_indexer(cfg), f"{LAYER}.self_attn"
    latent_attention(inv, mixer, layers, hidden, latent, bias=cfg.flag("attention_bias", default=False))
    indexer(inv, f"{mixer}.indexer", indexed, hidden, latent.q_lora_rank or hidden, index)
    pooling = f"{mixer}.indexer.index_kpool_compress"
    inv.each(f"{pooling}_ape", indexed, (cfg.positive("index_kpool"), index.head_dim), Component.ATTENTION)
    inv.each(f"{pooling}_gate", indexed, (index.head_dim, hidden), Component.ATTENTION)


def _norms(inv: Inventory, hidden: int, layers: Sequence[int]) -> None:
    norm(inv, f"{LAYER}.input_layernorm", layers, hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", layers, hidden)


def _prediction(inv: Inventory, cfg: Config, d: Dims, layers: range, experts: Experts | None) -> None:
    """Prediction layers: one stream of the residual, an indexer, experts; embedding and head are the model's."""

    def describe(part: Inventory) -> None:
        _attention(part, cfg, d.hidden, layers, layers)
        _norms(part, d.hidden, layers)
        if experts:
            moe(part, f"{LAYER}.mlp", layers, d.hidden, experts, correction_bias=CORRECTION)
        else:
            gated_mlp(part, f"{LAYER}.mlp", layers, d.hidden, cfg.positive("intermediate_size"))
        mtp_head(part, LAYER, layers, d.hidden, 0, shared=True)

    as_mtp(inv, describe)


def _tower(part: Part, vision: Config) -> int:
    """Pre-norm blocks with gated MLPs and normed heads, a strided convolution, a gated merger."""
    width, count, bias = (
        vision.positive("hidden_size"),
        vision.positive("depth"),
        vision.flag("attention_bias", default=True),
    )
    heads = vision.positive("num_heads")
    kernel = (vision.positive("temporal_patch_size"), *side(vision, "patch_size"))
    part.conv("patch_embed.proj", width, vision.positive("in_channels"), kernel)
    block = part.at("blocks.{}.", range(count))
    block.norms(("norm1", "norm2"), width, bias=False)
    block.norms(("attn.q_norm", "attn.k_norm"), width // heads, bias=False)
    block.linear("attn.qkv", 3 * width, width, split=Column((width, width, width)), bias=bias)
    block.linear("attn.proj", width, width, split=ROW, bias=bias)
    mlp = vision.positive("intermediate_size")
    block.linear("mlp.gate_proj", mlp, width, split=COLUMN, bias=bias)
    block.linear("mlp.up_proj", mlp, width, split=COLUMN, bias=bias)
    block.linear("mlp.down_proj", width, mlp, split=ROW, bias=bias)
    out, merge = vision.positive("out_hidden_size"), vision.positive("spatial_merge_size")
    part.norm("post_layernorm", width, bias=False)
    part.conv("downsample", out, width, (merge, merge))
    inner = vision.positive("projection_intermediate_size")
    part.linear("merger.proj", out, out, bias=False)
    part.norm("merger.post_projection_norm", out)
    part.linear("merger.gate_proj", inner, out, split=COLUMN, bias=False)
    part.linear("merger.up_proj", inner, out, split=COLUMN, bias=False)
    part.linear("merger.down_proj", out, inner, split=ROW, bias=False)
    return count


def glm5_next(cfg: Config) -> Architecture:
    """GLM-5 Next with its vision tower. The tower's width into the text model is its own: no projector follows."""
    text = text_config(cfg, model_type="glm5_next_text")
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="glm5_next_vision")
    vision = Config(found.data, found.file, "glm5_next_vision", cfg.used_defaults)
    count = _tower(tower(inv, "model.visual."), vision)
    return wrap(cfg, text, glm5_next_text(text), "glm5_next", NESTED, inv, tower_layers(count))
