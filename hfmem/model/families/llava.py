"""LLaVA and the wrappers built like it: an image tower, a projector, any text model.

LLaVA (1.5, NeXT, OneVision, ViP, Video), PaliGemma, Mistral 3 and Pixtral, InternVL, Aya Vision, Command A Vision, LightOnOCR,
Idefics 2 and 3, SmolVLM.

Source: transformers 5.23.0 `models/{llava,llava_next,…}/modeling_*.py`; names as first published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import (
    NESTED,
    PLAIN,
    WHOLE,
    keep_whole,
    text_architecture,
    text_config,
    text_part,
    tower,
    tower_layers,
    wrap,
)
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory
from hfmem.records import replace

_TOWERS = ("clip_vision_model", "siglip_vision_model", "pixtral")


def image_tower(part: Part, cfg: Config) -> int:
    """A tower of the kind its config names. Raises UnknownArchitectureError for another kind."""
    kind = cfg.choice("model_type", cfg.model_type, _TOWERS)
    if kind == "pixtral":
        return vision.pixtral(part, cfg)
    build = vision.clip if kind == "clip_vision_model" else vision.siglip
    return build(part.at("vision_model."), cfg)


def _two_linears(part: Part, out: int, features: int, *, bias: bool) -> None:
    """A projector of two linear layers."""
    part.linear("linear_1", out, features, split=COLUMN, bias=bias)
    part.linear("linear_2", out, out, split=ROW, bias=bias)


def _feature_layers(cfg: Config, *names: str) -> int:
    """How many of the tower's layers the projector reads side by side."""
    value = cfg.lookup(*names)
    return len(value) if isinstance(value, list) else 1


def _unread(inv: Inventory, cfg: Config, count: int) -> None:
    """Mark what of the tower in `inv` lies behind the deepest of the `vision_feature_layer`s: blocks, and the last norm always."""
    depth = vision.feature_depth(cfg, "vision_feature_layer", cfg.lookup("vision_feature_layer"), count)
    vision.unread_behind(inv, depth, count)
    inv.specs[:] = [replace(s, unread=True) if ".post_layernorm." in s.pattern else s for s in inv.specs]


def llava(cfg: Config) -> Architecture:
    """LLaVA 1.5, NeXT (video too) and OneVision: tower and two-layer projector; all but the first keep a newline vector."""
    if cfg.published("mm_vision_tower") is not None and cfg.published("text_config") is None:
        return llava_flat(cfg)
    text = text_config(cfg, inner_tie=cfg.model_type in ("llava", "llava_onevision"))
    inner = text_architecture(text)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = image_tower(tower(inv, "vision_tower."), seen)
    _unread(inv, cfg, count)
    bias = cfg.flag("multimodal_projector_bias", default=True)
    features = seen.positive("hidden_size") * _feature_layers(cfg, "vision_feature_layer")
    _two_linears(tower(inv, "multi_modal_projector."), inner.hidden_size, features, bias=bias)
    if cfg.model_type in ("llava_onevision", "llava_next_video"):
        keep_whole(inv, "multi_modal_projector.")
    if cfg.model_type != "llava":
        tower(inv).tensor("image_newline", (inner.hidden_size,))
    return wrap(cfg, text, inner, "llava", WHOLE, inv, tower_layers(count))


#: text model of LLaVA's own code by model_type; the first releases called themselves `llava`
_FLAT_TEXT = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
_CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 336,
}


def projector_layers(cfg: Config, suffix: str = "") -> int:
    """Linear layers of a `mlpNx_gelu` projector, or 1 for `linear`; `suffix` may end the word and changes none of them."""
    kind = (cfg.opt_str("mm_projector_type") or "").removesuffix(suffix)
    known = {"linear": 1, **{f"mlp{n}x_gelu": n for n in range(2, 6)}}
    return known[cfg.choice("mm_projector_type", kind, tuple(known))]


