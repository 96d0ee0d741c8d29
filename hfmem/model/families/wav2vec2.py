"""Speech encoders over the waveform: Wav2Vec2 (MMS, XLS-R), HuBERT, WavLM; nothing is kept between tokens.

Source: transformers 5.23.0 `models/{wav2vec2,hubert,wavlm}/modeling_*.py`; names as published (`weight_g`, `weight_v`).
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.encoders import encoder_layers
from hfmem.model.families.heads import num_labels, task
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab

_TASKS = {
    "ForCTC": "ctc",
    "Model": "model",
    "ForPreTraining": "pretraining",
    "ForSequenceClassification": "sequence",
    "ForAudioFrameClassification": "frame",
}


def _stem(part: Part, cfg: Config) -> int:
    """Strided convolutions on the waveform, with one group norm after the first or a layer norm after each. Returns their width."""
    widths, kernels = cfg.need_numbers("conv_dim"), cfg.need_numbers("conv_kernel")
    if len(widths) != len(kernels) or not widths:
        raise ContradictionError(f"{cfg.file}: {len(widths)} 'conv_dim' and {len(kernels)} 'conv_kernel'")
    kind = cfg.choice("feat_extract_norm", cfg.opt_str("feat_extract_norm") or "group", ("group", "layer"))
    before = 1
    for i, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
        at = part.at(f"feature_extractor.conv_layers.{i}.")
        at.conv("conv", width, before, (kernel,), bias=cfg.flag("conv_bias", default=False))
        if kind == "layer" or not i:
            at.norm("layer_norm", width)
        before = width
    return before


def _adapter(part: Part, cfg: Config, hidden: int) -> int:
    """Strided, gated convolutions after the encoder where `add_adapter`. Returns the width of what leaves the model."""
    if not cfg.flag("add_adapter", default=False):
        return hidden
    out = cfg.opt_int("output_hidden_size") or hidden
    if out != hidden:
        part.linear("adapter.proj", out, hidden)
        part.norm("adapter.proj_layer_norm", out)
    layer = part.at("adapter.layers.{}.", range(cfg.need_int("num_adapter_layers")))
    layer.conv("conv", 2 * out, out, (cfg.positive("adapter_kernel_size"),))
    return out


def _masks(cfg: Config) -> bool:
    """Whether a vector stands for masked frames: both classes assume `mask_time_prob` 0.05 and `mask_feature_prob` 0."""
    times, features = cfg.published("mask_time_prob"), cfg.published("mask_feature_prob")
    return (0.05 if times is None else times) > 0 or (features or 0) > 0


def _head(top: Part, cfg: Config, what: str, hidden: int, out: int) -> None:
    if cfg.flag("use_weighted_layer_sum", default=False) and what in ("sequence", "frame"):
        top.tensor("layer_weights", (cfg.positive("num_hidden_layers") + 1,))
    if what == "ctc":
        vocab = cfg.positive("vocab_size")
        top.tensor("lm_head.weight", (vocab, out), Component.LM_HEAD, Vocab())
        top.tensor("lm_head.bias", (vocab,), Component.LM_HEAD, Vocab())
    elif what == "sequence":
        top.linear("projector", cfg.positive("classifier_proj_size"), hidden)
        top.linear("classifier", num_labels(cfg), cfg.positive("classifier_proj_size"))
    elif what == "frame":
        top.linear("classifier", num_labels(cfg), hidden)
    elif what == "pretraining":
        groups, each = cfg.positive("num_codevector_groups"), cfg.positive("num_codevectors_per_group")
        width, shared = cfg.positive("codevector_dim"), cfg.positive("proj_codevector_dim")
        top.tensor("quantizer.codevectors", (1, groups * each, width // groups))
        top.linear("quantizer.weight_proj", groups * each, cfg.need_numbers("conv_dim")[-1])
        top.linear("project_hid", shared, hidden)
        top.linear("project_q", shared, width)


def wav2vec2(cfg: Config) -> Architecture:
    """Convolutions, an encoder with one convolution for positions, and the head of the saved class."""
    what = task(cfg, "model", _TASKS)
    d = read_dims(cfg)
    hidden, inner = d.hidden, cfg.positive("intermediate_size")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else f"{cfg.model_type}.", Component.OTHER)
    if _masks(cfg):
        part.tensor("masked_spec_embed", (hidden,))
    width = _stem(part, cfg)
    if cfg.model_type != "hubert" or cfg.flag("feat_proj_layer_norm", default=True):
        part.norm("feature_projection.layer_norm", width)
    part.linear("feature_projection.projection", hidden, width)
    kernel, groups = cfg.positive("num_conv_pos_embeddings"), cfg.positive("num_conv_pos_embedding_groups")
    place = part.at("encoder.pos_conv_embed.")
    place.tensor("conv.bias", (hidden,))
    if cfg.model_type == "hubert" and cfg.flag("conv_pos_batch_norm", default=False):
        place.batch_norm("batch_norm", hidden)
        place.tensor("conv.weight", (hidden, hidden // groups, kernel))
    else:
        place.tensor("conv.weight_g", (1, 1, kernel))
        place.tensor("conv.weight_v", (hidden, hidden // groups, kernel))
    part.norm("encoder.layer_norm", hidden)
    block = Part(inv, f"{part.prefix}encoder.layers.{{}}.", axes=(tuple(range(d.num_layers)),))
    at = block.at("attention.", component=Component.ATTENTION)
    vision.projections(at, hidden)
    if cfg.model_type == "wavlm":
        at.tensor("gru_rel_pos_const", (1, d.num_heads, 1, 1))
        at.linear("gru_rel_pos_linear", 8, d.head_dim)
        table = f"{part.prefix}encoder.layers.0.attention.rel_attn_embed.weight"
        Part(inv, table, Component.ATTENTION).tensor("", (cfg.positive("num_buckets"), d.num_heads))
    mlp = block.at("feed_forward.", component=Component.MLP)
    mlp.linear("intermediate_dense", inner, hidden, split=COLUMN)
    mlp.linear("output_dense", hidden, inner, split=ROW)
    block.norms(("layer_norm", "final_layer_norm"), hidden)
    narrow = cfg.opt_int("adapter_attn_dim")
    if narrow:  # MMS: a small adapter a layer, one set a language
        at = block.at("adapter_layer.", component=Component.OTHER)
        at.norm("norm", hidden)
        at.linear("linear_1", narrow, hidden)
        at.linear("linear_2", hidden, narrow)
    out = hidden if cfg.model_type == "hubert" else _adapter(part, cfg, hidden)
    _head(Part(inv, component=Component.OTHER), cfg, what, hidden, out)
    vocab = cfg.positive("vocab_size") if what == "ctc" else 0
    layers = encoder_layers(d.num_layers)
    return assemble(cfg, cfg, "wav2vec2", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)
