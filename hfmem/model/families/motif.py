"""Motif: differential attention over pairs of heads (2.6B), and Motif 3: the same over a latent, hyper-connections, experts.

Source: vLLM 0.10.1 `model_executor/models/motif.py` (2.6B); Motif 3's module as ports of it read the published files (an MLX one's
loader is strict): names and shapes, windows and the layers that have them.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError, UnknownArchitectureError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, num_layers
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families import vision
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Row
from hfmem.model.layer_lists import full_layers, others
from hfmem.model.layers import FullAttention, Layer, SlidingAttention
from hfmem.model.stack import as_mtp

_PAIR = ("input_layernorm", "post_attention_layernorm")
_TERMS = 3  # of PolyNorm: the cube, the square and the value itself


def motif(cfg: Config) -> Architecture:
    """Told apart by `attention_cls`; models between the two have noise heads and no latent, and their layout is not known."""
    kind = cfg.opt_str("attention_cls")
    if kind is not None:
        cfg.choice("attention_cls", kind, ("gdla",))
        return _motif3(cfg)
    if cfg.published("num_noise_heads") is not None:
        raise UnknownArchitectureError(
            f"{cfg.file}: 'num_noise_heads' without 'attention_cls': a Motif whose layout is not known"
        )
    return _motif1(cfg)


def _motif1(cfg: Config) -> Architecture:
    """Llama's block; two halves of the heads are weighed by four vectors and normed together, PolyNorm has weights of its own."""
    m = DecoderBuilder(cfg, untold_tie=True)
    bias = cfg.flag("use_bias", default=False)
    o_bias = bias or cfg.flag("attention_bias", default=False)
    m.attention(qkv_bias=cfg.flag("qkv_bias", default=o_bias), o_bias=o_bias)
    for name in ("q1", "k1", "q2", "k2"):
        m.each(f"self_attn.lambda_{name}", (m.d.head_dim,), Component.ATTENTION)
    m.norms("self_attn.subln", size=2 * m.d.head_dim)
    m.gated(cfg.positive("intermediate_size"), bias=bias)
    _polynorm(m, "mlp.act_fn")
    m.norms(*_PAIR)
    return m.close("motif", full_layers(m.d))


def _polynorm(m: DecoderBuilder, at: str, layers: list[int] | None = None) -> None:
    m.each(f"{at}.weight", (_TERMS,), Component.MLP, layers)
    m.each(f"{at}.bias", (1,), Component.MLP, layers)


