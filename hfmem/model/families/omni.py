"""Qwen2.5-Omni: a thinker that hears, sees and writes, a talker that turns its states into sound codes, a vocoder.

Source: transformers 5.23.0 `models/qwen2_5_omni/modeling_qwen2_5_omni.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.audio import dilations, whisper_blocks
from hfmem.model.families.bart import audio_convolutions
from hfmem.model.families.multimodal import text_architecture, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory


def _audio_tower(part: Part, cfg: Config) -> int:
    """Whisper's encoder without stored positions, a projection, two embeddings for the ends of a recording."""
    width, out = cfg.positive("d_model"), cfg.positive("output_dim")
    audio_convolutions(part, width, cfg.positive("num_mel_bins"))
    count = whisper_blocks(part, cfg)
    part.norm("ln_post", width)
    part.linear("proj", out, width)
    part.tensor("audio_bos_eos_token.weight", (2, out))
    return count


def _talker(inv: Inventory, cfg: Config) -> None:
    """A Qwen2 of its own that reads the thinker's states, `embedding_size` wide, and writes sound codes."""
    part = Part(inv, "talker.", Component.OTHER)
    hidden, given, codes = cfg.positive("hidden_size"), cfg.positive("embedding_size"), cfg.positive("vocab_size")
    for spec in text_architecture(cfg, "qwen2").tensors:
        if spec.component in (Component.EMBEDDING, Component.LM_HEAD):
            continue
        indices = [i for box in spec.boxes for r in box for i in r]
        at = part.at("", indices) if indices else part
        at.tensor(spec.pattern, spec.shape, Component.OTHER, spec.split)
    part.tensor("model.embed_tokens.weight", (codes, given))
    part.linear("thinker_to_talker_proj", hidden, given)
    part.linear("codec_head", codes, hidden, bias=False)


