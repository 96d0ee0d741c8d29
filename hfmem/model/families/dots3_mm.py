"""dots3-note whole: its text model, an image encoder whose later blocks have ever more experts, a gated rotary Whisper.

Source: transformers 5.23.0 `models/dots3_note/{configuration,modeling}_dots3_note.py`; names as published.
"""

from __future__ import annotations

from typing import Final

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import PLAIN, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory
from hfmem.model.layers import Layer

#: experts a block where no list is given (`Dots3NoteVisionConfig`): none in the first 25, then 4, 8, …, 64, 64
_PYRAMID: Final = [*([0] * 25), *range(4, 65, 4), 64]
#: dimensions of released sound encoders stand in `whisper_config` under other names
_WHISPER: Final = {
    "d_model": "hidden_size",
    "encoder_layers": "num_hidden_layers",
    "encoder_ffn_dim": "intermediate_size",
    "num_mel_bins": "feature_size",
}


def _experts(seen: Config, count: int) -> list[int]:
    """Experts of each block, 0 for a dense one."""
    given, kinds = seen.opt_list("pyramid_num_routed"), seen.opt_list("mlp_layer_types")
    if given is None and kinds is not None:
        each, usual = seen.published("per_layer_config") or {}, seen.positive("num_local_experts")
        own = {int(i): part.get("num_local_experts", usual) for i, part in each.items()}
        given = [own.get(i, usual) if kind == "sparse" else 0 for i, kind in enumerate(kinds)]
    given = _PYRAMID if given is None else given
    if len(given) != count or not all(isinstance(n, int) and not isinstance(n, bool) for n in given):
        raise ContradictionError(f"{seen.file}: experts are given for {len(given)} blocks of {count}")
    return [max(n, 0) for n in given]


def _swiglu(part: Part, width: int, inner: int, *, bias: bool) -> None:
    part.linear("fc1", inner, width, split=COLUMN, bias=bias)
    part.linear("fc3", inner, width, split=COLUMN, bias=bias)
    part.linear("fc2", width, inner, split=ROW, bias=bias)


def _eyes(part: Part, seen: Config) -> int:
    width, count = seen.positive("embed_dim", "hidden_size"), seen.positive("num_hidden_layers")
    heads = seen.positive("num_heads", "num_attention_heads")
    bias, beside = seen.flag("use_bias", "attention_bias", default=False), seen.flag("mlp_bias", default=False)
    part.conv("patch_embed.proj", width, seen.positive("num_channels"), vision.side(seen, "patch_size"))
    part.norm("patch_embed.norm", width, bias=False)
    block = part.at("blocks.{}.", range(count))
    vision.fused_projection(block.at("attn."), "qkv", width, bias=bias)
    block.linear("attn.proj", width, width, split=ROW, bias=bias)
    block.norms(("attn.q_norm", "attn.k_norm"), width // heads, bias=False)
    block.norms(("norm_1", "norm_2"), width, bias=False)
    experts = _experts(seen, count)
    dense = part.at("blocks.{}.mlp.", [i for i, n in enumerate(experts) if not n])
    _swiglu(dense, width, seen.positive("intermediate_size"), bias=beside)
    for i, n in enumerate(experts):
        if n:
            at = part.at(f"blocks.{i}.mlp.")
            at.tensor("gate_weight", (n, width))
            at.tensor("router_bias", (n,), buffer=True)
            _swiglu(at.at("experts.{}.", range(n)), width, seen.positive("moe_intermediate_size"), bias=False)
    part.norm("post_trunk_norm", width, bias=False)
    each = seen.positive("adapter_in_dim")
    merged = each * seen.positive("adapter_merge_size") ** 2
    part.norm("adapter.ln_q", each)
    part.linear("adapter.mlp.0", merged, merged, split=COLUMN)
    part.linear("adapter.mlp.2", seen.positive("adapter_out_dim"), merged, split=ROW)
    return count


def _ears(part: Part, heard: Config) -> int:
    nested = heard.opt_sub("whisper_config", model_type="")
    renamed = {theirs: nested.data[own] for own, theirs in _WHISPER.items() if own in nested.data} if nested else {}
    heard = Config({**heard.data, **renamed}, heard.file, heard.model_type, heard.used_defaults)
    width, count = heard.positive("hidden_size"), heard.positive("num_hidden_layers")
    inner, channels = heard.positive("intermediate_size"), heard.positive("downsample_hidden_size")
    at = part.at("dots_encoder.speech_encoder.")
    for name, before in (("conv2d1", 1), ("conv2d2", channels), ("conv2d3", channels)):
        at.conv(name, channels, before, (3, 3))
    at.linear("conv_out", width, channels * -(-heard.positive("feature_size") // 8), bias=False)
    block = at.at("layers.{}.", range(count))
    bias = heard.flag("attention_bias", default=True)
    vision.projections(block.at("self_attn."), width, bias=bias, k_bias=False)
    block.linear("fc1", 2 * inner, width, split=COLUMN)
    block.linear("fc2", width, inner, split=ROW)
    block.norms(("self_attn_layer_norm", "final_layer_norm"), width, bias=False)
    at.norm("layer_norm", width, bias=False)
    out = heard.positive("whisper_adapter_out_dim", "adapter_output_size", "adapter_out_dim")
    features = heard.positive("whisper_adapter_in_dim", "adapter_input_size")
    part.norm("audio_adapter.proj.0", features)
    part.linear("audio_adapter.proj.1", out, features, split=COLUMN)
    part.linear("audio_adapter.proj.3", out, out, split=ROW)
    return count


def dots3_note(cfg: Config) -> Architecture:
    """The text model keeps its own names; released configs hold its keys at the top level."""
    text, inner = text_part(cfg, model_type="dots3_note_text")
    inv = Inventory()
    layers: list[Layer] = []
    seen, heard = cfg.sub("vision_config"), cfg.sub("audio_config")
    layers += tower_layers(_eyes(tower(inv, "vision_encoder."), seen))
    layers += tower_layers(_ears(tower(inv, "audio_encoder."), heard), "audio")
    return wrap(cfg, text, inner, "dots3_note", PLAIN, inv, layers)
