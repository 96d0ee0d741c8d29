"""Decoders served by SGLang whose layers differ, with code published beside their weights: Jet-Nemotron, MiniCPM-SALA, Spark 2.5,
Nanbeige's loops; Baichuan-M1 and Yuan 2.

Source: SGLang 0.5.23 `models/{jet_nemotron,minicpm,spark2_5,nanbeige}.py` and `configs/…`, names as its loaders read them.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import read_dims
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.delta_blocks import DeltaNet
from hfmem.model.inventory import Column, Component, Row
from hfmem.model.layer_lists import exactly, others, typed_layers
from hfmem.model.layers import Cache, Layer, LinearAttentionState, ShortConvState
from hfmem.records import replace

_PAIR = ("input_layernorm", "post_attention_layernorm")
_PART = Component.ATTENTION


def jet_nemotron(cfg: Config) -> Architecture:
    """Jet-Nemotron: delta nets whose convolution over v is generated from the token, between full and windowed attention.

    The states are those that SGLang allocates: a convolution over q, k and v, of which v's part is used.
    """
    m = DecoderBuilder(cfg)
    d, hidden = m.d, m.d.hidden
    kinds = exactly(cfg, "layer_types", cfg.need_list("layer_types"), d.num_layers)
    kinds = [cfg.choice("layer_types", kind, ("attn", "swa", "jet")) for kind in kinds]
    jet = [i for i, kind in enumerate(kinds) if kind == "jet"]
    settings = cfg.sub("efficient_attention_config", model_type="jet")
    m.attention(layers=others(d.num_layers, jet), qkv_bias=True)
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    caches: dict[str, Cache] = {"attn": blocks.full(d)}
    if "swa" in kinds:
        caches["swa"] = blocks.sliding(d, settings.sub("swa", model_type="jet").positive("window_size"))
    if jet:
        own = settings.sub("jet", model_type="jet")
        heads, size, kernel = own.positive("num_heads"), own.positive("head_dim"), own.positive("conv_size")
        net = DeltaNet(heads, heads, size, int(size * own.positive_float("expand_v")), kernel)
        for name, rows in (
            ("q", net.keys),
            ("k", net.keys),
            ("v", net.values),
            ("a", heads),
            ("b", heads),
            ("g", net.values),
        ):
            m.linear(f"self_attn.{name}_proj", rows, hidden, Column(), layers=jet)
        m.linear("self_attn.o_proj", hidden, net.values, Row(), layers=jet)
        generator, width = (
            "self_attn.dynamic_conv1d.kernel_generator",
            net.values // own.positive("dconv_generator_reduction"),
        )
        m.linear(f"{generator}.w1", width, hidden, Column(), layers=jet)
        m.linear(f"{generator}.w2", net.values * kernel, width, Column(), layers=jet, bias=True)
        for name in ("A_log", "dt_bias"):
            m.each(f"self_attn.{name}", (heads,), _PART, jet, Column())
        m.norms("self_attn.o_norm", size=net.v_dim, layers=jet)
        caches["jet"] = net.cache()
    return m.close("jet_nemotron", [Layer((caches[kind],)) for kind in kinds])


_SALA = {
    **dict.fromkeys(("minicpm4", "minicpm", "standard", "attention", "attn"), False),
    **dict.fromkeys(("lightning", "lightning_attn", "lightning-attn"), True),
}


def minicpm_sala(cfg: Config) -> Architecture:
    """MiniCPM-SALA: full attention (sparse when decoding) and lightning attention by `mixer_types`, a pattern that repeats."""
    m = DecoderBuilder(cfg)
    d, n = m.d, m.d.num_layers
    types = [cfg.choice("mixer_types", str(kind), tuple(_SALA)) for kind in cfg.opt_list("mixer_types") or ["minicpm4"]]
    if len(types) > n:
        raise ContradictionError(f"{cfg.file}: 'mixer_types' has {len(types)} entries for {n} layers")
    linear = [_SALA[types[i % len(types)]] for i in range(n)]
    where, bias = [i for i in range(n) if linear[i]], cfg.flag("attention_bias", default=False)
    rest = others(n, where)
    m.attention(layers=rest, qkv_bias=bias, o_bias=bias)
    if cfg.flag("attn_use_output_gate", default=False):
        m.linear("self_attn.o_gate", d.num_heads * d.head_dim, d.hidden, Column(), layers=rest, bias=bias)
    heads, size = cfg.opt_int("lightning_nh") or d.num_heads, cfg.opt_int("lightning_head_dim") or d.head_dim
    kv_heads = cfg.opt_int("lightning_nkv") or d.num_kv_heads
    if where and heads != kv_heads:
        raise ContradictionError(
            f"{cfg.file}: 'lightning_nh' is {heads} and 'lightning_nkv' {kv_heads}; they must be equal"
        )
    own = replace(d, num_heads=heads, num_kv_heads=kv_heads, head_dim=size)
    normed = "head" if cfg.flag("qk_norm", default=True) else None
    m.attention(layers=where, d=own, qkv_bias=bias, o_bias=bias, qk_norm=normed)
    if cfg.flag("use_output_gate", default=False):
        m.linear("self_attn.z_proj", heads * size, d.hidden, Column(), layers=where, bias=bias)
    if cfg.flag("use_output_norm", default=False):
        m.each("self_attn.o_norm.weight", (heads * size,), Component.NORM, where, Column())
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    state = LinearAttentionState(heads, size)
    return m.close("minicpm_sala", [Layer((state if linear[i] else blocks.full(d),)) for i in range(n)])


def spark2_5(cfg: Config) -> Architecture:
    """Spark 2.5: fused q, k and v, a gate for each head, three windowed layers before each full one unless the config says else."""
    d = read_dims(cfg)
    m = DecoderBuilder(cfg)
    m.qkv("self_attn.q_k_v_proj")
    if cfg.flag("headwise_attn_output_gate", default=True):
        m.linear("self_attn.g_proj", d.num_heads, d.hidden, Column())
    m.linear("self_attn.out_proj", d.hidden, d.num_heads * d.head_dim, Row())
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    types = cfg.opt_list("layer_types")
    told = Config(
        {**cfg.data, "layer_types": types and types[: d.num_layers]}, cfg.file, cfg.model_type, cfg.used_defaults
    )
    return m.close("spark2_5", typed_layers(told, d, lambda i: (i + 1) % 4 == 0))


def baichuan_m1(cfg: Config) -> Architecture:
    """Baichuan-M1: a convolution over the keys and values of each head; windowed layers, which may have heads of their own.

    Beside its keys and values a layer keeps the last token's before the convolution (mlx-lm `baichuan_m1.py`).
    """
    m = DecoderBuilder(cfg)
    d, taps = m.d, cfg.positive("conv_window")
    slides = [i for i in cfg.numbers("sliding_window_layers") or [] if i in m.every]
    heads = cfg.opt_int("num_swa_attention_heads") or d.num_heads
    narrow = cfg.opt_int("num_swa_key_value_heads") or d.num_kv_heads
    own = replace(d, num_heads=heads, num_kv_heads=narrow, head_dim=d.hidden // heads)
    for layers, dims in ((others(d.num_layers, slides), d), (slides, own)):
        blocks.fused_qkv(m.inv, m.at("self_attn.W_pack"), layers, dims, bias=False)
        m.linear("self_attn.o_proj", d.hidden, dims.num_heads * dims.head_dim, Row(), layers=layers)
        for name in ("conv_k", "conv_v"):
            m.each(f"self_attn.{name}", (1, 1, dims.num_kv_heads, 1, taps), _PART, layers)
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    window = cfg.positive("sliding_window") if slides else 0

    def kept(i: int) -> Layer:
        dims, cache = (own, blocks.sliding(own, window)) if i in slides else (d, blocks.full(d))
        return Layer((cache, ShortConvState(2 * dims.num_kv_heads * dims.head_dim, taps)))

    return m.close("baichuan_m1", [kept(i) for i in m.every])


def yuan(cfg: Config) -> Architecture:
    """Yuan 2: Llama's block whose queries and keys see two convolutions over neighbouring tokens.

    Beside its keys and values a layer keeps the last two tokens' inputs (IEITYuan/Yuan2-2B-hf `yuan_hf_model.py`).
    """
    cfg.choice("use_shareqk", str(cfg.flag("use_shareqk", default=False)).lower(), ("false",))
    m = DecoderBuilder(cfg)
    hidden, half = m.d.hidden, m.d.hidden // 2
    m.attention()
    for name, out, columns in (("conv1", half, hidden), ("conv2", hidden, half)):
        m.each(f"self_attn.lf_gate.{name}.weight", (out, columns, 2, 1), _PART)
        m.each(f"self_attn.lf_gate.{name}.bias", (out,), _PART)
    m.norms("self_attn.lf_gate.output_layernorm", *_PAIR)
    m.gated(cfg.positive("intermediate_size"))
    kept = Layer((blocks.full(m.d), ShortConvState(hidden, 3)))
    return m.close("yuan", [kept] * m.d.num_layers)


def nanbeige(cfg: Config) -> Architecture:
    """Nanbeige's looped models: all layers run `num_loops` times (2 unless told), each pass with keys and values of its own."""
    m = DecoderBuilder(cfg)
    m.attention()
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    loops = 2 if cfg.published("num_loops") is None else cfg.positive("num_loops")
    return m.close("nanbeige", [Layer((blocks.full(m.d),) * loops)] * m.d.num_layers)
