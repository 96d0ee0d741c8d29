"""Kimi beyond K2: K2.5/K2.6 (DeepSeek V3's text model with MoonViT), Kimi Linear and K3 (delta attention beside latent attention).

Source: transformers 5.23.0 `models/{kimi_k25,kimi_linear}` and their checkpoint renames; K3's own parts (full-rank gate, experts in
a latent space, residual projections, tower without biases) from vLLM 0.33.0 `models/kimi_k3` and `kimi_k25_vit.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, gated_mlp, linear, norm, routed_experts
from hfmem.model.config import Config
from hfmem.model.families.multimodal import WHOLE, text_config, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import Part
from hfmem.model.families.vision import side
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.latent_blocks import latent_attention, latent_dims, read_latent
from hfmem.model.layers import KimiDeltaState, Layer
from hfmem.model.moe import read_experts, sparse_layers
from hfmem.model.stack import Stack, indices_of, layer_kinds, open_stack
from hfmem.model.state_blocks import state_dtype

LAYER = "model.layers.{}"
LINEAR, FULL = "linear_attention", "full_attention"


def moonvit(part: Part, vision: Config, *, cut_by_heads: bool = False) -> int:
    """MoonViT with learned positions; K3's has no biases, a norm without one, and queries of a width of its own.

    `cut_by_heads`: ranks that do not divide the heads hold all of it (vLLM's `is_vit_use_data_parallel`), Kimi-VL's refuses them.
    """
    heads = vision.positive("vt_num_attention_heads", "num_attention_heads") if cut_by_heads else None
    width, count = (
        vision.positive("vt_hidden_size", "hidden_size"),
        vision.positive("vt_num_hidden_layers", "num_hidden_layers"),
    )
    inner = vision.opt_int("qkv_hidden_size") or width
    attn_bias, mlp_bias = vision.flag("attn_bias", default=True), vision.flag("linear_bias", default=True)
    layer_norm = (
        vision.choice("norm_type", vision.opt_str("norm_type") or "layernorm", ("layernorm", "rmsnorm")) == "layernorm"
    )
    patch_bias = vision.flag("patch_embed_proj_bias", default=True)
    part.conv("patch_embed.proj", width, 3, side(vision, "patch_size"), bias=patch_bias)
    grid = (
        vision.positive("init_pos_emb_height", "pos_emb_height"),
        vision.positive("init_pos_emb_width", "pos_emb_width"),
    )
    part.tensor("patch_embed.pos_emb.weight", (*grid, width))
    block = part.at("encoder.blocks.{}.", range(count))
    block.norms(("norm0", "norm1"), width, bias=layer_norm)
    block.linear("wqkv", 3 * inner, width, split=Column((inner, inner, inner), divides=heads), bias=attn_bias)
    block.linear("wo", width, inner, split=Row(divides=heads), bias=attn_bias)
    mlp = vision.positive("vt_intermediate_size", "intermediate_size")
    block.linear("mlp.fc0", mlp, width, split=Column(divides=heads), bias=mlp_bias)
    block.linear("mlp.fc1", width, mlp, split=Row(divides=heads), bias=mlp_bias)
    part.norm("encoder.final_layernorm", width, bias=layer_norm)
    return count


def _projector(part: Part, vision: Config, hidden: int) -> None:
    """Merges patches and projects to the text model's width: with a norm and biases first, or (v2) a norm last and no biases."""
    kind = vision.choice(
        "mm_projector_type", vision.opt_str("mm_projector_type") or "patchmerger", ("patchmerger", "patchmergerv2")
    )
    height, width = side(vision, "merge_kernel_size")
    tower_width = vision.positive("vt_hidden_size", "hidden_size")
    merged, first = tower_width * height * width, kind == "patchmerger"
    part.linear("proj.0", merged, merged, bias=first)
    part.linear("proj.2", hidden, merged, bias=first)
    if first:
        part.norm("pre_norm", tower_width)
    else:
        part.norm("post_norm", hidden, bias=False)


def _wrapped(cfg: Config, text: Config, inner: Architecture, family: str) -> Architecture:
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="kimi_k25_vision")
    vision = Config(found.data, found.file, "kimi_k25_vision", cfg.used_defaults)
    count = moonvit(tower(inv, "vision_tower."), vision, cut_by_heads=True)
    _projector(tower(inv, "mm_projector."), vision, inner.hidden_size)
    return wrap(cfg, text, inner, family, WHOLE, inv, tower_layers(count))


