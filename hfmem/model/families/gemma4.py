"""Gemma 3n and Gemma 4 text models: per-layer embeddings, caches shared by the last layers, heads that differ by layer.

The last `num_kv_shared_layers` layers attend over the cache of the last layer before them of the same type. Their k and v
weights are unused; published files store them all the same, so they are here as optional and inactive.

Source: transformers 5.23.0 `models/{gemma3n,gemma4}/`; names as published.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble
from hfmem.model.config import Config
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Row, Vocab
from hfmem.model.layers import Cache, FullAttention, Layer, NoCache, SharedCache, SlidingAttention
from hfmem.records import dataclass, replace

_FULL, _SLIDING = "full_attention", "sliding_attention"
_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True, slots=True)
class Heads:
    """One layer type's heads. `separate_v` False: values are the keys before their norm, and there is no v projection."""

    heads: int
    kv_heads: int
    head_dim: int
    separate_v: bool = True


def _layer_types(cfg: Config, count: int, pattern: int, *, last_full: bool) -> list[str]:
    """The published `layer_types`, else every `pattern`-th layer full; Gemma 4 makes the last layer full whatever is written."""
    types = cfg.opt_list("layer_types")
    types = [_FULL if (i + 1) % pattern == 0 else _SLIDING for i in range(count)] if types is None else list(types)
    if len(types) != count:
        raise ContradictionError(f"{cfg.file}: 'layer_types' has {len(types)} entries for {count} layers")
    for kind in types:
        cfg.choice("layer_types", str(kind), (_FULL, _SLIDING))
    if last_full and types:
        types[-1] = _FULL
    return types


def _sources(cfg: Config, types: list[str], *, borrowed: bool = False) -> list[int | None]:
    """For each layer whose cache it uses: None for its own, else the last layer of its type that has one.

    `borrowed`: another model's cache, -1 everywhere.
    """
    if borrowed:
        return [-1] * len(types)
    shared = cfg.need_int("num_kv_shared_layers")
    first = len(types) - shared
    if first < 0:
        raise ContradictionError(f"{cfg.file}: 'num_kv_shared_layers' {shared} exceeds {len(types)} layers")
    sources: list[int | None] = [None] * len(types)
    for i in range(first, len(types)):
        owners = [j for j in range(first) if types[j] == types[i]]
        if not owners:
            raise ContradictionError(f"{cfg.file}: layer {i} shares a cache and no {types[i]} layer before it has one")
        sources[i] = owners[-1]
    return sources


def _caches(types: list[str], sources: list[int | None], heads: dict[int, Heads], window: int) -> list[Layer]:
    layers: list[Layer] = []
    for i, kind in enumerate(types):
        h, source = heads[i], sources[i]
        cache: Cache
        if source is not None:
            cache = SharedCache(source) if source >= 0 else NoCache("draft")
        elif kind == _FULL:
            cache = FullAttention(h.heads, h.kv_heads, h.head_dim, h.head_dim)
        else:
            cache = SlidingAttention(h.heads, h.kv_heads, h.head_dim, h.head_dim, window)
        layers.append(Layer((cache,)))
    return layers


def _attention(cfg: Config, inv: Inventory, hidden: int, heads: dict[int, Heads], sources: list[int | None]) -> None:
    bias = cfg.flag("attention_bias", default=False)
    for shape in dict.fromkeys(heads.values()):
        every = [i for i in heads if heads[i] == shape]
        own = [i for i in every if sources[i] is None]
        shared = [i for i, source in enumerate(sources) if i in every and source is not None and source >= 0]
        at = Part(inv).at("model.layers.{}.self_attn.", every, Component.ATTENTION)
        at.linear("q_proj", shape.heads * shape.head_dim, hidden, split=COLUMN, bias=bias)
        at.linear("o_proj", hidden, shape.heads * shape.head_dim, split=ROW, bias=bias)
        at.tensor("q_norm.weight", (shape.head_dim,), Component.NORM)
        for layers, unused in ((own, False), (shared, True)):
            kv = Part(inv).at("model.layers.{}.self_attn.", layers, Component.ATTENTION)
            share = Fraction(0) if unused else Fraction(1)
            for name in ("k_proj", "v_proj") if shape.separate_v else ("k_proj",):
                split, rows = Column(kv_heads=(shape.kv_heads,)), shape.kv_heads * shape.head_dim
                kv.tensor(f"{name}.weight", (rows, hidden), split=split, active=share, optional=unused)
                if bias:
                    kv.tensor(f"{name}.bias", (rows,), split=split, active=share, optional=unused)
            kv.tensor("k_norm.weight", (shape.head_dim,), Component.NORM, active=share, optional=unused)


