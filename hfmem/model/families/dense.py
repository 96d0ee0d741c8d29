"""Dense decoders that differ from Llama in norms, biases, a fused matrix or interleaved windows.

Source: transformers 5.23.0 `models/<model_type>/{configuration,modeling}_*.py`; tensor names as published checkpoints have them.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import read_dims
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder, read_as
from hfmem.model.families.llama import decoder
from hfmem.model.inventory import Column, Component, Row
from hfmem.model.layer_lists import full_layers, typed_layers, windowed_layers
from hfmem.model.layers import Layer

_PAIR = ("input_layernorm", "post_attention_layernorm")
_POST_ONLY = ("post_attention_layernorm", "post_feedforward_layernorm")


def _bias(cfg: Config, key: str = "attention_bias") -> bool:
    return cfg.flag(key, default=False)


def ministral(cfg: Config) -> Architecture:
    """Ministral (2410): Mistral with `layer_types`; without them every layer slides when `sliding_window` is set."""
    d = read_dims(cfg)
    types = cfg.opt_list("layer_types")
    return decoder(
        cfg, "ministral", d=d, layers=windowed_layers(cfg, d) if types is None else typed_layers(cfg, d, None)
    )


def ministral3(cfg: Config) -> Architecture:
    """Ministral 3: Mistral's block; a `sliding_window`, where set, holds in every layer."""
    d = read_dims(cfg)
    return decoder(cfg, "ministral3", d=d, layers=windowed_layers(cfg, d))


def smollm3(cfg: Config) -> Architecture:
    """SmolLM3: no rotary embedding in every fourth layer; those layers slide if `use_sliding_window`."""
    d = read_dims(cfg)
    layers = full_layers(d)
    named = cfg.opt_list("layer_types") is not None
    if cfg.flag("use_sliding_window", default=False) and (named or cfg.opt_int("sliding_window")):
        rope = cfg.opt_list("no_rope_layers")  # 1 where a layer has rotary embeddings
        step = cfg.opt_int("no_rope_layer_interval") or 4  # configuration_smollm3.py's default
        layers = typed_layers(cfg, d, lambda i: bool(rope[i]) if rope is not None else (i + 1) % step != 0)
    bias = _bias(cfg)
    return decoder(cfg, "smollm3", d=d, layers=layers, qkv_bias=bias, o_bias=bias, mlp_bias=_bias(cfg, "mlp_bias"))


def granite(cfg: Config) -> Architecture:
    """Granite 3 dense: Llama's block with multipliers, which store nothing."""
    bias = _bias(cfg)
    return decoder(cfg, "granite", qkv_bias=bias, o_bias=bias, mlp_bias=_bias(cfg, "mlp_bias"))


def seed_oss(cfg: Config) -> Architecture:
    """Seed-OSS: biases on q, k, v, and on the output by a flag of its own."""
    out = _bias(cfg, "attention_out_bias")
    return decoder(cfg, "seed_oss", qkv_bias=_bias(cfg), o_bias=out, mlp_bias=_bias(cfg, "mlp_bias"))


def internlm3(cfg: Config) -> Architecture:
    """InternLM3: `qkv_bias` for q, k, v; `bias` for the output and the feed-forward.

    The class of transformers calls them `attention_bias` and `mlp_bias`.
    """
    bias = cfg.flag("bias", "mlp_bias", default=False)
    qkv = cfg.flag("qkv_bias", "attention_bias", default=False)
    return decoder(cfg, "internlm3", qkv_bias=qkv, o_bias=bias, mlp_bias=bias)


def iquestcoder(cfg: Config) -> Architecture:
    """IQuest-Coder: Llama's block; windows, which the class refuses, are refused here."""
    if cfg.flag("use_sliding_window", default=False):
        cfg.choice("use_sliding_window", "true", ("false",))
    bias = _bias(cfg)
    return decoder(cfg, "iquestcoder", qkv_bias=bias, o_bias=bias, mlp_bias=_bias(cfg, "mlp_bias"))


