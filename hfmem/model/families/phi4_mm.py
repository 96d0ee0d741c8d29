"""Phi-4-multimodal as Microsoft publishes it (two adapters inside the checkpoint), Phi-4 with SigLIP 2.

Sources: microsoft/Phi-4-multimodal-instruct `modeling_phi4mm.py` and `vision_siglip_navit.py`, transformers 5.23.0
`models/phi4_multimodal` (the same model under other names), vLLM 0.33.0 `phi4mm.py` and `phi4siglip.py`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.lfm2_vl import siglip2
from hfmem.model.families.multimodal import PLAIN, respelled, text_architecture, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.families.patches import phi4_conformer
from hfmem.model.inventory import Component, Inventory

#: SigLIP so400m/14 at 448 pixels, fixed in the code
_SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 448,
}
#: the linear layers that carry adapters, by their place in a layer
_ADAPTED = {"self_attn.qkv_proj": "qkv", "self_attn.o_proj": "o", "mlp.gate_up_proj": "up", "mlp.down_proj": "down"}


def _adapters(inv: Inventory, cfg: Config, inner: Architecture) -> None:
    """Low-rank pairs for speech and vision beside every linear layer of the decoder."""
    for spec in inner.tensors:
        place = spec.pattern.removeprefix("model.layers.{}.").removesuffix(".weight")
        if place not in _ADAPTED:
            continue
        out, features = spec.shape
        at = Part(inv, "", Component.OTHER).at(f"model.layers.{{}}.{place}.", range(inner.num_hidden_layers))
        for kind in ("speech", "vision"):
            rank = cfg.sub(f"{kind}_lora", model_type="lora").positive("r")
            at.tensor(f"lora_A.{kind}.weight", (rank, features))
            at.tensor(f"lora_B.{kind}.weight", (out, rank))


def phi4mm(cfg: Config) -> Architecture:
    """Phi-3's decoder with adapters, SigLIP and a conformer under `embed_tokens_extend`."""
    text = Config(cfg.data, cfg.file, "phi3", cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    hidden = inner.hidden_size
    _adapters(inv, cfg, inner)
    inner = respelled(inner, {f"{place}.weight": f"{place}.base_layer.weight" for place in _ADAPTED})
    image = tower(inv, "model.embed_tokens_extend.image_embed.")
    seen = Config(_SIGLIP, f"{cfg.file}: img_processor", "", cfg.used_defaults)
    count, width = vision.siglip(image.at("img_processor."), seen, head=True), seen.positive("hidden_size")
    image.tensor("glb_GN", (1, 1, width))
    image.tensor("sub_GN", (1, 1, 1, width))
    image.linear("img_projection.0", hidden, width, split=COLUMN)
    image.linear("img_projection.2", hidden, hidden, split=ROW)
    sound = tower(inv, "model.embed_tokens_extend.audio_embed.")
    heard = _conformer_keys(cfg)
    blocks = phi4_conformer(sound.at("encoder."), heard)
    features = heard.positive("hidden_size") * heard.positive("downsample_rate")
    for kind in ("speech", "vision"):
        sound.linear(f"audio_projection.{kind}.0", hidden, features, split=COLUMN)
        sound.linear(f"audio_projection.{kind}.2", hidden, hidden, split=ROW)
    layers = (*tower_layers(count), *tower_layers(blocks, "audio"))
    return wrap(cfg, text, inner, "phi4mm", PLAIN, inv, layers)


def _conformer_keys(cfg: Config) -> Config:
    """`audio_processor.config` in transformers' words."""
    given = cfg.sub("audio_processor", model_type="cascades").sub("config", model_type="conformer")
    bias = given.sub("relative_attention_bias_args", model_type="t5")
    wide = given.positive("ext_pw_out_channel")
    embed = cfg.sub("embd_layer", model_type="embd_layer").sub("audio_embd_layer", model_type="audio_embd_layer")
    keys = {
        "hidden_size": given.positive("attention_dim"),
        "num_attention_heads": given.positive("attention_heads"),
        "intermediate_size": given.positive("linear_units"),
        "num_blocks": given.positive("num_blocks"),
        "nemo_conv_channels": given.sub("nemo_conv_settings", model_type="nemo").positive("conv_channels"),
        "input_size": given.positive("input_size"),
        "kernel_size": given.positive("kernel_size"),
        "time_reduction": given.positive("time_reduction"),
        "bias_max_distance": bias.positive("t5_bias_max_distance"),
        "bias_symmetric": bias.flag("t5_bias_symmetric", default=False),
        "ext_pw_out_channel": wide,
        "depthwise_separable_out_channel": given.opt_int("depthwise_seperable_out_channel") or wide,
        "depthwise_multiplier": given.positive("depthwise_multiplier"),
        "downsample_rate": embed.opt_int("downsample_rate") or 1,
    }
    return Config(keys, given.file, "", cfg.used_defaults)


def phi4_siglip(cfg: Config) -> Architecture:
    """Phi-4 reasoning vision: SigLIP 2 whose patches come in as rows, two linear layers, Phi-3's decoder."""
    text = Config(cfg.data, cfg.file, "phi3", cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="siglip2_vision_model")
    seen = Config(found.data, found.file, "siglip2_vision_model", cfg.used_defaults)
    count = siglip2(tower(inv, "model.vision_tower.vision_tower.vision_model."), seen)
    project = tower(inv, "model.mm_projector.")
    project.linear("0", inner.hidden_size, cfg.positive("mm_hidden_size"), split=COLUMN)
    project.linear("2", inner.hidden_size, inner.hidden_size, split=ROW)
    return wrap(cfg, text, inner, "phi4_siglip", PLAIN, inv, tower_layers(count))