def _feed_forward(inv: Inventory, hidden: int, widths: list[int]) -> None:
    for width in dict.fromkeys(widths):
        at = Part(inv).at("model.layers.{}.mlp.", [i for i, w in enumerate(widths) if w == width], Component.MLP)
        at.linear("gate_proj", width, hidden, split=COLUMN, bias=False)
        at.linear("up_proj", width, hidden, split=COLUMN, bias=False)
        at.linear("down_proj", hidden, width, split=ROW, bias=False)


def _per_layer_inputs(cfg: Config, inv: Inventory, hidden: int, count: int, size: int) -> None:
    """A second embedding, `size` wide for each layer, gated into each layer's residual."""
    model = Part(inv, "model.")
    rows = cfg.positive("vocab_size_per_layer_input")
    model.tensor("embed_tokens_per_layer.weight", (rows, count * size), Component.EMBEDDING, Vocab())
    model.linear("per_layer_model_projection", count * size, hidden, Component.OTHER, COLUMN, bias=False)
    model.norm("per_layer_projection_norm", size, bias=False)
    block = model.at("layers.{}.", range(count))
    block.linear("per_layer_input_gate", size, hidden, Component.OTHER, bias=False)
    block.linear("per_layer_projection", hidden, size, Component.OTHER, bias=False)
    block.norm("post_per_layer_input_norm", hidden, bias=False)


