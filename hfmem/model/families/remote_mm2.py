"""Models published with their own code whose text model has names of its own: Molmo, Fish Audio S2, DeepSeek-VL2 and DeepSeek-OCR.

Sources: allenai/Molmo-7B-D-0924 `modeling_molmo.py`, fishaudio/s2-pro, deepseek-ai/DeepSeek-OCR(-2) `modeling_deepseekocr.py` and
`deepencoder.py`, and the published tensor names and shapes.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import Dims, assemble, full, read_dims, routed_experts
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.multimodal import text_architecture, tower, tower_layers, wrap
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


def _fish_blocks(part: Part, cfg: Config) -> Dims:
    """A Llama block under LLaMA's original names, with fused q, k and v."""
    width, heads, kv = cfg.positive("dim"), cfg.positive("n_head"), cfg.positive("n_local_heads")
    dim, inner, count = cfg.positive("head_dim"), cfg.positive("intermediate_size"), cfg.positive("n_layer")
    if cfg.flag("use_moe", default=False):
        raise ContradictionError(f"{cfg.file}: 'use_moe' is true and the experts' tensors are not known")
    if heads % kv:
        raise ContradictionError(f"{cfg.file}: {heads} heads cannot share {kv} KV heads")
    block = part.at("layers.{}.", range(count))
    split = Column((heads * dim, kv * dim, kv * dim), (None, kv, kv))
    attention, mlp = part.component or Component.ATTENTION, part.component or Component.MLP
    bias, out_bias = cfg.flag("attention_qkv_bias", default=False), cfg.flag("attention_o_bias", default=False)
    block.linear("attention.wqkv", (heads + 2 * kv) * dim, width, attention, split, bias=bias)
    block.linear("attention.wo", width, heads * dim, attention, ROW, bias=out_bias)
    if cfg.flag("attention_qk_norm", default=False):
        block.norms(("attention.q_norm", "attention.k_norm"), dim, bias=False)
    block.linear("feed_forward.w1", inner, width, mlp, COLUMN, bias=False)
    block.linear("feed_forward.w3", inner, width, mlp, COLUMN, bias=False)
    block.linear("feed_forward.w2", width, inner, mlp, ROW, bias=False)
    block.norms(("attention_norm", "ffn_norm"), width, bias=False)
    part.norm("norm", width, bias=False)
    return Dims(width, count, heads, kv, dim)


