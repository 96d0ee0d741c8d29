"""Llama 4 (chunked attention, NoPE layers, interleaved experts) and Llama 3.2 Vision (Mllama: cross-attention layers), with towers.

Source: transformers 5.23.0 `models/{llama4,mllama}/`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import (
    Dims,
    assemble,
    attention,
    embedding,
    full,
    gated_mlp,
    linear,
    lm_head,
    norm,
    read_dims,
)
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.heads import class_name
from hfmem.model.families.multimodal import WHOLE, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.families.qwen_vl import stacked_experts
from hfmem.model.inventory import Component, Inventory, Replicated
from hfmem.model.layers import ChunkedAttention, CrossAttention, Layer


def llama4_text(cfg: Config) -> Architecture:
    """Llama 4's decoder. Layers with rotary positions attend within chunks, the others (`no_rope_layers` 0) over everything.

    Sparse layers (`moe_layers`, else every `interleave_moe_layer_step`-th) have a shared expert beside the routed ones; dense ones
    are `intermediate_size_mlp` wide.
    """
    d = read_dims(cfg)
    vocab, inner = cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    every = range(d.num_layers)
    step, listed = cfg.positive("interleave_moe_layer_step"), cfg.opt_list("moe_layers")
    sparse = sorted(set(listed)) if listed is not None else list(range(step - 1, d.num_layers, step))
    if any(not isinstance(i, int) or i not in every for i in sparse):
        raise ContradictionError(f"{cfg.file}: 'moe_layers' names layers outside 0…{d.num_layers - 1}")
    experts, top_k = cfg.positive("num_local_experts", "num_experts"), cfg.positive("num_experts_per_tok")
    tied, bias = cfg.flag("tie_word_embeddings", default=False), cfg.flag("attention_bias", default=False)
    inv = Inventory()
    embedding(inv, "model.embed_tokens.weight", vocab, d.hidden)
    attention(inv, "model.layers.{}.self_attn", every, d, qkv_bias=bias, o_bias=bias)
    dense = [i for i in every if i not in sparse]
    wide = cfg.positive("intermediate_size_mlp") if dense else inner
    gated_mlp(inv, "model.layers.{}.feed_forward", dense, d.hidden, wide)
    linear(inv, "model.layers.{}.feed_forward.router", sparse, experts, d.hidden, Component.EXPERTS, Replicated())
    stacked_experts(Part(inv).at("model.layers.{}.feed_forward.", sparse), d.hidden, inner, experts, top_k)
    gated_mlp(inv, "model.layers.{}.feed_forward.shared_expert", sparse, d.hidden, inner)
    norm(inv, "model.layers.{}.input_layernorm", every, d.hidden)
    norm(inv, "model.layers.{}.post_attention_layernorm", every, d.hidden)
    norm(inv, "model.norm", None, d.hidden)
    lm_head(inv, "lm_head.weight", vocab, d.hidden, "model.embed_tokens.weight" if tied else None)
    return assemble(
        cfg,
        cfg,
        "llama4",
        d,
        _layers(cfg, d),
        inv,
        vocab=vocab,
        tied=tied,
        intermediate=inner,
        num_experts=experts,
        top_k=top_k,
    )


def _layers(cfg: Config, d: Dims) -> list[Layer]:
    """Chunked or full, by `layer_types`, else by `no_rope_layers`, else every `no_rope_layer_interval`-th full."""
    types = cfg.opt_list("layer_types")
    if types is None:
        rotary = cfg.opt_list("no_rope_layers") or []  # empty means the default, as in the class
        if not rotary:
            interval = cfg.positive("no_rope_layer_interval")
            rotary = [int((i + 1) % interval != 0) for i in range(d.num_layers)]
        types = ["chunked_attention" if r else "full_attention" for r in rotary]
    if len(types) != d.num_layers:
        raise ContradictionError(f"{cfg.file}: {len(types)} layer types for {d.num_layers} layers")
    chunk = cfg.opt_int("attention_chunk_size")
    chunked = full(d) if not chunk else ChunkedAttention(d.num_heads, d.num_kv_heads, d.head_dim, d.head_dim, chunk)
    known = ("chunked_attention", "full_attention")
    return [
        Layer((chunked if cfg.choice("layer_types", str(kind), known) == "chunked_attention" else full(d),))
        for kind in types
    ]


def _llama4_tower(part: Part, cfg: Config) -> int:
    """Llama 4's tower: unfolded patches, blocks with biases, pixel shuffle into a two-layer adapter."""
    width, count = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    inner, (height, breadth) = cfg.positive("intermediate_size"), vision.side(cfg, "patch_size")
    rows = cfg.positive("num_channels") * height * breadth
    part.linear("patch_embedding.linear", width, rows, split=COLUMN, bias=False)
    part.tensor("class_embedding", (width,))
    part.tensor("positional_embedding_vlm", (vision.patches(cfg) + 1, width))
    part.norms(("layernorm_pre", "layernorm_post"), width)
    block = part.at("model.layers.{}.", range(count))
    vision.projections(block.at("self_attn."), width, names=("q_proj", "k_proj", "v_proj", "o_proj"))
    vision.mlp(block.at("mlp."), width, inner)
    block.norms(("input_layernorm", "post_attention_layernorm"), width)
    out = cfg.positive("projector_output_dim")
    part.linear("vision_adapter.mlp.fc1", cfg.positive("projector_input_dim"), inner, split=COLUMN, bias=False)
    part.linear("vision_adapter.mlp.fc2", out, out, split=ROW, bias=False)
    return count


