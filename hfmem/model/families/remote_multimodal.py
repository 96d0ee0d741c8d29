"""Multimodal models without a class in transformers that change or wrap their text model: OpenVLA, Alpamayo 2, BAGEL, MOSS-VL,
CogVLM.

Source: vLLM 0.33.0 `model_executor/models/{openvla,alpamayo2_super,bagel}.py`, SGLang 0.5.23 `srt/models/moss_vl.py`; what BAGEL's
file holds beside: ByteDance-Seed/Bagel `modeling/bagel/{bagel,qwen2_navit}.py`; of CogVLM THUDM/cogvlm-chat-hf and
THUDM/cogvlm2-llama3-chat-19B `modeling_cogvlm.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families import registry, vision
from hfmem.model.families.multimodal import PLAIN, WHOLE, keep_whole, text_config, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Replicated
from hfmem.model.layer_lists import full_layers
from hfmem.model.layers import CrossAttention, Layer
from hfmem.records import replace

#: timm's name → width, depth, feed-forward, patch size, tokens before the patches, whether a learned query pools the patches
_TIMM: Final = {
    "vit_large_patch14_reg4_dinov2.lvd142m": (1024, 24, 4096, 14, ("cls_token", "reg_token"), False),
    "vit_so400m_patch14_siglip_224": (1152, 27, 4304, 14, (), True),
}
_REGISTERS: Final = 4
#: BAGEL: what the names of its second set end in, the width of a time step's encoding, and the blocks of SigLIP before it lost one
_DRAWN: Final = "_moe_gen"
_TIME: Final = 256
_SIGLIP_BLOCKS: Final = 27


def _rest(cfg: Config, inner: Architecture) -> Note:
    what = f"layers and cache are those of its {inner.model_type} text model, other parts weigh what the files hold"
    return Note("parts_by_files", f"{cfg.file}: {what}")


def openvla(cfg: Config) -> Architecture:
    """OpenVLA: Llama behind one or two of timm's encoders side by side, whose tokens pass three linear layers."""
    text, inner = text_part(cfg, model_type="llama")
    names, sizes = cfg.need_list("timm_model_ids"), cfg.need_list("image_sizes")
    fused = cfg.flag("use_fused_vision_backbone")
    places = ("featurizer", "fused_featurizer")[: 2 if fused else 1]
    if not len(names) == len(sizes) == len(places):
        raise ContradictionError(f"{cfg.file}: 'timm_model_ids' and 'image_sizes' do not name {len(places)} encoders")
    inv, wide, count = Inventory(), 0, 0
    for place, name, pixels in zip(places, names, sizes, strict=True):
        sizes_of = _TIMM[cfg.choice("timm_model_ids", str(name), tuple(_TIMM))]
        _timm(tower(inv, f"vision_backbone.{place}."), int(pixels), *sizes_of)
        wide, count = wide + sizes_of[0], count + sizes_of[1]
    hidden, project = inner.hidden_size, tower(inv, "projector.")
    steps = (wide, 4 * wide, hidden, hidden) if fused else (wide, hidden, hidden)
    for i, (features, out) in enumerate(pairwise(steps)):
        project.linear(f"fc{i + 1}", out, features, split=(COLUMN, ROW, Replicated())[i])
    keep_whole(inv, "vision_backbone.")
    return wrap(cfg, text, inner, "openvla", WHOLE, inv, tower_layers(count))