def kimi_k25(cfg: Config) -> Architecture:
    """Kimi K2.5, K2.6, K2.7: DeepSeek V3's text model in a multimodal wrapper."""
    text, inner = text_part(cfg, model_type="deepseek_v3")
    return _wrapped(cfg, text, inner, "kimi_k25")


def kimi_vl(cfg: Config) -> Architecture:
    """Kimi-VL: DeepSeek V3's text model with the first MoonViT (vLLM 0.33.0 `kimi_vl.py`, `moonvit.py`)."""
    text, inner = text_part(cfg, model_type="deepseek_v3")
    inv, vision = Inventory(), cfg.sub("vision_config", model_type="moonvit")
    count = moonvit(tower(inv, "vision_tower."), vision)
    height, across = side(vision, "merge_kernel_size")
    width = vision.positive("hidden_size")
    merged, projector = width * height * across, tower(inv, "multi_modal_projector.")
    projector.norm("pre_norm", width)
    projector.linear("linear_1", merged, merged)
    projector.linear("linear_2", inner.hidden_size, merged)
    return wrap(cfg, text, inner, "kimi_vl", WHOLE, inv, tower_layers(count))


def kimi_k3(cfg: Config) -> Architecture:
    """Kimi K3: Kimi Linear's text model, enlarged, in the same wrapper."""
    text = text_config(cfg, model_type="kimi_linear")
    return _wrapped(cfg, text, kimi_linear(text), "kimi_k3")


def _linear_part(cfg: Config) -> Config:
    """`linear_attn_config`, or nothing."""
    return cfg.opt_sub("linear_attn_config") or Config({}, f"{cfg.file}: linear_attn_config", "", cfg.used_defaults)


def _kinds(cfg: Config, part: Config, num_layers: int) -> list[str]:
    """`layer_types`, else the 1-based lists `kda_layers` and `full_attn_layers`, else full attention at 4, 8, 12 … (0-based)."""
    words = cfg.opt_list("layer_types")
    if words is None and part.has("kda_layers") and part.has("full_attn_layers"):
        named: list[str | None] = [None] * num_layers
        for key, kind in (("full_attn_layers", FULL), ("kda_layers", LINEAR)):
            for place in part.need_list(key):
                if not isinstance(place, int) or not 1 <= place <= num_layers or named[place - 1] is not None:
                    raise ContradictionError(f"{part.file}: {key!r} names layer {str(place)[:20]} of {num_layers}")
                named[place - 1] = kind
        if None in named:
            raise ContradictionError(f"{part.file}: layer {named.index(None) + 1} is in neither list")
        words = list(named)
    if words is None:
        words = [FULL if i and i % 4 == 0 else LINEAR for i in range(num_layers)]
    return layer_kinds(cfg, "layer_types", words, (LINEAR, FULL), num_layers)


def delta_attention(
    inv: Inventory, prefix: str, indices: Sequence[int], hidden: int, m: KimiDeltaState, *, full_gate: bool
) -> None:
    """Kimi delta attention: three convolutions, a low-rank forget gate, an output gate (low-rank, or of full rank in K3).

    K3's 69 layers store as many decays as a head is wide, of which its 96 heads read the first (published total).
    """
    inner, part = m.num_heads * m.head_k_dim, Component.ATTENTION
    decays = (m.head_k_dim,) if full_gate else (1, 1, m.num_heads, 1)
    for name in ("q", "k", "v"):
        linear(inv, f"{prefix}.{name}_proj", indices, inner, hidden, part, Column())
        inv.each(f"{prefix}.{name}_conv1d.weight", indices, (inner, 1, m.conv_kernel), part, Column())
    inv.each(f"{prefix}.dt_bias", indices, (inner,), part, Column())
    inv.each(f"{prefix}.A_log", indices, decays, part, Column((max(decays),)))
    linear(inv, f"{prefix}.f_a_proj", indices, m.head_k_dim, hidden, part, Replicated())
    linear(inv, f"{prefix}.f_b_proj", indices, inner, m.head_k_dim, part, Column())
    linear(inv, f"{prefix}.b_proj", indices, m.num_heads, hidden, part, Column())
    if full_gate:
        linear(inv, f"{prefix}.g_proj", indices, inner, hidden, part, Column())
    else:
        linear(inv, f"{prefix}.g_a_proj", indices, m.head_k_dim, hidden, part, Replicated())
        linear(inv, f"{prefix}.g_b_proj", indices, inner, m.head_k_dim, part, Column())
    norm(inv, f"{prefix}.o_norm", indices, m.head_v_dim)
    linear(inv, f"{prefix}.o_proj", indices, hidden, inner, part, Row())


