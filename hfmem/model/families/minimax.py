"""MiniMax Text-01, M1 (lightning attention beside softmax attention), M2 (softmax only), M3 (block-sparse, with a tower).

Source: transformers 5.23.0 `models/{minimax,minimax_m2,minimax_m3_vl}` and their checkpoint renames; Text-01's and M1's names from
the index of MiniMax-M1.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import ContradictionError, UnknownArchitectureError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, attention, full, gated_mlp, linear, norm, read_dims, routed_experts
from hfmem.model.config import Config
from hfmem.model.families.multimodal import WHOLE, text_config, tower, tower_layers, wrap
from hfmem.model.families.vision import clip_blocks
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.layer_lists import windowed_layers
from hfmem.model.layers import IndexedAttention, Layer, LinearAttentionState
from hfmem.model.stack import Stack, indices_of, layer_kinds, open_stack
from hfmem.records import replace

LAYER = "model.layers.{}"
LINEAR, FULL, SPARSE = "linear_attention", "full_attention", "minimax_m3_sparse"
W123 = ("w1", "w3", "w2")


def _kinds(cfg: Config, num_layers: int) -> list[str]:
    """`layer_types`, else `attn_type_list` (0 lightning, 1 softmax), else softmax in every even layer as in MiniMaxConfig."""
    words = cfg.opt_list("layer_types")
    if words is None and (numbers := cfg.opt_list("attn_type_list")) is not None:
        words = [{"0": LINEAR, "1": FULL}[cfg.choice("attn_type_list", str(n), ("0", "1"))] for n in numbers]
    if words is None:
        words = [LINEAR if i % 2 else FULL for i in range(num_layers)]
    return layer_kinds(cfg, "layer_types", words, (LINEAR, FULL), num_layers)


def _mixtral_experts(stack: Stack, cfg: Config, indices: Sequence[int], *, bias: str | None = None) -> None:
    experts, top_k = cfg.positive("num_local_experts", "num_experts"), cfg.positive("num_experts_per_tok")
    width, prefix = cfg.positive("intermediate_size"), f"{LAYER}.block_sparse_moe"
    routed_experts(stack.inv, prefix, indices, stack.d.hidden, width, experts, top_k, names=W123)
    if bias is not None:
        stack.inv.each(f"{prefix}.{bias}", indices, (experts,), Component.EXPERTS, buffer=True, optional=True)
    stack.intermediate, stack.num_experts, stack.top_k = width, experts, top_k


def _norms(inv: Inventory, d: Dims) -> None:
    norm(inv, f"{LAYER}.input_layernorm", range(d.num_layers), d.hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", range(d.num_layers), d.hidden)


def minimax(cfg: Config) -> Architecture:
    """MiniMax-Text-01 and M1: experts in every layer, lightning attention in most."""
    shared = cfg.published("shared_intermediate_size")
    if shared not in (None, 0, [0]):
        raise UnknownArchitectureError(f"{cfg.file}: 'shared_intermediate_size' is {str(shared)[:40]}; only 0 is known")
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    inv = stack.inv
    kinds = _kinds(cfg, d.num_layers)
    softmax, lightning = indices_of(kinds, FULL), indices_of(kinds, LINEAR)
    attention(inv, f"{LAYER}.self_attn", softmax, d)
    inner, part, mixer = d.num_heads * d.head_dim, Component.ATTENTION, f"{LAYER}.self_attn"
    linear(inv, f"{mixer}.qkv_proj", lightning, 3 * inner, d.hidden, part, Column((inner, inner, inner)))
    linear(inv, f"{mixer}.output_gate", lightning, inner, d.hidden, part, Column())
    linear(inv, f"{mixer}.out_proj", lightning, d.hidden, inner, part, Row())
    norm(inv, f"{mixer}.norm", lightning, inner)
    _norms(inv, d)
    _mixtral_experts(stack, cfg, range(d.num_layers))
    state = LinearAttentionState(d.num_heads, d.head_dim)
    stack.layers = [Layer((full(d) if kind == FULL else state,)) for kind in kinds]
    return stack.finish(cfg, "minimax")


def minimax_m2(cfg: Config) -> Architecture:
    """MiniMax M2: grouped-query attention, experts in every layer. A norm over all heads of q and k, or over each.

    A window, which no published one has, holds in every layer: transformers 5.23.0 and vLLM 0.33.0 both take it so.
    """
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    kind = cfg.choice("qk_norm_type", cfg.opt_str("qk_norm_type") or "per_layer", ("per_layer", "per_head"))
    normed = cfg.flag("use_qk_norm", default=True)
    how = None if not normed else "shared" if kind == "per_layer" else "head"
    attention(stack.inv, f"{LAYER}.self_attn", range(d.num_layers), d, qk_norm=how)
    _norms(stack.inv, d)
    _mixtral_experts(stack, cfg, range(d.num_layers), bias="e_score_correction_bias")
    stack.layers = windowed_layers(cfg, d)
    return stack.finish(cfg, "minimax_m2")


def _by_frequency(cfg: Config, key: str, values: object, words: tuple[str, str], num_layers: int) -> list[str]:
    """A list of 0 and 1, one a layer, as words."""
    if not isinstance(values, list) or len(values) != num_layers:
        raise ContradictionError(f"{cfg.file}: {key!r} is not a list of {num_layers} entries")
    return [words[1] if value else words[0] for value in values]


def minimax_m3_text(cfg: Config) -> Architecture:
    """MiniMax M3's text model: an indexer picks blocks of keys in most layers; dense layers first, then experts and shared ones."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    inv, every = stack.inv, range(d.num_layers)
    sparse_part = cfg.opt_sub("sparse_attention_config") or Config({}, cfg.file, "", cfg.used_defaults)
    words = cfg.opt_list("layer_types")
    if words is None and (frequency := sparse_part.published("sparse_attention_freq")) is not None:
        words = _by_frequency(cfg, "sparse_attention_freq", frequency, (FULL, SPARSE), d.num_layers)
    kinds = layer_kinds(cfg, "layer_types", words or [FULL] * d.num_layers, (FULL, SPARSE), d.num_layers)
    types = cfg.opt_list("mlp_layer_types")
    if types is None and (frequency := cfg.published("moe_layer_freq")) is not None:
        types = _by_frequency(cfg, "moe_layer_freq", frequency, ("dense", "sparse"), d.num_layers)
    feeds = layer_kinds(cfg, "mlp_layer_types", types or ["sparse"] * d.num_layers, ("dense", "sparse"), d.num_layers)
    attention(inv, f"{LAYER}.self_attn", every, d, qk_norm="head")
    heads = sparse_part.opt_int("sparse_num_index_heads") or cfg.positive("index_n_heads")
    width = sparse_part.opt_int("sparse_index_dim") or cfg.positive("index_head_dim")
    indexed, part = indices_of(kinds, SPARSE), Component.ATTENTION
    linear(inv, f"{LAYER}.self_attn.index_q_proj", indexed, heads * width, d.hidden, part, Column(kv_heads=(heads,)))
    linear(inv, f"{LAYER}.self_attn.index_k_proj", indexed, width, d.hidden, part, Replicated())
    for name in ("index_q_norm", "index_k_norm"):
        norm(inv, f"{LAYER}.self_attn.{name}", indexed, width)
    _norms(inv, d)
    sparse, dense = indices_of(feeds, "sparse"), indices_of(feeds, "dense")
    if dense:
        gated_mlp(inv, f"{LAYER}.mlp", dense, d.hidden, cfg.positive("dense_intermediate_size"))
    _mixtral_experts(stack, cfg, sparse, bias="e_score_correction_bias")
    if shared := cfg.opt_int("shared_intermediate_size"):
        gated_mlp(inv, f"{LAYER}.block_sparse_moe.shared_experts", sparse, d.hidden, shared)
    blocks = sparse_part.opt_int("sparse_topk_blocks") or cfg.positive("index_topk_blocks")
    block = sparse_part.opt_int("sparse_block_size") or cfg.positive("index_block_size")
    # blocks that are always seen (`sparse_local_block`) are among those that are picked
    picked = IndexedAttention(d.num_heads, d.num_kv_heads, d.head_dim, d.head_dim, width, blocks * block, block)
    stack.layers = [Layer((full(d) if kind == FULL else picked,)) for kind in kinds]
    return stack.finish(cfg, "minimax_m3")


