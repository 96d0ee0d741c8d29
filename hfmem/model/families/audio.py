"""Speech models: a Whisper-like encoder before a text model (Qwen2-Audio, Voxtral, Audio Flamingo, GLM-ASR, MOSS, Qwen3-ASR) and
Moonshine.

Source: transformers 5.23.0 `models/{qwen2_audio,voxtral,audioflamingo3,glmasr,moss_transcribe_diarize,qwen3_asr,moonshine}/`; names
as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.bart import audio_convolutions, encoder_layers, read_heads
from hfmem.model.families.heads import task
from hfmem.model.families.multimodal import (
    NESTED,
    WHOLE,
    cut_by_heads,
    keep_whole,
    text_part,
    tower,
    tower_layers,
    wrap,
)
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import CrossAttention, FullAttention, Layer
from hfmem.records import replace


def dilations(cfg: Config, num_kernels: int) -> list[int]:
    """How many dilated convolutions a vocoder's residual blocks have, of each kernel width; three where nothing is said.

    Raises:
        ContradictionError: `resblock_dilation_sizes` is no list of that many lists.
    """
    lists = (
        cfg.published("resblock_dilation_sizes") or [[1, 3, 5]] * num_kernels
    )  # nested: not in the table of defaults
    if not isinstance(lists, list) or len(lists) != num_kernels or not all(isinstance(steps, list) for steps in lists):
        text = f"'resblock_dilation_sizes' is no list for each of {num_kernels} in 'resblock_kernel_sizes'"
        raise ContradictionError(f"{cfg.file}: {text}")
    return [len(steps) for steps in lists]


_WIDTH, _LAYERS = ("d_model", "hidden_size"), ("encoder_layers", "num_hidden_layers")
_INNER = ("encoder_ffn_dim", "intermediate_size")


def whisper_blocks(part: Part, cfg: Config, *, k_bias: bool = False) -> int:
    """Whisper's encoder blocks below `layers.{}.`; k has no bias."""
    width, count = cfg.positive(*_WIDTH), cfg.positive(*_LAYERS)
    block = part.at("layers.{}.", range(count))
    vision.projections(block.at("self_attn."), width, k_bias=k_bias)
    vision.mlp(block, width, cfg.positive(*_INNER))
    block.norms(("self_attn_layer_norm", "final_layer_norm"), width)
    return count


def whisper_tower(part: Part, cfg: Config) -> int:
    """Whisper's encoder whole: two convolutions, stored positions, blocks, a norm."""
    width = cfg.positive(*_WIDTH)
    audio_convolutions(part, width, cfg.positive("num_mel_bins"))
    part.tensor("embed_positions.weight", (cfg.positive("max_source_positions"), width))
    part.norm("layer_norm", width)
    return whisper_blocks(part, cfg)


def qwen2_audio(cfg: Config) -> Architecture:
    """Qwen2-Audio: Whisper's encoder, one linear layer, Qwen2."""
    text, inner = text_part(cfg)
    inv = Inventory()
    heard = cfg.sub("audio_config")
    count = whisper_tower(tower(inv, "audio_tower."), heard)
    tower(inv).linear("multi_modal_projector.linear", inner.hidden_size, heard.positive(*_WIDTH))
    keep_whole(inv, "audio_tower.")
    return wrap(cfg, text, inner, "qwen2_audio", WHOLE, inv, tower_layers(count, "audio"))


def voxtral(cfg: Config) -> Architecture:
    """Voxtral: Whisper's encoder, four frames side by side (`intermediate_size` wide) into two linear layers, a Llama."""
    text, inner = text_part(cfg, filled=True)
    inv = Inventory()
    heard = cfg.sub("audio_config")
    count = whisper_tower(tower(inv, "audio_tower."), heard)
    project = tower(inv, "multi_modal_projector.")
    project.linear("linear_1", inner.hidden_size, heard.positive(*_INNER), split=COLUMN, bias=False)
    project.linear("linear_2", inner.hidden_size, inner.hidden_size, split=ROW, bias=False)
    return wrap(cfg, text, inner, "voxtral", WHOLE, inv, tower_layers(count, "audio"))


def audio_flamingo(cfg: Config) -> Architecture:
    """Audio Flamingo 3 and Music Flamingo: Whisper's encoder, two linear layers, Qwen2."""
    text, inner = text_part(cfg)
    inv = Inventory()
    heard = cfg.sub("audio_config")
    count = whisper_tower(tower(inv, "audio_tower."), heard)
    project, bias = tower(inv, "multi_modal_projector."), cfg.flag("projector_bias", default=True)
    project.linear("linear_1", inner.hidden_size, heard.positive(*_WIDTH), split=COLUMN, bias=bias)
    project.linear("linear_2", inner.hidden_size, inner.hidden_size, split=ROW, bias=bias)
    keep_whole(inv, "audio_tower.", "multi_modal_projector.")
    return wrap(cfg, text, inner, "audio_flamingo", WHOLE, inv, tower_layers(count, "audio"))


