"""Gemma 3, 3n and 4 as published: the text model with its image and audio towers.

Source: transformers 5.23.0 `models/{gemma3,gemma3n,gemma4}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families import registry, vision
from hfmem.model.families.heads import class_name
from hfmem.model.families.multimodal import NESTED, WHOLE, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.families.parts import WHOLE as REPLICATED
from hfmem.model.inventory import Inventory, Split, Vocab
from hfmem.model.layers import Layer

#: parameters of timm's `mobilenetv5_300m_enc` (timm 1.0.16, `features_only` off, no classifier)
_MOBILENET_V5_300M = 294_126_912


def gemma3(cfg: Config) -> Architecture:
    """Gemma 3: SigLIP, a matrix into the text model's width, the text model; that alone if saved as `Gemma3ForCausalLM`."""
    if cfg.published("text_config") is None and class_name(cfg).endswith("ForCausalLM"):
        data = dict(cfg.data)
        if data.get("sliding_window") is None and data.get("sliding_window_attention_size") is not None:
            data["sliding_window"] = data["sliding_window_attention_size"]  # the spelling of early configs
        return registry.rule("gemma3_text")(Config(data, cfg.file, "gemma3_text", cfg.used_defaults))
    text, inner = text_part(cfg)
    inv = Inventory()
    count = gemma3_tower(inv, "", cfg.sub("vision_config"), inner.hidden_size)
    return wrap(cfg, text, inner, "gemma3", WHOLE, inv, tower_layers(count))


def gemma3_tower(inv: Inventory, root: str, seen: Config, hidden: int) -> int:
    """SigLIP and the normed matrix behind it."""
    count = vision.siglip(tower(inv, f"{root}vision_tower.vision_model."), seen)
    width = seen.positive("hidden_size")
    project = tower(inv, f"{root}multi_modal_projector.")
    project.tensor("mm_input_projection_weight", (width, hidden))
    project.norm("mm_soft_emb_norm", width, bias=False)
    return count


