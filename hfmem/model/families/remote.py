"""Decoders whose code is published beside their weights: Qwen 1, ChatGLM, Baichuan, InternLM, MiniCPM, EXAONE 3, Orion, Pangu …

Their classes are not in transformers, so nothing is assumed but what their own `configuration_*.py` and `modeling_*.py` say; each
rule names its source. An absent key that those do not give a default for is an error.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HEADS, num_layers, read_dims
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.llama import decoder
from hfmem.model.families.multimodal import PLAIN, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Row
from hfmem.model.layer_lists import full_layers, windowed_layers
from hfmem.model.layers import Layer, NoCache
from hfmem.records import replace

_PAIR = ("input_layernorm", "post_attention_layernorm")


def _inv_freq(m: DecoderBuilder, tail: str) -> None:
    """Rotary frequencies, which older files carry in every layer."""
    m.each(f"{tail}.inv_freq", (m.d.head_dim // 2,), Component.OTHER, buffer=True)


def qwen(cfg: Config) -> Architecture:
    """Qwen 1 (1.8B to 72B) and Qwen-VL. `intermediate_size` is twice the width of each of the two up-projections.

    Source: Qwen/Qwen-7B `modeling_qwen.py`: `kv_channels · num_attention_heads` wide attention, a bias on q, k, v always and
    elsewhere unless `no_bias`.
    """
    heads = cfg.positive(*HEADS)
    d = replace(read_dims(cfg), num_kv_heads=heads, head_dim=cfg.positive("kv_channels"))
    m = DecoderBuilder(cfg, d=d, layers="transformer.h.{}", embed="transformer.wte", final="transformer.ln_f")
    bias = not cfg.flag("no_bias", default=True)
    width = cfg.positive("intermediate_size", "ffn_hidden_size")  # the second in the first weeks' configs
    if width % 2:
        raise ContradictionError(f"{cfg.file}: 'intermediate_size' is {width}; Qwen 1 splits it in two")
    m.qkv("attn.c_attn", bias=True)
    m.linear("attn.c_proj", d.hidden, heads * d.head_dim, Row(), bias=bias)
    m.gated(width // 2, bias=bias, names=("w2", "w1", "c_proj"))
    m.norms("ln_1", "ln_2")
    arch = m.close("qwen", full_layers(d), intermediate=width)
    visual = cfg.opt_sub("visual", model_type="")
    return arch if visual is None else _qwen_vl(cfg, visual, arch)


def _qwen_vl(cfg: Config, visual: Config, text: Architecture) -> Architecture:
    """Qwen-VL's tower: a ViT with 256 positions, pooled by 256 queries (Qwen/Qwen-VL `visual.py`)."""
    width, out = visual.positive("width"), visual.positive("output_dim")
    patch, depth = visual.positive("patch_size"), visual.positive("layers")
    ffn = int(width * visual.positive_float("mlp_ratio"))
    queries = visual.opt_int("n_queries") or 256  # visual.py's default; the ViT's table has 256 positions too
    inv = Inventory()
    root = Part(inv, "transformer.visual.", Component.VISION)
    root.conv("conv1", width, 3, (patch, patch), bias=False)
    root.tensor("positional_embedding", (256, width))
    root.norm("ln_pre", width)
    block = root.at("transformer.resblocks.{}.", range(depth))
    block.norms(("ln_1", "ln_2"), width)
    block.linear("attn.in_proj", 3 * width, width, split=COLUMN)
    block.linear("attn.out_proj", width, width, split=ROW)
    block.linear("mlp.c_fc", ffn, width, split=COLUMN)
    block.linear("mlp.c_proj", width, ffn, split=ROW)
    pool = root.at("attn_pool.")
    pool.tensor("query", (queries, out))
    pool.tensor("pos_embed", (queries, out))
    if width != out:  # an identity otherwise
        pool.linear("kv_proj", out, width, bias=False)
    pool.tensor("attn.in_proj_weight", (3 * out, out))
    pool.tensor("attn.in_proj_bias", (3 * out,))
    pool.linear("attn.out_proj", out, out)
    pool.norms(("ln_q", "ln_kv"), out)
    root.norm("ln_post", out)
    root.tensor("proj", (out, out))
    return wrap(cfg, cfg, text, "qwen", PLAIN, inv, [Layer((NoCache("vision"),), stack="vision")] * depth)


