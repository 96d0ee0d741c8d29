"""Decoders of GPT's time or shape with code of their own: OpenELM, Jais, TeleChat, the first OLMo, CodeShell, Refact.

Sources: apple/OpenELM `modeling_openelm.py`; inceptionai/jais-13b `modeling_jais.py`; Tele-AI/TeleChat2 and vLLM 0.33.0
`telechat2.py`; allenai/OLMo-7B `hf_olmo`; of CodeShell and Refact llama.cpp `conversion/{codeshell,refact}.py`.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, num_layers
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.gpt import conv1d, positions
from hfmem.model.inventory import Column, Component, Row
from hfmem.model.layer_lists import full_layers
from hfmem.model.layers import Layer
from hfmem.records import replace

_PAIR = ("input_layernorm", "post_attention_layernorm")


def openelm(cfg: Config) -> Architecture:
    """OpenELM: heads and feed-forward widths by layer; gate and up in `proj_1`."""
    hidden, n, head_dim = cfg.positive("model_dim"), num_layers(cfg, "num_transformer_layers"), cfg.positive("head_dim")
    heads, kv = _by_layer(cfg, "num_query_heads", n), _by_layer(cfg, "num_kv_heads", n)
    widths = _openelm_widths(cfg, hidden, n)
    m = DecoderBuilder(
        cfg,
        d=Dims(hidden, n, heads[0], kv[0], head_dim),
        layers="transformer.layers.{}",
        embed="transformer.token_embeddings",
        final="transformer.norm",
        tied=cfg.flag("share_input_output_layers", default=True),
    )
    gated = cfg.flag("ffn_with_glu", default=True)
    caches: list[Layer] = []
    for i, (h, k, width) in enumerate(zip(heads, kv, widths, strict=True)):
        if h % k:
            raise ContradictionError(f"{cfg.file}: {h} attention heads cannot share {k} KV heads in layer {i}")
        own = replace(m.d, num_heads=h, num_kv_heads=k)
        blocks.fused_qkv(m.inv, m.at("attn.qkv_proj"), [i], own)
        m.linear("attn.out_proj", hidden, h * head_dim, Row(), layers=[i])
        if gated:
            m.fused_gated(width, "ffn.proj_1", "ffn.proj_2", layers=[i])
        else:
            m.plain(width, "ffn", ("proj_1", "proj_2"), bias=False, layers=[i])
        caches.append(Layer((blocks.full(own),)))
    if cfg.flag("normalize_qk_projections", default=False):
        m.norms("attn.q_norm", "attn.k_norm", size=head_dim)
    m.norms("attn_norm", "ffn_norm")
    return m.close("openelm", caches, intermediate=max(widths))


def _by_layer(cfg: Config, key: str, n: int) -> list[int]:
    values = cfg.need_list(key)
    if len(values) != n or not all(isinstance(v, int) and v > 0 for v in values):
        raise ContradictionError(f"{cfg.file}: {key!r} does not name a number for each of {n} layers")
    return values


def _openelm_widths(cfg: Config, hidden: int, n: int) -> list[int]:
    """`ffn_multipliers · model_dim` to the nearest multiple of `ffn_dim_divisor`, never a tenth below (`make_divisible`)."""
    divisor, widths = cfg.positive("ffn_dim_divisor"), []
    multipliers = cfg.need_list("ffn_multipliers")
    if len(multipliers) != n or not all(isinstance(v, int | float) and v > 0 for v in multipliers):
        raise ContradictionError(f"{cfg.file}: 'ffn_multipliers' does not name a number for each of {n} layers")
    for multiplier in multipliers:
        wanted = multiplier * hidden
        width = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
        widths.append(width + divisor if width < 0.9 * wanted else width)
    return widths


def jais(cfg: Config) -> Architecture:
    """Jais 13B and 30B: GPT-2's block with ALiBi and a gated feed-forward (`c_fc2` is the gate's other half)."""
    root = "transformer"
    m = DecoderBuilder(
        cfg, layers=f"{root}.h.{{}}", embed=f"{root}.wte", final=f"{root}.ln_f", norm_bias=True, untold_tie=True
    )
    hidden, inner = m.d.hidden, cfg.opt_int("n_inner") or 4 * m.d.hidden
    if cfg.opt_str("position_embedding_type") != "alibi":
        positions(m, f"{root}.wpe.weight")
    conv1d(m, "attn.c_attn", hidden, 3 * hidden, Component.ATTENTION, column=True)
    conv1d(m, "attn.c_proj", hidden, hidden, Component.ATTENTION, column=False)
    conv1d(m, "mlp.c_fc", hidden, inner, Component.MLP, column=True)
    if cfg.opt_str("activation_function") == "swiglu":
        conv1d(m, "mlp.c_fc2", hidden, inner, Component.MLP, column=True)
    conv1d(m, "mlp.c_proj", inner, hidden, Component.MLP, column=False)
    m.norms("ln_1", "ln_2")
    return m.close("jais", full_layers(m.d), intermediate=inner)


def telechat(cfg: Config) -> Architecture:
    """TeleChat 1 and 2: queries apart, keys and values in one matrix, biases on the two output projections."""
    root = "transformer"
    m = DecoderBuilder(
        cfg, layers=f"{root}.h.{{}}", embed=f"{root}.word_embeddings", head=f"{root}.lm_head", final=f"{root}.ln_f"
    )
    d = m.d
    kv = d.num_kv_heads * d.head_dim
    attn = "self_attention"
    m.linear(f"{attn}.query", d.num_heads * d.head_dim, d.hidden, Column())
    m.linear(f"{attn}.key_value", 2 * kv, d.hidden, Column((kv, kv), (d.num_kv_heads, d.num_kv_heads)))
    m.linear(f"{attn}.dense", d.hidden, d.num_heads * d.head_dim, Row(), bias=True)
    width = cfg.positive("ffn_hidden_size")
    for name in ("gate_proj", "up_proj"):
        m.linear(f"mlp.{name}", width, d.hidden, Column(), component=Component.MLP)
    m.linear("mlp.down_proj", d.hidden, width, Row(), bias=True, component=Component.MLP)
    m.norms(*_PAIR)
    return m.close("telechat", full_layers(d), intermediate=width)


def hf_olmo(cfg: Config) -> Architecture:
    """OLMo 1 as first published (`hf_olmo`): fused q, k, v and gate, up; `mlp_hidden_size` is both halves."""
    hidden, heads = cfg.positive("d_model"), cfg.positive("n_heads")
    kv = cfg.opt_int("n_kv_heads") or (1 if cfg.flag("multi_query_attention", default=False) else heads)
    root = "model.transformer"
    vocab = cfg.opt_int("embedding_size") or cfg.positive("vocab_size")
    m = DecoderBuilder(
        Config({**cfg.data, "vocab_size": vocab}, cfg.file, cfg.model_type, cfg.used_defaults),
        d=Dims(hidden, num_layers(cfg), heads, kv, hidden // heads),
        layers=f"{root}.blocks.{{}}",
        embed=f"{root}.wte",
        head=f"{root}.ff_out",
        final=f"{root}.ln_f",
        tied=cfg.flag("weight_tying", default=True),
    )
    if cfg.flag("include_bias", default=False):
        cfg.choice("include_bias", "true", ("false",))
    both = cfg.opt_int("mlp_hidden_size") or cfg.positive("mlp_ratio") * hidden
    m.qkv("att_proj")
    m.linear("attn_out", hidden, hidden, Row())
    m.linear("ff_proj", both, hidden, Column((both // 2,) * 2, (None, None)), component=Component.MLP)
    m.linear("ff_out", hidden, both // 2, Row(), component=Component.MLP)
    affine = cfg.flag("layer_norm_with_affine", default=True)
    if affine:
        m.norms("attn_norm", "ff_norm")
    return m.close("olmo", full_layers(m.d), final=affine, intermediate=both // 2)


def codeshell(cfg: Config) -> Architecture:
    """CodeShell: GPT-2's names over ordinary linear layers, `num_query_groups` KV heads in `c_attn`, rotary positions."""
    hidden, heads = cfg.positive("n_embd"), cfg.positive("n_head")
    groups = cfg.positive("num_query_groups") if cfg.flag("group_query_attention", default=True) else heads
    d = Dims(hidden, num_layers(cfg), heads, groups, hidden // heads)
    cfg.choice("position_embedding_type", cfg.opt_str("position_embedding_type") or "", ("rope",))
    at = "transformer"
    m = DecoderBuilder(
        cfg, d=d, layers=f"{at}.h.{{}}", embed=f"{at}.wte", final=f"{at}.ln_f", norm_bias=True, untold_tie=True
    )
    m.qkv("attn.c_attn", bias=True)
    m.linear("attn.c_proj", hidden, hidden, Row(), bias=True)
    m.plain(cfg.opt_int("n_inner") or 4 * hidden, "mlp", ("c_fc", "c_proj"), bias=True)
    m.norms("ln_1", "ln_2")
    return m.close("codeshell", full_layers(d))


def refact(cfg: Config) -> Architecture:
    """Refact 1.6B: one KV head for all, a gate beside the up-projection, no biases; positions by ALiBi."""
    hidden, heads = cfg.positive("n_embd"), cfg.positive("n_head")
    d = Dims(hidden, num_layers(cfg), heads, 1, hidden // heads)
    m = DecoderBuilder(cfg, d=d, layers="transformer.h.{}", embed="transformer.wte", final="ln_f", tied=False)
    width = 256 * -(-int(2 * 4 * hidden / 3) // 256)
    m.linear("attn.q", hidden, hidden, Column())
    m.linear("attn.kv", 2 * d.head_dim, hidden, Column((d.head_dim, d.head_dim), (1, 1)))
    m.linear("attn.c_proj", hidden, hidden, Row())
    m.fused_gated(width, "mlp.gate_up_proj", "mlp.c_proj")
    m.norms("ln_1", "ln_2")
    return m.close("refact", full_layers(d))