def _timm(
    part: Part, pixels: int, width: int, depth: int, inner: int, patch: int, before: tuple[str, ...], pooled: bool
) -> None:
    """A vision transformer under timm's names; with tokens of its own it has layer scales, too (DINOv2)."""
    for name in before:
        part.tensor(name, (1, _REGISTERS if name == "reg_token" else 1, width))
    part.tensor("pos_embed", (1, (pixels // patch) ** 2, width))
    part.conv("patch_embed.proj", width, 3, (patch, patch))
    block = part.at("blocks.{}.", range(depth))
    block.norms(("norm1", "norm2"), width)
    block.linear("attn.qkv", 3 * width, width)
    block.linear("attn.proj", width, width)
    vision.mlp(block.at("mlp."), width, inner)
    if before:
        for name in ("ls1", "ls2"):
            block.tensor(f"{name}.scale_factor", (width,))
    part.norm("norm", width)
    if pooled:
        pool = part.at("attn_pool.")
        pool.tensor("latent", (1, 1, width))
        pool.linear("q", width, width)
        pool.linear("kv", 2 * width, width)
        pool.linear("proj", width, width)
        pool.norm("norm", width)
        vision.mlp(pool.at("mlp."), width, inner)


def alpamayo(cfg: Config) -> Architecture:
    """Alpamayo 2: Qwen3-VL under `vlm.`; the expert that draws trajectories beside it weighs what the files hold."""
    whole = cfg.sub("vlm_config", model_type="qwen3_vl")
    inner = registry.rule("qwen3_vl")(Config(whole.data, whole.file, "qwen3_vl", cfg.used_defaults))
    arch = wrap(cfg, whole, inner, "alpamayo", (("", "vlm."),), Inventory(), notes=[_rest(cfg, inner)])
    return replace(arch, partial=True)


def bagel(cfg: Config) -> Architecture:
    """BAGEL: Qwen2 of which every layer has a second set of weights for the tokens of pictures that it draws (`_moe_gen`).

    vLLM builds what reads pictures and text alone. The autoencoder has a file of its own.
    """
    text = text_config(cfg, "llm_config", model_type="qwen2")
    m = DecoderBuilder(text)
    norms = "head" if text.flag("qk_norm") else None
    draws = cfg.flag("visual_gen", default=True)
    for tail in ("", _DRAWN) if "Mo" in (text.opt_str("layer_module") or "Mo") else ("",):
        q, k, v, o = (f"{name}_proj{tail}" for name in "qkvo")
        m.attention(qkv_bias=True, names=(q, k, v, o), qk_norm=norms, qk_norm_names=(f"q_norm{tail}", f"k_norm{tail}"))
        m.gated(text.positive("intermediate_size"), f"mlp{tail}")
        m.norms(f"input_layernorm{tail}", f"post_attention_layernorm{tail}")
        if tail:
            blocks.norm(m.inv, f"model.norm{tail}", None, m.d.hidden)
    m.inv.specs[:] = [replace(s, unread=True) if _DRAWN in s.pattern else s for s in m.inv.specs]
    inner = m.close("bagel", full_layers(m.d))
    inv, hidden = Inventory(), m.d.hidden
    if draws:
        _bagel_draws(cfg, tower(inv), hidden)
    inv.specs[:] = [replace(s, unread=True) for s in inv.specs]
    count = _bagel_sees(cfg, inv, hidden) if cfg.flag("visual_und", default=True) else 0
    return wrap(cfg, text, inner, "bagel", WHOLE, inv, tower_layers(count))


def _bagel_draws(cfg: Config, part: Part, hidden: int) -> None:
    vae = cfg.sub("vae_config", model_type="")
    values = cfg.positive("latent_patch_size") ** 2 * vae.positive("z_channels")
    part.linear("time_embedder.mlp.0", hidden, _TIME)
    part.linear("time_embedder.mlp.2", hidden, hidden)
    part.linear("vae2llm", hidden, values)
    part.linear("llm2vae", values, hidden)
    part.tensor("latent_pos_embed.pos_embed", (cfg.positive("max_latent_size") ** 2, hidden))


def _bagel_sees(cfg: Config, inv: Inventory, hidden: int) -> int:
    """SigLIP without its last block, its patches laid flat."""
    seen = cfg.sub("vit_config", model_type="siglip_vision_model")
    depth = seen.positive("num_hidden_layers")
    depth = (
        _SIGLIP_BLOCKS - 1 if depth == _SIGLIP_BLOCKS else depth
    )  # published configs count the block that is left out
    shorter = Config({**seen.data, "num_hidden_layers": depth}, seen.file, seen.model_type, cfg.used_defaults)
    own = tower(inv, "vit_model.vision_model.")
    vision.siglip(own, shorter, head=False)
    width, (high, across) = seen.positive("hidden_size"), vision.side(seen, "patch_size")
    patch = "vit_model.vision_model.embeddings.patch_embedding.weight"
    flat = (width, (seen.opt_int("num_channels") or 3) * high * across)
    inv.specs[:] = [replace(s, shape=flat) if s.pattern == patch else s for s in inv.specs]
    connector = tower(inv, "connector.")
    connector.linear("fc1", hidden, width, split=COLUMN)
    connector.linear("fc2", hidden, hidden, split=ROW)
    tower(inv).tensor("vit_pos_embed.pos_embed", (cfg.positive("vit_max_num_patch_per_side") ** 2, hidden))
    inv.specs[-1] = replace(inv.specs[-1], unread=True)  # vLLM computes it
    return depth


def moss_vl(cfg: Config) -> Architecture:
    """MOSS-VL: Qwen3 of which `cross_attention_layers` attend over the images instead of over the text."""
    text = text_config(cfg, model_type="qwen3")
    cross = text.numbers("cross_attention_layers") or []
    m = DecoderBuilder(text, layers="model.language_model.layers.{}", embed="model.language_model.embed_tokens")
    if any(i not in m.every for i in cross):
        raise ContradictionError(f"{text.file}: 'cross_attention_layers' names layers outside 0…{m.d.num_layers - 1}")
    bias = text.flag("attention_bias", default=False)
    own = [i for i in m.every if i not in cross]
    for tail, layers in (("self_attn", own), ("cross_attn", cross)):
        m.attention(tail, layers=layers, qkv_bias=bias, o_bias=bias, qk_norm="head")
    for name in ("cross_attn_attn_gate", "cross_attn_mlp_gate"):
        m.each(name, (1,), Component.OTHER, cross)
    m.gated(text.positive("intermediate_size"))
    m.norms("input_layernorm", "post_attention_layernorm")
    image = Layer((CrossAttention(m.d.num_heads, m.d.num_kv_heads, m.d.head_dim, None),))
    inner = m.close("moss_vl", [image if i in cross else layer for i, layer in enumerate(full_layers(m.d))])
    arch = wrap(cfg, text, inner, "moss_vl", PLAIN, Inventory(), notes=[_rest(cfg, inner)])
    return replace(arch, partial=True)


def cogvlm(cfg: Config) -> Architecture:
    """CogVLM 1 and 2: every layer has a second attention and feed-forward for the tokens of images, over one cache."""
    d, kv = blocks.read_dims(cfg), cfg.opt_int("num_multi_query_heads")  # CogVLM 2 alone shares keys, and names them so
    d = d if kv is None else replace(d, num_kv_heads=kv)
    if d.num_heads % d.num_kv_heads:
        raise ContradictionError(f"{cfg.file}: {d.num_heads} attention heads cannot share {kv} KV heads")
    m = DecoderBuilder(cfg, d=d)
    for kind in ("language", "vision"):
        m.qkv(f"self_attn.{kind}_expert_query_key_value", bias=kv is not None and kind == "vision")
        m.linear(f"self_attn.{kind}_expert_dense", d.hidden, d.num_heads * d.head_dim, ROW)
        m.gated(cfg.positive("intermediate_size"), f"mlp.{kind}_mlp")
    m.norms("input_layernorm", "post_attention_layernorm")
    arch = m.close("cogvlm", full_layers(d))
    note = Note("parts_by_files", f"{cfg.file}: the image tower weighs what the files hold")
    return replace(arch, partial=True, notes=(*arch.notes, note))
