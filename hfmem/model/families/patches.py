"""Wrappers with towers of their own: Fuyu, MiniCPM-V 4.6, Phi-4-multimodal, Florence 2.

Source: transformers 5.23.0 `models/{fuyu,minicpmv4_6,phi4_multimodal,florence2}/`; names as published.
"""

from __future__ import annotations

from math import prod

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import (
    NESTED,
    WHOLE,
    keep_whole,
    text_architecture,
    text_part,
    tower,
    tower_layers,
    wrap,
)
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory


def fuyu(cfg: Config) -> Architecture:
    """Fuyu: image patches go through one linear layer into Persimmon; there is no tower."""
    text, inner = text_part(cfg, model_type="persimmon")
    inv = Inventory()
    values = cfg.positive("patch_size") ** 2 * cfg.positive("num_channels")
    tower(inv).linear("vision_embed_tokens", inner.hidden_size, values)
    return wrap(cfg, text, inner, "fuyu", WHOLE, inv)


def minicpmv4_6(cfg: Config) -> Architecture:
    """MiniCPM-V 4.6: SigLIP without its head, windows merged inside the tower, `merger_times` downsampling steps, Qwen3.5."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    part = tower(inv, "model.vision_tower.")
    count = vision.siglip(part, seen, head=False)
    width, merger = seen.positive("hidden_size"), part.at("vit_merger.")
    windows = prod(vision.side(seen, "window_kernel_size"))
    vision.projections(merger.at("self_attn."), width)
    merger.norm("layer_norm1", width)
    merger.norm("pre_norm", windows * width)
    wide = windows * seen.positive("intermediate_size")
    merger.linear("linear_1", wide, windows * width, split=COLUMN)
    merger.linear("linear_2", width, wide, split=ROW)
    steps, merged = cfg.positive("merger_times"), prod(vision.side(cfg, "merge_kernel_size")) * width
    for i in range(steps):
        at = tower(inv, f"model.merger.mlp.{i}.")
        at.norm("pre_norm", merged)
        at.linear("linear_1", merged, merged, split=COLUMN)
        at.linear("linear_2", inner.hidden_size if i == steps - 1 else width, merged, split=ROW)
    keep_whole(inv, ".vit_merger.linear_", "model.merger.")
    return wrap(cfg, text, inner, "minicpmv4_6", NESTED, inv, tower_layers(count))


def phi4_conformer(enc: Part, cfg: Config, *, published: bool = True) -> int:
    """Phi-4-multimodal's conformer: strided separable convolutions, blocks with two half feed-forwards and a gated convolution.

    `published`: under Microsoft's names, else under transformers'.
    """
    width, inner, count = cfg.positive("hidden_size"), cfg.positive("intermediate_size"), cfg.positive("num_blocks")
    channels, size, kernel = cfg.positive("nemo_conv_channels"), cfg.positive("input_size"), cfg.positive("kernel_size")
    for leaf in (
        "global_mean",
        "global_invstd",
    ):  # statistics: parameters in Microsoft's class, buffers in transformers'
        enc.tensor(f"encoder_embedding.{leaf}", (size,), buffer=not published)
    steps = cfg.positive("time_reduction").bit_length() - 1
    enc.conv("embed.conv.0", channels, 1, (3, 3))
    for i in range(1, steps):  # activations stand between: numbers go by three
        enc.conv(f"embed.conv.{3 * i - 1}", channels, 1, (3, 3))
        enc.conv(f"embed.conv.{3 * i}", channels, channels, (1, 1))
    for _ in range(steps):
        size = (size + 1) // 2
    enc.linear("embed.out", width, channels * (cfg.opt_int("nemo_final_size") or size))
    reach = cfg.positive("bias_max_distance") * (1 if cfg.flag("bias_symmetric", default=False) else 2)
    enc.tensor("relative_attention_bias_layer.bias_values.weight", (reach, cfg.positive("num_attention_heads")))
    block = enc.at("encoders.{}.", range(count))
    for name in ("feed_forward_in", "feed_forward_out"):
        at = block.at(f"{name}.")
        at.norm("layer_norm", width)
        at.linear("net.0.linear" if published else "gate_up_proj", 2 * inner, width, split=COLUMN)
        at.linear("net.2" if published else "down_proj", width, inner, split=ROW)
    own = ("q_proj", "k_proj", "v_proj", "o_proj")
    names = ("linear_q", "linear_k", "linear_v", "linear_out") if published else own
    vision.projections(block.at("self_attn."), width, names=names)
    out, deep = cfg.positive("ext_pw_out_channel"), cfg.positive("depthwise_separable_out_channel")
    multiple = cfg.positive("depthwise_multiplier")
    at = block.at("conv.")
    at.norm("layer_norm", width)
    at.tensor("glu.b1", (1, out, 1))
    at.tensor("glu.b2", (1, out, 1))
    at.conv("glu.ext_pw_conv_1d", 2 * out, width, (1,))
    at.conv("dw_sep_conv_1d.dw_conv", width * multiple, 1, (kernel,))
    at.conv("dw_sep_conv_1d.pw_conv", deep, width * multiple, (1,))
    at.conv("ext_pw_conv_1d", out, deep, (1,))
    block.norms(("layer_norm_att", "layer_norm"), width)
    return count


def _phi4_audio(part: Part, cfg: Config, hidden: int) -> int:
    """The conformer and a two-layer projector for each of the two ways in which sound comes in."""
    count, width = phi4_conformer(part.at("encoder."), cfg, published=False), cfg.positive("hidden_size")
    for kind in ("speech", "vision_speech"):
        part.linear(f"up_proj_for_{kind}", hidden, width * cfg.positive("downsample_rate"), split=COLUMN)
        part.linear(f"down_proj_for_{kind}", hidden, hidden, split=ROW)
    return count


def phi4_multimodal(cfg: Config) -> Architecture:
    """Phi-4-multimodal in transformers' layout: Phi-3's decoder with image and audio embedders under `embed_tokens_extend`."""
    text = Config(cfg.data, cfg.file, cfg.model_type, cfg.used_defaults)
    inner = text_architecture(text, "phi3")
    inv = Inventory()
    seen, heard = cfg.sub("vision_config"), cfg.sub("audio_config")
    image = tower(inv, "model.embed_tokens_extend.image_embed.")
    width = seen.positive("hidden_size")
    count = vision.siglip(image.at("img_processor."), seen, head=True)
    image.tensor("global_img_feature_extensor", (1, 1, width))
    image.tensor("sub_img_feature_extensor", (1, 1, 1, width))
    image.linear("img_projection_up", inner.hidden_size, width, split=COLUMN)
    image.linear("img_projection_down", inner.hidden_size, inner.hidden_size, split=ROW)
    audio = _phi4_audio(tower(inv, "model.embed_tokens_extend.audio_embed."), heard, inner.hidden_size)
    layers = (*tower_layers(count), *tower_layers(audio, "audio"))
    return wrap(cfg, text, inner, "phi4_multimodal", (), inv, layers)


def _davit(part: Part, cfg: Config) -> int:
    """DaViT: four stages of paired window- and channel-attention blocks, each stage behind a strided convolution."""
    widths, depths = cfg.need_numbers("embed_dim"), cfg.need_numbers("depths")
    kernels, before = cfg.need_numbers("patch_size"), cfg.need_list("patch_prenorm")
    if not len(widths) == len(depths) == len(kernels) == len(before):
        raise ContradictionError(
            f"{cfg.file}: 'embed_dim', 'depths', 'patch_size' and 'patch_prenorm' differ in length"
        )
    ratio, bias = cfg.positive_float("mlp_ratio"), cfg.flag("qkv_bias", default=True)
    channels = cfg.positive("in_channels")
    for stage, (width, depth, kernel, prenorm) in enumerate(zip(widths, depths, kernels, before, strict=True)):
        part.conv(f"convs.{stage}.conv", width, channels, (kernel, kernel))
        part.norm(f"convs.{stage}.norm", channels if prenorm else width)
        pair = part.at(f"blocks.{stage}.{{}}.", range(depth))
        for kind, name in (("spatial_block", "window_attn"), ("channel_block", "channel_attn")):
            at = pair.at(f"{kind}.")
            at.conv("conv1", width, 1, (3, 3))
            at.conv("conv2", width, 1, (3, 3))
            at.norms(("norm1", "norm2"), width)
            vision.fused_projection(at.at(f"{name}."), "qkv", width, bias=bias)
            at.linear(f"{name}.proj", width, width, split=ROW)
            vision.mlp(at.at("ffn."), width, int(width * ratio))
        channels = width
    return 2 * sum(int(depth) for depth in depths)


def florence2(cfg: Config) -> Architecture:
    """Florence 2: DaViT before BART's encoder."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = _davit(tower(inv, "model.vision_tower."), seen)
    width, out = seen.need_numbers("embed_dim")[-1], seen.positive("projection_dim")
    project = tower(inv, "model.multi_modal_projector.")
    project.linear("image_projection", out, width, bias=False)
    project.norm("image_proj_norm", out)
    rows = seen.positive("max_position_embeddings")
    project.tensor("image_position_embed.row_embeddings.weight", (rows, width // 2))
    project.tensor("image_position_embed.column_embeddings.weight", (rows, width - width // 2))
    times = (seen.positive("max_temporal_embeddings"), width)
    project.tensor("visual_temporal_embed.pos_idx_to_embed", times, optional=True, buffer=True)
    return wrap(cfg, text, inner, "florence2", NESTED, inv, tower_layers(count))