def moss_transcribe_diarize(cfg: Config) -> Architecture:
    """MOSS Transcribe Diarize: Whisper's encoder, `audio_merge_size` frames side by side, a normed projector, Qwen3."""
    text, inner = text_part(cfg)
    inv = Inventory()
    heard = cfg.sub("audio_config")
    count = whisper_tower(tower(inv, "model.audio_tower."), heard)
    project, bias = tower(inv, "model.multi_modal_projector."), cfg.flag("projector_bias", default=True)
    merged = heard.positive(*_WIDTH) * cfg.positive("audio_merge_size")
    project.linear("linear_1", inner.hidden_size, merged, split=COLUMN, bias=bias)
    project.linear("linear_2", inner.hidden_size, inner.hidden_size, split=ROW, bias=bias)
    project.norm("norm", inner.hidden_size)
    return wrap(cfg, text, inner, "moss_transcribe_diarize", NESTED, inv, tower_layers(count, "audio"))


def glmasr(cfg: Config) -> Architecture:
    """GLM-ASR: Whisper's stem before blocks with rotary positions, four frames side by side (`intermediate_size` wide), a Llama."""
    text, inner = text_part(cfg, filled=True)
    inv = Inventory()
    heard = cfg.sub("audio_config")
    width, count = heard.positive("hidden_size"), heard.positive("num_hidden_layers")
    heads = heard.positive("num_attention_heads")
    dim, kv_heads = heard.opt_int("head_dim") or width // heads, heard.opt_int("num_key_value_heads") or heads
    part = tower(inv, "audio_tower.")
    audio_convolutions(part, width, heard.positive("num_mel_bins"))
    part.norm("norm", width)
    block, names = part.at("layers.{}.", range(count)), ("q_proj", "k_proj", "v_proj", "o_proj")
    at = block.at("self_attn.")
    vision.projections(at, width, k_bias=False, names=names, width=heads * dim, kv_width=kv_heads * dim)
    vision.mlp(block.at("mlp."), width, heard.positive("intermediate_size"))
    block.norms(("input_layernorm", "post_attention_layernorm"), width)
    project = tower(inv, "multi_modal_projector.")
    project.linear("linear_1", 2 * inner.hidden_size, heard.positive("intermediate_size"), split=COLUMN)
    project.linear("linear_2", inner.hidden_size, 2 * inner.hidden_size, split=ROW)
    return wrap(cfg, text, inner, "glmasr", WHOLE, inv, tower_layers(count, "audio"))


def qwen3_audio_tower(part: Part, cfg: Config, project: Part, names: tuple[str, str]) -> int:
    """Qwen3's audio tower: three strided convolutions over mel and time, blocks with biases everywhere, two projections.

    The projections are `names` in `project`: inside the tower or beside it. vLLM splits the
    blocks where its ranks divide their heads.
    """
    width, channels, bins = (
        cfg.positive("d_model"),
        cfg.positive("downsample_hidden_size"),
        cfg.positive("num_mel_bins"),
    )
    part.conv("conv2d1", channels, 1, (3, 3))
    part.conv("conv2d2", channels, channels, (3, 3))
    part.conv("conv2d3", channels, channels, (3, 3))
    for _ in range(3):  # kernel 3, stride 2, padding 1
        bins = (bins + 1) // 2
    part.linear("conv_out", width, channels * bins, bias=False)
    start, heads = len(part.inv.specs), cfg.positive("encoder_attention_heads")
    count = whisper_blocks(part, cfg, k_bias=True)
    part.inv.specs[start:] = cut_by_heads(part.inv.specs[start:], heads)
    part.norm("ln_post", width)
    project.linear(names[0], width, width)
    project.linear(names[1], cfg.positive("output_dim"), width)
    return count


