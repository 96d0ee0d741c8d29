"""Qwen4-Exp: Qwen3.5's delta nets, attention read through an indexer, mixed residual streams, n-gram embeddings in some layers.

Sources: transformers 5.23.0 `models/qwen4_exp`, whose parameter names are used (checkpoints split the n-gram tables into shards);
vLLM 0.33.0 `models/qwen4_exp/nvidia/mtp.py` and the headers of nvidia's NVFP4 copy for the prediction layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HIDDEN, Dims, attention, linear, norm, read_dims
from hfmem.model.config import Config
from hfmem.model.delta_blocks import delta_net, read_delta_net
from hfmem.model.families.multimodal import NESTED, text_config, tower, tower_layers, wrap
from hfmem.model.families.qwen_hybrid import feed_forward, vision_config
from hfmem.model.families.vision import qwen3_vl
from hfmem.model.inventory import Component, Inventory, Replicated, Vocab
from hfmem.model.layers import Cache, IndexedAttention, Layer, ShortConvState
from hfmem.model.stack import Stack, as_mtp, indices_of, layer_kinds, open_stack

LAYER = "model.layers.{}"
LINEAR, INDEXED = "linear_attention", "indexed_attention"
#: beyond these an n-gram table is no real model's, and its primes take long to find
_MAX_HEADS, _MAX_BASE = 4096, 1 << 32


def _kinds(cfg: Config, num_layers: int) -> list[str]:
    """`layer_types` (`full_attention` is the indexed one), else indexed attention in every `full_attention_interval`-th layer."""
    words = cfg.opt_list("layer_types")
    if words is None:
        interval = cfg.opt_int("full_attention_interval") or 4
        words = [LINEAR if (i + 1) % interval else INDEXED for i in range(num_layers)]
    named = [INDEXED if word == "full_attention" else word for word in words]
    return layer_kinds(cfg, "layer_types", named, (LINEAR, INDEXED), num_layers)


def primes_from(start: int, count: int) -> list[int]:
    """The first `count` primes ≥ `start`."""
    found: list[int] = []
    number = max(start, 2)
    while len(found) < count:
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            found.append(number)
        number += 1
    return found


def _residual_mixers(inv: Inventory, cfg: Config, d: Dims, root: str, every: Sequence[int]) -> None:
    """Streams of the residual are mixed around each half of a layer of `root`, and once at the end."""
    streams, rank, part = cfg.positive("hc_count"), cfg.positive("hc_lowrank"), Component.OTHER
    wide = streams * d.hidden
    for place in ("attn_hyper_connection", "mlp_hyper_connection"):
        mixer = f"{root}.layers.{{}}.{place}"
        norm(inv, f"{mixer}.hc_norm", every, wide)
        linear(inv, f"{mixer}.input_mix_weight_down", every, rank, wide, part, Replicated())
        linear(inv, f"{mixer}.input_mix_weight_up", every, wide, rank, part, Replicated())
        linear(inv, f"{mixer}.block_inject_weight", every, streams, wide, part, Replicated())
    norm(inv, f"{root}.hyper_connection_mixer.hc_norm", None, wide)
    inv.add(f"{root}.hyper_connection_mixer.input_mix_weight_down.weight", (rank, wide), part)
    inv.add(f"{root}.hyper_connection_mixer.input_mix_weight_up.weight", (wide, rank), part)


def _indexed_attention(inv: Inventory, cfg: Config, d: Dims, mixer: str, layers: Sequence[int]) -> None:
    """Gated attention, and the indexer that picks what it reads."""
    bias = cfg.flag("attention_bias", default=False)
    attention(inv, mixer, layers, d, qkv_bias=bias, o_bias=bias, qk_norm="head", q_gate=True)
    heads, width = cfg.positive("indexer_n_heads") + cfg.positive("indexer_kv_heads"), cfg.positive("indexer_head_dim")
    linear(inv, f"{mixer}.indexer.index_qk_proj", layers, heads * width, d.hidden, Component.ATTENTION, Replicated())
    for name in ("q_layernorm", "k_layernorm"):
        norm(inv, f"{mixer}.indexer.{name}", layers, width)


def _prediction(inv: Inventory, cfg: Config, d: Dims, count: int) -> None:
    """The `mtp.` stack: indexed layers over the sum of a projected embedding and the projected streams; no head of its own."""
    layers, wide = range(count), cfg.positive("hc_count") * d.hidden

    def describe(part: Inventory) -> None:
        for name, width in (("embedding", d.hidden), ("hidden", wide)):
            part.add(f"mtp.fc_{name}.weight", (d.hidden, d.hidden), Component.MTP)
            norm(part, f"mtp.pre_fc_norm_{name}", None, width)
        _indexed_attention(part, cfg, d, "mtp.layers.{}.self_attn", layers)
        feed_forward(part, cfg, "mtp.layers.{}.mlp", d, layers, [], stacked=True)
        _residual_mixers(part, cfg, d, "mtp", layers)

    as_mtp(inv, describe)


def _ngram_layers(stack: Stack, cfg: Config) -> dict[int, Cache]:
    """Layers (`ple_layer_ids`, counted from 1) that add embeddings of the last tokens' n-grams, and their convolution's history.

    Each n-gram head hashes into a table of a prime size of its own, the primes from `ngram_vocab_size_base` on.
    """
    d, inv = stack.d, stack.inv
    ids = sorted(set(cfg.numbers("ple_layer_ids") or []))
    if not ids:
        return {}
    if any(not isinstance(i, int) or not 1 <= i <= d.num_layers for i in ids):
        raise ContradictionError(f"{cfg.file}: 'ple_layer_ids' names a layer beyond {d.num_layers}")
    width = cfg.opt_int("ple_embed_dim") or cfg.positive(*HIDDEN)
    size, heads = cfg.positive("ngram_size"), (cfg.positive("ngram_size") - 1) * cfg.positive("heads_per_ngram")
    base, step = cfg.positive("ngram_vocab_size_base"), cfg.positive("make_ngram_vocab_size_divisible_by")
    if not 1 <= heads * len(ids) <= _MAX_HEADS or base > _MAX_BASE or width % heads:
        raise ContradictionError(f"{cfg.file}: {heads} n-gram heads of {width} from {base} words is no model's")
    primes, wide = primes_from(base, heads * len(ids)), cfg.positive("hc_count") * d.hidden
    for place, layer in enumerate(ids):
        words = sum(primes[place * heads : (place + 1) * heads])
        rows = -(-words // step) * step
        table = f"{LAYER}.ple.ple_embedding.ngram_embedding.weight"
        inv.each(table, [layer - 1], (rows, width // heads), Component.EMBEDDING, Vocab())
    where, part, kernel = [i - 1 for i in ids], Component.OTHER, cfg.positive("ple_conv_kernel_size")
    linear(inv, f"{LAYER}.ple.key_proj", where, wide, width, part, Replicated())
    linear(inv, f"{LAYER}.ple.value_proj", where, d.hidden, width, part, Replicated())
    for name in ("norm_key", "norm_query", "norm_conv"):
        norm(inv, f"{LAYER}.ple.{name}", where, wide)
    inv.each(f"{LAYER}.ple.conv1d.weight", where, (wide, 1, kernel), part)
    history = ShortConvState(wide, (kernel - 1) * size + 1)  # dilated by the n-gram's size
    return dict.fromkeys(where, history)


def qwen4_exp_text(cfg: Config) -> Architecture:
    """The text model: experts in every layer, no norms but those of the residual mixers."""
    d = read_dims(cfg)
    stack = open_stack(cfg, cfg, d, final_norm=None)
    inv, every = stack.inv, range(d.num_layers)
    kinds, net = _kinds(cfg, d.num_layers), read_delta_net(cfg)
    delta_net(inv, f"{LAYER}.linear_attn", indices_of(kinds, LINEAR), d.hidden, net, fused=False)
    _indexed_attention(inv, cfg, d, f"{LAYER}.self_attn", indices_of(kinds, INDEXED))
    feed_forward(inv, cfg, f"{LAYER}.mlp", d, every, [], stacked=True)
    _residual_mixers(inv, cfg, d, "model", every)
    histories = _ngram_layers(stack, cfg)
    if predicting := cfg.opt_int("mtp_num_hidden_layers"):
        _prediction(inv, cfg, d, predicting)
    stack.num_experts, stack.top_k = cfg.opt_int("num_experts"), cfg.opt_int("num_experts_per_tok")
    budget, block = cfg.opt_int("indexer_budget") or None, cfg.opt_int("indexer_compress_ratio") or 1
    index = cfg.positive("indexer_kv_heads") * cfg.positive("indexer_head_dim")
    picked = IndexedAttention(d.num_heads, d.num_kv_heads, d.head_dim, d.head_dim, index, budget, block)
    for i, kind in enumerate(kinds):
        own: Cache = net.cache() if kind == LINEAR else picked
        stack.layers.append(Layer((own, histories[i]) if i in histories else (own,)))
    return stack.finish(cfg, "qwen4_exp")


def qwen4_exp(cfg: Config) -> Architecture:
    """Qwen4-Exp with Qwen3.5's vision tower."""
    text = text_config(cfg, model_type=f"{cfg.model_type}_text")
    inv = Inventory()
    count = qwen3_vl(tower(inv, "model.visual."), vision_config(cfg), deepstack=False)
    return wrap(cfg, text, qwen4_exp_text(text), "qwen4_exp", NESTED, inv, tower_layers(count))
