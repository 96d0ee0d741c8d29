"""SeamlessM4T 1 and 2: text encoder, speech encoder, text decoder, a text-to-unit model and a vocoder.

The text decoder keeps keys and values. Version 2's unit decoder writes all units at once and keeps none; version 1's writes one by
one, after the text, and is not counted.

Source: transformers 5.23.0 `models/{seamless_m4t,seamless_m4t_v2}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.audio import dilations
from hfmem.model.families.bart import attention, decoder_layers, encoder_layers, read_heads
from hfmem.model.families.heads import task
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab


def _text_stack(stack: Part, count: int, hidden: int, inner: int, heads: int, *, cross: bool) -> None:
    """Pre-norm blocks with biases: self attention, cross attention in the decoder, feed-forward."""
    block = stack.at("layers.{}.", range(count))
    for name in ("self_attn", "cross_attention") if cross else ("self_attn",):
        attention(block, name, hidden, heads=heads)
        block.norm(f"{name}_layer_norm", hidden)
    block.linear("ffn.fc1", inner, hidden, Component.MLP, COLUMN)
    block.linear("ffn.fc2", hidden, inner, Component.MLP, ROW)
    block.norm("ffn_layer_norm", hidden)
    stack.norm("layer_norm", hidden)


def _speech_attention(part: Part, hidden: int) -> None:
    for name in ("linear_q", "linear_k", "linear_v"):
        part.linear(name, hidden, hidden, split=COLUMN)
    part.linear("linear_out", hidden, hidden, split=ROW)


def _dense(part: Part, name: str, hidden: int, inner: int) -> None:
    part.linear(f"{name}.intermediate_dense", inner, hidden, split=COLUMN)
    part.linear(f"{name}.output_dense", hidden, inner, split=ROW)


def _speech_encoder(part: Part, cfg: Config, hidden: int) -> int:
    """A conformer with relative positions, and an adapter that shortens its output by strided convolutions."""
    count, inner = cfg.positive("speech_encoder_layers"), cfg.positive("speech_encoder_intermediate_size")
    heads, features = cfg.positive("speech_encoder_attention_heads"), cfg.positive("feature_projection_input_dim")
    part.norm("feature_projection.layer_norm", features)
    part.linear("feature_projection.projection", hidden, features)
    block = part.at("encoder.layers.{}.", range(count))
    for name in ("ffn1", "ffn2"):
        block.norm(f"{name}_layer_norm", hidden)
        _dense(block, name, hidden, inner)
    _speech_attention(block.at("self_attn."), hidden)
    kind = cfg.opt_str("position_embeddings_type")
    first = cfg.model_type == "seamless_m4t"
    if kind is not None:
        cfg.choice("position_embeddings_type", kind, ("relative", "rotary") if first else ("relative_key",))
    if kind == "relative":
        block.linear("self_attn.linear_pos", hidden, hidden, bias=False)
        for leaf in ("pos_bias_u", "pos_bias_v"):
            block.tensor(f"self_attn.{leaf}", (heads, hidden // heads))
    elif kind == "relative_key":
        rows = cfg.need_int("left_max_position_embeddings") + cfg.need_int("right_max_position_embeddings") + 1
        block.tensor("self_attn.distance_embedding.weight", (rows, hidden // heads))
    block.norms(("self_attn_layer_norm", "final_layer_norm"), hidden)
    conv = block.at("conv_module.")
    conv.norm("layer_norm", hidden)
    if first:
        conv.batch_norm("batch_norm", hidden)
    else:
        conv.norm("depthwise_layer_norm", hidden)
    conv.conv("pointwise_conv1", 2 * hidden, hidden, (1,), bias=False)
    conv.conv("depthwise_conv", hidden, 1, (cfg.positive("conv_depthwise_kernel_size"),), bias=False)
    conv.conv("pointwise_conv2", hidden, hidden, (1,), bias=False)
    part.norms(("encoder.layer_norm", "inner_layer_norm"), hidden)
    _dense(part, "intermediate_ffn", hidden, inner)
    if cfg.flag("add_adapter"):
        adapt = part.at("adapter.layers.{}.", range(cfg.positive("num_adapter_layers")))
        kernel = (cfg.positive("adaptor_kernel_size"),)
        for name in ("residual", "self_attn"):
            adapt.norm(f"{name}_layer_norm", hidden)
            adapt.conv(f"{name}_conv", 2 * hidden, hidden, kernel)
        _speech_attention(adapt.at("self_attn."), hidden)
        adapt.norm("ffn_layer_norm", hidden)
        _dense(adapt, "ffn", hidden, inner)
    return count


def _durations(part: Part, embedded: int, hidden: int, kernel: int) -> None:
    """Predicts how long each unit sounds."""
    part.conv("conv1", hidden, embedded, (kernel,))
    part.norm("ln1", hidden)
    part.conv("conv2", hidden, hidden, (kernel,))
    part.norm("ln2", hidden)
    part.linear("proj", 1, hidden)


def _units(part: Part, cfg: Config, hidden: int) -> int:
    """Text to units: an encoder like the text's, a decoder of attention and convolutions over characters."""
    heads, vocab = cfg.positive("t2u_encoder_attention_heads"), cfg.positive("t2u_vocab_size")
    encoders, decoders = cfg.positive("t2u_encoder_layers"), cfg.positive("t2u_decoder_layers")
    inner = cfg.positive("t2u_encoder_ffn_dim")
    _text_stack(part.at("model.encoder."), encoders, hidden, inner, heads, cross=False)
    decoder = part.at("model.decoder.")
    decoder.tensor("embed_tokens.weight", (vocab, hidden))
    tied = cfg.flag("tie_word_embeddings", default=True)
    to = f"{part.prefix}model.decoder.embed_tokens.weight" if tied else None
    part.tensor("lm_head.weight", (vocab, hidden), tied_to=to, optional=tied)
    if cfg.model_type == "seamless_m4t":
        own = cfg.positive("t2u_decoder_attention_heads")
        _text_stack(decoder, decoders, hidden, cfg.positive("t2u_decoder_ffn_dim"), own, cross=True)
        return encoders + decoders
    decoder.tensor("embed_char.weight", (cfg.positive("char_vocab_size"), hidden))
    decoder.tensor("pos_emb_alpha", (1,))
    decoder.tensor("pos_emb_alpha_char", (1,))
    embedded, inside = (
        cfg.positive("t2u_variance_predictor_embed_dim"),
        cfg.positive("t2u_variance_predictor_hidden_dim"),
    )
    kernel = cfg.positive("t2u_variance_predictor_kernel_size")
    _durations(decoder.at("duration_predictor."), embedded, inside, kernel)
    block = decoder.at("layers.{}.", range(decoders))
    attention(block, "self_attn", hidden, heads=cfg.positive("t2u_decoder_attention_heads"))
    block.norms(("self_attn_layer_norm", "conv_layer_norm"), hidden)
    for name in ("conv1", "conv2"):
        block.conv(name, hidden, hidden, (7,))
    decoder.norm("layer_norm", hidden)
    return encoders + decoders


