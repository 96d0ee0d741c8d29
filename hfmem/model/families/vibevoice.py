"""VibeVoice: convolutional tokenizers of sound (what it sounds like, what it says) around Qwen2, a diffusion head that speaks.

Source: transformers 5.23.0 `models/{vibevoice,vibevoice_asr,vibevoice_acoustic_tokenizer}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import NESTED, WHOLE, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory


def _stage(part: Part, cfg: Config, width: int, depth: int) -> None:
    """ConvNeXt blocks in one dimension: a depthwise convolution and a feed-forward, each normed and scaled."""
    block, wide = part.at("stage.{}.", range(depth)), width * cfg.positive("ffn_expansion")
    block.tensor("gamma", (width,))
    block.tensor("ffn_gamma", (width,))
    block.norms(("norm", "ffn_norm"), width, bias=False)
    block.linear("ffn.linear1", wide, width, split=COLUMN)
    block.linear("ffn.linear2", width, wide, split=ROW)
    block.conv("mixer.conv", width, 1, (cfg.positive("kernel_size"),))


def _levels(cfg: Config) -> tuple[list[int], list[int]]:
    ratios, depths = cfg.need_numbers("downsampling_ratios"), cfg.need_numbers("depths")
    if len(depths) != len(ratios) + 1:
        raise ContradictionError(f"{cfg.file}: {len(depths)} depths for {len(ratios)} ratios")
    return ratios, depths


def _encoder(part: Part, cfg: Config) -> None:
    """Each level doubles the channels and shortens the sequence by a ratio."""
    ratios, depths = _levels(cfg)
    kernel, width = cfg.positive("kernel_size"), cfg.positive("num_filters")
    part.conv("stem.conv.conv", width, cfg.positive("channels"), (kernel,))
    _stage(part.at("stem."), cfg, width, depths[0])
    for i, ratio in enumerate(ratios):
        at = part.at(f"conv_layers.{i}.")
        at.conv("conv.conv", 2 * width, width, (2 * ratio,))
        width *= 2
        _stage(at, cfg, width, depths[i + 1])
    part.conv("head.conv", cfg.positive("hidden_size"), width, (kernel,))


def _decoder(part: Part, cfg: Config) -> None:
    """The way back, level by level, with transposed convolutions."""
    ratios, depths = _levels(cfg)
    kernel, width = cfg.positive("kernel_size"), cfg.positive("num_filters") << len(ratios)
    part.conv("stem.conv.conv", width, cfg.positive("hidden_size"), (kernel,))
    _stage(part.at("stem."), cfg, width, depths[-1])
    for i, (ratio, depth) in enumerate(zip(reversed(ratios), reversed(depths[:-1]), strict=True)):
        at = part.at(f"conv_layers.{i}.")
        at.tensor("convtr.convtr.weight", (width, width // 2, 2 * ratio))
        at.tensor("convtr.convtr.bias", (width // 2,))
        width //= 2
        _stage(at, cfg, width, depth)
    part.conv("head.conv", cfg.positive("channels"), width, (kernel,))


def vibevoice_asr(cfg: Config) -> Architecture:
    """VibeVoice-ASR: both encoders, each through a normed projector."""
    text, inner = text_part(cfg)
    inv = Inventory()
    hidden, project = inner.hidden_size, tower(inv, "multi_modal_projector.")
    for kind in ("acoustic", "semantic"):
        heard = cfg.sub(f"{kind}_tokenizer_encoder_config")
        _encoder(tower(inv, f"{kind}_tokenizer_encoder."), heard)
        project.linear(f"{kind}_linear_1", hidden, heard.positive("hidden_size"), split=COLUMN)
        project.linear(f"{kind}_linear_2", hidden, hidden, split=ROW)
        project.norm(f"{kind}_norm", hidden, bias=False)
    return wrap(cfg, text, inner, "vibevoice_asr", WHOLE, inv, tower_layers(0, "audio"))


def vibevoice(cfg: Config) -> Architecture:
    """VibeVoice: the sound tokenizer whole, the encoder of what is said, a connector for each, the diffusion head."""
    own = cfg.sub("text_config").lookup(
        "tie_word_embeddings"
    )  # the outer class takes the inner flag whatever it says itself
    cfg = Config({**cfg.data, "tie_word_embeddings": own or False}, cfg.file, cfg.model_type, cfg.used_defaults)
    text, inner = text_part(cfg)
    inv = Inventory()
    heard, said, head = cfg.sub("audio_config"), cfg.sub("semantic_model_config"), cfg.sub("diffusion_head_config")
    hidden, latent = inner.hidden_size, heard.positive("hidden_size")
    _encoder(tower(inv, "model.audio_tower.encoder."), heard)
    _decoder(tower(inv, "model.audio_tower.decoder."), heard)
    _encoder(tower(inv, "model.semantic_tokenizer_encoder."), said)
    for name, width in (("multi_modal_projector", latent), ("semantic_connector", said.positive("hidden_size"))):
        at = tower(inv, f"model.{name}.")
        at.linear("linear_1", hidden, width)
        at.norm("act", hidden, bias=False)
        at.linear("linear_2", hidden, hidden)
    for leaf in ("latent_scaling_factor", "latent_bias_factor"):
        tower(inv).tensor(f"model.{leaf}", ())
    part = tower(inv, "model.diffusion_head.")
    part.linear("noisy_images_proj", hidden, latent, bias=False)
    part.linear("cond_proj", hidden, hidden, bias=False)
    part.linear("timestep_proj.fc1", hidden, head.positive("frequency_embedding_size"), bias=False)
    part.linear("timestep_proj.fc2", hidden, hidden, bias=False)
    block = part.at("layers.{}.", range(head.positive("num_hidden_layers")))
    bias = head.flag("mlp_bias", default=False)
    vision.gated(block.at("ffn."), hidden, head.positive("intermediate_size"), bias=bias)
    block.norm("norm", hidden, bias=False)
    block.linear("linear", 3 * hidden, hidden, bias=False)
    part.linear("final_layer.linear_1", 2 * hidden, hidden, bias=False)
    part.linear("final_layer.linear_2", latent, hidden, bias=False)
    return wrap(cfg, text, inner, "vibevoice", NESTED, inv, tower_layers(0, "audio"))