def _experts(stack: Stack, cfg: Config, sparse: Sequence[int]) -> None:
    """Experts in Mixtral's spelling; with `routed_expert_hidden_size` the routed ones work between two projections."""
    experts = read_experts(cfg)
    if experts is None or not sparse:
        return
    inv, d, prefix = stack.inv, stack.d, f"{LAYER}.block_sparse_moe"
    inner = cfg.opt_int("routed_expert_hidden_size")
    names = ("w1", "w3", "w2")
    routed = Inventory()
    routed_experts(routed, prefix, sparse, inner or d.hidden, experts.width, experts.count, experts.top_k, names=names)
    router = f"{prefix}.gate.weight"
    inv.specs.extend(spec for spec in routed.specs if spec.pattern != router)
    linear(inv, f"{prefix}.gate", sparse, experts.count, d.hidden, Component.EXPERTS, Replicated())
    bias = f"{prefix}.gate.e_score_correction_bias"
    inv.each(bias, sparse, (experts.count,), Component.EXPERTS, buffer=True, optional=True)
    if inner:
        linear(inv, f"{prefix}.routed_expert_down_proj", sparse, inner, d.hidden, Component.EXPERTS, Replicated())
        linear(inv, f"{prefix}.routed_expert_up_proj", sparse, d.hidden, inner, Component.EXPERTS, Replicated())
        if cfg.flag("latent_moe_use_norm", default=False):
            norm(inv, f"{prefix}.routed_expert_norm", sparse, inner)
    if experts.shared_width:
        gated_mlp(inv, f"{prefix}.shared_experts", sparse, d.hidden, experts.shared_width)
    stack.num_experts, stack.top_k = experts.count, experts.top_k


def _residual_projections(inv: Inventory, d: Dims) -> None:
    """K3 mixes the outputs of earlier blocks into each layer's input by learned scores."""
    every = range(d.num_layers)
    for place in ("self_attention_res", "mlp_res"):
        norm(inv, f"{LAYER}.{place}_norm", every, d.hidden)
        linear(inv, f"{LAYER}.{place}_proj", every, 1, d.hidden, Component.OTHER, Replicated())
    norm(inv, "model.output_attn_res_norm", None, d.hidden)
    inv.add("model.output_attn_res_proj.weight", (1, d.hidden), Component.OTHER)


def kimi_linear(cfg: Config) -> Architecture:
    """Kimi Linear, and K3's text model."""
    latent = read_latent(cfg)
    d = latent_dims(cfg, latent)
    stack = open_stack(cfg, cfg, d)
    inv, every, part = stack.inv, range(d.num_layers), _linear_part(cfg)
    kinds = _kinds(cfg, part, d.num_layers)
    heads = part.opt_int("num_heads") or cfg.positive("linear_num_heads")
    head_dim = part.opt_int("head_dim") or cfg.positive("linear_head_dim")
    kernel = part.opt_int("short_conv_kernel_size") or cfg.positive("linear_conv_kernel_dim")
    bounded = part.published("gate_lower_bound") is not None
    state = KimiDeltaState(heads, head_dim, head_dim, kernel, state_dtype(cfg), bounded)
    linear_layers, full_layers = indices_of(kinds, LINEAR), indices_of(kinds, FULL)
    full_gate = part.flag("use_full_rank_gate", default=False)
    delta_attention(inv, f"{LAYER}.self_attn", linear_layers, d.hidden, state, full_gate=full_gate)
    bias = cfg.flag("attention_bias", default=False)
    latent_attention(inv, f"{LAYER}.self_attn", full_layers, d.hidden, latent, bias=bias)
    if cfg.flag("mla_use_output_gate", default=False):
        gate = f"{LAYER}.self_attn.g_proj"
        linear(inv, gate, full_layers, latent.num_heads * latent.v, d.hidden, Component.ATTENTION, Column())
    sparse = sparse_layers(cfg, d.num_layers, dense_default=1) if read_experts(cfg) else []
    stack.intermediate = cfg.positive("intermediate_size")
    dense = [i for i in every if i not in set(sparse)]
    gated_mlp(inv, f"{LAYER}.mlp", dense, d.hidden, stack.intermediate)
    _experts(stack, cfg, sparse)
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", every, d.hidden)
    if cfg.opt_int("attn_res_block_size"):
        _residual_projections(inv, d)
    stack.layers = [Layer((state if kind == LINEAR else latent.cache(),)) for kind in kinds]
    return stack.finish(cfg, "kimi_linear")
