"""Models published with their own code: MiniCPM-V, InternVL-Chat, VILA, Llama3-V, Phi-3-vision, VideoLLaMA 3, LocateAnything,
NV-Embed.

Sources: the modeling files in the models' own repositories (openbmb/MiniCPM-V-2…4_5 `modeling_minicpmv.py` and `resampler.py`,
OpenGVLab/InternVL2 `modeling_intern_vit.py`, NVlabs/VILA `base_projector.py`, microsoft/Phi-3-vision `image_embedding_phi3_v.py`,
nvidia/NV-Embed-v2 `modeling_nvembed.py`, nvidia/LocateAnything-3B) and the published tensor names and shapes.
"""

from __future__ import annotations

from hfmem.errors import MissingKeyError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.llava import llava_flat, projector_layers
from hfmem.model.families.multimodal import (
    PLAIN,
    WHOLE,
    text_architecture,
    text_config,
    tower,
    tower_layers,
    wrap,
)
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory
from hfmem.model.layers import Layer, NoCache
from hfmem.records import replace

#: SigLIP so400m/14 (google/siglip-so400m-patch14-384) as code refers to it by name
_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_channels": 3,
    "patch_size": 14,
}
#: CLIP ViT-L/14 at 336 pixels (openai/clip-vit-large-patch14-336)
_CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 336,
}


def _fixed(cfg: Config, values: dict[str, int], name: str) -> Config:
    """A tower whose sizes the modeling code fixes."""
    return Config(values, f"{cfg.file}: {name}", "", cfg.used_defaults)


def resampler(part: Part, hidden: int, features: int, queries: int, *, positions: int | None = None) -> None:
    """The perceiver of Qwen-VL and MiniCPM-V: learned queries attend over image features once. `positions`: rows, where stored."""
    part.tensor("query", (queries, hidden))
    if positions is not None:
        part.tensor("pos_embed", (positions, hidden))
    if features != hidden:
        part.linear("kv_proj", hidden, features, bias=False)
    part.tensor("attn.in_proj_weight", (3 * hidden, hidden))
    part.tensor("attn.in_proj_bias", (3 * hidden,))
    part.linear("attn.out_proj", hidden, hidden)
    part.norms(("ln_q", "ln_kv", "ln_post"), hidden)
    part.tensor("proj", (hidden, hidden))


def timm_vit(part: Part, cfg: Config, blocks: int, positions: int) -> None:
    """A timm vision transformer without class token or head."""
    width = cfg.positive("hidden_size")
    part.conv("patch_embed.proj", width, cfg.positive("num_channels"), vision.side(cfg, "patch_size"))
    part.tensor("pos_embed", (1, positions, width))
    block = part.at("blocks.{}.", range(blocks))
    block.norms(("norm1", "norm2"), width)
    vision.fused_projection(block.at("attn."), "qkv", width, bias=True)
    block.linear("attn.proj", width, width, split=ROW)
    vision.mlp(block.at("mlp."), width, cfg.positive("intermediate_size"))
    part.norm("norm", width)


#: text model of each version of MiniCPM-V (`version` in config.json; 2.5 names none)
_MINICPMV_TEXT = {"2.6": "qwen2", "4.0": "llama", "4": "llama", "4.5": "qwen3", "2.5": "llama"}


