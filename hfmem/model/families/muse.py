"""Muse Glimmer (dense) and Muse Spark (experts in a narrower space, audio tower): gated attention, sliding in three layers of four.

Source: transformers 5.23.0 `models/{muse_glimmer,muse_spark}`, whose parameter names are the published ones.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, attention, full, gated_mlp, linear, norm, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.families.multimodal import NESTED, cut_by_heads, text_config, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated, Row
from hfmem.model.layers import Layer
from hfmem.model.stack import Stack, indices_of, layer_kinds, open_stack

LAYER = "model.layers.{}"
FULL, SLIDING = "full_attention", "sliding_attention"


def _kinds(cfg: Config, num_layers: int) -> list[str]:
    """`layer_types`, else full attention in the last layer and every fourth before it."""
    words = cfg.opt_list("layer_types")
    if words is None:
        words = [SLIDING if (num_layers - 1 - i) % 4 else FULL for i in range(num_layers)]
    return layer_kinds(cfg, "layer_types", words, (FULL, SLIDING), num_layers)


def _attention(cfg: Config) -> tuple[Stack, Dims]:
    """Attention with an output gate, and what each layer keeps."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d)
    every, bias = range(d.num_layers), cfg.flag("attention_bias", default=False)
    attention(stack.inv, f"{LAYER}.self_attn", every, d, qkv_bias=bias, o_bias=bias)
    gate = f"{LAYER}.self_attn.gate_proj"
    linear(stack.inv, gate, every, d.num_heads * d.head_dim, d.hidden, Component.ATTENTION, Column())
    window = cfg.positive("sliding_window")
    kinds = _kinds(cfg, d.num_layers)
    stack.layers = [Layer((full(d) if kind == FULL else sliding(d, window),)) for kind in kinds]
    return stack, d


def muse_glimmer_text(cfg: Config) -> Architecture:
    """Muse Glimmer's text model: norms before and after both halves of a layer."""
    stack, d = _attention(cfg)
    every, width = range(d.num_layers), cfg.positive("intermediate_size")
    gated_mlp(stack.inv, f"{LAYER}.mlp", every, d.hidden, width)
    for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
        norm(stack.inv, f"{LAYER}.{name}_layernorm", every, d.hidden)
    stack.intermediate = width
    return stack.finish(cfg, "muse_glimmer")


def muse_spark_text(cfg: Config) -> Architecture:
    """Muse Spark's text model: experts of `moe_hidden_size` between two projections, gated residuals, no norm after attention."""
    stack, d = _attention(cfg)
    inv, every = stack.inv, range(d.num_layers)
    types = cfg.opt_list("mlp_layer_types") or ["sparse"] * d.num_layers
    kinds = layer_kinds(cfg, "mlp_layer_types", types, ("dense", "sparse"), d.num_layers)
    sparse, dense = indices_of(kinds, "sparse"), indices_of(kinds, "dense")
    stack.intermediate = cfg.positive("intermediate_size")
    gated_mlp(inv, f"{LAYER}.mlp", dense, d.hidden, stack.intermediate)
    if sparse:
        _experts(stack, cfg, sparse)
    for name in ("input", "pre_feedforward", "post_feedforward"):
        norm(inv, f"{LAYER}.{name}_layernorm", every, d.hidden)
    for name in ("post_attention", "post_feedforward"):
        inv.each(f"{LAYER}.{name}_residual_gate.gate", every, (d.hidden,), Component.OTHER)
    return stack.finish(cfg, "muse_spark")


def _experts(stack: Stack, cfg: Config, sparse: list[int]) -> None:
    inv, d, prefix = stack.inv, stack.d, f"{LAYER}.mlp"
    count, top_k = cfg.positive("num_local_experts"), cfg.positive("num_experts_per_tok")
    if not 1 <= top_k <= count:
        raise ContradictionError(f"{cfg.file}: {top_k} experts per token cannot be picked from {count}")
    width, inner, routed = cfg.positive("moe_intermediate_size"), cfg.positive("moe_hidden_size"), Component.EXPERTS
    linear(inv, f"{prefix}.gate", sparse, count, d.hidden, routed, Replicated())
    inv.each(f"{prefix}.gate.e_score_correction_bias", sparse, (count,), routed, buffer=True, optional=True)
    linear(inv, f"{prefix}.pre_expert_proj", sparse, inner, d.hidden, routed, Replicated())
    linear(inv, f"{prefix}.post_expert_proj", sparse, d.hidden, inner, routed, Replicated())
    norm(inv, f"{prefix}.pre_expert_norm", sparse, inner)
    norm(inv, f"{prefix}.experts.post_expert_norm", sparse, inner)
    share = Fraction(top_k, count)
    up, down = ExpertSplit(None, Column((width, width))), ExpertSplit(None, Row())
    inv.each(f"{prefix}.experts.gate_up_proj", sparse, (count, 2 * width, inner), routed, up, active=share)
    inv.each(f"{prefix}.experts.down_proj", sparse, (count, inner, width), routed, down, active=share)
    stack.num_experts, stack.top_k = count, top_k


