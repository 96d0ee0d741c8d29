"""Decoders found by architecture search, every layer with sizes of its own: Llama-Nemotron (`nemotron-nas`) and DeciLM (`deci`).

Source: nvidia/Llama-3_3-Nemotron-Super-49B `modeling_decilm.py` and `block_config.py`, Deci/DeciLM-7B `modeling_decilm.py`, and
vLLM 0.33.0 `models/nemotron_nas.py`.
"""

from __future__ import annotations

from collections import defaultdict

from hfmem.errors import ContradictionError, UnknownArchitectureError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, num_layers
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.inventory import Component, Replicated
from hfmem.model.layers import Layer, NoCache
from hfmem.records import dataclass, replace

_MULTIPLE = 256


def ffn_width(mult: float, hidden: int) -> int:
    """`2 · mult · hidden / 3` rounded up to a multiple of 256 (`_ffn_mult_to_intermediate_size`)."""
    width = int(2 * mult * hidden / 3)
    return -(-width // _MULTIPLE) * _MULTIPLE


@dataclass(frozen=True, slots=True)
class _Block:
    """One layer: KV heads (None: no attention) and its window, feed-forward width (None: none), or a plain matrix for either."""

    kv_heads: int | None
    window: int | None
    linear_attention: bool
    width: int | None
    linear_ffn: bool


def nemotron_nas(cfg: Config) -> Architecture:
    """Llama-Nemotron Super and Ultra, and others published as `nemotron-nas`: `block_configs` says what each layer has."""
    hidden, heads = cfg.positive("hidden_size"), cfg.positive("num_attention_heads")
    entries = cfg.need_list("block_configs")
    count = num_layers(cfg)
    if len(entries) != count or not all(isinstance(entry, dict) for entry in entries):
        raise ContradictionError(f"{cfg.file}: 'block_configs' has {len(entries)} entries for {count} layers")
    read = [
        _read(Config(entry, f"{cfg.file}: block_configs[{i}]", ""), heads, hidden) for i, entry in enumerate(entries)
    ]
    return _assemble(cfg, "nemotron-nas", hidden, heads, read)


def _read(cfg: Config, heads: int, hidden: int) -> _Block:
    attn, ffn = cfg.sub("attention", model_type="-"), cfg.sub("ffn", model_type="-")
    kv_heads = window = width = None
    linear_attention = attn.flag("replace_with_linear", default=False)
    if attn.flag("no_op", default=False):
        linear_attention = False
    elif not linear_attention:
        group = attn.positive("n_heads_in_group")
        if heads % group:
            raise ContradictionError(f"{attn.file}: {heads} heads do not divide into groups of {group}")
        kv_heads, window = heads // group, attn.opt_int("window_length")
        if attn.opt_int("num_sink_tokens"):
            raise UnknownArchitectureError(f"{attn.file}: 'num_sink_tokens': windows with sinks are not known here")
    linear_ffn = ffn.flag("replace_with_linear", default=False)
    if ffn.flag("no_op", default=False):
        linear_ffn = False
    elif not linear_ffn:
        mult = ffn.opt_float("ffn_mult")
        width = ffn.positive("intermediate_size") if mult is None else ffn_width(mult, hidden)
    return _Block(kv_heads, window, linear_attention, width, linear_ffn)


def deci(cfg: Config) -> Architecture:
    """DeciLM-6B and 7B: `num_key_value_heads_per_layer`, otherwise Llama; with `block_configs` it is read as `nemotron-nas`."""
    if cfg.published("block_configs") is not None:
        return nemotron_nas(cfg)
    hidden, heads = cfg.positive("hidden_size"), cfg.positive("num_attention_heads")
    width, count = cfg.positive("intermediate_size"), num_layers(cfg)
    per_layer = cfg.need_list("num_key_value_heads_per_layer")
    if len(per_layer) != count or not all(isinstance(n, int) and n > 0 and heads % n == 0 for n in per_layer):
        raise ContradictionError(
            f"{cfg.file}: 'num_key_value_heads_per_layer' does not fit {count} layers of {heads} heads"
        )
    return _assemble(cfg, "deci", hidden, heads, [_Block(n, None, False, width, False) for n in per_layer])


def _assemble(cfg: Config, family: str, hidden: int, heads: int, read: list[_Block]) -> Architecture:
    head_dim = cfg.opt_int("head_dim") or hidden // heads
    attending = [b.kv_heads for b in read if b.kv_heads is not None]
    d = Dims(hidden, len(read), heads, attending[0] if attending else heads, head_dim)
    m = DecoderBuilder(cfg, d=d)
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    by_heads: dict[int, list[int]] = defaultdict(list)
    by_width: dict[int, list[int]] = defaultdict(list)
    for i, block in enumerate(read):
        if block.kv_heads is not None:
            by_heads[block.kv_heads].append(i)
        if block.width is not None:
            by_width[block.width].append(i)
    for kv_heads, where in sorted(by_heads.items()):
        m.attention(layers=where, d=replace(d, num_kv_heads=kv_heads), qkv_bias=bias, o_bias=bias)
    for width, where in sorted(by_width.items()):
        m.gated(width, layers=where, bias=mlp_bias)
    linear = [i for i, b in enumerate(read) if b.linear_attention]
    m.linear("self_attn.linear_attn", hidden, hidden, Replicated(), layers=linear)
    plain = [i for i, b in enumerate(read) if b.linear_ffn]
    m.linear("mlp.linear_mlp", hidden, hidden, Replicated(), component=Component.MLP, layers=plain)
    # a block without attention (or feed-forward) has no norm before it either
    m.norms("input_layernorm", layers=[i for i, b in enumerate(read) if b.kv_heads is not None or b.linear_attention])
    m.norms("post_attention_layernorm", layers=[i for i, b in enumerate(read) if b.width is not None or b.linear_ffn])
    widest = max((b.width for b in read if b.width is not None), default=None)
    return m.close(family, [_kept(b, d) for b in read], intermediate=widest)


def _kept(block: _Block, d: Dims) -> Layer:
    if block.kv_heads is None:
        return Layer((NoCache("no attention"),))
    own = replace(d, num_kv_heads=block.kv_heads)
    return Layer((blocks.sliding(own, block.window) if block.window else blocks.full(own),))
