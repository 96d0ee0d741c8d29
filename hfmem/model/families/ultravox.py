"""Ultravox: Whisper's encoder, stacked frames through a projector, any text model.

Source: vLLM 0.33.0 `models/ultravox.py` and `transformers_utils/configs/ultravox.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import MissingKeyError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families.audio import whisper_blocks, whisper_tower
from hfmem.model.families.multimodal import WHOLE, text_part, tower, tower_layers, wrap
from hfmem.model.inventory import Inventory
from hfmem.records import replace

_ELSEWHERE = "{} is not part of this checkpoint: '{}' names the repository it is loaded from"


def ultravox(cfg: Config) -> Architecture:
    """`stack_factor` frames side by side go through two linear layers around a gate, or through `num_projector_layers` blocks.

    Checkpoints leave out a text model or encoder that they name by `text_model_id` or `audio_model_id`; what it takes is in its own
    repository, unless the config repeats its numbers.
    """
    for key, part in (("text_model_id", "text_config"), ("audio_model_id", "audio_config")):
        if cfg.published(key) is not None and not cfg.published(part):
            raise MissingKeyError(
                f"{cfg.file}: {part!r} is missing: {key!r} is {str(cfg.published(key))[:80]!r}, which has the numbers"
            )
    text, inner = text_part(cfg, model_type="llama")
    heard = cfg.sub("audio_config", model_type="whisper")
    inv = Inventory()
    audio = tower(inv, "audio_tower.")
    count = whisper_tower(audio, heard)
    notes = []
    if cfg.published("audio_model_id") is not None:
        inv.specs[:] = [replace(spec, optional=True) for spec in inv.specs]
        notes.append(Note("tower_elsewhere", _ELSEWHERE.format("the encoder", "audio_model_id")))
    if cfg.published("text_model_id") is not None:
        inner = replace(inner, tensors=tuple(replace(spec, optional=True) for spec in inner.tensors))
        notes.append(Note("text_elsewhere", _ELSEWHERE.format("the text model", "text_model_id")))
    width, out = heard.positive("d_model"), inner.hidden_size
    wide = cfg.opt_int("hidden_size") or 4096  # UltravoxConfig's defaults
    stacked = width * (cfg.opt_int("stack_factor") or 8)
    project = tower(inv, "multi_modal_projector.")
    project.norm("ln_pre", stacked, bias=False)
    blocks = cfg.opt_int("num_projector_layers") or 0
    if blocks:
        project.linear("linear_in", width, stacked)
        project.tensor("embed_positions.weight", (heard.positive("max_source_positions"), width))
        layers = Config({**heard.data, "encoder_layers": blocks}, heard.file, heard.model_type, cfg.used_defaults)
        whisper_blocks(project, layers)
        project.norm("ln_post", width, bias=False)
        project.linear("linear_out", out, width)
    else:
        act = cfg.opt_str("projector_act") or "swiglu"
        middle = wide // 2 if act == "swiglu" else wide
        project.linear("linear_1", wide, stacked, bias=False)
        project.linear("linear_2", out, middle, bias=False)
        inside = cfg.flag("projector_ln_mid", default=False)
        project.norm("ln_mid" if inside else "ln_post", middle if inside else out, bias=False)
    return wrap(cfg, text, inner, "ultravox", WHOLE, inv, tower_layers(count, "audio"), notes)
