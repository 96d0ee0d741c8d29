"""Moondream 2 and 3: attention beside feed-forward, a SigLIP tower; 3 with tau scales of queries and values and experts.

Source: vikhyat/moondream `moondream/torch/{config,text,vision,moondream}.py` (2, as its files have been since 2025); vLLM 0.33.0
`model_executor/models/moondream3.py` (its loader names what checkpoints store, but for the `region` head of points and boxes, which
it leaves out) and `transformers_utils/configs/moondream3.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, full
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Vocab
from hfmem.model.layers import Layer

#: what the config class assumes; published configs leave all of it out
_TEXT: Mapping[str, Any] = {
    "dim": 2048, "ff_dim": 8192, "n_layers": 24, "vocab_size": 51200, "n_heads": 32, "n_kv_heads": 32, "max_context": 4096
}  # fmt: skip
_MOE: Mapping[str, Any] = {"start_layer": 4, "n_experts": 64, "n_experts_per_tok": 8, "expert_inner_dim": 1024}
_SEEN: Mapping[str, Any] = {
    "enc_dim": 1152, "enc_patch_size": 14, "enc_n_layers": 27, "enc_ff_dim": 4304, "enc_n_heads": 16, "proj_inner_dim": 8192,
    "crop_size": 378,
}  # fmt: skip
_REGION: Mapping[str, Any] = {
    "dim": 2048, "coord_feat_dim": 256, "coord_out_dim": 1024, "size_feat_dim": 512, "size_out_dim": 2048, "inner_dim": 8192
}  # fmt: skip


def _filled(cfg: Config | None, name: str, values: Mapping[str, Any], file: str) -> Config:
    """A part of the config with the class's values behind its keys."""
    found = None if cfg is None else cfg.opt_sub(name, model_type="")
    return Config({**values, **(found.data if found else {})}, f"{file}: {name}", "")


def _tower(part: Part, cfg: Config, hidden: int) -> int:
    width, count, patch = cfg.positive("enc_dim"), cfg.positive("enc_n_layers"), cfg.positive("enc_patch_size")
    part.linear("patch_emb", width, 3 * patch * patch)
    part.tensor("pos_emb", (1, (cfg.positive("crop_size") // patch) ** 2, width))
    block = part.at("blocks.{}.", range(count))
    block.norms(("ln1", "ln2"), width)
    vision.fused_projection(block, "attn.qkv", width, bias=True)
    block.linear("attn.proj", width, width, split=ROW)
    vision.mlp(block.at("mlp."), width, cfg.positive("enc_ff_dim"))
    part.norm("post_ln", width)
    inner = cfg.positive("proj_inner_dim")
    part.linear("proj_mlp.fc1", inner, 2 * width, split=COLUMN)  # the whole image's features beside the crops'
    part.linear("proj_mlp.fc2", hidden, inner, split=ROW)
    return count


def _dims(text: Config) -> Dims:
    hidden, heads = text.positive("dim"), text.positive("n_heads")
    return Dims(hidden, text.positive("n_layers"), heads, text.positive("n_kv_heads"), hidden // heads)


def _decoder(inv: Inventory, text: Config, d: Dims) -> Part:
    """Everything of the decoder but the feed-forwards; the place of its attention."""
    vocab, top = text.positive("vocab_size"), Part(inv, "model.text.")
    top.tensor("wte", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    every = top.at("blocks.{}.", range(d.num_layers))
    every.norm("ln", d.hidden)
    attn = every.at("attn.", component=Component.ATTENTION)
    q, kv = d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim
    fused = Column((q, kv, kv), (None, d.num_kv_heads, d.num_kv_heads))
    attn.linear("qkv", q + 2 * kv, d.hidden, split=fused)
    attn.linear("proj", d.hidden, q, split=ROW)
    top.norm("post_ln", d.hidden)
    top.tensor("lm_head.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab())
    top.tensor("lm_head.bias", (vocab,), Component.LM_HEAD, Vocab())
    return attn


def moondream2(cfg: Config) -> Architecture:
    """Moondream 2 (2B), whose type is `moondream1`, with its head for points and boxes."""
    given = cfg.opt_sub("config", model_type="")
    if cfg.published("text_config") is not None:
        raise ContradictionError(
            f"{cfg.file}: 'text_config' is of Moondream's files of 2024, whose layout is not known here"
        )
    text, seen = _filled(given, "text", _TEXT, cfg.file), _filled(given, "vision", _SEEN, cfg.file)
    d, inv, inner = _dims(text), Inventory(), text.positive("ff_dim")
    _decoder(inv, text, d)
    vision.mlp(Part(inv, "model.text.blocks.{}.mlp.", Component.MLP, (tuple(range(d.num_layers)),)), d.hidden, inner)
    count = _tower(tower(inv, "model.vision."), seen, d.hidden)
    _region(tower(inv, "model.region."), _filled(given, "region", _REGION, cfg.file))
    layers = (*[Layer((full(d),))] * d.num_layers, *tower_layers(count))
    vocab = text.positive("vocab_size")
    return assemble(cfg, text, "moondream2", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def _region(part: Part, cfg: Config) -> None:
    dim, inner = cfg.positive("dim"), cfg.positive("inner_dim")
    for name, axes in (("coord", 1), ("size", 2)):
        features, out = cfg.positive(f"{name}_feat_dim"), cfg.positive(f"{name}_out_dim")
        part.linear(f"{name}_encoder", dim, features)
        part.linear(f"{name}_decoder.fc1", inner, dim)
        part.linear(f"{name}_decoder.fc2", out, inner)
        part.tensor(f"{name}_features", (axes, features // 2))


def moondream3(cfg: Config) -> Architecture:
    """Moondream 3 (9B, 2B active)."""
    given = cfg.opt_sub("config", model_type="")
    text, seen = _filled(given, "text", _TEXT, cfg.file), _filled(given, "vision", _SEEN, cfg.file)
    routed = _filled(text, "moe", _MOE, text.file)
    d, inv = _dims(text), Inventory()
    vocab, inner, start = text.positive("vocab_size"), text.positive("ff_dim"), routed.need_int("start_layer")
    experts, top_k = routed.positive("n_experts"), routed.positive("n_experts_per_tok")
    if not 0 <= start <= d.num_layers or top_k > experts:
        raise ContradictionError(f"{routed.file}: {top_k} of {experts} experts from layer {start} of {d.num_layers} on")
    attn, top = _decoder(inv, text, d), Part(inv, "model.text.")
    attn.tensor("tau.alpha", (d.num_heads,), split=COLUMN)
    for name in ("tau.wq", "tau.wv"):
        attn.tensor(name, (d.num_heads, 3 * d.hidden), split=COLUMN)
    vision.mlp(top.at("blocks.{}.mlp.", range(start), Component.MLP), d.hidden, inner)
    moe = top.at("blocks.{}.mlp.", range(start, d.num_layers), Component.EXPERTS)
    width, share = routed.positive("expert_inner_dim"), Fraction(top_k, experts)
    moe.linear("router", experts, d.hidden)
    moe.tensor(
        "fc1.weight", (experts, 2 * width, d.hidden), split=ExpertSplit(None, Column((width, width))), active=share
    )
    moe.tensor("fc2.weight", (experts, d.hidden, width), split=ExpertSplit(None, ROW), active=share)
    count = _tower(tower(inv, "model.vision."), seen, d.hidden)
    layers = (*[Layer((full(d),))] * d.num_layers, *tower_layers(count))
    return assemble(
        cfg, text, "moondream3", d, layers, inv, vocab=vocab, tied=False, intermediate=inner, num_experts=experts, top_k=top_k
    )  # fmt: skip
