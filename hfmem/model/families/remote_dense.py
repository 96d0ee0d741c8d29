"""Dense decoders of vLLM's registry that transformers has no class for: Step 1, Tele-FLM, TeleChat 3, PLaMo 3, RNJ-1, IQuest Loop
Coder, Domyn Edge; Ouro (dropped after vLLM 0.26).

Their code is published beside their weights. Source: vLLM 0.33.0 `model_executor/models/{step1,teleflm,plamo3,rnj1,
iquest_loopcoder,domyn_edge}.py`, names as its loaders read them; TeleChat 3 is vLLM's `LlamaForCausalLM`.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HEADS, HIDDEN, Dims, num_layers, read_dims
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.gemma import four_norms
from hfmem.model.families.parts import COLUMN, Part
from hfmem.model.inventory import Component, Row
from hfmem.model.layer_lists import full_layers
from hfmem.model.layers import Cache, FullAttention, Layer, SlidingAttention
from hfmem.records import replace

_PAIR = ("input_layernorm", "post_attention_layernorm")


def step1(cfg: Config) -> Architecture:
    """Step 1 (and Step-Audio's text model): Llama's block with square-root ALiBi; `num_attention_groups` KV heads."""
    hidden, heads = cfg.positive(*HIDDEN), cfg.positive(*HEADS)
    groups = cfg.opt_int("num_attention_groups", "num_key_value_heads") or 1
    d = Dims(hidden, num_layers(cfg), heads, groups, hidden // heads)
    m = DecoderBuilder(cfg, d=d)
    bias = cfg.flag("attention_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.gated(cfg.positive("intermediate_size"), bias=cfg.flag("mlp_bias", default=False))
    m.norms(*_PAIR)
    return m.close("step1", full_layers(d))


def kormo(cfg: Config) -> Architecture:
    """KORMo: Llama's block under norms of other names."""
    m = DecoderBuilder(cfg)
    bias = cfg.flag("attention_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias)
    m.gated(cfg.positive("intermediate_size"), bias=cfg.flag("mlp_bias", default=False))
    m.norms("pre_attention_layernorm", "pre_mlp_layernorm")
    return m.close("kormo", full_layers(m.d))


def plamo1(cfg: Config) -> Architecture:
    """PLaMo 1: `n_shared_head` query heads share a key and a value head; one norm before both halves of a block.

    Its own code repeats keys and values for every query head in the cache; engines keep them once.
    """
    shared, heads = cfg.positive("n_shared_head"), cfg.positive(*HEADS)
    hidden = cfg.positive(*HIDDEN)
    d = Dims(hidden, num_layers(cfg), heads, -(-heads // shared), hidden // heads)
    m = DecoderBuilder(cfg, d=d, layers="model.layers.layers.{}")
    m.attention()
    m.gated(cfg.positive("intermediate_size"))
    m.norms("norm")
    return m.close("plamo", full_layers(d))


def plamo3(cfg: Config) -> Architecture:
    """PLaMo 3: fused projections, four norms, windowed layers between full ones; always tied.

    `interleaved_sliding_window` lists a window or null for each layer; else `layer_types`, else every
    `sliding_window_pattern`-th layer is full.
    """
    d = read_dims(cfg)
    m = DecoderBuilder(cfg, layers="model.layers.layers.{}", untold_tie=True)
    m.qkv("mixer.qkv_proj")
    m.linear("mixer.o_proj", d.hidden, d.num_heads * d.head_dim, Row())
    m.norms("mixer.q_norm", "mixer.k_norm", size=d.head_dim)
    m.fused_gated(cfg.positive("intermediate_size"), "mlp.gate_up_proj", "mlp.down_proj")
    m.norms("pre_mixer_norm", "post_mixer_norm", "pre_mlp_norm", "post_mlp_norm")
    windows = cfg.opt_list("interleaved_sliding_window")
    if windows is None:
        width = cfg.positive("sliding_window", "window_size")
        types = cfg.opt_list("layer_types")
        if types is None:
            every = cfg.positive("sliding_window_pattern")
            types = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(d.num_layers)]
        known = ("full_attention", "sliding_attention")
        windows = [width if cfg.choice("layer_types", str(kind), known) == known[1] else None for kind in types]
    return m.close("plamo3", [_windowed(cfg, d, window) for window in windows])


def _windowed(cfg: Config, d: Dims, window: object) -> Layer:
    if window is None:
        return Layer((blocks.full(d),))
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise ContradictionError(f"{cfg.file}: a window of {str(window)[:40]!r} tokens is none")
    return Layer((blocks.sliding(d, window),))


def rnj1(cfg: Config) -> Architecture:
    """RNJ-1: Gemma 3's block; layers are full or `chunked_attention`, whose tokens see their own chunk and the one before.

    vLLM caches a chunked layer as a window of `sliding_window` tokens.
    """
    m = four_norms(cfg)
    types = cfg.need_list("layer_types")
    if len(types) != m.d.num_layers:
        raise ContradictionError(f"{cfg.file}: 'layer_types' has {len(types)} entries for {m.d.num_layers} layers")
    known = ("chunked_attention", "sliding_attention", "full_attention", "global_attention")
    kinds = [cfg.choice("layer_types", str(kind), known) for kind in types]
    window = cfg.positive("sliding_window") if known[0] in kinds else None
    return m.close("rnj1", [_windowed(cfg, m.d, window if kind == known[0] else None) for kind in kinds])


def iquest_loop(cfg: Config) -> Architecture:
    """IQuest Loop Coder: all layers run `loop_num` times; passes after the first keep a window of `loop_window_size` tokens, and a
    gate for each head mixes it with what the first pass kept."""
    hidden, heads = cfg.positive(*HIDDEN), cfg.positive(*HEADS)
    d = replace(read_dims(cfg), head_dim=hidden // heads)
    m = DecoderBuilder(cfg, d=d)
    m.attention()
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR)
    gates = Part(m.inv).at("model.gate_projections.{}.", range(d.num_layers), Component.ATTENTION)
    gates.tensor("weight", (heads, d.head_dim), split=COLUMN)
    gates.tensor("bias", (heads,), split=COLUMN)
    loops = 2 if cfg.published("loop_num") is None else cfg.positive("loop_num")
    window = 64 if cfg.published("loop_window_size") is None else cfg.positive("loop_window_size")
    kept: list[Cache] = [blocks.full(d), *[blocks.sliding(d, window)] * (loops - 1)]
    return m.close("iquest_loop", [Layer(tuple(kept))] * d.num_layers)


def ouro(cfg: Config) -> Architecture:
    """Ouro: all layers run `total_ut_steps` times, each round over keys and values of its own; norms before and after both halves.

    Source: ByteDance/Ouro-2.6B `modeling_ouro.py`.
    """
    m = DecoderBuilder(cfg)
    if cfg.flag("use_sliding_window", default=False):
        raise ContradictionError(f"{cfg.file}: 'use_sliding_window' is true, and no published Ouro has windows")
    m.attention()
    m.gated(cfg.positive("intermediate_size"))
    m.norms(*_PAIR, *(f"{name}_2" for name in _PAIR))
    gate = Part(m.inv, "model.early_exit_gate.", Component.OTHER)
    gate.tensor("weight", (1, m.d.hidden))
    gate.tensor("bias", (1,))
    return m.close("ouro", [Layer((blocks.full(m.d),) * cfg.positive("total_ut_steps"))] * m.d.num_layers)


def domyn_edge(cfg: Config) -> Architecture:
    """Domyn Edge: heads and windows of each layer's own (`per_layer_config`, `window_sizes`), four norms, keys alone normalised by
    a weight."""
    base = read_dims(cfg)
    given = cfg.published("per_layer_config")
    own = {int(k): v for k, v in given.items() if str(k).isdigit()} if isinstance(given, dict) else {}
    windows = cfg.need_list("window_sizes")
    if len(windows) != base.num_layers:
        raise ContradictionError(f"{cfg.file}: 'window_sizes' has {len(windows)} entries for {base.num_layers} layers")
    m = DecoderBuilder(cfg)
    layers: list[Layer] = []
    widths = [_head_dim(cfg, own.get(i), base.head_dim) for i in range(base.num_layers)]
    for width in dict.fromkeys(widths):
        where = [i for i, w in enumerate(widths) if w == width]
        m.attention("attention", layers=where, d=replace(base, head_dim=width))
        m.norms("attention.k_norm", size=width, layers=where)
    m.gated(cfg.positive("intermediate_size"), "feedforward")
    m.norms("pre_attention_norm", "post_attention_norm", "pre_feedforward_norm", "post_feedforward_norm")
    for width, sizes in zip(widths, windows, strict=True):
        reach = sizes[0] if isinstance(sizes, list) and sizes and isinstance(sizes[0], int) else -1
        heads, kv = base.num_heads, base.num_kv_heads
        # the window counts the tokens before the current one
        cache = (
            SlidingAttention(heads, kv, width, width, reach + 1)
            if reach > 0
            else FullAttention(heads, kv, width, width)
        )
        layers.append(Layer((cache,)))
    return m.close("domyn_edge", layers)


def _head_dim(cfg: Config, own: object, default: int) -> int:
    """A layer's head size: what `per_layer_config` says of it, else the model's."""
    part = Config(own, f"{cfg.file}: per_layer_config", "", cfg.used_defaults) if isinstance(own, dict) else None
    return (part.opt_int("head_dim") if part else None) or default
