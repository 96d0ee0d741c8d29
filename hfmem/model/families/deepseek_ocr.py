"""DeepSeek-VL2, DeepSeek-OCR 1 and 2 as their authors publish them (all `deepseek_vl_v2`) and in transformers' keys; Unlimited-OCR.

Sources: deepseek-ai/DeepSeek-OCR(-2) `modeling_deepseekocr.py` and `deepencoder.py`, and the published tensor names and shapes;
transformers 5.23.0 `models/{deepseek_ocr2,unlimited_ocr}`; vLLM 0.33.0 `deepseek_vl2.py` and its config class.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, full, read_dims, routed_experts
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.minicpmv import timm_vit
from hfmem.model.families.multimodal import text_architecture, text_config, tower, tower_layers, wrap
from hfmem.model.families.parts import ROW, Part
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.model.layers import Layer
from hfmem.model.stack import indices_of, layer_kinds
from hfmem.records import replace


def _sam(part: Part, cfg: Config, image: int, out: int) -> int:
    """SAM's ViT-B with relative positions and a neck, then two strided convolutions into `out` channels (`deepencoder`)."""
    width, count, heads = cfg.positive("width"), cfg.positive("layers"), cfg.positive("heads")
    first = cfg.need_numbers("downsample_channels")[0]
    global_layers = [i for i in cfg.need_list("global_attn_indexes") if i in range(count)]
    dim, grid, window, neck = width // heads, image // 16, 14, 256  # patch 16, window 14, neck 256: fixed in the code
    if cfg.flag("use_abs_pos", default=True):
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
    vision.mlp(block.at("mlp."), width, cfg.opt_int("mlp_dim") or 4 * width, ("lin1", "lin2"))
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
    vision.mlp(block.at("mlp."), width, cfg.opt_int("intermediate_size") or 4 * width)
    return count


def _qwen_encoder(part: Part, cfg: Config) -> int:
    """DeepSeek-OCR-2's second encoder: Qwen2-0.5B without embedding or head, with queries for 768 and 1024 pixels."""
    cfg.choice("dim", str(cfg.positive("dim")), (str(_QWEN2_05B["hidden_size"]),))
    return _qwen_blocks(part, Config(_QWEN2_05B, cfg.file, "qwen2", cfg.used_defaults))


def _qwen_blocks(part: Part, cfg: Config) -> int:
    width = cfg.positive("hidden_size")
    encoder = text_architecture(Config({**cfg.data, "tie_word_embeddings": True}, cfg.file, cfg.model_type), "qwen2")
    for spec in encoder.tensors:
        if spec.component not in (Component.EMBEDDING, Component.LM_HEAD):
            indices = [i for box in spec.boxes for r in box for i in r]
            at = part.at("model.", indices) if indices else part.at("model.")
            at.tensor(spec.pattern, spec.shape, Component.VISION, spec.split)
    part.tensor("query_768.weight", (144, width))
    part.tensor("query_1024.weight", (256, width))
    return encoder.num_hidden_layers


def deepseek_vl2(cfg: Config) -> Architecture:
    """DeepSeek-VL2 (timm's SigLIP so400m, patches merged by a two-layer projector) or, by the tower's name, DeepSeek-OCR."""
    seen = cfg.sub("vision_config", model_type="vision")
    if seen.opt_str("model_name") != "siglip_so400m_patch14_384" and "siglip" not in (seen.opt_str("model_name") or ""):
        return deepseek_ocr(cfg)
    text = cfg.sub("language_config", model_type="deepseek_v2")
    inner = text_architecture(text) if text.flag("use_mla", default=True) else _deepseek_mha(text)
    inv = Inventory()
    width, count = seen.positive("width"), seen.positive("layers")
    inside = int(width * seen.positive_float("mlp_ratio"))
    side = (seen.opt_int("image_size") or 384) // seen.positive(
        "patch_size"
    )  # published ones rely on its class's default
    sizes = {
        "hidden_size": width,
        "num_channels": 3,
        "patch_size": seen.positive("patch_size"),
        "intermediate_size": inside,
    }
    part = tower(inv, "vision.")
    timm_vit(part, Config(sizes, seen.file, "", cfg.used_defaults), count, side**2)
    pool = part.maybe().at("attn_pool.")  # timm's attention pooling, which no code reads
    pool.tensor("latent", (1, 1, width))
    pool.linear("q", width, width)
    pool.linear("kv", 2 * width, width)
    pool.linear("proj", width, width)
    pool.norm("norm", width)
    vision.mlp(pool.at("mlp."), width, inside)
    shape = cfg.sub("projector_config", model_type="mlp_projector")
    shape.choice("projector_type", shape.opt_str("projector_type") or "downsample_mlp_gelu", ("downsample_mlp_gelu",))
    out, depth = shape.positive("n_embed"), shape.opt_int("depth") or 2
    wide = out * (shape.opt_int("mlp_ratio") or 1)
    features = (shape.opt_int("input_dim") or width) * (shape.opt_int("downsample_ratio") or 2) ** 2
    project = tower(inv, "projector.layers.")
    for i in range(depth):
        project.linear(str(2 * i), out if i == depth - 1 else wide, wide if i else features)
    tower(inv).tensor("image_newline", (out,))
    tower(inv).tensor("view_seperator", (out,))  # spelled so in the file
    return wrap(cfg, text, inner, "deepseek_vl_v2", (("", "language."),), inv, tower_layers(count))