def minimax_m3(cfg: Config) -> Architecture:
    """MiniMax M3 with its tower: CLIP blocks over 3-d patches, a projector, and a second one over merged patches.

    A config that has neither part, but layers, is the text model's own (`MiniMaxM3ForCausalLM`, vLLM's
    `MiniMaxM3SparseForCausalLM`).
    """
    if cfg.has("num_hidden_layers") and not cfg.has("text_config") and not cfg.has("vision_config"):
        alone = minimax_m3_text(Config(cfg.data, cfg.file, "minimax_m3_vl_text", cfg.used_defaults))
        return replace(alone, model_type=cfg.model_type)
    text = text_config(cfg, model_type="minimax_m3_vl_text")
    text = Config(text.data, text.file, "minimax_m3_vl_text", cfg.used_defaults)
    inner = minimax_m3_text(text)
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="minimax_m3_vl_vision")
    vision = Config(found.data, found.file, "minimax_m3_vl_vision", cfg.used_defaults)
    merging = vision.opt_sub("img_token_compression_config") or vision
    width, count = vision.positive("hidden_size"), vision.positive("num_hidden_layers")
    merge = merging.opt_int("spatial_merge_size") or vision.positive("spatial_merge_size")
    frames = merging.opt_int("temporal_patch_size") or vision.positive("temporal_patch_size")
    patch = vision.positive("patch_size")
    part = tower(inv, "vision_tower.vision_model.")
    kernel = (frames, patch, patch)
    part.conv("embeddings.patch_embedding", width, vision.positive("num_channels"), kernel, bias=False)
    part.norm("pre_layrnorm", width)
    clip_blocks(part.at("encoder."), count, width, vision.positive("intermediate_size"))
    projected = cfg.positive("projector_hidden_size")
    for place, fed in (("multi_modal_projector", width), ("patch_merge_mlp", inner.hidden_size * merge**2)):
        projector = tower(inv, f"{place}.")
        projector.linear("linear_1", projected, fed, split=Column())
        projector.linear("linear_2", inner.hidden_size, projected, split=Row())
    return wrap(cfg, text, inner, "minimax_m3", WHOLE, inv, tower_layers(count))