def llava_flat(cfg: Config) -> Architecture:
    """LLaVA as its authors publish it: the text model's keys at the top level, the tower named by `mm_vision_tower`.

    The tower is in the checkpoint where it was trained (`unfreeze_mm_vision_tower`, LLaVA 1.6), else it is loaded from its own
    repository. A newline vector is stored where images are cut to their shape (`mm_patch_merge_type` with `unpad`). Yi-VL's
    projector (`mlp2x_gelu_Norm`) has a layer norm behind each linear layer.
    """
    text = Config(cfg.data, cfg.file, _FLAT_TEXT[cfg.model_type], cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    layers, notes = projector_layers(cfg, "_Norm"), []
    normed = (cfg.opt_str("mm_projector_type") or "").endswith("_Norm")
    features, project, count = cfg.positive("mm_hidden_size"), tower(inv, "model.mm_projector."), 0
    for i in range(layers):
        project.linear(str((3 if normed else 2) * i), inner.hidden_size, inner.hidden_size if i else features)
        if normed:
            project.norm(str(3 * i + 1), inner.hidden_size)
    if "unpad" in (cfg.opt_str("mm_patch_merge_type") or ""):
        tower(inv).tensor("model.image_newline", (inner.hidden_size,))
    if cfg.flag("unfreeze_mm_vision_tower", default=False):
        name = cfg.opt_str("mm_vision_tower") or ""
        cfg.choice("mm_vision_tower", name, ("openai/clip-vit-large-patch14-336",))
        seen = Config(_CLIP_L_336, f"{cfg.file}: mm_vision_tower", "", cfg.used_defaults)
        count = vision.clip(tower(inv, "model.vision_tower.vision_tower.vision_model."), seen)
    else:
        notes.append(
            Note("tower_elsewhere", "the image tower named by 'mm_vision_tower' is not part of this checkpoint")
        )
    return wrap(cfg, text, inner, "llava", PLAIN, inv, tower_layers(count), notes)


def vipllava(cfg: Config) -> Architecture:
    """ViP-LLaVA: the projector reads several layers of the tower through a layer norm."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = image_tower(tower(inv, "vision_tower."), seen)
    features = seen.positive("hidden_size") * _feature_layers(cfg, "vision_feature_layers", "vision_feature_layer")
    project = tower(inv, "multi_modal_projector.")
    project.norm("projector_layernorm", features)
    _two_linears(project, inner.hidden_size, features, bias=True)
    return wrap(cfg, text, inner, "llava", WHOLE, inv, tower_layers(count))


def video_llava(cfg: Config) -> Architecture:
    """Video-LLaVA: two towers of one shape, for images and for videos."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = sum(image_tower(tower(inv, f"{name}_tower."), seen) for name in ("image", "video"))
    features = seen.positive("hidden_size") * _feature_layers(cfg, "vision_feature_layer")
    _two_linears(tower(inv, "multi_modal_projector."), inner.hidden_size, features, bias=True)
    return wrap(cfg, text, inner, "llava", WHOLE, inv, tower_layers(count))


def paligemma(cfg: Config) -> Architecture:
    """PaliGemma 1 and 2: SigLIP, one linear layer, Gemma or Gemma 2."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = image_tower(tower(inv, "vision_tower."), seen)
    tower(inv).linear("multi_modal_projector.linear", cfg.positive("projection_dim"), seen.positive("hidden_size"))
    return wrap(cfg, text, inner, "paligemma", WHOLE, inv, tower_layers(count))


def mistral3(cfg: Config) -> Architecture:
    """Mistral 3 (Mistral Small 3.1+, Ministral 3, LightOnOCR 2): Pixtral's tower, a patch merger, two linear layers."""
    # the outer class ties by default, the checkpoints of Mistral Small 3.1 and 3.2 (no flag anywhere) store a head of their own
    text = text_config(cfg, inner_tie=True)
    inner = text_architecture(text)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = image_tower(tower(inv, "vision_tower."), seen)
    depth = vision.feature_depth(cfg, "vision_feature_layer", cfg.lookup("vision_feature_layer"), count)
    vision.unread_behind(inv, depth, count)
    width, merge = seen.positive("hidden_size"), cfg.positive("spatial_merge_size")
    layers = _feature_layers(cfg, "vision_feature_layer")
    project = tower(inv, "multi_modal_projector.")
    project.norm("norm", width, bias=False)
    project.linear("patch_merger.merging_layer", width, width * merge * merge, bias=False)
    bias = cfg.flag("multimodal_projector_bias", default=False)
    _two_linears(project, inner.hidden_size, width * layers, bias=bias)
    return wrap(cfg, text, inner, "mistral3", WHOLE, inv, tower_layers(count))


def lighton_ocr(cfg: Config) -> Architecture:
    """LightOnOCR: as Mistral 3 without projector biases, text under `model.language_model`."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = image_tower(tower(inv, "model.vision_encoder."), seen)
    width, merge = seen.positive("hidden_size"), cfg.positive("spatial_merge_size")
    project = tower(inv, "model.vision_projection.")
    project.norm("norm", width, bias=False)
    project.linear("patch_merger.merging_layer", width, width * merge * merge, bias=False)
    _two_linears(project, inner.hidden_size, width, bias=False)
    return wrap(cfg, text, inner, "lighton_ocr", NESTED, inv, tower_layers(count))


def pixtral(cfg: Config) -> Architecture:
    """Pixtral's vision encoder alone, as transformers publishes it: no text model and no cache."""
    inv = Inventory()
    count = vision.pixtral(tower(inv), cfg)
    d = read_dims(cfg)
    return assemble(cfg, cfg, "pixtral", d, tower_layers(count), inv, vocab=0, tied=False)


def internvl(cfg: Config) -> Architecture:
    """InternVL in transformers' format, Intern-S1 alike: InternViT with layer scale, pixel shuffle, a normed projector."""
    text, inner = text_part(cfg)
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="internvl_vision")
    seen = Config(found.data, found.file, "internvl_vision", cfg.used_defaults)
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    nested = cfg.model_type == "interns1"
    root = "model." if nested else ""
    part = tower(inv, f"{root}vision_tower.")
    emb = part.at("embeddings.")
    emb.tensor("cls_token", (1, 1, width))
    if seen.flag("use_mask_token", default=False):
        emb.tensor("mask_token", (1, 1, width))
    if seen.flag("use_absolute_position_embeddings"):
        emb.tensor("position_embeddings", (1, vision.patches(seen) + 1, width))
    emb.conv("patch_embeddings.projection", width, seen.positive("num_channels"), vision.side(seen, "patch_size"))
    block = part.at("encoder.layer.{}.", range(count))
    names = ("q_proj", "k_proj", "v_proj", "projection_layer")
    vision.projections(block.at("attention."), width, bias=seen.flag("attention_bias"), names=names, out_bias=True)
    if seen.flag("use_qk_norm"):
        block.norms(("attention.q_norm", "attention.k_norm"), width, bias=False)
    vision.mlp(block.at("mlp."), width, seen.positive("intermediate_size"))
    layer_norm = seen.choice("norm_type", seen.opt_str("norm_type") or "layer_norm", ("layer_norm", "rms_norm"))
    block.norms(("layernorm_before", "layernorm_after"), width, bias=layer_norm == "layer_norm")
    block.tensor("lambda_1", (width,))
    block.tensor("lambda_2", (width,))
    if not seen.flag("use_mean_pooling"):
        part.norm("layernorm", width)
    shuffle = int(1 / cfg.positive_float("downsample_ratio")) ** 2
    project = tower(inv, f"{root}multi_modal_projector.")
    project.norm("layer_norm", width * shuffle)
    project.linear("linear_1", inner.hidden_size, width * shuffle)
    project.linear("linear_2", inner.hidden_size, inner.hidden_size)
    keep_whole(inv, ".attention.")
    return wrap(cfg, text, inner, "internvl", NESTED if nested else WHOLE, inv, tower_layers(count))


