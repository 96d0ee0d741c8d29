"""CSM: a Llama over text and sound codes, a small decoder for the codebooks of one frame, and Mimi, the codec.

Source: transformers 5.23.0 `models/{csm,mimi}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from math import prod

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import assemble, attention, gated_mlp, norm, read_dims
from hfmem.model.blocks import full as full_attention
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory, TensorSpec, Vocab
from hfmem.model.layers import Layer
from hfmem.records import replace


def _llama(inv: Inventory, cfg: Config, prefix: str) -> tuple[int, int]:
    """Llama's blocks and last norm under `prefix`. Returns width and layer count."""
    d = read_dims(cfg)
    every = range(d.num_layers)
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    attention(inv, f"{prefix}layers.{{}}.self_attn", every, d, qkv_bias=bias, o_bias=bias)
    gated_mlp(inv, f"{prefix}layers.{{}}.mlp", every, d.hidden, cfg.positive("intermediate_size"), bias=mlp_bias)
    norm(inv, f"{prefix}layers.{{}}.input_layernorm", every, d.hidden)
    norm(inv, f"{prefix}layers.{{}}.post_attention_layernorm", every, d.hidden)
    norm(inv, f"{prefix}norm", None, d.hidden)
    return d.hidden, d.num_layers


def _residual(part: Part, cfg: Config, channels: int) -> None:
    """A residual unit: a convolution into fewer channels and one back."""
    inner = channels // cfg.positive("compress")
    part.conv("block.1.conv", inner, channels, (cfg.positive("residual_kernel_size"),))
    part.conv("block.3.conv", channels, inner, (1,))
    if cfg.flag("use_conv_shortcut", default=False):
        part.conv("shortcut.conv", channels, channels, (1,))


def _transformer(part: Part, cfg: Config) -> int:
    width, count = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    heads, kv = cfg.positive("num_attention_heads"), cfg.positive("num_key_value_heads")
    dim, bias = cfg.opt_int("head_dim") or width // heads, cfg.flag("attention_bias", default=False)
    block = part.at("layers.{}.", range(count))
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    vision.projections(block.at("self_attn."), width, bias=bias, names=names, width=heads * dim, kv_width=kv * dim)
    vision.mlp(block.at("mlp."), width, cfg.positive("intermediate_size"), bias=False)
    block.norms(("input_layernorm", "post_attention_layernorm"), width)
    block.tensor("self_attn_layer_scale.scale", (width,))
    block.tensor("mlp_layer_scale.scale", (width,))
    return count