def cwm(cfg: Config) -> Architecture:
    """Code World Model: windows in three of four layers, the first layer full."""
    d = read_dims(cfg)
    layers = typed_layers(cfg, d, lambda i: i % 4 == 0)
    return decoder(cfg, "cwm", d=d, layers=layers, mlp_bias=_bias(cfg, "mlp_bias"))


def helium(cfg: Config) -> Architecture:
    """Helium 1: the output projection is square and never has a bias."""
    d = read_dims(cfg)
    if d.num_heads * d.head_dim != d.hidden:
        raise ContradictionError(f"{cfg.file}: {d.num_heads} heads of {d.head_dim} do not make hidden_size {d.hidden}")
    return decoder(cfg, "helium", qkv_bias=_bias(cfg), mlp_bias=_bias(cfg, "mlp_bias"))


def ernie4_5(cfg: Config) -> Architecture:
    """ERNIE 4.5 dense: all biases but the head's by `use_bias`."""
    bias = _bias(cfg, "use_bias")
    return decoder(cfg, "ernie4_5", qkv_bias=bias, o_bias=bias, mlp_bias=bias)


def phi3(cfg: Config) -> Architecture:
    """Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini: q, k, v in one matrix, gate and up in one; the window holds in every layer."""
    m = DecoderBuilder(cfg)
    m.qkv("self_attn.qkv_proj")
    m.linear("self_attn.o_proj", m.d.hidden, m.d.num_heads * m.d.head_dim, Row())
    m.fused_gated(cfg.positive("intermediate_size"), "mlp.gate_up_proj", "mlp.down_proj")
    m.norms(*_PAIR)
    return m.close("phi3", windowed_layers(cfg, m.d))


def phi4(cfg: Config) -> Architecture:
    """`phi4`, as some Phi-4-mini checkpoints call themselves: Phi-3's class."""
    return read_as(phi3, cfg, "phi3")


def glm(cfg: Config) -> Architecture:
    """GLM-4-9B as converted to transformers (`glm`): biases on q, k, v; gate and up in one matrix."""
    return _glm(cfg, "glm", _PAIR)


def glm4(cfg: Config) -> Architecture:
    """GLM-4-0414 (9B, 32B, Z1): `glm` with a norm after attention and after the feed-forward too."""
    return _glm(cfg, "glm4", (*_PAIR, "post_self_attn_layernorm", "post_mlp_layernorm"))


def _glm(cfg: Config, family: str, norms: tuple[str, ...]) -> Architecture:
    m = DecoderBuilder(cfg)
    m.attention(qkv_bias=_bias(cfg))
    m.fused_gated(cfg.positive("intermediate_size"), "mlp.gate_up_proj", "mlp.down_proj")
    m.norms(*norms)
    return m.close(family, full_layers(m.d))


def cohere(cfg: Config) -> Architecture:
    """Command R and R+: attention and feed-forward in parallel behind one norm; R+ normalises q and k per head."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    if cfg.flag("use_qk_norm", default=False):
        m.each("self_attn.q_norm.weight", (m.d.num_heads, m.d.head_dim), Component.NORM, None, Column())
        m.each(
            "self_attn.k_norm.weight",
            (m.d.num_kv_heads, m.d.head_dim),
            Component.NORM,
            None,
            Column(kv_heads=(m.d.num_kv_heads,)),
        )
    m.gated(cfg.positive("intermediate_size"))
    m.norms("input_layernorm")
    return m.close("cohere", full_layers(m.d))


def cohere2(cfg: Config) -> Architecture:
    """Command R7B, Command A: every `sliding_window_pattern`-th layer (4) sees everything, the others a window."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.gated(cfg.positive("intermediate_size"))
    m.norms("input_layernorm")
    return m.close("cohere2", _every_nth(cfg, m, 4))


def _every_nth(cfg: Config, m: DecoderBuilder, untold: int) -> list[Layer]:
    """Full attention in every n-th layer, n being `sliding_window_pattern`; `untold`: the class's own default."""
    published = cfg.published("sliding_window_pattern")
    pattern = cfg.positive("sliding_window_pattern") if published is not None else untold
    return typed_layers(cfg, m.d, lambda i: (i + 1) % pattern == 0)


