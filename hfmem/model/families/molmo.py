"""Molmo as its authors publish it.

Sources: allenai/Molmo-7B-D-0924 `modeling_molmo.py` and the published tensor names and shapes.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, full, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import tower, tower_layers
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
    top.tensor("wte.new_embedding", (_MOLMO_EXTRA, d.hidden), Component.EMBEDDING)
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