def mimi(part: Part, cfg: Config) -> int:
    """Mimi: strided convolutions down to frames, a transformer on each side, residual quantizers, convolutions back up."""
    ratios = cfg.numbers("upsampling_ratios") or [8, 6, 5, 4]  # what the class takes for none
    width, filters, residuals = (
        cfg.positive("hidden_size"),
        cfg.positive("num_filters"),
        cfg.positive("num_residual_layers"),
    )
    kernel, last = (cfg.positive("kernel_size"),), (cfg.positive("last_kernel_size"),)
    sound = cfg.positive("audio_channels")
    step, channels, place = residuals + 2, filters, 0
    encoder, decoder = part.at("encoder.layers."), part.at("decoder.layers.")
    encoder.conv("0.conv", filters, sound, kernel)
    for i, ratio in enumerate(reversed(ratios)):
        place = 1 + i * step
        for j in range(residuals):
            _residual(encoder.at(f"{place + j}."), cfg, channels)
        encoder.conv(f"{place + residuals + 1}.conv", 2 * channels, channels, (2 * ratio,))
        channels *= 2
    end = 1 + len(ratios) * step
    encoder.conv(f"{end + 1}.conv", width, channels, last)
    decoder.conv("0.conv", channels, width, kernel)
    for i, ratio in enumerate(ratios):
        place = 1 + i * step
        decoder.tensor(f"{place + 1}.conv.weight", (channels, channels // 2, 2 * ratio))
        decoder.tensor(f"{place + 1}.conv.bias", (channels // 2,))
        channels //= 2
        for j in range(residuals):
            _residual(decoder.at(f"{place + 2 + j}."), cfg, channels)
    decoder.conv(f"{end + 1}.conv", sound, channels, last)
    count = _transformer(part.at("encoder_transformer."), cfg) + _transformer(part.at("decoder_transformer."), cfg)
    frames, rate = cfg.positive("sampling_rate") / prod(ratios), cfg.opt_float("frame_rate", "_frame_rate") or 12.5
    if frames != rate:
        size = 2 * int(frames / rate)
        part.conv("downsample.conv", width, width, (size,), bias=False)
        part.tensor("upsample.conv.weight", (width, width // cfg.positive("upsample_groups"), size))
    semantic, every = cfg.positive("num_semantic_quantizers"), cfg.positive("num_quantizers")
    inner, entries = cfg.positive("vector_quantization_hidden_dimension"), cfg.positive("codebook_size")
    if semantic >= every:
        raise ContradictionError(f"{cfg.file}: {semantic} semantic quantizers of {every}")
    for name, layers in (("semantic", semantic), ("acoustic", every - semantic)):
        at = part.at(f"quantizer.{name}_residual_vector_quantizer.")
        at.conv("input_proj", inner, width, (1,), bias=False)
        at.conv("output_proj", width, inner, (1,), bias=False)
        book = at.at("layers.{}.codebook.", range(layers))
        book.tensor("initialized", (1,), buffer=True)
        book.tensor("cluster_usage", (entries,), buffer=True)
        book.tensor("embed_sum", (entries, cfg.positive("codebook_dim")), buffer=True)
    return count


def csm(cfg: Config) -> Architecture:
    """The backbone is the main stack. The frame decoder starts afresh with every frame; the codec keeps nothing while writing."""
    small, codec = cfg.sub("depth_decoder_config"), cfg.sub("codec_config")
    d = read_dims(cfg)
    books, codes, words = cfg.positive("num_codebooks"), cfg.positive("vocab_size"), cfg.positive("text_vocab_size")
    inv = Inventory()
    hidden, count = _llama(inv, cfg, "backbone_model.")
    top, shared = Part(inv), "depth_decoder.model.embed_tokens.weight"
    top.tensor("embed_text_tokens.weight", (words, hidden), Component.EMBEDDING, Vocab())
    tied = cfg.flag("tie_codebooks_embeddings", default=True)
    to = shared if tied else None
    name = "backbone_model.embed_tokens.embed_audio_tokens.weight"
    top.tensor(name, (books * codes, hidden), Component.EMBEDDING, Vocab(), tied_to=to, optional=tied)
    top.tensor("lm_head.weight", (codes, hidden), Component.LM_HEAD, Vocab())
    frame = Inventory()
    inner, steps = _llama(frame, small, "depth_decoder.model.")
    inv.specs += [_other(spec) for spec in frame.specs]
    rows = small.positive("num_codebooks") * small.positive("vocab_size")
    given = small.positive("backbone_hidden_size")
    top.tensor(shared, (rows, given), Component.EMBEDDING, Vocab())
    top.linear("depth_decoder.model.inputs_embeds_projector", inner, given, Component.OTHER, bias=False)
    heads = (small.positive("num_codebooks") - 1, inner, small.positive("vocab_size"))
    top.tensor("depth_decoder.codebooks_head.weight", heads, Component.OTHER)
    heard = mimi(tower(inv, "codec_model."), codec)
    layers = (*[Layer((full_attention(d),))] * count, *tower_layers(steps + heard, "audio"))
    note = Note("second_decoder", "the frame decoder's cache restarts with every frame and is not counted")
    wide = cfg.positive("intermediate_size")
    return assemble(cfg, cfg, "csm", d, layers, inv, vocab=codes, tied=False, intermediate=wide, notes=[note])


def _other(spec: TensorSpec) -> TensorSpec:
    return replace(spec, component=Component.OTHER)