def _speaker_encoder(part: Part, cfg: Config, mel: int) -> None:
    """ECAPA-TDNN: squeeze-and-excitation blocks, attentive pooling over time."""
    channels, kernels = cfg.need_numbers("enc_channels"), cfg.need_numbers("enc_kernel_sizes")
    scale, excite, attend = (cfg.positive(f"enc_{n}") for n in ("res2net_scale", "se_channels", "attention_channels"))
    if len(channels) != len(kernels) or len(channels) < 3:
        raise ContradictionError(f"{cfg.file}: 'enc_channels' and 'enc_kernel_sizes' differ in length")
    part.conv("blocks.0.conv", channels[0], mel, (kernels[0],))
    for i in range(1, len(channels) - 1):
        at, width, before = part.at(f"blocks.{i}."), channels[i], channels[i - 1]
        at.conv("tdnn1.conv", width, before, (1,))
        for j in range(scale - 1):
            at.conv(f"res2net_block.blocks.{j}.conv", width // scale, width // scale, (kernels[i],))
        at.conv("tdnn2.conv", width, width, (1,))
        at.conv("se_block.conv1", excite, width, (1,))
        at.conv("se_block.conv2", width, excite, (1,))
    last = channels[-1]
    part.conv("mfa.conv", last, sum(channels[1:-1]), (kernels[-1],))
    part.conv("asp.tdnn.conv", attend, 3 * last, (1,))
    part.conv("asp.conv", last, attend, (1,))
    part.conv("fc", cfg.positive("enc_dim"), 2 * last, (1,))


def _code_to_mel(part: Part, cfg: Config) -> None:
    """A diffusion transformer from sound codes to mel frames."""
    width, count, mel = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers", "depth"), cfg.positive("mel_dim")
    heads, dim = cfg.positive("num_attention_heads", "heads"), cfg.positive("head_dim")
    inner, embedded = cfg.positive("ff_mult") * width, cfg.positive("emb_dim")
    _speaker_encoder(part.at("input_embed.spk_encoder."), cfg, mel)
    # noisy mel, speaker embedding, the encoded reference, code embedding
    joined = mel + cfg.positive("enc_dim") + cfg.positive("enc_emb_dim") + embedded
    part.linear("input_embed.proj", width, joined)
    part.tensor("text_embed.codec_embed.weight", (cfg.positive("num_embeds") + 1, embedded))
    part.linear("time_embed.time_mlp.0", width, 256)
    part.linear("time_embed.time_mlp.2", width, width)
    block = part.at("transformer_blocks.{}.", range(count))
    block.linear("attn_norm.linear", 6 * width, width)
    names = ("to_q", "to_k", "to_v", "to_out.0")
    vision.projections(block.at("attn."), width, names=names, width=heads * dim)
    vision.mlp(block.at("ff.ff."), width, inner, ("0", "3"))
    part.linear("norm_out.linear", 2 * width, width)
    part.linear("proj_out", mel, width)


def _mel_to_wave(part: Part, cfg: Config) -> None:
    """BigVGAN: transposed convolutions that halve the channels, each followed by residual blocks of several kernel widths."""
    channels, mel = cfg.positive("upsample_initial_channel"), cfg.positive("mel_dim")
    kernels, strides = cfg.need_numbers("resblock_kernel_sizes"), cfg.need_numbers("upsample_kernel_sizes")
    counts = dilations(cfg, len(kernels))
    part.conv("conv_pre", channels, mel, (7,))
    for i, width in enumerate(strides):
        out = channels // 2
        part.tensor(f"ups.{i}.0.weight", (channels, out, width))
        part.tensor(f"ups.{i}.0.bias", (out,))
        channels = out
        for j, (kernel, count) in enumerate(zip(kernels, counts, strict=True)):
            at = part.at(f"resblocks.{i * len(kernels) + j}.")
            for name in ("convs1", "convs2"):
                inner = at.at(f"{name}.{{}}", range(count))
                inner.conv("", channels, channels, (kernel,))
            snake = at.at("activations.{}.act.", range(2 * count))
            snake.tensor("alpha", (channels,))
            snake.tensor("beta", (channels,))
    part.tensor("activation_post.act.alpha", (channels,))
    part.tensor("activation_post.act.beta", (channels,))
    part.conv("conv_post", 1, channels, (7,), bias=False)


def qwen2_5_omni(cfg: Config) -> Architecture:
    """The thinker's text model is the main stack; talker and vocoder are there unless `enable_audio_output` is false."""
    thinker = cfg.sub("thinker_config")
    text, inner = text_part(thinker, model_type="qwen2_5_omni_text")
    inv = Inventory()
    heard = _audio_tower(tower(inv, "thinker.audio_tower."), thinker.sub("audio_config"))
    seen = vision.qwen2_5_vl(tower(inv, "thinker.visual."), thinker.sub("vision_config"), fused=False)
    notes = []
    if cfg.flag("enable_audio_output", default=True):
        _talker(inv, cfg.sub("talker_config"))
        vocoder = cfg.sub("token2wav_config")
        _code_to_mel(tower(inv, "token2wav.code2wav_dit_model."), vocoder.sub("dit_config"))
        _mel_to_wave(tower(inv, "token2wav.code2wav_bigvgan_model."), vocoder.sub("bigvgan_config"))
        notes.append(Note("second_decoder", "the talker keeps keys and values of its own while it speaks; not counted"))
    layers = (*tower_layers(heard, "audio"), *tower_layers(seen))
    return wrap(cfg, text, inner, "qwen2_5_omni", (("", "thinker."),), inv, layers, notes)


def qwen2_5_omni_thinker(cfg: Config) -> Architecture:
    """The thinker saved alone."""
    text, inner = text_part(cfg, model_type="qwen2_5_omni_text")
    inv = Inventory()
    heard = _audio_tower(tower(inv, "audio_tower."), cfg.sub("audio_config"))
    seen = vision.qwen2_5_vl(tower(inv, "visual."), cfg.sub("vision_config"), fused=False)
    return wrap(cfg, text, inner, "qwen2_5_omni", (), inv, (*tower_layers(heard, "audio"), *tower_layers(seen)))