def _ends(cfg: Config, inv: Inventory, hidden: int, count: int) -> tuple[int, bool]:
    vocab, tied = cfg.positive("vocab_size"), cfg.flag("tie_word_embeddings", default=True)
    model = Part(inv, "model.")
    model.tensor("embed_tokens.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    model.at("layers.{}.", range(count)).norms(_NORMS, hidden, bias=False)
    model.norm("norm", hidden, bias=False)
    to = "model.embed_tokens.weight" if tied else None
    Part(inv).tensor("lm_head.weight", (vocab, hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
    return vocab, tied


def gemma3n_text(cfg: Config) -> Architecture:
    """Gemma 3n's decoder: alternating updates of `altup_num_inputs` streams, a low-rank residual (LAuReL), per-layer embeddings."""
    hidden, count = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    shape = Heads(cfg.positive("num_attention_heads"), cfg.positive("num_key_value_heads"), cfg.positive("head_dim"))
    types = _layer_types(cfg, count, 5, last_full=False)
    sources = _sources(cfg, types)
    widths = cfg.lookup("intermediate_size")
    widths = list(widths) if isinstance(widths, list) else [cfg.positive("intermediate_size")] * count
    if len(widths) != count or not all(isinstance(w, int) and w > 0 for w in widths):
        raise ContradictionError(f"{cfg.file}: 'intermediate_size' does not name one width for each of {count} layers")
    inv = Inventory()
    vocab, tied = _ends(cfg, inv, hidden, count)
    _attention(cfg, inv, hidden, dict.fromkeys(range(count), shape), sources)
    _feed_forward(inv, hidden, widths)
    _per_layer_inputs(cfg, inv, hidden, count, cfg.positive("hidden_size_per_layer_input"))
    block = Part(inv).at("model.layers.{}.", range(count), Component.OTHER)
    streams, rank = cfg.positive("altup_num_inputs"), cfg.positive("laurel_rank")
    block.tensor("altup.correct_output_scale", (hidden,))
    block.linear("altup.correction_coefs", streams, streams, bias=False)
    block.linear("altup.prediction_coefs", streams * streams, streams, bias=False)
    block.linear("altup.modality_router", streams, hidden, bias=False)
    block.linear("laurel.linear_left", rank, hidden, split=COLUMN, bias=False)
    block.linear("laurel.linear_right", hidden, rank, split=ROW, bias=False)
    Part(inv).at("model.layers.{}.", range(count)).norms(
        ("altup.router_norm", "laurel.post_laurel_norm"), hidden, bias=False
    )
    for name in ("altup_projections", "altup_unembed_projections"):
        at = Part(inv).at(f"model.{name}.{{}}", range(streams - 1), Component.OTHER)
        at.linear("", hidden, hidden, split=COLUMN, bias=False)
    d = Dims(hidden, count, shape.heads, shape.kv_heads, shape.head_dim)
    layers = _caches(types, sources, dict.fromkeys(range(count), shape), cfg.positive("sliding_window"))
    return assemble(cfg, cfg, "gemma3n", d, layers, inv, vocab=vocab, tied=tied, intermediate=max(widths))


def _gemma4_heads(cfg: Config, types: list[str]) -> dict[int, Heads]:
    """Heads by layer: full layers have `global_head_dim` and, where K is also V, `num_global_key_value_heads`; a config saved by a
    recent transformers says so layer by layer in `per_layer_config`."""
    heads, kv = cfg.positive("num_attention_heads"), cfg.positive("num_key_value_heads")
    head_dim, one = cfg.positive("head_dim"), cfg.flag("attention_k_eq_v", default=False)
    wide = 512 if cfg.published("global_head_dim") is None else cfg.positive("global_head_dim")
    few = cfg.positive("num_global_key_value_heads") if one and cfg.published("num_global_key_value_heads") else kv
    given = cfg.published("per_layer_config")
    # keys are padded to one width: "05" beside "29"
    overrides = {int(k): v for k, v in given.items() if str(k).isdigit()} if isinstance(given, dict) else None
    shapes: dict[int, Heads] = {}
    for i, kind in enumerate(types):
        full = kind == _FULL
        shape = Heads(heads, few if full else kv, wide if full else head_dim, not (full and one))
        if overrides is not None:
            own = overrides.get(i) or {}
            at = Config({**cfg.data, **own}, f"{cfg.file}: per_layer_config {i}", cfg.model_type, cfg.used_defaults)
            shape = replace(shape, kv_heads=at.positive("num_key_value_heads"), head_dim=at.positive("head_dim"))
        shapes[i] = shape
    return shapes


def gemma4_text(cfg: Config, *, borrowed: bool = False) -> Architecture:
    """Gemma 4's decoder: dense, with experts beside the feed-forward, or with per-layer embeddings and shared caches.

    `borrowed`: an assistant's, which reads its target's caches in every layer and has no k and v weights.
    """
    hidden, count = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    types = _layer_types(cfg, count, 6, last_full=True)
    sources, heads = _sources(cfg, types, borrowed=borrowed), _gemma4_heads(cfg, types)
    inner = cfg.positive("intermediate_size")
    double = cfg.flag("use_double_wide_mlp", default=False)
    inv = Inventory()
    vocab, tied = _ends(cfg, inv, hidden, count)
    _attention(cfg, inv, hidden, heads, sources)
    _feed_forward(inv, hidden, [2 * inner if double and source is not None else inner for source in sources])
    block = Part(inv).at("model.layers.{}.", range(count))
    block.tensor("layer_scalar", (1,), Component.OTHER, buffer=True)
    size = cfg.opt_int("hidden_size_per_layer_input") or 0
    if size:
        _per_layer_inputs(cfg, inv, hidden, count, size)
    experts = top_k = None
    if cfg.flag("enable_moe_block", default=False):
        experts, top_k = cfg.positive("num_experts"), cfg.positive("top_k_experts")
        width = cfg.positive("moe_intermediate_size", "expert_intermediate_size")
        if top_k > experts:
            raise ContradictionError(f"{cfg.file}: {top_k} experts per token cannot be picked from {experts}")
        moe, share = block.at("", component=Component.EXPERTS), Fraction(top_k, experts)
        moe.tensor("router.scale", (hidden,))
        moe.tensor("router.per_expert_scale", (experts,))
        moe.linear("router.proj", experts, hidden, bias=False)
        up, down = ExpertSplit(None, Column((width, width), (None, None))), ExpertSplit(None, Row())
        moe.tensor("experts.gate_up_proj", (experts, 2 * width, hidden), split=up, active=share)
        moe.tensor("experts.down_proj", (experts, hidden, width), split=down, active=share)
        names = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")
        block.norms(names, hidden, bias=False)
    first = heads[0]
    d = Dims(hidden, count, first.heads, first.kv_heads, first.head_dim)
    layers = _caches(types, sources, heads, cfg.positive("sliding_window"))
    if cfg.opt_str("use_bidirectional_attention") == "all":  # an encoder: every token sees every other
        layers = [Layer((NoCache("encoder"),), stack="encoder")] * count
    return assemble(
        cfg,
        cfg,
        "gemma4",
        d,
        layers,
        inv,
        vocab=vocab,
        tied=tied,
        intermediate=inner,
        num_experts=experts,
        top_k=top_k,
    )