def qwen3_asr(cfg: Config) -> Architecture:
    """Qwen3-ASR: as first published under `thinker` (`thinker_config`), or in transformers' layout. The forced aligner's head gives
    `classify_num` time marks instead of words."""
    thinker = cfg.opt_sub("thinker_config", model_type="qwen3_asr")
    inv = Inventory()
    if thinker is None:
        text, inner = text_part(cfg)
        part, project = tower(inv, "model.audio_tower."), tower(inv, "model.multi_modal_projector.")
        count = qwen3_audio_tower(part, cfg.sub("audio_config"), project, ("linear_1", "linear_2"))
        return wrap(cfg, text, inner, "qwen3_asr", NESTED, inv, tower_layers(count, "audio"))
    thinker = Config(thinker.data, thinker.file, "qwen3_asr", cfg.used_defaults)
    text, inner = text_part(thinker)
    marks = thinker.opt_int("classify_num")
    if marks:
        inner = replace(inner, tensors=tuple(s for s in inner.tensors if s.component is not Component.LM_HEAD))
        Part(inv, component=Component.OTHER).linear("thinker.lm_head", marks, inner.hidden_size, bias=False)
    part = tower(inv, "thinker.audio_tower.")
    count = qwen3_audio_tower(part, thinker.sub("audio_config"), part, ("proj1", "proj2"))
    return wrap(cfg, text, inner, "qwen3_asr", (("", "thinker."),), inv, tower_layers(count, "audio"))


def grouped_attention(part: Part, width: int, heads: int, kv_heads: int, head_dim: int, *, bias: bool) -> None:
    """Four projections `[heads · head_dim, width]` and back, fewer heads for keys and values; the output has no bias."""
    at = part.at("", component=Component.ATTENTION)
    at.linear("q_proj", heads * head_dim, width, split=COLUMN, bias=bias)
    for name in ("k_proj", "v_proj"):
        at.linear(name, kv_heads * head_dim, width, split=Column(kv_heads=(kv_heads,)), bias=bias)
    at.linear("o_proj", width, heads * head_dim, split=ROW, bias=False)


def moonshine(cfg: Config) -> Architecture:
    """Moonshine: convolutions on the waveform, an encoder and a decoder with rotary positions, a gated decoder feed-forward.

    How many encoder positions the decoder keeps follows the length of the recording.
    """
    what = task(cfg, "generation", {"ForConditionalGeneration": "generation", "Model": "model"})
    width, inner, vocab = cfg.positive("hidden_size"), cfg.positive("intermediate_size"), cfg.positive("vocab_size")
    encoders, decoders = cfg.positive("encoder_num_hidden_layers"), cfg.positive("decoder_num_hidden_layers")
    bias, tied = cfg.flag("attention_bias", default=False), cfg.flag("tie_word_embeddings", default=True)
    inv = Inventory()
    encoder = Part(inv, "model.encoder.", Component.OTHER)
    encoder.conv("conv1", width, 1, (127,), bias=False)
    encoder.conv("conv2", 2 * width, width, (7,))
    encoder.conv("conv3", width, 2 * width, (3,))
    encoder = Part(inv, "model.encoder.")
    encoder.norm("groupnorm", width)
    encoder.norm("layer_norm", width, bias=False)
    shapes = {}
    for side in ("encoder", "decoder"):
        heads = read_heads(cfg, width, f"{side}_num_attention_heads")
        kv_heads = cfg.opt_int(f"{side}_num_key_value_heads") or heads
        if heads % kv_heads:
            raise ContradictionError(f"{cfg.file}: {heads} {side} heads cannot share {kv_heads} KV heads")
        shapes[side] = (heads, kv_heads, width // heads)
    block = encoder.at("layers.{}.", range(encoders))
    grouped_attention(block.at("self_attn."), width, *shapes["encoder"], bias=bias)
    mlp = block.at("mlp.", component=Component.MLP)
    mlp.linear("fc1", inner, width, split=COLUMN)
    mlp.linear("fc2", width, inner, split=ROW)
    block.norms(("input_layernorm", "post_attention_layernorm"), width, bias=False)
    decoder = Part(inv, "model.decoder.")
    decoder.tensor("embed_tokens.weight", (vocab, width), Component.EMBEDDING, Vocab())
    block = decoder.at("layers.{}.", range(decoders))
    for name in ("self_attn", "encoder_attn"):
        grouped_attention(block.at(f"{name}."), width, *shapes["decoder"], bias=bias)
    mlp = block.at("mlp.", component=Component.MLP)
    mlp.linear("fc1", 2 * inner, width, split=Column((inner, inner), (None, None)))
    mlp.linear("fc2", width, inner, split=ROW)
    block.norms(("input_layernorm", "post_attention_layernorm", "final_layernorm"), width, bias=False)
    decoder.norm("norm", width, bias=False)
    if what == "generation":
        to = "model.decoder.embed_tokens.weight" if tied else None
        Part(inv).tensor("proj_out.weight", (vocab, width), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
    heads, kv_heads, head_dim = shapes["decoder"]
    own = (FullAttention(heads, kv_heads, head_dim, head_dim), CrossAttention(heads, kv_heads, head_dim, None))
    layers = [*[Layer(own)] * decoders, *encoder_layers(encoders)]
    d = Dims(width, decoders, heads, kv_heads, head_dim)
    return assemble(cfg, cfg, "moonshine", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)