def _motif3(cfg: Config) -> Architecture:
    """Keys and values are expanded from the latent before they are kept; every `sliding_window_period`-th layer keeps all."""
    hidden, heads, kv = (cfg.positive(key) for key in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    d = Dims(hidden, num_layers(cfg), heads, kv, cfg.positive("head_dim"))
    m = DecoderBuilder(cfg, d=d)
    _latent(Part(m.inv, "model.layers.{}.self_attn.", Component.ATTENTION, (tuple(m.every),)), cfg, d)
    first, step = cfg.need_int("n_dense_first_layers"), cfg.need_int("interleave_moe_layer_step")
    sparse = [i for i in m.every if step and i >= first and (i + 1) % step == 0]
    dense = others(d.num_layers, sparse)
    m.gated(cfg.positive("intermediate_size"), layers=dense)
    _polynorm(m, "mlp.act_fn", dense)
    if sparse:
        _experts(m, cfg, sparse)
    m.norms(*_PAIR)
    if cfg.flag("mhc_enabled"):
        for name in ("mhc_attn", "mhc_ffn"):
            at = Part(m.inv, f"model.layers.{{}}.{name}.", Component.OTHER, (tuple(m.every),))
            _hyper_connection(at, cfg.positive("mhc_expansion_rate"), hidden)
    count = cfg.opt_int("num_nextn_predict_layers") or 0
    as_mtp(m.inv, lambda inv: _predicts(inv, cfg, d, count))
    return m.close("motif", _caches(cfg, d))


def _caches(cfg: Config, d: Dims) -> list[Layer]:
    v = cfg.positive("v_head_dim")
    everything = Layer((FullAttention(d.num_heads, d.num_kv_heads, d.head_dim, v),))
    if not cfg.flag("use_sliding_window"):
        return [everything] * d.num_layers
    pattern = cfg.choice("sliding_window_pattern", cfg.opt_str("sliding_window_pattern") or "", ("interleave", "all"))
    period = cfg.positive("sliding_window_period") if pattern == "interleave" else d.num_layers + 1
    # a token sees itself beside the `sliding_window` before it
    near = Layer((SlidingAttention(d.num_heads, d.num_kv_heads, d.head_dim, v, cfg.positive("sliding_window") + 1),))
    return [everything if pattern == "interleave" and i % period == 0 else near for i in range(d.num_layers)]


def _latent(at: Part, cfg: Config, d: Dims) -> None:
    """Heads come in groups of one for noise and several for the signal; the gate and the output have those of the signal."""
    rope, v = cfg.positive("qk_rope_head_dim"), cfg.positive("v_head_dim")
    signal = d.num_heads - cfg.positive("num_noise_heads")
    if not 0 < rope < d.head_dim or signal < 1:
        raise ContradictionError(
            f"{cfg.file}: {signal} signal heads of {d.head_dim}, {rope} of which turn, are no attention"
        )
    q, row = cfg.positive("q_lora_rank"), cfg.positive("kv_lora_rank")
    at.linear("wq_a", q, d.hidden, bias=False)
    at.tensor("q_norm.weight", (q,), Component.NORM)
    at.linear("wq_b", d.num_heads * d.head_dim, q, split=COLUMN, bias=False)
    if cfg.flag("elementwise_attn_output_gate"):
        at.linear("wq_b_gate", signal * v, q, split=COLUMN, bias=False)
    at.linear("wkv_a", row + rope, d.hidden, bias=False)
    at.tensor("kv_norm.weight", (row,), Component.NORM)
    keys = Column(kv_heads=(d.num_kv_heads,))
    at.linear("wkv_b", d.num_kv_heads * (d.head_dim - rope + v), row, split=keys, bias=False)
    at.linear("lambda_proj", signal, d.hidden, split=COLUMN, bias=False)
    at.linear("wo", d.hidden, signal * v, split=ROW, bias=False)


def _experts(m: DecoderBuilder, cfg: Config, layers: list[int]) -> None:
    count, top_k, width = (cfg.positive(key) for key in ("num_experts", "experts_top_k", "moe_intermediate_size"))
    share, hidden, part = Fraction(top_k, count), m.d.hidden, Component.EXPERTS
    up, down = ExpertSplit(None, Column((width, width), (None, None))), ExpertSplit(None, Row())
    m.inv.each(m.at("moe.experts.gate_up_proj"), layers, (count, 2 * width, hidden), part, up, active=share)
    m.inv.each(m.at("moe.experts.down_proj"), layers, (count, hidden, width), part, down, active=share)
    m.each("moe.experts.act_fn.weight", (count, _TERMS), part, layers)
    m.each("moe.experts.act_fn.bias", (count, 1), part, layers)
    m.each("moe.router.gate.weight", (count, hidden), part, layers)
    m.each("moe.expert_bias", (count,), part, layers, buffer=True)
    shared = cfg.opt_int("num_shared_experts")
    if shared:
        m.gated(width * shared, "moe.shared_experts", layers=layers)
        _polynorm(m, "moe.shared_experts.act_fn", layers)
    m.moe = (count, top_k)


def _hyper_connection(at: Part, rate: int, hidden: int) -> None:
    """What reads from, writes to and mixes the `rate` streams between layers."""
    at.tensor("rms_norm.weight", (rate * hidden,), Component.NORM)
    for name, out, bias in (("pre", rate, (rate,)), ("post", rate, (rate,)), ("res", rate * rate, (rate, rate))):
        at.linear(f"proj_{name}", out, rate * hidden, bias=False)
        at.tensor(f"bias_{name}", bias)
        at.tensor(f"alpha_{name}", (1,))


def _predicts(inv: Inventory, cfg: Config, d: Dims, count: int) -> None:
    at = Part(inv, "model.mtp_layers.{}.", Component.MTP, (tuple(range(count)),))
    at.linear("input_proj", d.hidden, 2 * d.hidden, bias=False)
    at.norms(("embed_norm", *_PAIR, "final_layernorm"), d.hidden, bias=False)
    _latent(at.at("self_attn."), cfg, d)
    vision.gated(at.at("mlp."), d.hidden, cfg.positive("intermediate_size"), bias=False)
    at.tensor("mlp.act_fn.weight", (_TERMS,))
    at.tensor("mlp.act_fn.bias", (1,))