def chatglm(cfg: Config) -> Architecture:
    """ChatGLM 2 and 3, CodeGeeX 2 and 4, GLM-4-9B (`modeling_chatglm.py`); ChatGLM 1 is told by `inner_hidden_size`, GLM-4V-9B by
    `vision_config`.

    `multi_query_attention` shares `multi_query_group_num` KV heads; norms are RMSNorms where `rmsnorm`.
    """
    if cfg.published("inner_hidden_size") is not None:
        return _chatglm1(cfg)
    heads = cfg.positive("num_attention_heads")
    groups = cfg.positive("multi_query_group_num") if cfg.flag("multi_query_attention", default=False) else heads
    head_dim = cfg.positive("kv_channels")
    d = blocks.Dims(cfg.positive("hidden_size"), num_layers(cfg), heads, groups, head_dim)
    root = "transformer"
    m = DecoderBuilder(
        cfg,
        d=d,
        layers=f"{root}.encoder.layers.{{}}",
        embed=f"{root}.embedding.word_embeddings",
        head=f"{root}.output_layer",
        final=f"{root}.encoder.final_layernorm",
        norm_bias=not cfg.flag("rmsnorm", default=True),
    )
    bias = cfg.flag("add_bias_linear", default=False)
    attn = "self_attention"
    m.qkv(f"{attn}.query_key_value", bias=bias or cfg.flag("add_qkv_bias", default=False))
    m.linear(f"{attn}.dense", d.hidden, heads * head_dim, Row(), bias=bias)
    m.fused_gated(cfg.positive("ffn_hidden_size"), "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", bias=bias)
    m.norms(*_PAIR)
    m.inv.add(f"{root}.rotary_pos_emb.inv_freq", (head_dim // 4,), Component.OTHER, buffer=True, optional=True)
    final = cfg.flag("post_layer_norm", default=True)
    arch = m.close("chatglm", full_layers(d), final=final, head_bias=bias)
    vision = cfg.opt_sub("vision_config", model_type="")
    return arch if vision is None else _glm4v(cfg, vision, arch)


def _glm4v(cfg: Config, vision: Config, text: Architecture) -> Architecture:
    """GLM-4V-9B's tower: EVA-CLIP, each 2 × 2 patches joined, a gated projector (zai-org/glm-4v-9b `visual.py`)."""
    width, depth = vision.positive("hidden_size"), vision.positive("num_hidden_layers")
    patch, ffn = vision.positive("patch_size"), vision.positive("intermediate_size")
    hidden, wide = cfg.positive("hidden_size"), cfg.positive("ffn_hidden_size")
    inv = Inventory()
    root = Part(inv, "transformer.vision.", Component.VISION)
    root.conv("patch_embedding.proj", width, vision.positive("in_channels"), (patch, patch))
    root.tensor("patch_embedding.cls_embedding", (1, width))
    root.tensor("patch_embedding.position_embedding.weight", (vision.positive("num_positions"), width))
    block = root.at("transformer.layers.{}.", range(depth))
    block.norms(_PAIR, width)
    block.linear("attention.query_key_value", 3 * width, width, split=COLUMN)
    block.linear("attention.dense", width, width, split=ROW)
    block.linear("mlp.fc1", ffn, width, split=COLUMN)
    block.linear("mlp.fc2", width, ffn, split=ROW)
    root.conv("conv", hidden, width, (2, 2))
    root.linear("linear_proj.linear_proj", hidden, hidden, bias=False)
    root.norm("linear_proj.norm1", hidden)
    for name in ("dense_h_to_4h", "gate_proj"):
        root.linear(f"linear_proj.{name}", wide, hidden, split=COLUMN, bias=False)
    root.linear("linear_proj.dense_4h_to_h", hidden, wide, split=ROW, bias=False)
    for name in ("boi", "eoi"):
        root.tensor(name, (1, 1, hidden))
    return wrap(cfg, cfg, text, "chatglm", PLAIN, inv, [Layer((NoCache("vision"),), stack="vision")] * depth)


def _chatglm1(cfg: Config) -> Architecture:
    """ChatGLM-6B: multi-head attention, biases everywhere, a feed-forward without gate.

    Its configuration class says nothing of tying, so the base class of its time ties; files repeat the head.
    """
    root = "transformer"
    m = DecoderBuilder(
        cfg,
        layers=f"{root}.layers.{{}}",
        embed=f"{root}.word_embeddings",
        final=f"{root}.final_layernorm",
        norm_bias=True,
        untold_tie=True,
    )
    m.qkv("attention.query_key_value", bias=True)
    m.linear("attention.dense", m.d.hidden, m.d.num_heads * m.d.head_dim, Row(), bias=True)
    # two-dimensional positions: each half of a head turns by its own position
    share = 4 if cfg.flag("position_encoding_2d", default=True) else 2
    m.each("attention.rotary_emb.inv_freq", (m.d.head_dim // share,), Component.OTHER, buffer=True)
    m.plain(cfg.positive("inner_hidden_size"), "mlp", ("dense_h_to_4h", "dense_4h_to_h"), bias=True)
    m.norms(*_PAIR)
    return m.close("chatglm", full_layers(m.d))


def baichuan(cfg: Config) -> Architecture:
    """Baichuan 1 and 2 (`modeling_baichuan.py`): multi-head attention with q, k, v in `W_pack`; 7B rotary, 13B ALiBi."""
    m = DecoderBuilder(cfg)
    m.qkv("self_attn.W_pack")
    m.linear("self_attn.o_proj", m.d.hidden, m.d.num_heads * m.d.head_dim, Row())
    _inv_freq(m, "self_attn.rotary_emb")
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    return m.close("baichuan", full_layers(m.d))


def internlm(cfg: Config) -> Architecture:
    """InternLM 1 (`modeling_internlm.py`): Llama's block; `bias` (true unless said otherwise) on q, k, v and the output."""
    bias = cfg.flag("bias", default=True)
    return decoder(cfg, "internlm", qkv_bias=bias, o_bias=bias)


def internlm2(cfg: Config) -> Architecture:
    """InternLM 2 and 2.5 (`modeling_internlm2.py`): q, k, v in `wqkv`, group by group; `bias` is true unless said otherwise."""
    m = DecoderBuilder(cfg, embed="model.tok_embeddings", head="output")
    bias = cfg.flag("bias", default=True)
    m.qkv("attention.wqkv", bias=bias)
    m.linear("attention.wo", m.d.hidden, m.d.num_heads * m.d.head_dim, Row(), bias=bias)
    m.gated(cfg.positive("intermediate_size"), "feed_forward", names=("w1", "w3", "w2"))
    m.norms("attention_norm", "ffn_norm")
    if m.task == "reward":  # InternLM2ForRewardModel
        m.inv.add("v_head.weight", (1, m.d.hidden), Component.OTHER)
        m.task = "reward by v_head"
    return m.close("internlm2", full_layers(m.d))


def minicpm(cfg: Config) -> Architecture:
    """MiniCPM 1B, 2B, 4 and MoE-8x2B (`modeling_minicpm.py`): Llama's block with scalings that store nothing.

    The configuration class says nothing of tying: the base class of its time ties. `num_experts` turns the feed-forward into
    Mixtral's experts under `mlp`.
    """
    m = DecoderBuilder(cfg, untold_tie=True)
    bias = cfg.flag("attention_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias)
    width = cfg.positive("intermediate_size")
    num_experts = cfg.opt_int("num_experts")
    if num_experts:
        m.experts("mlp", width, num_experts, cfg.positive("num_experts_per_tok"), names=("w1", "w3", "w2"))
    else:
        m.gated(width)
    m.norms(*_PAIR)
    return m.close("minicpm", full_layers(m.d), intermediate=width)


def exaone(cfg: Config) -> Architecture:
    """EXAONE 3, 3.5, Deep (`modeling_exaone.py`): Llama's block under GPT-2's names, gate `c_fc_0` and up `c_fc_1`.

    Biases are transformers 5.24's, which reads the type with Llama's class.
    """
    m = DecoderBuilder(cfg, layers="transformer.h.{}", embed="transformer.wte", final="transformer.ln_f")
    attn, bias = "attn.attention", cfg.flag("attention_bias", default=False)
    m.attention(attn, names=("q_proj", "k_proj", "v_proj", "out_proj"), qkv_bias=bias, o_bias=bias)
    m.each(f"{attn}.rotary.inv_freq", (m.d.head_dim // 2,), Component.OTHER, buffer=True)
    mlp_bias = cfg.flag("mlp_bias", default=False)
    m.gated(cfg.positive("intermediate_size"), names=("c_fc_0", "c_fc_1", "c_proj"), bias=mlp_bias)
    m.norms("ln_1", "ln_2")
    return m.close("exaone", full_layers(m.d))


def orion(cfg: Config) -> Architecture:
    """Orion-14B (`modeling_orion.py`): Llama's block with LayerNorms."""
    m = DecoderBuilder(cfg, norm_bias=True)
    bias = cfg.flag("attention_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    return m.close("orion", full_layers(m.d))


def yi(cfg: Config) -> Architecture:
    """Yi before it was published as Llama (`modeling_yi.py`): Llama's block with norms `ln1` and `ln2`."""
    m = DecoderBuilder(cfg)
    m.attention()
    m.gated(cfg.positive("intermediate_size"))
    m.norms("ln1", "ln2")
    return m.close("yi", full_layers(m.d))


def pangu(cfg: Config) -> Architecture:
    """openPangu Embedded 1B and 7B (`modeling_openpangu_dense.py`): Llama's block, `bias` on q, k, v and the output."""
    m = DecoderBuilder(cfg)
    bias = cfg.flag("bias")
    m.attention(qkv_bias=bias, o_bias=bias)
    _inv_freq(m, "self_attn.rotary_emb")
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    return m.close("pangu_embedded", full_layers(m.d))


def phi3small(cfg: Config) -> Architecture:
    """Phi-3-small (`modeling_phi3_small.py`): fused q, k, v, gate and up interleaved, biases and LayerNorms throughout.

    Its block-sparse layers read part of the cache but keep all of it. The configuration class says nothing of tying: the base
    class of its time ties.
    """
    m = DecoderBuilder(cfg, final="model.final_layernorm", norm_bias=True, untold_tie=True)
    width = cfg.positive("ff_intermediate_size")
    m.qkv("self_attn.query_key_value", bias=True)
    m.linear("self_attn.dense", m.d.hidden, m.d.num_heads * m.d.head_dim, Row(), bias=True)
    m.linear("mlp.up_proj", 2 * width, m.d.hidden, Column(), bias=True, component=Component.MLP)
    m.linear("mlp.down_proj", m.d.hidden, width, Row(), bias=True, component=Component.MLP)
    m.norms(*_PAIR)
    return m.close("phi3small", full_layers(m.d), intermediate=width)


def plain_llama(cfg: Config) -> Architecture:
    """Published under their own names and code, the same tensors as Llama: Aquila, Xverse, Skywork."""
    bias = cfg.flag("attention_bias", default=False)
    d = read_dims(cfg)
    return decoder(cfg, cfg.model_type, d=d, layers=windowed_layers(cfg, d), qkv_bias=bias, o_bias=bias)
