"""NVIDIA's FastConformer (Parakeet) with CTC, RNN-T and TDT heads; the encoder of Canary, Cohere ASR and Nemotron too.

Source: transformers 5.23.0 `models/{parakeet,nemotron_asr_streaming}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory
from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    """How a checkpoint calls the encoder's modules: transformers' words or NeMo's."""

    stem: str = "subsampling.layers."
    stem_out: str = "subsampling.linear"
    projections: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj")
    relative: str = "relative_k_proj"
    biases: tuple[str, str] = ("bias_u", "bias_v")
    batch_norm: str = "norm"


NEMO = Names(
    stem="pre_encode.conv.",
    stem_out="pre_encode.out",
    projections=("linear_q", "linear_k", "linear_v", "linear_out"),
    relative="linear_pos",
    biases=("pos_bias_u", "pos_bias_v"),
    batch_norm="batch_norm",
)


def _stem(part: Part, cfg: Config, names: Names, channels: int, steps: int) -> None:
    """One strided convolution, then pairs of a depthwise strided and a pointwise one (activations take a number too)."""
    kernel = (cfg.positive("subsampling_conv_kernel_size"),) * 2
    at = part.at(names.stem)
    at.conv("0", channels, 1, kernel)
    for i in range(steps - 1):
        at.conv(str(2 + 3 * i), channels, 1, kernel)
        at.conv(str(3 + 3 * i), channels, channels, (1, 1))


def _streaming_stem(part: Part, cfg: Config, channels: int, steps: int) -> None:
    """The same under the names of Nemotron's streaming encoder."""
    kernel = (cfg.positive("subsampling_conv_kernel_size"),) * 2
    part.conv("subsampling.conv_in", channels, 1, kernel)
    at = part.at("subsampling.layers.{}.", range(steps - 1))
    at.conv("depthwise_conv", channels, 1, kernel)
    at.conv("pointwise_conv", channels, channels, (1, 1))


def fast_conformer(part: Part, cfg: Config, names: Names | None = None, *, streaming: bool = False) -> int:
    """Two half feed-forwards around attention with relative positions and a gated convolution.

    `streaming`: causal convolutions, which see one frame more of the spectrum at each step, and layer norms inside.
    """
    names = names or Names()
    width, count, heads = (
        cfg.positive("hidden_size"),
        cfg.positive("num_hidden_layers"),
        cfg.positive("num_attention_heads"),
    )
    inner, kernel = cfg.positive("intermediate_size"), cfg.positive("conv_kernel_size")
    bias, conv_bias = cfg.flag("attention_bias"), cfg.flag("convolution_bias", default=True)
    channels, steps = cfg.positive("subsampling_conv_channels"), cfg.positive("subsampling_factor").bit_length() - 1
    bins, stride = cfg.positive("num_mel_bins"), cfg.positive("subsampling_conv_stride")
    if width % heads:
        raise ContradictionError(f"{cfg.file}: {heads} heads do not divide the width {width}")
    if streaming:
        _streaming_stem(part, cfg, channels, steps)
        for _ in range(steps):
            bins = bins // stride + 1
    else:
        _stem(part, cfg, names, channels, steps)
        bins //= stride**steps
    part.linear(names.stem_out, width, channels * bins)
    block = part.at("layers.{}.", range(count))
    for name in ("feed_forward1", "feed_forward2"):
        block.linear(f"{name}.linear1", inner, width, split=COLUMN, bias=bias)
        block.linear(f"{name}.linear2", width, inner, split=ROW, bias=bias)
    at = block.at("self_attn.")
    kv_heads = cfg.opt_int("num_key_value_heads") or heads
    vision.projections(at, width, bias=bias, names=names.projections, kv_width=kv_heads * (width // heads))
    at.linear(names.relative, width, width, bias=False)
    for name in names.biases:
        at.tensor(name, (heads, width // heads))
    at = block.at("conv.")
    at.conv("pointwise_conv1", 2 * width, width, (1,), bias=conv_bias)
    at.conv("depthwise_conv", width, 1, (kernel,), bias=conv_bias)
    at.conv("pointwise_conv2", width, width, (1,), bias=conv_bias)
    if streaming:
        at.norm(names.batch_norm, width)
    else:
        at.batch_norm(names.batch_norm, width)
    tails = ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out")
    block.norms(tails, width)
    return count


def lstm(part: Part, width: int, layers: int) -> None:
    """PyTorch's LSTM: four gates in one matrix, two biases."""
    for i in range(layers):
        for leaf in ("weight_ih", "weight_hh"):
            part.tensor(f"{leaf}_l{i}", (4 * width, width))
        for leaf in ("bias_ih", "bias_hh"):
            part.tensor(f"{leaf}_l{i}", (4 * width,))


def parakeet(cfg: Config) -> Architecture:
    """Parakeet: the encoder and a head over letters (CTC), or a recurrent prediction network and a joint one (RNN-T, TDT).

    Nothing is kept that grows with the recording.
    """
    heard, vocab = cfg.sub("encoder_config"), cfg.positive("vocab_size")
    inv = Inventory()
    streaming = cfg.model_type == "nemotron_asr_streaming"
    count = fast_conformer(tower(inv, "encoder."), heard, streaming=streaming)
    width = heard.positive("hidden_size")
    top = Part(inv, component=Component.LM_HEAD)
    if cfg.model_type == "parakeet_ctc":
        top.conv("ctc_head", vocab, width, (1,))
    else:
        hidden = cfg.positive("decoder_hidden_size")
        part = Part(inv, "decoder.", Component.OTHER)
        Part(inv, component=Component.OTHER).linear("encoder_projector", hidden, width)
        part.tensor("embedding.weight", (vocab, hidden), Component.EMBEDDING)
        lstm(part.at("lstm."), hidden, cfg.positive("num_decoder_layers"))
        part.linear("decoder_projector", hidden, hidden)
        steps = len(cfg.opt_list("durations") or (0, 1, 2, 3, 4)) if cfg.model_type == "parakeet_tdt" else 0
        top.linear("joint.head", vocab + steps, hidden)
    heads = heard.positive("num_attention_heads")
    d = Dims(width, count, heads, heads, width // heads)
    return assemble(cfg, heard, "parakeet", d, tower_layers(count, "audio"), inv, vocab=vocab, tied=False)