def _swiglu_projector(cfg: Config, project: Part, hidden: int, features: int) -> None:
    """Aya's and Command A's projector: up to `alignment_intermediate_size`, halved by the gate, down to the text model."""
    wide = cfg.opt_int("alignment_intermediate_size") or hidden
    if wide % 2:
        raise ContradictionError(
            f"{cfg.file}: 'alignment_intermediate_size' {wide} is odd and its halves gate each other"
        )
    project.linear("linear_1", wide, features, split=COLUMN)
    project.linear("linear_2", hidden, wide // 2, split=ROW)


def aya_vision(cfg: Config) -> Architecture:
    """Aya Vision: SigLIP, pixel shuffle by `downsample_factor`, a normed SwiGLU projector, Cohere 2."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = image_tower(tower(inv, "vision_tower."), seen)
    features = seen.positive("hidden_size") * cfg.positive("downsample_factor") ** 2
    project = tower(inv, "multi_modal_projector.")
    project.norm("layernorm", features)
    _swiglu_projector(cfg, project, inner.hidden_size, features)
    return wrap(cfg, text, inner, "aya_vision", WHOLE, inv, tower_layers(count))


def cohere2_vision(cfg: Config) -> Architecture:
    """Command A Vision: as Aya Vision without the projector's norm, text under `model.language_model`."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = image_tower(tower(inv, "model.vision_tower."), seen)
    features = seen.positive("hidden_size") * cfg.positive("downsample_factor") ** 2
    _swiglu_projector(cfg, tower(inv, "model.multi_modal_projector."), inner.hidden_size, features)
    return wrap(cfg, text, inner, "cohere2_vision", NESTED, inv, tower_layers(count))


_TEXT_MODEL = (("model.", "model.text_model."),)


def idefics3(cfg: Config) -> Architecture:
    """Idefics 3 and SmolVLM: SigLIP without its head, pixel shuffle by `scale_factor`, one linear layer."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen = cfg.sub("vision_config")
    count = vision.siglip(tower(inv, "model.vision_model."), seen, head=False)
    features = seen.positive("hidden_size") * cfg.positive("scale_factor") ** 2
    tower(inv).linear("model.connector.modality_projection.proj", inner.hidden_size, features, bias=False)
    return wrap(cfg, text, inner, "idefics3", _TEXT_MODEL, inv, tower_layers(count))


def idefics2(cfg: Config) -> Architecture:
    """Idefics 2: SigLIP without its head, a gated projection, a perceiver resampler of the text model's width."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen, perceiver = cfg.sub("vision_config"), cfg.sub("perceiver_config")
    count = vision.siglip(tower(inv, "model.vision_model."), seen, head=False)
    hidden, width = inner.hidden_size, seen.positive("hidden_size")
    vision.gated(
        tower(inv, "model.connector.modality_projection."),
        width,
        text.positive("intermediate_size"),
        bias=False,
        out=hidden,
    )
    part = tower(inv, "model.connector.perceiver_resampler.")
    part.tensor("latents", (perceiver.positive("resampler_n_latents"), hidden))
    depth, dim = perceiver.positive("resampler_depth"), perceiver.positive("resampler_head_dim")
    block = part.at("layers.{}.", range(depth))
    block.norms(("input_latents_norm", "input_context_norm", "post_attention_layernorm"), hidden, bias=False)
    vision.projections(
        block.at("self_attn."),
        hidden,
        bias=False,
        names=("q_proj", "k_proj", "v_proj", "o_proj"),
        width=perceiver.positive("resampler_n_heads") * dim,
        kv_width=perceiver.positive("num_key_value_heads") * dim,
    )
    vision.gated(block.at("mlp."), hidden, 4 * hidden, bias=False)
    part.norm("norm", hidden, bias=False)
    return wrap(cfg, text, inner, "idefics2", _TEXT_MODEL, inv, tower_layers(count + depth))