def _vision(part: Part, vision: Config) -> int:
    """Patches of several frames through one matrix, learned positions, pre-norm blocks with biases."""
    width, count = vision.positive("hidden_size"), vision.positive("num_hidden_layers")
    patch = vision.positive("patch_temporal") * 3 * vision.positive("patch_size") ** 2
    part.linear("patch_embedder.patch_embedding", width, patch, bias=False)
    positions = vision.positive("pos_emb_height") * vision.positive("pos_emb_width")
    part.tensor("patch_embedder.position_embedding_table.weight", (positions, width))
    part.norms(("ln_pre", "ln_post"), width)
    block = part.at("layers.{}.", range(count))
    block.norms(("norm1", "norm2"), width)
    for name in ("q_proj", "k_proj", "v_proj"):
        block.linear(f"attn.{name}", width, width, split=COLUMN)
    block.linear("attn.proj", width, width, split=ROW)
    mlp = vision.positive("intermediate_size")
    block.linear("mlp.fc1", mlp, width, split=COLUMN)
    block.linear("mlp.fc2", width, mlp, split=ROW)
    return count


def _audio(part: Part, audio: Config) -> int:
    """Stages that join samples (`patch_sizes`) and widen (`hidden_sizes`), each with `depths` depthwise convolution blocks."""
    count = audio.positive("num_hidden_layers")
    stages = [audio.need_numbers(key) for key in ("patch_sizes", "hidden_sizes", "depths")]
    if any(len(stage) != count for stage in stages):
        raise ContradictionError(
            f"{audio.file}: 'patch_sizes', 'hidden_sizes' and 'depths' must each have {count} entries"
        )
    ratio, kernel = audio.positive_float("mlp_ratio"), audio.positive("conv_kernel_size")
    before = 1
    for i, (patch, width, depth) in enumerate(zip(*stages, strict=True)):
        stage = part.at("layers.{}.", (i,))
        stage.linear("patch_embedder.proj", width, before * patch)
        stage.norm("patch_embedder.norm", width, bias=False)
        block = stage.at("conv_blocks.{}.", range(depth))
        block.conv("conv", width, 1, (kernel,))
        block.norm("norm", width, bias=False)
        mlp = int(width * ratio)
        block.linear("mlp.fc1", mlp, width, split=COLUMN)
        block.linear("mlp.fc2", width, mlp, split=ROW)
        before = width
    out = audio.positive("out_hidden_size")
    part.norm("norm", before, bias=False)
    part.linear("proj", out, before)
    part.norm("post_proj_norm", out, bias=False)
    return count


def _wrapped(cfg: Config, kind: str, inner: Architecture, text: Config) -> Architecture:
    inv = Inventory()
    found = cfg.sub("vision_config")
    vision = Config(found.data, found.file, f"{kind}_vision", cfg.used_defaults)
    layers = list(tower_layers(_vision(tower(inv, "model.vision_tower."), vision)))
    inv.specs[:] = cut_by_heads(inv.specs, vision.positive("num_attention_heads"))
    adapter = tower(inv, "model.vision_adapter.")
    out, middle = cfg.positive("out_hidden_size"), cfg.positive("projector_hidden_size")
    adapter.linear("fc1", middle, out, bias=False)
    adapter.linear("fc2", middle, middle, bias=False)
    tower(inv, "model.").linear("vision_projection", inner.hidden_size, middle, bias=False)
    if kind == "muse_spark":
        heard = cfg.sub("audio_config")
        audio = Config(heard.data, heard.file, "muse_spark_audio", cfg.used_defaults)
        layers.extend(tower_layers(_audio(tower(inv, "model.audio_tower."), audio), "audio"))
    return wrap(cfg, text, inner, kind, NESTED, inv, layers)


def muse_glimmer(cfg: Config) -> Architecture:
    """Muse Glimmer with its vision tower."""
    text = text_config(cfg, model_type="muse_glimmer_text")
    return _wrapped(cfg, "muse_glimmer", muse_glimmer_text(text), text)


def muse_spark(cfg: Config) -> Architecture:
    """Muse Spark with its vision and audio towers."""
    text = text_config(cfg, model_type="muse_spark_text")
    text = Config(
        {**text.data, "tie_word_embeddings": False}, text.file, text.model_type, cfg.used_defaults
    )  # never tied
    return _wrapped(cfg, "muse_spark", muse_spark_text(text), text)