def cohere_compass(cfg: Config) -> Architecture:
    """Cohere Compass (text): Cohere 2's block, full attention where `layer_types` does not say otherwise."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.gated(cfg.positive("intermediate_size"))
    m.norms("input_layernorm")
    return m.close("cohere_compass", typed_layers(cfg, m.d, None))


def olmo(cfg: Config) -> Architecture:
    """OLMo 1: Llama's block, norms without parameters."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.gated(cfg.positive("intermediate_size"))
    return m.close("olmo", full_layers(m.d), final=False)


def olmo2(cfg: Config) -> Architecture:
    """OLMo 2: norms after attention and feed-forward, and over the whole of q and k."""
    return _olmo23(cfg, "olmo2", windows=False)


def olmo3(cfg: Config) -> Architecture:
    """OLMo 3: OLMo 2 with windows in three of four layers."""
    return _olmo23(cfg, "olmo3", windows=True)


def _olmo23(cfg: Config, family: str, *, windows: bool) -> Architecture:
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="full")
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_POST_ONLY)
    return m.close(family, typed_layers(cfg, m.d, lambda i: (i + 1) % 4 == 0) if windows else full_layers(m.d))


def exaone4(cfg: Config) -> Architecture:
    """EXAONE 4: norms after attention and feed-forward, q and k normalised per head; windows by `sliding_window_pattern`."""
    m = DecoderBuilder(cfg)
    m.attention(qk_norm="head")
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_POST_ONLY)
    return m.close("exaone4", exaone_layers(cfg, m))


def exaone4_5_text(cfg: Config) -> Architecture:
    """What EXAONE 4.5's files call its text model; transformers reads EXAONE 4 (`configuration_exaone4_5.py`)."""
    return read_as(exaone4, cfg, "exaone4")


def exaone_layers(cfg: Config, m: DecoderBuilder) -> list[Layer]:
    """`sliding_window_pattern` is a number (every n-th layer is full) or a string such as `LLLG` (G is full), repeated."""
    if cfg.opt_int("sliding_window") is None:
        return full_layers(m.d)
    pattern = cfg.lookup("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:
        letters = [cfg.choice("sliding_window_pattern", letter, ("L", "G")) for letter in pattern]
        return typed_layers(cfg, m.d, lambda i: letters[i % len(letters)] == "G")
    step = cfg.positive("sliding_window_pattern")
    return typed_layers(cfg, m.d, lambda i: (i + 1) % step == 0)


def granite_swa(cfg: Config) -> Architecture:
    """Granite with windows and attention sinks; every fourth layer, from the first on, is full."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.each("self_attn.sinks", (m.d.num_heads,), Component.ATTENTION, None, Column())
    m.gated(cfg.positive("intermediate_size"), bias=_bias(cfg, "mlp_bias"))
    m.norms(*_PAIR)
    return m.close("granite_swa", typed_layers(cfg, m.d, lambda i: i % 4 == 0))


def hyperclovax(cfg: Config) -> Architecture:
    """HyperCLOVA X: Granite's block with optional norms after attention and feed-forward."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.gated(cfg.positive("intermediate_size"), bias=_bias(cfg, "mlp_bias"))
    m.norms(*_PAIR)
    if cfg.flag("use_post_norm", default=False):
        m.norms("post_norm1", "post_norm2")
    return m.close("hyperclovax", full_layers(m.d))


def hunyuan_dense(cfg: Config) -> Architecture:
    """HunYuan V1 dense: Llama's block, q and k normalised per head under names of their own."""
    m = DecoderBuilder(cfg)
    bias = _bias(cfg)
    m.attention(qkv_bias=bias, o_bias=bias, qk_norm="head", qk_norm_names=("query_layernorm", "key_layernorm"))
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    return m.close("hunyuan_v1_dense", full_layers(m.d))