def llama4(cfg: Config) -> Architecture:
    """Llama 4 with its tower and one projection; saved as a causal LM, the text model alone."""
    text, inner = text_part(cfg)
    inv = Inventory()
    if class_name(cfg).endswith("ForCausalLM"):
        return wrap(cfg, text, inner, "llama4", (), inv)
    seen = cfg.sub("vision_config")
    count = _llama4_tower(tower(inv, "vision_model."), seen)
    out = seen.positive("vision_output_dim")
    tower(inv).linear("multi_modal_projector.linear_1", inner.hidden_size, out, split=COLUMN, bias=False)
    return wrap(cfg, text, inner, "llama4", WHOLE, inv, tower_layers(count))


#: places of the cross-attention layers where a config names none (configuration_mllama.py)
_CROSS_LAYERS = (3, 8, 13, 18, 23, 28, 33, 38)
#: aspect ratios where a config names none: eight of them, one embedding each beside that of padding
_ASPECT_RATIOS = 8


def mllama_text(cfg: Config) -> Architecture:
    """Mllama's decoder: Llama's block, and blocks that attend over the image instead of the text. Their keys and values grow with
    images; where the input has none these layers keep nothing."""
    d = read_dims(cfg)
    vocab, inner = cfg.positive("vocab_size"), cfg.positive("intermediate_size")
    listed = cfg.opt_list("cross_attention_layers")
    every = range(d.num_layers)
    if any(type(i) is not int for i in listed or ()):
        raise ContradictionError(f"{cfg.file}: 'cross_attention_layers' is not a list of layers' numbers")
    cross = [i for i in every if i in (_CROSS_LAYERS if listed is None else listed)]  # numbers of no layer mean nothing
    own = [i for i in every if i not in cross]
    inv = Inventory()
    embedding(inv, "model.embed_tokens.weight", vocab + 8, d.hidden)  # eight rows for image tokens
    attention(inv, "model.layers.{}.self_attn", own, d)
    attention(inv, "model.layers.{}.cross_attn", cross, d, qk_norm="head")
    gates = Part(inv).at("model.layers.{}.", cross, Component.OTHER)
    gates.tensor("cross_attn_attn_gate", (1,))
    gates.tensor("cross_attn_mlp_gate", (1,))
    gated_mlp(inv, "model.layers.{}.mlp", every, d.hidden, inner)
    norm(inv, "model.layers.{}.input_layernorm", every, d.hidden)
    norm(inv, "model.layers.{}.post_attention_layernorm", every, d.hidden)
    norm(inv, "model.norm", None, d.hidden)
    lm_head(inv, "lm_head.weight", vocab, d.hidden, None)  # the embedding has more rows: never tied
    image = Layer((CrossAttention(d.num_heads, d.num_kv_heads, d.head_dim, None),))
    layers = [image if i in cross else Layer((full(d),)) for i in every]
    return assemble(cfg, cfg, "mllama", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def _mllama_blocks(part: Part, count: int, width: int, inner: int, *, gated: bool) -> None:
    block = part.at("layers.{}.", range(count))
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    vision.projections(block.at("self_attn."), width, bias=False, names=names)
    vision.mlp(block.at("mlp."), width, inner)
    block.norms(("input_layernorm", "post_attention_layernorm"), width)
    if gated:
        block.tensor("gate_attn", (1,))
        block.tensor("gate_ffn", (1,))


def _mllama_tower(part: Part, cfg: Config) -> int:
    """Mllama's tower: local and gated global blocks over tiles, with embeddings for each aspect ratio and tile."""
    width, inner = cfg.positive("hidden_size"), cfg.positive("intermediate_size")
    local, overall = cfg.positive("num_hidden_layers"), cfg.positive("num_global_layers")
    tiles, positions = cfg.positive("max_num_tiles"), vision.patches(cfg) + 1
    ratios = cfg.published("supported_aspect_ratios")
    rows = (_ASPECT_RATIOS if ratios is None else len(cfg.need_list("supported_aspect_ratios"))) + 1
    part.tensor("class_embedding", (width,))
    part.conv("patch_embedding", width, cfg.positive("num_channels"), vision.side(cfg, "patch_size"), bias=False)
    gated = part.at("gated_positional_embedding.")
    gated.tensor("gate", (1,))
    gated.tensor("embedding", (positions, width))
    gated.tensor("tile_embedding.weight", (rows, tiles * positions * width))
    for name in ("pre_tile_positional_embedding", "post_tile_positional_embedding"):
        part.tensor(f"{name}.gate", (1,))
        part.tensor(f"{name}.embedding.weight", (rows, tiles * width))
    part.norms(("layernorm_pre", "layernorm_post"), width)
    _mllama_blocks(part.at("transformer."), local, width, inner, gated=False)
    _mllama_blocks(part.at("global_transformer."), overall, width, inner, gated=True)
    return local + overall


def mllama(cfg: Config) -> Architecture:
    """Llama 3.2 Vision: the tower, one projection, and a decoder of which some layers attend over the image."""
    text, inner = text_part(cfg)
    inv = Inventory()
    if class_name(cfg).endswith("ForCausalLM"):
        return wrap(cfg, text, inner, "mllama", (), inv)
    seen = cfg.sub("vision_config")
    count = _mllama_tower(tower(inv, "vision_model."), seen)
    tower(inv).linear("multi_modal_projector", inner.hidden_size, seen.positive("vision_output_dim"))
    return wrap(cfg, text, inner, "mllama", WHOLE, inv, tower_layers(count))
