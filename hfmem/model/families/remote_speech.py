"""Speech models with code of their own around a text model: LFM2-Audio and VoxCPM.

Source: Liquid4All/liquid-audio `src/liquid_audio/model/lfm2_audio.py`; OpenBMB/VoxCPM `src/voxcpm/model/{voxcpm,voxcpm2}.py` and
`modules/minicpm4/model.py`. Encoders, decoders of one frame and the codecs beside them weigh what the files hold.
"""

from __future__ import annotations

from hfmem.model import blocks
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.multimodal import PLAIN, text_architecture, wrap
from hfmem.model.inventory import Inventory
from hfmem.model.layer_lists import full_layers
from hfmem.records import replace


def lfm2_audio(cfg: Config) -> Architecture:
    """LFM2-Audio: LFM2 without a head of its own, under `lfm.`; the small decoder of a frame's codes starts afresh with each."""
    text = cfg.sub("lfm", model_type="lfm2")
    inner = text_architecture(Config({**text.data, "tie_word_embeddings": True}, text.file, "lfm2", cfg.used_defaults))
    notes = (
        Note(
            "parts_by_files",
            f"{cfg.file}: layers and cache are those of its lfm2 text model, other parts weigh what the files hold",
        ),
        Note("second_decoder", "the small decoder's cache restarts with every frame and is not counted"),
    )
    arch = wrap(
        cfg, text, inner, "lfm2_audio", (("model.", "lfm."), ("lm_head", "lfm.lm_head")), Inventory(), notes=notes
    )
    return replace(arch, partial=True)


def voxcpm(cfg: Config) -> Architecture:
    """VoxCPM: MiniCPM's layers over text and sound, and as many more (`residual_lm_num_layers`) that keep keys and values, too."""
    text = cfg.sub("lm_config", model_type="")
    d = blocks.read_dims(text)
    width = text.opt_int("kv_channels")
    d = d if width is None else replace(d, head_dim=width)
    count = cfg.positive("residual_lm_num_layers")
    m = _minicpm(text, d, "base_lm", table=True)
    rest = _minicpm(text, replace(d, num_layers=count), "residual_lm", table=False)
    inner = m.close("voxcpm", full_layers(d), head=False)
    rest.inv.specs[:] = [spec for spec in rest.inv.specs if not spec.pattern.endswith("embed_tokens.weight")]
    note = Note("parts_by_files", f"{cfg.file}: encoder and diffusion decoder weigh what the files hold")
    arch = wrap(cfg, text, inner, "voxcpm", PLAIN, rest.inv, full_layers(rest.d), [note])
    return replace(arch, partial=True, dtype=blocks.read_dtype(cfg, text))


def _minicpm(text: Config, d: blocks.Dims, root: str, *, table: bool) -> DecoderBuilder:
    m = DecoderBuilder(
        text, d=d, layers=f"{root}.layers.{{}}", embed=f"{root}.embed_tokens", final=f"{root}.norm", tied=True
    )
    m.attention()
    m.gated(text.positive("intermediate_size"))
    m.norms("input_layernorm", "post_attention_layernorm")
    if not table:
        blocks.norm(m.inv, f"{root}.norm", None, d.hidden)
    return m