def _conformer_3n(part: Part, cfg: Config) -> int:
    """Gemma 3n's audio tower: two strided convolutions over mel bins and time, then conformer blocks."""
    width, count = cfg.positive("hidden_size"), cfg.positive("conf_num_hidden_layers")
    channels = cfg.need_numbers("sscp_conv_channel_size")
    kernels = cfg.published("sscp_conv_kernel_size") or [
        [3, 3],
        [3, 3],
    ]  # nested lists are not in the table of defaults
    strides = cfg.published("sscp_conv_stride_size") or [[2, 2], [2, 2]]
    bins, before = cfg.positive("input_feat_size"), 1
    if not len(channels) == len(kernels) == len(strides) == 2:
        raise ContradictionError(f"{cfg.file}: 'sscp_conv_channel_size', kernels and strides must have two entries")
    stem = part.at("subsample_conv_projection.")
    for i, (out, kernel, stride) in enumerate(zip(channels, kernels, strides, strict=True)):
        stem.conv(f"conv_{i}.conv", out, before, tuple(kernel), bias=False)
        stem.norm(f"conv_{i}.norm", out, bias=False)
        bins, before = (bins + 2 - kernel[1]) // stride[1] + 1, out
    stem.linear("input_proj_linear", width, before * bins, bias=False)
    block = part.at("conformer.{}.", range(count))
    for name in ("ffw_layer_start", "ffw_layer_end"):
        at = block.at(f"{name}.")
        at.norms(("pre_layer_norm", "post_layer_norm"), width, bias=False)
        vision.mlp(at, width, 4 * width, ("ffw_layer_1", "ffw_layer_2"), bias=False)
    at = block.at("attention.")
    at.norms(("pre_attn_norm", "post_norm"), width, bias=False)
    at.tensor("attn.per_dim_scale", (width // cfg.positive("conf_num_attention_heads"),))
    at.linear("attn.relative_position_embedding.pos_proj", width, width, bias=False)
    for name in ("q_proj", "k_proj", "v_proj"):
        at.linear(f"attn.{name}", width, width, split=COLUMN, bias=False)
    at.linear("post", width, width, split=ROW, bias=False)
    at = block.at("lconv1d.")
    at.norms(("pre_layer_norm", "conv_norm"), width, bias=False)
    at.linear("linear_start", 2 * width, width, bias=False)
    at.conv("depthwise_conv1d", width, 1, (cfg.positive("conf_conv_kernel_size"),), bias=False)
    at.linear("linear_end", width, width, bias=False)
    block.norm("norm", width, bias=False)
    return count


def gemma3n(cfg: Config) -> Architecture:
    """Gemma 3n: MobileNet V5 for images, a conformer for sound, and an embedding of special tokens for each."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen, heard = cfg.sub("vision_config"), cfg.sub("audio_config")
    seen.choice("architecture", seen.opt_str("architecture") or "", ("mobilenetv5_300m_enc",))
    # the network's convolutions are counted as one: the architecture names it and leaves nothing to configure. Files hold as many
    # elements under other names, which the cross-check reads as another layout
    tower(inv).tensor("model.vision_tower.timm_model", (_MOBILENET_V5_300M,))
    count = _conformer_3n(tower(inv, "model.audio_tower."), heard)
    for name, part in (("vision", seen), ("audio", heard)):
        width = part.positive("hidden_size")
        at = tower(inv, f"model.embed_{name}.")
        at.tensor("embedding.weight", (part.positive("vocab_size"), width), split=Vocab())
        at.norms(("hard_embedding_norm", "soft_embedding_norm"), width, bias=False)
        at.linear("embedding_projection", inner.hidden_size, width, split=ROW, bias=False)
    note = Note(
        "tower_counted_whole", "the image tower (timm mobilenetv5_300m_enc) is counted as one block of parameters"
    )
    return wrap(cfg, text, inner, "gemma3n", NESTED, inv, tower_layers(count, "audio"), [note])


def _clipped(part: Part, name: str, out: int, features: int, *, clipped: bool, split: Split = REPLICATED) -> None:
    """A bias-free linear layer, with four scalars that bound its input and output where it was trained so."""
    part.tensor(f"{name}.linear.weight", (out, features), split=split)
    if clipped:
        for bound in ("input_min", "input_max", "output_min", "output_max"):
            part.tensor(f"{name}.{bound}", (), buffer=True)


def gemma4_vision(part: Part, cfg: Config) -> int:
    """Gemma 4's image encoder; returns its layers."""
    width, count = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    heads, kv, dim = cfg.positive("num_attention_heads"), cfg.positive("num_key_value_heads"), cfg.positive("head_dim")
    inner, clipped = cfg.positive("intermediate_size"), cfg.flag("use_clipped_linears", default=False)
    part.tensor("patch_embedder.position_embedding_table", (2, cfg.positive("position_embedding_size"), width))
    part.linear("patch_embedder.input_proj", width, 3 * cfg.positive("patch_size") ** 2, bias=False)
    block = part.at("encoder.layers.{}.", range(count))
    at = block.at("self_attn.")
    for name, rows in (("q_proj", heads), ("k_proj", kv), ("v_proj", kv)):
        _clipped(at, name, rows * dim, width, clipped=clipped, split=COLUMN)
    _clipped(at, "o_proj", width, heads * dim, clipped=clipped, split=ROW)
    at.norms(("q_norm", "k_norm"), dim, bias=False)
    for name in ("gate_proj", "up_proj"):
        _clipped(block.at("mlp."), name, inner, width, clipped=clipped, split=COLUMN)
    _clipped(block.at("mlp."), "down_proj", width, inner, clipped=clipped, split=ROW)
    names = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    block.norms(names, width, bias=False)
    if cfg.flag("standardize", default=False):
        part.tensor("std_bias", (width,), buffer=True)
        part.tensor("std_scale", (width,), buffer=True)
    return count


def gemma4_audio(part: Part, cfg: Config) -> int:
    """Gemma 4's conformer for sound; returns its layers."""
    width, count = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    clipped = cfg.flag("use_clipped_linears", default=False)
    channels, before = cfg.need_numbers("subsampling_conv_channels"), 1
    stem = part.at("subsample_conv_projection.")
    for i, out in enumerate(channels):
        stem.conv(f"layer{i}.conv", out, before, (3, 3), bias=False)
        stem.norm(f"layer{i}.norm", out, bias=False)
        before = out
    stem.linear("input_proj_linear", width, channels[0] // 4 * channels[-1], bias=False)
    block = part.at("layers.{}.", range(count))
    for name in ("feed_forward1", "feed_forward2"):
        at = block.at(f"{name}.")
        _clipped(at, "ffw_layer_1", 4 * width, width, clipped=clipped, split=COLUMN)
        _clipped(at, "ffw_layer_2", width, 4 * width, clipped=clipped, split=ROW)
        at.norms(("pre_layer_norm", "post_layer_norm"), width, bias=False)
    at = block.at("self_attn.")
    at.tensor("per_dim_scale", (width // cfg.positive("num_attention_heads"),))
    for name in ("q_proj", "k_proj", "v_proj"):
        _clipped(at, name, width, width, clipped=clipped, split=COLUMN)
    _clipped(at, "post", width, width, clipped=clipped, split=ROW)
    at.linear("relative_k_proj", width, width, bias=False)
    at = block.at("lconv1d.")
    _clipped(at, "linear_start", 2 * width, width, clipped=clipped)
    _clipped(at, "linear_end", width, width, clipped=clipped)
    at.conv("depthwise_conv1d", width, 1, (cfg.positive("conv_kernel_size"),), bias=False)
    at.norms(("pre_layer_norm", "conv_norm"), width, bias=False)
    block.norms(("norm_pre_attn", "norm_post_attn", "norm_out"), width, bias=False)
    part.linear("output_proj", cfg.positive("output_proj_dims"), width)
    return count


def gemma4(cfg: Config) -> Architecture:
    """Gemma 4: a text model, an image tower if the config has one, an audio tower if it has one."""
    text, inner = text_part(cfg)
    inv = Inventory()
    layers: list[Layer] = []
    seen, heard = cfg.opt_sub("vision_config"), cfg.opt_sub("audio_config")
    if seen is not None:
        layers += tower_layers(gemma4_vision(tower(inv, "model.vision_tower."), seen))
        width = seen.positive("hidden_size")
        tower(inv).linear("model.embed_vision.embedding_projection", inner.hidden_size, width, bias=False)
    if heard is not None:
        layers += tower_layers(gemma4_audio(tower(inv, "model.audio_tower."), heard), "audio")
        width = heard.positive("output_proj_dims")
        tower(inv).linear("model.embed_audio.embedding_projection", inner.hidden_size, width, bias=False)
    return wrap(cfg, text, inner, "gemma4", NESTED, inv, layers)
