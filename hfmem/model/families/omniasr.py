"""OmniASR: a transformer over convolutions of the waveform, with a head over letters (CTC) or before a small Llama.

Source: transformers 5.24.0 `models/{omniasr,omniasr_ctc}/modeling_*.py`, whose names the converted checkpoints have.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.encoders import encoder_layers
from hfmem.model.families.multimodal import NESTED, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab


def _encoder(part: Part, cfg: Config) -> tuple[int, int]:
    """The tower: its width and depth."""
    widths, kernels = cfg.numbers("conv_dim") or [], cfg.numbers("conv_kernel") or []
    if len(widths) != len(kernels) or not widths:
        raise ContradictionError(f"{cfg.file}: {len(widths)} 'conv_dim' and {len(kernels)} 'conv_kernel'")
    before, hidden, count = 1, cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    for i, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
        at = part.at(f"subsampling.conv_layers.{i}.")
        at.conv("conv", width, before, (kernel,), bias=cfg.flag("conv_bias", default=True))
        at.norm("layer_norm", width)
        before = width
    part.norm("subsampling.layer_norm", before)
    part.linear("subsampling.projection", hidden, before)
    groups = cfg.positive("num_conv_pos_embedding_groups")
    part.conv("encode_positions.conv", hidden, hidden // groups, (cfg.positive("num_conv_pos_embeddings"),))
    block, inner = part.at("layers.{}.", range(count)), cfg.positive("intermediate_size")
    vision.projections(block.at("attention."), hidden)
    block.linear("feed_forward.intermediate_dense", inner, hidden, split=COLUMN)
    block.linear("feed_forward.output_dense", hidden, inner, split=ROW)
    block.norms(("layer_norm", "final_layer_norm"), hidden)
    part.norm("layer_norm", hidden)
    return hidden, count


def omniasr(cfg: Config) -> Architecture:
    """Audio frames, projected, stand in the decoder's sequence."""
    text, inner = text_part(cfg)
    inv = Inventory()
    width, count = _encoder(tower(inv, "model.audio_tower."), cfg.sub("audio_config"))
    tower(inv).linear("model.multi_modal_projector", inner.hidden_size, width)
    return wrap(cfg, text, inner, "omniasr", NESTED, inv, tower_layers(count, "audio"))


def omniasr_ctc(cfg: Config) -> Architecture:
    """Nothing is kept between frames."""
    heard, vocab, inv = cfg.sub("audio_config"), cfg.positive("vocab_size"), Inventory()
    hidden, count = _encoder(Part(inv, "model.audio_tower.", Component.OTHER), heard)
    head = Part(inv, "ctc_head.", Component.LM_HEAD)
    head.tensor("weight", (vocab, hidden), split=Vocab())
    head.tensor("bias", (vocab,), split=Vocab())
    d, inner = read_dims(heard), heard.positive("intermediate_size")
    layers = encoder_layers(count)
    return assemble(cfg, heard, "omniasr_ctc", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)
