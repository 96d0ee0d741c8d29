"""Molmo as its authors publish it, and Molmo 2.

Sources: allenai/Molmo-7B-D-0924 `modeling_molmo.py` and the published tensor names and shapes; transformers 5.23.0
`models/molmo2/modeling_molmo2.py`.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, full, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import PLAIN, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab
from hfmem.model.layers import Layer

#: Molmo's image encoder, fixed in its code: CLIP ViT-L/14 at 336 pixels without the last block; two of its layers feed the pooling
_MOLMO_VIT = {"width": 1024, "inner": 4096, "layers": 23, "patch": 14, "positions": 577, "read": 2}


#: rows for image tokens beside the vocabulary (`additional_vocab_size` of Molmo's code)
_MOLMO_EXTRA = 128


def _molmo_tower(part: Part, hidden: int, inner: int) -> int:
    v = _MOLMO_VIT
    width, vit = v["width"], part.at("image_vit.")
    vit.tensor("class_embedding", (width,))
    vit.tensor("positional_embedding", (v["positions"], width))
    vit.linear("patch_embedding", width, 3 * v["patch"] ** 2, bias=False)
    vit.norm("pre_ln", width)
    block = vit.at("transformer.resblocks.{}.", range(v["layers"]))
    vision.projections(block.at("attention."), width, names=("wq", "wk", "wv", "wo"))
    vision.mlp(block.at("feed_forward."), width, v["inner"], ("w1", "w2"))
    block.norms(("attention_norm", "ffn_norm"), width)
    pool = part.at("image_pooling_2d.")
    for name in ("wq", "wk", "wv"):
        pool.linear(name, width, v["read"] * width, split=COLUMN)
    pool.linear("wo", width, width, split=ROW)
    project = part.at("image_projector.")
    project.linear("w1", inner, width, split=COLUMN, bias=False)
    project.linear("w3", inner, width, split=COLUMN, bias=False)
    project.linear("w2", hidden, inner, split=ROW, bias=False)
    part.tensor("pad_embed", (2, v["read"] * width))
    return v["layers"]


def molmo(cfg: Config) -> Architecture:
    """Molmo 7B and 72B: an OLMo-style decoder (fused q, k, v and fused gate and up), CLIP ViT-L, attention pooling.

    `intermediate_size` counts gate and up together; rows for image tokens are a second embedding.
    """
    d = read_dims(cfg)
    vocab = cfg.positive("embedding_size", "vocab_size")
    both = cfg.positive("intermediate_size")
    if both % 2:
        raise ContradictionError(f"{cfg.file}: 'intermediate_size' is {both}; Molmo splits it in two")
    inner, tied = both // 2, cfg.flag("weight_tying", "tie_word_embeddings", default=False)
    cfg.choice("layer_norm_type", cfg.opt_str("layer_norm_type") or "rms", ("rms",))
    inv = Inventory()
    top = Part(inv, "model.transformer.")
    top.tensor("wte.embedding", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    top.tensor("wte.new_embedding", (_MOLMO_EXTRA, d.hidden), Component.EMBEDDING, Vocab())
    block = top.at("blocks.{}.", range(d.num_layers))
    parts = (d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim, d.num_kv_heads * d.head_dim)
    split = Column(parts, (None, d.num_kv_heads, d.num_kv_heads))
    block.linear("att_proj", sum(parts), d.hidden, Component.ATTENTION, split, bias=cfg.flag("qkv_bias", default=False))
    block.linear("attn_out", d.hidden, parts[0], Component.ATTENTION, ROW, bias=False)
    if cfg.flag("attention_layer_norm", default=False):
        block.norm("q_norm", parts[0], bias=False)
        block.norm("k_norm", parts[1], bias=False)
    block.linear("ff_proj", both, d.hidden, Component.MLP, Column((inner, inner), (None, None)), bias=False)
    block.linear("ff_out", d.hidden, inner, Component.MLP, ROW, bias=False)
    block.norms(("attn_norm", "ff_norm"), d.hidden, bias=False)
    top.norm("ln_f", d.hidden, bias=False)
    if not tied:
        top.tensor("ff_out.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab())
    count = _molmo_tower(tower(inv, "model.vision_backbone."), d.hidden, inner)
    layers = (*[Layer((full(d),))] * d.num_layers, *tower_layers(count))
    return assemble(cfg, cfg, "molmo", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner)


def molmo2_text(cfg: Config) -> Architecture:
    """Molmo 2's decoder: fused q, k, v and fused gate and up; rows for image tokens are a second embedding without a head."""
    d = read_dims(cfg)
    vocab, extra, inner = (
        cfg.positive("vocab_size"),
        cfg.need_int("additional_vocab_size"),
        cfg.positive("intermediate_size"),
    )
    kind = cfg.choice("qk_norm_type", cfg.opt_str("qk_norm_type") or "qwen3", ("qwen3", "olmo"))
    inv = Inventory()
    top = Part(inv, "model.transformer.")
    top.tensor("wte.embedding", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    if extra:
        top.tensor("wte.new_embedding", (extra, d.hidden), Component.EMBEDDING)
    block = top.at("blocks.{}.", range(d.num_layers))
    parts = (d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim, d.num_kv_heads * d.head_dim)
    split = Column(parts, (None, d.num_kv_heads, d.num_kv_heads))
    bias = cfg.flag("attention_bias", "qkv_bias", default=False)
    block.linear("self_attn.att_proj", sum(parts), d.hidden, Component.ATTENTION, split, bias=bias)
    block.linear("self_attn.attn_out", d.hidden, parts[0], Component.ATTENTION, ROW, bias=False)
    sizes = (d.head_dim, d.head_dim) if kind == "qwen3" else parts[:2]
    for name, size in zip(("q_norm", "k_norm"), sizes, strict=True):
        block.norm(f"self_attn.{name}", size, bias=False)
    both = Column((inner, inner), (None, None))
    block.linear("mlp.ff_proj", 2 * inner, d.hidden, Component.MLP, both, bias=False)
    block.linear("mlp.ff_out", d.hidden, inner, Component.MLP, ROW, bias=False)
    block.norms(("attn_norm", "ff_norm"), d.hidden, bias=False)
    top.norm("ln_f", d.hidden, bias=False)
    Part(inv).tensor("lm_head.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab())
    layers = [Layer((full(d),))] * d.num_layers
    return assemble(cfg, cfg, "molmo2", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def molmo2(cfg: Config) -> Architecture:
    """Molmo 2: SigLIP 2 up to the last layer that is read, attention pooling over the layers read, a gated projector."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen, shape = (
        cfg.sub("vision_config" if cfg.published("vit_config") is None else "vit_config"),
        cfg.sub("adapter_config"),
    )
    if cfg.published("vision_config") is None:
        seen = Config(seen.data, seen.file, "molmo2_vision", cfg.used_defaults)
    width, depth = seen.positive("hidden_size"), seen.positive("num_hidden_layers")
    read = [i % depth for i in shape.opt_list("vit_layers", "vision_feature_layer") or (24, 18)]
    size, patch = (
        seen.published("image_default_input_size", "image_size") or [378, 378],
        seen.positive("image_patch_size", "patch_size"),
    )
    grid = Config({"image_size": size, "patch_size": patch}, seen.file, "", cfg.used_defaults)
    part = tower(inv, "model.vision_backbone.")
    vit, bias = part.at("image_vit."), seen.flag("attention_bias", default=True)
    vit.tensor(
        "positional_embedding",
        (seen.opt_int("image_num_pos", "num_position_embeddings") or vision.patches(grid), width),
    )
    vit.linear("patch_embedding", width, (seen.opt_int("num_channels") or 3) * patch**2)
    count = max(read) + 1
    block = vit.at("transformer.resblocks.{}.", range(count))
    _attention(block.at("attention."), seen, width, width, bias=bias)
    vision.mlp(block.at("feed_forward."), width, seen.positive("intermediate_size"), ("w1", "w2"))
    block.norms(("attention_norm", "ffn_norm"), width)
    pooled = shape.positive("hidden_size")
    _attention(
        part.at("image_pooling_2d."), shape, len(read) * width, pooled, bias=shape.flag("attention_bias", default=True)
    )
    wide, out, mlp_bias = (
        shape.positive("intermediate_size"),
        shape.positive("text_hidden_size"),
        shape.flag("mlp_bias", default=False),
    )
    project = part.at("image_projector.")
    for name in ("w1", "w3"):
        project.linear(name, wide, pooled, split=COLUMN, bias=mlp_bias)
    project.linear("w2", out, wide, split=ROW, bias=mlp_bias)
    return wrap(cfg, text, inner, "molmo2", PLAIN, inv, tower_layers(count))


def _attention(part: Part, cfg: Config, features: int, out: int, *, bias: bool) -> None:
    """q, k and v from `features`, `out` wide back (always with a bias)."""
    heads, kv_heads, dim = (
        cfg.positive("num_attention_heads"),
        cfg.positive("num_key_value_heads"),
        cfg.positive("head_dim"),
    )
    part.linear("wq", heads * dim, features, split=COLUMN, bias=bias)
    for name in ("wk", "wv"):
        part.linear(name, kv_heads * dim, features, split=COLUMN, bias=bias)
    part.linear("wo", out, heads * dim, split=ROW)