def fish_qwen3_omni(cfg: Config) -> Architecture:
    """Fish Audio S2: a Qwen3-like text model and a small decoder that turns each of its steps into codebook entries.

    The small decoder starts afresh at every step (`max_seq_len` 11), so the cache that grows is the text model's.
    """
    text, audio = cfg.sub("text_config", model_type="fish_qwen3"), cfg.sub("audio_decoder_config", model_type="fish")
    inv = Inventory()
    part = Part(inv, "text_model.model.")
    vocab, tied = text.positive("vocab_size"), text.flag("tie_word_embeddings", default=False)
    part.tensor("embeddings.weight", (vocab, text.positive("dim")), Component.EMBEDDING, Vocab())
    d = _fish_blocks(part, text)
    if not tied:
        part.tensor("output.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab())
    decoder = tower(inv, "audio_decoder.")
    small = _fish_blocks(decoder, audio)
    codes = audio.positive("vocab_size")
    decoder.tensor("embeddings.weight", (codes, small.hidden))
    decoder.tensor("codebook_embeddings.weight", (codes * audio.positive("num_codebooks"), audio.positive("text_dim")))
    decoder.linear("output", codes, small.hidden, bias=False)
    if audio.positive("text_dim") != small.hidden:
        raise ContradictionError(f"{audio.file}: 'text_dim' and 'dim' differ and the projection between is not known")
    layers = (*[Layer((full(d),))] * d.num_layers, *tower_layers(small.num_layers, "audio"))
    note = Note("second_decoder", "the audio decoder's cache restarts at every step and is not counted")
    inner = text.positive("intermediate_size")
    return assemble(
        cfg, text, "fish_qwen3_omni", d, layers, inv, vocab=vocab, tied=tied, intermediate=inner, notes=[note]
    )


def _sam(part: Part, cfg: Config, image: int, out: int) -> int:
    """SAM's ViT-B with relative positions and a neck, then two strided convolutions into `out` channels (`deepencoder`)."""
    width, count, heads = cfg.positive("width"), cfg.positive("layers"), cfg.positive("heads")
    first = cfg.need_list("downsample_channels")[0]
    global_layers = cfg.need_list("global_attn_indexes")
    dim, grid, window, neck = width // heads, image // 16, 14, 256  # patch 16, window 14, neck 256: fixed in the code
    part.tensor("pos_embed", (1, grid, grid, width))
    part.conv("patch_embed.proj", width, 3, (16, 16))
    block = part.at("blocks.{}.", range(count))
    block.norms(("norm1", "norm2"), width)
    vision.fused_projection(block.at("attn."), "qkv", width, bias=True)
    block.linear("attn.proj", width, width, split=ROW)
    for layers, size in (([i for i in range(count) if i not in global_layers], window), (global_layers, grid)):
        at = part.at("blocks.{}.attn.", layers)
        at.tensor("rel_pos_h", (2 * size - 1, dim))
        at.tensor("rel_pos_w", (2 * size - 1, dim))
    vision.mlp(block.at("mlp."), width, 4 * width, ("lin1", "lin2"))
    part.conv("neck.0", neck, width, (1, 1), bias=False)
    part.norm("neck.1", neck)
    part.conv("neck.2", neck, neck, (3, 3), bias=False)
    part.norm("neck.3", neck)
    part.conv("net_2", first, neck, (3, 3), bias=False)
    part.conv("net_3", out, first, (3, 3), bias=False)
    return count


#: Qwen2-0.5B as DeepSeek-OCR-2's code builds it as an image encoder: no embedding, no head
_QWEN2_05B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 1,
    "tie_word_embeddings": True,
}