def _vocoder(part: Part, cfg: Config) -> None:
    """HiFi-GAN over unit, language and speaker embeddings."""
    units, language, speaker = (cfg.positive(f"{n}_embed_dim") for n in ("unit", "lang", "spkr"))
    part.tensor("unit_embedding.weight", (cfg.positive("unit_hifi_gan_vocab_size"), units))
    part.tensor("language_embedding.weight", (cfg.positive("vocoder_num_langs"), language))
    part.tensor("speaker_embedding.weight", (cfg.positive("vocoder_num_spkrs"), speaker))
    _durations(part.at("dur_predictor."), units, units, cfg.positive("variance_predictor_kernel_size"))
    wave, channels = part.at("hifi_gan."), cfg.positive("upsample_initial_channel")
    kernels = cfg.need_numbers("resblock_kernel_sizes")
    counts = dilations(cfg, len(kernels))
    wave.conv("conv_pre", channels, units + language + speaker, (7,))
    for i, width in enumerate(cfg.need_numbers("upsample_kernel_sizes")):
        wave.tensor(f"upsampler.{i}.weight", (channels, channels // 2, width))
        wave.tensor(f"upsampler.{i}.bias", (channels // 2,))
        channels //= 2
        for j, (kernel, count) in enumerate(zip(kernels, counts, strict=True)):
            for name in ("convs1", "convs2"):
                at = wave.at(f"resblocks.{i * len(kernels) + j}.{name}.{{}}", range(count))
                at.conv("", channels, channels, (kernel,))
    wave.conv("conv_post", 1, channels, (7,))


#: saved class → which of text encoder, speech encoder, units and vocoder it holds
_CLASSES = {
    "Model": "tsu",
    "ForTextToText": "t",
    "ForSpeechToText": "s",
    "ForTextToSpeech": "tu",
    "ForSpeechToSpeech": "su",
}


def seamless_m4t(cfg: Config) -> Architecture:
    """The parts that the saved class has (`…Model`: all); the text decoder is the main stack."""
    what = task(cfg, "tsu", _CLASSES)
    hidden, vocab = cfg.positive("hidden_size"), cfg.positive("vocab_size")
    heads = read_heads(cfg, hidden, "decoder_attention_heads")
    encoders, decoders = cfg.positive("encoder_layers"), cfg.positive("decoder_layers")
    d = Dims(hidden, decoders, heads, heads, hidden // heads)
    inv = Inventory()
    top = Part(inv)
    top.tensor("shared.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    embedding = Component.EMBEDDING
    for name in ("text_encoder", "text_decoder") if "t" in what else ("text_decoder",):
        copy = f"{name}.embed_tokens.weight"
        shared = "shared.weight" if cfg.flag("tie_word_embeddings", default=True) else None
        top.tensor(copy, (vocab, hidden), embedding, Vocab(), tied_to=shared, optional=shared is not None)
    tied = cfg.flag("tie_word_embeddings", default=True)
    to = "shared.weight" if tied else None
    top.tensor("lm_head.weight", (vocab, hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
    inner = cfg.positive("decoder_ffn_dim")
    _text_stack(top.at("text_decoder."), decoders, hidden, inner, heads, cross=True)
    layers = decoder_layers(decoders, heads, d.head_dim, None)
    if "t" in what:
        own = cfg.positive("encoder_attention_heads")
        _text_stack(top.at("text_encoder."), encoders, hidden, cfg.positive("encoder_ffn_dim"), own, cross=False)
        layers += encoder_layers(encoders)
    if "s" in what:
        layers += tower_layers(_speech_encoder(tower(inv, "speech_encoder."), cfg, hidden), "audio")
    if "u" in what:
        layers += tower_layers(_units(tower(inv, "t2u_model."), cfg, hidden), "audio")
        _vocoder(tower(inv, "vocoder."), cfg)
    return assemble(cfg, cfg, "seamless_m4t", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)
