"""MiDashengLM: Dasheng's audio transformer over patches of a spectrogram, a subsampling projector, Qwen2 under `decoder`.

Source: vLLM 0.33.0 `models/midashenglm.py` and `transformers_utils/configs/midashenglm.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import text_architecture, text_config, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory

#: what the encoder's class assumes (`DashengConfig`)
_DASHENG = {
    "embed_dim": 768,
    "patch_size": 16,
    "patch_stride": 16,
    "input_channels": 1,
    "target_length": 1012,
    "depth": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "n_mels": 64,
}


def _dasheng(part: Part, heard: Config) -> int:
    width, depth = heard.positive("embed_dim"), heard.positive("depth")
    high, long = vision.side(heard, "patch_stride")
    part.batch_norm("init_bn", heard.positive("n_mels"))
    part.conv("patch_embed.proj", width, heard.positive("input_channels"), vision.side(heard, "patch_size"))
    part.tensor("time_pos_embed", (1, width, 1, heard.positive("target_length") // long))
    part.tensor("freq_pos_embed", (1, width, heard.positive("n_mels") // high, 1))
    block = part.at("blocks.{}.", range(depth))
    block.norms(("norm1", "norm2"), width)
    vision.fused_projection(block.at("attn."), "qkv", width, bias=heard.flag("qkv_bias"))
    block.linear("attn.proj", width, width, split=ROW)
    vision.mlp(block.at("mlp."), width, int(width * heard.positive_float("mlp_ratio")))
    if heard.opt_float("init_values"):
        block.tensor("ls1.gamma", (width,))
        block.tensor("ls2.gamma", (width,))
    part.norm("norm", width)
    return depth


def midashenglm(cfg: Config) -> Architecture:
    """The encoder, two linear layers over `subsample_factor` frames, the text model (Qwen2's as Qwen2.5-Omni's thinker has it)."""
    text = text_config(cfg, model_type="qwen2_5_omni_text")
    inner = text_architecture(text, "qwen2")
    found = cfg.opt_sub("audio_encoder_config")
    heard = Config({**_DASHENG, **(found.data if found else {})}, f"{cfg.file}: audio_encoder_config", "")
    inv = Inventory()
    count = _dasheng(tower(inv, "audio_encoder."), heard)
    features = heard.positive("embed_dim") * (cfg.opt_int("subsample_factor") or 5)  # MiDashengLMConfig's default
    project = tower(inv, "audio_projector.net.")
    project.linear("0", inner.hidden_size, features, split=COLUMN)
    project.linear("2", inner.hidden_size, inner.hidden_size, split=ROW)
    return wrap(cfg, text, inner, "midashenglm", (("", "decoder."),), inv, tower_layers(count, "audio"))
