"""Kimi-Audio: Qwen2 with a second head and layers for sound tokens, an adaptor for Whisper's features.

Whisper itself is published in a folder of its own.

Source: moonshotai/Kimi-Audio-7B `modeling_moonshot_kimia.py`, vLLM 0.33.0 `kimi_audio.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import lm_head, norm
from hfmem.model.config import Config
from hfmem.model.families.multimodal import PLAIN, text_architecture, tower, wrap
from hfmem.model.inventory import Inventory
from hfmem.model.stack import as_block


def kimi_audio(cfg: Config) -> Architecture:
    """`kimia_mimo_layers` blocks branch off for sound; while only text is written they keep nothing."""
    text = Config(cfg.data, cfg.file, "qwen2", cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    hidden, branch = inner.hidden_size, range(cfg.positive("kimia_mimo_layers"))
    inv.specs += as_block(inner.tensors, "model.layers.{}.", "model.mimo_layers.{}.", branch)
    norm(inv, "model.mimo_norm", None, hidden)
    lm_head(inv, "mimo_output.weight", inner.vocab_size, hidden, None)
    if cfg.flag("use_whisper_feature", default=True):
        adapt = tower(inv, "model.vq_adaptor.layers.")
        adapt.linear("0", hidden, cfg.positive("kimia_adaptor_input_dim"))
        adapt.linear("3", hidden, hidden)
        adapt.norm("4", hidden)
    note = Note("tower_elsewhere", "Whisper's encoder lies in a folder of its own and is not part of this checkpoint")
    return wrap(cfg, text, inner, "kimi_audio", PLAIN, inv, (), [note])
