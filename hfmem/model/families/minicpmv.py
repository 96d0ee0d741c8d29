"""MiniCPM-V 2 to 4.5, MiniCPM-o and Llama3-V: SigLIP, a resampler, any text model.

Sources: openbmb/MiniCPM-V-2…4_5 `modeling_minicpmv.py` and `resampler.py`, and the published tensor names and shapes.
"""

from __future__ import annotations

from hfmem.errors import MissingKeyError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.audio import whisper_tower
from hfmem.model.families.multimodal import (
    text_architecture,
    tower,
    tower_layers,
    wrap,
)
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Inventory
from hfmem.model.layers import Layer

#: SigLIP so400m/14 (google/siglip-so400m-patch14-384) as code refers to it by name
_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_channels": 3,
    "patch_size": 14,
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


def _sound(cfg: Config, inv: Inventory, hidden: int) -> tuple[tuple[Layer, ...], list[Note]]:
    """MiniCPM-o's Whisper encoder under `apm` and its projector; the speech model under `tts` is not derived."""
    layers: tuple[Layer, ...] = ()
    notes: list[Note] = []
    if cfg.flag("init_audio", default=True):
        found = cfg.sub("audio_config", model_type="whisper")
        heard = Config(found.data, found.file, "whisper", cfg.used_defaults)
        layers = tower_layers(whisper_tower(tower(inv, "apm."), heard), "audio")
        project = tower(inv, "audio_projection_layer.")
        project.linear("linear1", hidden, heard.positive("encoder_ffn_dim") // 4, split=COLUMN)
        project.linear("linear2", hidden, hidden, split=ROW)
    if cfg.flag("init_tts", default=True):
        message = "the speech model under 'tts' is not derived from the config; only file headers count it"
        notes.append(Note("modules_not_derived", message))
    return layers, notes


def minicpmv(cfg: Config) -> Architecture:
    """MiniCPM-V 2 to 4.5 and MiniCPM-o: the text model under `llm`, SigLIP under `vpm`, a resampler of `query_num` queries.

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
    heard, notes = _sound(cfg, inv, inner.hidden_size) if cfg.model_type == "minicpmo" else ((), [])
    if cfg.published("use_gene_module"):
        message = "gene_config adds modules whose tensors are not derived from the config; only file headers count them"
        notes.append(Note("modules_not_derived", message))
    return wrap(cfg, text, inner, "minicpmv", (("", "llm."),), inv, (*tower_layers(count), *heard), notes)


def llama3v(cfg: Config) -> Architecture:
    """Llama3-V: Llama 3 under `llm`, SigLIP so400m under `vison` (so spelled) with 70 × 70 positions, MiniCPM-V's resampler."""
    text = Config(cfg.data, cfg.file, "llama", cfg.used_defaults)
    inner = text_architecture(text)
    inv = Inventory()
    seen = _fixed(cfg, _SO400M, "vision")
    count = vision.siglip(tower(inv, "vison."), seen, head=False, positions=70 * 70)
    resampler(tower(inv, "projection."), inner.hidden_size, 1152, cfg.positive("query_num"))
    return wrap(cfg, text, inner, "llama3v", (("", "llm."),), inv, tower_layers(count))
