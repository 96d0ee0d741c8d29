"""Models used little whose weights their files tell (`by_files`) and whose decoder keeps keys and values by a rule.

Source: transformers 5.24.0 `models/{git,imagegpt,kosmos2,kosmos2_5,idefics,udop,speecht5,bark,pp_formulanet}`: which of their
layers write a cache, and how wide. Image and audio positions that stand in the decoder's sequence count as tokens of the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.bart import decoder_layers, read_heads
from hfmem.model.families.by_files import UNCHECKED
from hfmem.model.inventory import Inventory
from hfmem.model.layers import Layer
from hfmem.records import replace

_STAGES: Final = Note(
    "second_decoder",
    "the coarse model runs after the semantic one and keeps a cache of its own then; the larger is counted",
)


def _by_files(
    cfg: Config, family: str, d: Dims, layers: Sequence[Layer], vocab: int, notes: Sequence[Note] = ()
) -> Architecture:
    arch = assemble(cfg, cfg, family, d, layers, Inventory(), vocab=vocab, tied=False, notes=[UNCHECKED, *notes])
    return replace(arch, partial=True)


def _alone(cfg: Config, part: Config, family: str, heads: int, hidden: int, count: int) -> Architecture:
    """A decoder over everything in one sequence: a key and a value of the whole width a layer."""
    d = Dims(hidden, count, heads, heads, hidden // heads)
    layers = decoder_layers(count, heads, d.head_dim, None, cross=False)
    return _by_files(cfg, family, d, layers, part.positive("vocab_size"))


def git(cfg: Config) -> Architecture:
    """GIT: BERT's layers over image positions and text."""
    hidden = cfg.positive("hidden_size")
    heads = read_heads(cfg, hidden, "num_attention_heads")
    return _alone(cfg, cfg, "git", heads, hidden, cfg.positive("num_hidden_layers"))


def imagegpt(cfg: Config) -> Architecture:
    """ImageGPT: GPT-2's layers over the pixels of an image."""
    hidden = cfg.positive("n_embd", "hidden_size")
    heads = read_heads(cfg, hidden, "n_head")
    return _alone(cfg, cfg, "imagegpt", heads, hidden, cfg.positive("n_layer", "num_hidden_layers"))


def kosmos(cfg: Config) -> Architecture:
    """Kosmos-2 and 2.5: image positions are part of the decoder's sequence."""
    text = cfg.sub("text_config")
    hidden = text.positive("embed_dim")
    heads = read_heads(text, hidden, "attention_heads")
    return _alone(cfg, text, "kosmos", heads, hidden, text.positive("layers"))


def idefics(cfg: Config) -> Architecture:
    """IDEFICS (the first): Llama's layers keep keys and values, the gated cross-attention layers between them none."""
    hidden = cfg.positive("hidden_size")
    heads = read_heads(cfg, hidden, "num_attention_heads")
    return _alone(cfg, cfg, "idefics", heads, hidden, cfg.positive("num_hidden_layers"))


def udop(cfg: Config) -> Architecture:
    """UDOP: T5's decoder behind an encoder of text and patches."""
    heads, width = cfg.positive("num_heads"), cfg.positive("d_kv")
    count = cfg.opt_int("num_decoder_layers") or cfg.positive("num_layers")
    d = Dims(cfg.positive("d_model"), count, heads, heads, width)
    return _by_files(cfg, "udop", d, decoder_layers(count, heads, width, None), cfg.positive("vocab_size"))


def speecht5(cfg: Config) -> Architecture:
    """SpeechT5: one decoder of text or spectrogram frames behind an encoder of the other."""
    hidden = cfg.positive("hidden_size")
    heads, count = read_heads(cfg, hidden, "decoder_attention_heads"), cfg.positive("decoder_layers")
    d = Dims(hidden, count, heads, heads, hidden // heads)
    return _by_files(cfg, "speecht5", d, decoder_layers(count, heads, d.head_dim, None), cfg.positive("vocab_size"))


def pp_formulanet(cfg: Config) -> Architecture:
    """PP-FormulaNet: MBart's decoder behind SAM's tower."""
    text = cfg.sub("text_config")
    hidden = text.positive("d_model")
    heads, count = read_heads(text, hidden, "decoder_attention_heads"), text.positive("decoder_layers")
    d = Dims(hidden, count, heads, heads, hidden // heads)
    layers = decoder_layers(count, heads, d.head_dim, None)
    return _by_files(cfg, "pp_formulanet", d, layers, text.positive("vocab_size"))


def bark(cfg: Config) -> Architecture:
    """Bark: three small GPTs one after the other; the semantic and the coarse one keep keys and values."""
    sizes = []
    for name in ("semantic_config", "coarse_acoustics_config"):
        stage = cfg.sub(name)
        hidden, count = stage.positive("hidden_size"), stage.positive("num_layers")
        sizes.append((count * hidden, count, hidden, read_heads(stage, hidden, "num_heads"), stage))
    _, count, hidden, heads, stage = max(sizes, key=lambda size: size[0])
    d = Dims(hidden, count, heads, heads, hidden // heads)
    layers = decoder_layers(count, heads, d.head_dim, None, cross=False)
    return _by_files(cfg, "bark", d, layers, stage.positive("input_vocab_size"), [_STAGES])