def minicpmv(cfg: Config) -> Architecture:
    """MiniCPM-V 2 to 4.5: the text model under `llm`, SigLIP under `vpm`, a resampler of `query_num` queries.

    Version 2 has MiniCPM 1 and timm's SigLIP (`vision_encoder`), later ones SigLIP as in transformers and a text model by version.
    """
    version = cfg.published("version")
    encoder = cfg.published("vision_encoder")
    if isinstance(encoder, str):
        cfg.choice("vision_encoder", encoder, ("vit_so400m_patch14_siglip_384.webli",))
        kind = "minicpm"
    elif version is None:
        kind = "llama"
    else:
        kind = _MINICPMV_TEXT[cfg.choice("version", str(version), tuple(_MINICPMV_TEXT))]
    tied = cfg.flag("tie_word_embeddings", default=False)
    text = Config({**cfg.data, "tie_word_embeddings": tied}, cfg.file, kind, cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    dropped = 1 if cfg.flag("drop_vision_last_layer", default=False) else 0
    queries = cfg.positive("query_num")
    if kind == "minicpm":
        seen = _fixed(cfg, _SO400M, "vision_encoder")
        count = seen.positive("num_hidden_layers") - dropped
        timm_vit(tower(inv, "vpm."), seen, count, (384 // 14) ** 2)
        resampler(tower(inv, "resampler."), inner.hidden_size, 1152, queries, positions=queries)
    else:
        found = cfg.opt_sub("vision_config", model_type="siglip_vision_model")
        if found is None:
            raise MissingKeyError(f"{cfg.file}: 'vision_config' is missing and 'minicpmv' needs it")
        count = found.positive("num_hidden_layers") - dropped
        shortened = {"num_channels": 3, **found.data, "num_hidden_layers": count}
        seen = Config(shortened, found.file, "siglip_vision_model", cfg.used_defaults)
        vision.siglip(tower(inv, "vpm."), seen, head=False)
        resampler(tower(inv, "resampler."), inner.hidden_size, seen.positive("hidden_size"), queries)
    notes = []
    if cfg.published("use_gene_module"):
        message = "gene_config adds modules whose tensors are not derived from the config; only file headers count them"
        notes.append(Note("modules_not_derived", message))
    return wrap(cfg, text, inner, "minicpmv", (("", "llm."),), inv, tower_layers(count), notes)


def llama3v(cfg: Config) -> Architecture:
    """Llama3-V: Llama 3 under `llm`, SigLIP so400m under `vison` (so spelled) with 70 × 70 positions, MiniCPM-V's resampler."""
    text = Config(cfg.data, cfg.file, "llama", cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    seen = _fixed(cfg, _SO400M, "vision")
    count = vision.siglip(tower(inv, "vison."), seen, head=False, positions=70 * 70)
    resampler(tower(inv, "projection."), inner.hidden_size, 1152, cfg.positive("query_num"))
    return wrap(cfg, text, inner, "llama3v", (("", "llm."),), inv, tower_layers(count))


def internvl_chat(cfg: Config) -> Architecture:
    """InternVL-Chat 1.5 to 3.5: InternViT, a normed two-layer projector `mlp1`, any text model under `language_model`."""
    text = text_config(cfg, "llm_config", "text_config")
    inner = text_architecture(text)
    inv = Inventory()
    seen = cfg.sub("vision_config", model_type="intern_vit_6b")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    part = tower(inv, "vision_model.")
    channels = seen.opt_int("num_channels") or 3
    part.tensor("embeddings.class_embedding", (1, 1, width))
    part.conv("embeddings.patch_embedding", width, channels, vision.side(seen, "patch_size"))
    part.tensor("embeddings.position_embedding", (1, vision.patches(seen) + 1, width))
    block = part.at("encoder.layers.{}.", range(count))
    vision.fused_projection(block.at("attn."), "qkv", width, bias=seen.flag("qkv_bias"))
    block.linear("attn.proj", width, width, split=ROW)
    if seen.flag("qk_normalization"):
        block.norms(("attn.q_norm", "attn.k_norm"), width, bias=False)
    vision.mlp(block.at("mlp."), width, seen.positive("intermediate_size"))
    kind = seen.choice("norm_type", seen.opt_str("norm_type") or "rms_norm", ("layer_norm", "rms_norm"))
    block.norms(("norm1", "norm2"), width, bias=kind == "layer_norm")
    block.tensor("ls1", (width,))
    block.tensor("ls2", (width,))
    merged = width * int(1 / cfg.need_float("downsample_ratio")) ** 2
    _mlp1(tower(inv, "mlp1."), inner.hidden_size, merged)
    return wrap(cfg, text, inner, "internvl_chat", WHOLE, inv, tower_layers(count))


def _mlp1(part: Part, hidden: int, features: int) -> None:
    """A norm and two linear layers with an activation between, as `nn.Sequential` numbers them."""
    part.norm("0", features)
    part.linear("1", hidden, features, split=COLUMN)
    part.linear("3", hidden, hidden, split=ROW)


def locateanything(cfg: Config) -> Architecture:
    """LocateAnything: MoonViT under `vision_model`, `mlp1`, Qwen2 under `language_model`."""
    text = text_config(cfg)
    inner = text_architecture(text)
    inv = Inventory()
    seen = cfg.sub("vision_config", model_type="moonvit")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    inside = seen.positive("intermediate_size")
    part = tower(inv, "vision_model.")
    part.conv("patch_embed.proj", width, 3, vision.side(seen, "patch_size"))
    rows = (seen.positive("init_pos_emb_height"), seen.positive("init_pos_emb_width"), width)
    part.tensor("patch_embed.pos_emb.weight", rows)
    block = part.at("encoder.blocks.{}.", range(count))
    block.norms(("norm0", "norm1"), width)
    vision.fused_projection(block, "wqkv", width, bias=True)
    block.linear("wo", width, width, split=ROW)
    vision.mlp(block.at("mlp."), width, inside, ("fc0", "fc1"))
    part.norm("encoder.final_layernorm", width)
    height, breadth = vision.side(seen, "merge_kernel_size")
    _mlp1(tower(inv, "mlp1."), inner.hidden_size, width * height * breadth)
    return wrap(cfg, text, inner, "locateanything", WHOLE, inv, tower_layers(count))


def videollama3_qwen2(cfg: Config) -> Architecture:
    """VideoLLaMA 3: Qwen2 under its own names, SigLIP without positions (rotary), a projector `readout`."""
    text = Config(cfg.data, cfg.file, "qwen2", cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    seen = cfg.sub("vision_encoder_config", model_type="siglip_vision_model")
    width, count = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    part = tower(inv, "model.vision_encoder.")
    part.conv("embeddings.patch_embedding", width, seen.opt_int("num_channels") or 3, vision.side(seen, "patch_size"))
    vision.clip_blocks(part.at("encoder."), count, width, seen.positive("intermediate_size"))
    part.norm("post_layernorm", width)
    readout = tower(inv, "model.mm_projector.readout.")
    for i in range(projector_layers(cfg)):
        readout.linear(str(2 * i), inner.hidden_size, inner.hidden_size if i else width)
    return wrap(cfg, text, inner, "videollama3", PLAIN, inv, tower_layers(count))


def llava_llama(cfg: Config) -> Architecture:
    """VILA: `llm_cfg`, `vision_tower_cfg` and `mm_projector_cfg`, each published in a folder of its own; or LLaVA's first, flat
    layout, whose image tower is loaded from elsewhere."""
    inv = Inventory()
    if cfg.published("llm_cfg") is None:
        return llava_flat(cfg)
    text = text_config(cfg, "llm_cfg")
    inner = text_architecture(text)
    seen = cfg.sub("vision_tower_cfg")
    seen.choice("model_type", seen.model_type, ("siglip_vision_model", "clip_vision_model"))
    at = tower(inv, "vision_tower.vision_model.")
    count = vision.siglip(at, seen) if seen.model_type == "siglip_vision_model" else vision.clip(at, seen)
    shape = cfg.sub("mm_projector_cfg", model_type="v2l_projector")
    kind = shape.opt_str("mm_projector_type") or ""
    width, hidden, project = cfg.positive("mm_hidden_size"), inner.hidden_size, tower(inv, "mm_projector.layers.")
    shape.choice("mm_projector_type", kind, ("mlp_downsample", "mlp_downsample_2x2_fix", "mlp_downsample_3x3_fix"))
    if kind == "mlp_downsample_3x3_fix":
        project.norm("1", 9 * width)
        project.linear("2", 3 * width, 9 * width)
        project.norm("4", 3 * width)
        project.linear("5", hidden, 3 * width)
        project.linear("7", hidden, hidden)
    else:
        project.norm("1", 4 * width)
        project.linear("2", hidden, 4 * width)
        project.linear("4", hidden, hidden)
    return wrap(cfg, text, inner, "vila", (("", "llm."),), inv, tower_layers(count))


def phi3_v(cfg: Config) -> Architecture:
    """Phi-3-vision and 3.5-vision: Phi-3 with CLIP ViT-L/14-336 and a two-layer projector under `model.vision_embed_tokens`."""
    text = Config(cfg.data, cfg.file, "phi3", cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    processor = cfg.sub("img_processor", model_type="clip_vision_model")
    processor.choice("name", processor.opt_str("name") or "", ("clip_vision_model",))
    known = ("openai/clip-vit-large-patch14-336",)
    processor.choice("model_name", processor.opt_str("model_name") or known[0], known)
    seen = _fixed(cfg, _CLIP_L_336, "img_processor")
    part = tower(inv, "model.vision_embed_tokens.")
    count = vision.clip(part.at("img_processor.vision_model."), seen)
    wide = 4 * processor.positive("image_dim_out")  # 2 × 2 patches side by side
    part.tensor("glb_GN", (1, 1, wide))
    part.tensor("sub_GN", (1, 1, 1, wide))
    part.linear("img_projection.0", inner.hidden_size, wide, split=COLUMN)
    part.linear("img_projection.2", inner.hidden_size, inner.hidden_size, split=ROW)
    return wrap(cfg, text, inner, "phi3_v", PLAIN, inv, tower_layers(count))


def nvembed(cfg: Config) -> Architecture:
    """NV-Embed: Mistral with attention in both directions (nothing is kept) and a latent attention pooling.

    Sizes that `latent_attention_config` leaves out are its class's: 512 latents of 4096, 8 heads of 4096, feed-forward 4 × as wide.
    """
    text = text_config(cfg)
    inner = text_architecture(Config(text.data, text.file, "mistral", text.used_defaults))
    inner = replace(
        inner,
        layers=(Layer((NoCache("encoder"),), stack="encoder"),) * inner.num_hidden_layers,
        tensors=tuple(spec for spec in inner.tensors if not spec.pattern.startswith("lm_head")),
    )
    shape = cfg.sub("latent_attention_config", model_type="latent_attention")
    latents, hidden = shape.opt_int("num_latents_value") or 512, shape.opt_int("hidden_dim") or 4096
    width, heads = shape.opt_int("latent_dim") or 4096, shape.opt_int("num_cross_heads") or 8
    inside, mult = heads * (shape.opt_int("cross_dim_head") or 4096), shape.opt_int("mult") or 4
    inv = Inventory()
    part = tower(inv, "latent_attention_model.")
    part.tensor("latents", (latents, width))
    attend, feed = part.at("cross_attend_blocks.0."), part.at("cross_attend_blocks.1.")
    attend.norm("norm", width)
    attend.norm("norm_context", hidden)
    attend.linear("fn.to_q", inside, width, split=COLUMN, bias=False)
    attend.linear("fn.to_kv", 2 * inside, hidden, split=COLUMN, bias=False)
    attend.linear("fn.to_out", width, inside, split=ROW, bias=False)
    feed.norm("norm", width)
    feed.linear("fn.net.0", 2 * mult * width, width, split=COLUMN)
    feed.linear("fn.net.2", width, mult * width, split=ROW)
    return wrap(cfg, text, inner, "nvembed", (("model.", "embedding_model."),), inv)
