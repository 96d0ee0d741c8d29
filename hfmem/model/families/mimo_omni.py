"""MiMo-V2 with eyes and ears: a windowed tower with grouped heads, and speech codes through a small transformer of their own.

Source: vLLM 0.33.0 `models/{mimo_v2_omni,mimo_audio}.py` and `transformers_utils/configs/mimo_v2_omni.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.mimo import mimo_v2
from hfmem.model.families.multimodal import PLAIN, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Inventory
from hfmem.model.layers import Layer

_TOKENIZER = "the audio tokenizer is not counted: it stands in a folder of its own beside the model's files"
#: what the vision class assumes (`Mimo_VLVisionConfig`)
_SEEN = {
    "depth": 28,
    "hidden_size": 1280,
    "intermediate_size": 4608,
    "num_heads": 32,
    "num_key_value_heads": 8,
    "qk_channels": 64,
    "kv_channels": 64,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 2048,
    "use_sink": False,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
#: what the encoder assumes (`MimoAudioEncoderConfig`)
_HEARD = {
    "speech_vocab_size": "1025-1025-129-129-129-129-129-129",
    "group_size": 4,
    "audio_channels": 8,
    "input_local_layers": 6,
    "input_local_dim": 1024,
    "input_local_intermediate_size": 4096,
    "out_hidden_size": 4096,
    "projection_layers": 1,
    "add_post_norm": False,
}


def _tower(part: Part, seen: Config) -> int:
    width, depth = seen.positive("hidden_size"), seen.positive("depth")
    heads, kv_heads = seen.positive("num_heads"), seen.positive("num_key_value_heads")
    rows, out = seen.positive("qk_channels"), seen.positive("kv_channels")
    patch = (seen.positive("temporal_patch_size"), *vision.side(seen, "patch_size"))
    part.conv("patch_embed.proj", width, seen.positive("in_channels"), patch, bias=False)
    block = part.at("blocks.{}.", range(depth))
    block.norms(("norm1", "norm2"), width, bias=False)
    parts = (heads * rows, kv_heads * rows, kv_heads * out)
    block.linear("attn.qkv", sum(parts), width, split=Column(parts, (None, kv_heads, kv_heads)))
    block.linear("attn.proj", width, heads * out, split=ROW)
    if seen.flag("use_sink"):
        whole = set(seen.numbers("fullatt_block_indexes") or ())
        windowed = part.at("blocks.{}.", [i for i in range(depth) if i not in whole])
        windowed.tensor("attn.sinks", (heads,))
    vision.gated(block.at("mlp."), width, seen.positive("intermediate_size"), bias=True)
    merged = width * seen.positive("spatial_merge_size") ** 2
    part.norm("merger.ln_q", width, bias=False)
    part.linear("merger.mlp.0", merged, merged, split=COLUMN, bias=False)
    part.linear("merger.mlp.2", seen.positive("out_hidden_size"), merged, split=ROW, bias=False)
    return depth


def _rows(heard: Config, channels: int) -> list[int]:
    """Rows of each channel's embedding: one number for all or a string `1025-1025-129-…`."""
    given = heard.published("speech_vocab_size")
    words = given.split("-") if isinstance(given, str) and "-" in given else [given] * channels
    if len(words) < channels or not all(str(word).isdigit() for word in words):
        raise ContradictionError(f"{heard.file}: 'speech_vocab_size' is {str(given)[:60]!r}, expected {channels} sizes")
    return [int(word) for word in words[:channels]]


def _ears(inv: Inventory, heard: Config) -> int:
    """Embeddings of speech codes, Qwen2's blocks without a cache, a projection of `group_size` steps. Returns their number."""
    width, inner = heard.positive("input_local_dim"), heard.positive("input_local_intermediate_size")
    count, wide = heard.positive("input_local_layers"), heard.positive("input_local_dim") * heard.positive("group_size")
    for i, rows in enumerate(_rows(heard, heard.positive("audio_channels"))):
        tower(inv).tensor(f"speech_embeddings.{i}.weight", (rows, width))
    part = tower(inv, "audio_encoder.")
    block = part.at("input_local_transformer.layers.{}.", range(count))
    at = block.at("self_attn.")
    for name in ("q_proj", "k_proj", "v_proj"):
        at.linear(name, width, width)
    at.linear("o_proj", width, width, bias=False)
    mlp = block.at("mlp.")
    mlp.linear("gate_proj", inner, width, bias=False)
    mlp.linear("up_proj", inner, width, bias=False)
    mlp.linear("down_proj", width, inner, bias=False)
    block.norms(("input_layernorm", "post_attention_layernorm"), width, bias=False)
    if heard.flag("add_post_norm"):
        part.norm("input_local_transformer.norm", width, bias=False)
    out = heard.positive("out_hidden_size")
    if heard.positive("projection_layers") == 1:
        part.linear("projection", out, wide, bias=False)
    else:
        part.linear("projection.mlp.0", 4 * wide, wide, bias=False)
        part.linear("projection.mlp.2", out, 4 * wide, bias=False)
    return count


def mimo_v2_omni(cfg: Config) -> Architecture:
    """MiMo-V2's text model at the top level of the config; `vision_config` and `audio_config` say what stands beside it."""
    inner = mimo_v2(cfg)
    seen, heard = cfg.opt_sub("vision_config"), cfg.opt_sub("audio_config")
    if seen is None and heard is None:
        return inner
    inv = Inventory()
    layers: list[Layer] = []
    notes: list[Note] = []
    if seen is not None:
        layers += tower_layers(_tower(tower(inv, "visual."), Config({**_SEEN, **seen.data}, seen.file, "")))
    if heard is not None:
        layers += tower_layers(_ears(inv, Config({**_HEARD, **heard.data}, heard.file, "")), "audio")
        notes.append(Note("tower_not_counted", _TOKENIZER))
    return wrap(cfg, cfg, inner, "mimo_v2_omni", PLAIN, inv, layers, notes)