def deepseek_ocr2(cfg: Config) -> Architecture:
    """DeepSeek-OCR 2 and Unlimited-OCR in transformers' keys: SAM and a second encoder under `vision_config`.

    Unlimited-OCR's text window is over generated tokens alone: what is read stays, so that its cache grows like any other.
    """
    second = cfg.model_type == "deepseek_ocr2"
    text = text_config(cfg, "text_config" if cfg.published("language_config") is None else "language_config")
    kind = "deepseek_ocr2_text" if second else "unlimited_ocr_text"
    inner = _deepseek_mha(Config(text.data, text.file, kind, cfg.used_defaults))
    inv = Inventory()
    seen = cfg.sub("vision_config")
    sam, encoder = seen.sub("sam_config"), seen.sub("encoder_config")
    channels = sam.opt_list("downsample_channels") or [512, 896]
    shape = {
        "width": sam.positive("hidden_size"),
        "layers": sam.positive("num_hidden_layers"),
        "heads": sam.positive("num_attention_heads"),
        "downsample_channels": channels,
        "use_abs_pos": sam.flag("use_abs_pos", default=True),
        "mlp_dim": sam.opt_int("mlp_dim"),
        "global_attn_indexes": sam.need_list("global_attn_indexes"),
    }
    out = encoder.positive("hidden_size")
    read = Config(shape, sam.file, "", cfg.used_defaults)
    count = _sam(tower(inv, "model.sam_model."), read, vision.side(sam, "image_size")[0], channels[-1])
    if second:
        count += _qwen_blocks(tower(inv, "model.qwen2_model."), encoder)
        features = out
    else:
        sizes = {
            "width": out,
            "layers": encoder.positive("num_hidden_layers"),
            "patch_size": encoder.positive("patch_size"),
            "image_size": encoder.positive("image_size"),
            "intermediate_size": encoder.positive("intermediate_size"),
        }
        features = out + channels[-1]
        count += _clip_l(tower(inv, "model.vision_model."), Config(sizes, encoder.file, "", cfg.used_defaults))
        tower(inv).tensor("model.image_newline", (inner.hidden_size,))
    tower(inv).linear("model.projector.layers", inner.hidden_size, features)
    tower(inv).tensor("model.view_seperator", (inner.hidden_size,))
    return wrap(cfg, text, inner, cfg.model_type, (), inv, tower_layers(count))


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
        count = _sam(tower(inv, "model.sam_model."), sam, image, sam.need_numbers("downsample_channels")[-1])
        count += _clip_l(tower(inv, "model.vision_model."), widths.sub("clip-l-14-224", model_type="clip"))
        tower(inv).tensor("model.image_newline", (out,))
    tower(inv).linear("model.projector.layers", out, project.positive("input_dim"))
    tower(inv).tensor("model.view_seperator", (out,))  # spelled so in the file
    return wrap(cfg, text, inner, "deepseek_vl_v2", (), inv, tower_layers(count))


def _deepseek_mha(cfg: Config) -> Architecture:
    """DeepSeek-V2's experts with plain multi-head attention (`use_mla` false)."""
    d = read_dims(cfg)
    if cfg.model_type in ("deepseek_ocr2_text", "unlimited_ocr_text"):
        d = replace(d, head_dim=d.hidden // d.num_heads)  # the classes compute it, whatever the config says
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    inner, width = cfg.positive("intermediate_size"), cfg.positive("moe_intermediate_size")
    experts, top_k = cfg.positive("n_routed_experts"), cfg.positive("num_experts_per_tok")
    shared, kinds = cfg.need_int("n_shared_experts"), cfg.opt_list("mlp_layer_types")
    if kinds is None:
        first = cfg.opt_int("first_k_dense_replace")
        dense = list(range(1 if first is None else first))
    else:
        dense = indices_of(layer_kinds(cfg, "mlp_layer_types", kinds, ("dense", "sparse"), d.num_layers), "dense")
    vocab, tied = cfg.positive("vocab_size"), cfg.flag("tie_word_embeddings", default=False)
    inv = Inventory()
    model = Part(inv, "model.")
    model.tensor("embed_tokens.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    block = model.at("layers.{}.", range(d.num_layers))
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    kv = d.num_kv_heads * d.head_dim
    at = block.at("self_attn.", component=Component.ATTENTION)
    vision.projections(at, d.hidden, bias=bias, names=names, width=d.num_heads * d.head_dim, kv_width=kv)
    block.norms(("input_layernorm", "post_attention_layernorm"), d.hidden, bias=False)
    vision.gated(model.at("layers.{}.mlp.", dense, Component.MLP), d.hidden, inner, bias=mlp_bias)
    sparse = [i for i in range(d.num_layers) if i not in dense]
    routed_experts(inv, "model.layers.{}.mlp", sparse, d.hidden, width, experts, top_k)
    if shared:
        at = model.at("layers.{}.mlp.shared_experts.", sparse, Component.MLP)
        vision.gated(at, d.hidden, shared * width, bias=mlp_bias)
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