def _clip_l(part: Part, cfg: Config) -> int:
    """CLIP ViT-L as DeepSeek's code spells it: q, k and v in one projection, no norm after the last block."""
    width, count, patch = cfg.positive("width"), cfg.positive("layers"), cfg.positive("patch_size")
    part.tensor("embeddings.class_embedding", (width,))
    part.conv("embeddings.patch_embedding", width, 3, (patch, patch), bias=False)
    part.tensor("embeddings.position_embedding.weight", ((cfg.positive("image_size") // patch) ** 2 + 1, width))
    part.norm("pre_layrnorm", width)
    block = part.at("transformer.layers.{}.", range(count))
    block.norms(("layer_norm1", "layer_norm2"), width)
    vision.fused_projection(block.at("self_attn."), "qkv_proj", width, bias=True)
    block.linear("self_attn.out_proj", width, width, split=ROW)
    vision.mlp(block.at("mlp."), width, 4 * width)
    return count


def _qwen_encoder(part: Part, cfg: Config) -> int:
    """DeepSeek-OCR-2's second encoder: Qwen2-0.5B without embedding or head, with queries for 768 and 1024 pixels."""
    width = cfg.positive("dim")
    cfg.choice("dim", str(width), (str(_QWEN2_05B["hidden_size"]),))
    encoder = text_architecture(Config(_QWEN2_05B, cfg.file, "qwen2", cfg.used_defaults))
    for spec in encoder.tensors:
        if spec.component not in (Component.EMBEDDING, Component.LM_HEAD):
            indices = [i for box in spec.boxes for r in box for i in r]
            at = part.at("model.", indices) if indices else part.at("model.")
            at.tensor(spec.pattern, spec.shape, Component.VISION, spec.split)
    part.tensor("query_768.weight", (144, width))
    part.tensor("query_1024.weight", (256, width))
    return encoder.num_hidden_layers


def deepseek_ocr(cfg: Config) -> Architecture:
    """DeepSeek-OCR: SAM, then CLIP ViT-L (1) or a Qwen2-0.5B with learned queries (2), before a DeepSeek-V2 decoder.

    DeepSeek-VL2's other towers are refused by name.
    """
    text = cfg.sub("language_config", model_type="deepseek_v2")
    seen = cfg.sub("vision_config", model_type="vision")
    second = (
        seen.choice("model_name", seen.opt_str("model_name") or "", ("deeplip_b_l", "deepencoderv2")) != "deeplip_b_l"
    )
    inner = text_architecture(text) if text.flag("use_mla", default=True) else _deepseek_mha(text)
    inv = Inventory()
    widths = seen.sub("width", model_type="widths")
    sam, image = widths.sub("sam_vit_b", model_type="sam"), seen.positive("image_size")
    project = cfg.sub("projector_config", model_type="mlp_projector")
    project.choice("projector_type", project.opt_str("projector_type") or "", ("linear",))
    out = project.positive("n_embed")
    if second:
        small = widths.sub("qwen2-0-5b", model_type="qwen2")
        # the second convolution feeds the encoder directly, whatever 'downsample_channels' says of it
        count = _sam(tower(inv, "model.sam_model."), sam, image, small.positive("dim"))
        count += _qwen_encoder(tower(inv, "model.qwen2_model."), small)
    else:
        count = _sam(tower(inv, "model.sam_model."), sam, image, sam.need_list("downsample_channels")[-1])
        count += _clip_l(tower(inv, "model.vision_model."), widths.sub("clip-l-14-224", model_type="clip"))
        tower(inv).tensor("model.image_newline", (out,))
    tower(inv).linear("model.projector.layers", out, project.positive("input_dim"))
    tower(inv).tensor("model.view_seperator", (out,))  # spelled so in the file
    return wrap(cfg, text, inner, "deepseek_vl_v2", (), inv, tower_layers(count))


def _deepseek_mha(cfg: Config) -> Architecture:
    """DeepSeek-V2's experts with plain multi-head attention (`use_mla` false)."""
    d = read_dims(cfg)
    inner, width = cfg.positive("intermediate_size"), cfg.positive("moe_intermediate_size")
    experts, top_k = cfg.positive("n_routed_experts"), cfg.positive("num_experts_per_tok")
    dense, shared = cfg.need_int("first_k_dense_replace"), cfg.need_int("n_shared_experts")
    vocab, tied = cfg.positive("vocab_size"), cfg.flag("tie_word_embeddings", default=False)
    inv = Inventory()
    model = Part(inv, "model.")
    model.tensor("embed_tokens.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    block = model.at("layers.{}.", range(d.num_layers))
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    kv = d.num_kv_heads * d.head_dim
    at = block.at("self_attn.", component=Component.ATTENTION)
    vision.projections(at, d.hidden, bias=False, names=names, width=d.num_heads * d.head_dim, kv_width=kv)
    block.norms(("input_layernorm", "post_attention_layernorm"), d.hidden, bias=False)
    vision.gated(model.at("layers.{}.mlp.", range(dense), Component.MLP), d.hidden, inner, bias=False)
    sparse = range(dense, d.num_layers)
    routed_experts(inv, "model.layers.{}.mlp", sparse, d.hidden, width, experts, top_k)
    if shared:
        at = model.at("layers.{}.mlp.shared_experts.", sparse, Component.MLP)
        vision.gated(at, d.hidden, shared * width, bias=False)
    model.norm("norm", d.hidden, bias=False)
    to = "model.embed_tokens.weight" if tied else None
    Part(inv).tensor("lm_head.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
    layers = [Layer((full(d),))] * d.num_layers
    return assemble(
        cfg,
        cfg,
        "deepseek_v2",
        d,
        layers,
        inv,
        vocab=vocab,
        tied=tied,
        intermediate=inner,
        num_experts=experts,
        top_k=top_k,
    )
