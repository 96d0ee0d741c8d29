"""DeepSeek V4: a window of one shared key-value row a token, and compressed rows of the whole context, in layers by turns.

Layer kinds by `compress_ratios` (one number a layer): 0 the window alone; 4 overlapped compression with an indexer (CSA); 128 plain
compression (HCA). Source: transformers 5.23.0 `models/deepseek_v4` and its checkpoint renames (published names are the short ones);
the prediction layer's projections from vLLM 0.33.0 `models/deepseek_v4`, which shares the main model's embedding and head.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HEADS, HIDDEN, LAYERS, Dims, linear, norm
from hfmem.model.config import Config
from hfmem.model.families.deepseek import nextn_layers
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.layers import CompressedAttention, Layer
from hfmem.model.moe import Experts, moe, read_experts
from hfmem.model.stack import Stack, as_mtp, indices_of, layer_kinds, open_stack
from hfmem.records import dataclass, replace

LAYER = "layers.{}"
WINDOW, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
PART = Component.ATTENTION
WHOLE = Replicated()
#: draft layers of V4's checkpoints with DSpark, whose `num_nextn_predict_layers` is another (vLLM: `n_mtp_layers`, else 3)
_SPARKS = 3


@dataclass(frozen=True, slots=True)
class Sizes:
    """What V4's attention reads from the config beside heads and widths."""

    q_rank: int
    o_groups: int
    o_rank: int
    index_heads: int
    index_dim: int
    index_topk: int | None
    rates: dict[str, int]


def _rates(cfg: Config) -> dict[str, int]:
    """Tokens a compressed row stands for, by kind: `compress_rates`, or the older scalars; 4 and 128 as in the class."""
    given = cfg.published("compress_rates")
    rates = {WINDOW: 0, SPARSE: 4, HEAVY: 128} | (given if isinstance(given, dict) else {})
    for kind, key in ((SPARSE, "compress_rate_csa"), (HEAVY, "compress_rate_hca")):
        if cfg.published(key) is not None:
            rates[kind] = cfg.positive(key)
    for kind in (SPARSE, HEAVY):
        if not isinstance(rates[kind], int) or rates[kind] < 1:
            raise ContradictionError(f"{cfg.file}: 'compress_rates' says {str(rates[kind])[:40]!r} for {kind}")
    return rates


def _kinds(cfg: Config, num_layers: int, rates: dict[str, int]) -> list[str]:
    """`layer_types`, else `compress_ratios` (which may count prediction layers too), else two heavy layers and then turns."""
    words = cfg.opt_list("layer_types")
    ratios = cfg.opt_list("compress_ratios")
    if words is None and ratios is not None:
        if len(ratios) < num_layers:
            raise ContradictionError(f"{cfg.file}: 'compress_ratios' has {len(ratios)} entries for {num_layers} layers")
        by_ratio = {str(rate): kind for kind, rate in rates.items()}
        words = [by_ratio[cfg.choice("compress_ratios", str(ratio), tuple(by_ratio))] for ratio in ratios[:num_layers]]
    if words is None:
        words = [HEAVY if i < 2 or i % 2 == 0 else SPARSE for i in range(num_layers)]
    return layer_kinds(cfg, "layer_types", words[:num_layers], (WINDOW, SPARSE, HEAVY), num_layers)


def _compressor(
    inv: Inventory, prefix: str, indices: Sequence[int], hidden: int, width: int, rate: int, *, overlap: bool
) -> None:
    """Pools `rate` tokens into one row of `width`; with `overlap` two series are projected side by side."""
    rows = 2 * width if overlap else width
    inv.each(f"{prefix}.ape", indices, (rate, rows), PART)
    linear(inv, f"{prefix}.wkv", indices, rows, hidden, PART, WHOLE)
    linear(inv, f"{prefix}.wgate", indices, rows, hidden, PART, WHOLE)
    norm(inv, f"{prefix}.norm", indices, width)


def trunk(
    inv: Inventory, prefix: str, count: int, d: Dims, s: Sizes, experts: Experts, hc: int, *, hash_layers: int = 0
) -> None:
    """Attention, experts and hyper-connection mixers of `count` layers, without compressors and indexers."""
    every, attn = range(count), f"{prefix}.attn"
    inner = d.num_heads * d.head_dim
    inv.each(f"{attn}.attn_sink", every, (d.num_heads,), PART, Column())
    linear(inv, f"{attn}.wq_a", every, s.q_rank, d.hidden, PART, WHOLE)
    norm(inv, f"{attn}.q_norm", every, s.q_rank)
    linear(inv, f"{attn}.wq_b", every, inner, s.q_rank, PART, Column())
    linear(inv, f"{attn}.wkv", every, d.head_dim, d.hidden, PART, WHOLE)
    norm(inv, f"{attn}.kv_norm", every, d.head_dim)
    linear(inv, f"{attn}.wo_a", every, s.o_groups * s.o_rank, inner // s.o_groups, PART, Column())
    linear(inv, f"{attn}.wo_b", every, d.hidden, s.o_groups * s.o_rank, PART, Row())
    norm(inv, f"{prefix}.attn_norm", every, d.hidden)
    norm(inv, f"{prefix}.ffn_norm", every, d.hidden)
    shared = Experts(experts.count, experts.top_k, experts.width, 0)
    moe(inv, f"{prefix}.ffn", every, d.hidden, shared, names=("w1", "w3", "w2"))
    for name, out, into, split in (
        ("w1", experts.shared_width, d.hidden, Column()),
        ("w3", experts.shared_width, d.hidden, Column()),
        ("w2", d.hidden, experts.shared_width, Row()),
    ):
        if experts.shared_width:
            linear(inv, f"{prefix}.ffn.shared_experts.{name}", every, out, into, Component.MLP, split)
    scored = range(hash_layers, count)
    inv.each(f"{prefix}.ffn.gate.bias", scored, (experts.count,), Component.EXPERTS, buffer=True, optional=True)
    for place in ("attn", "ffn"):
        inv.each(f"{prefix}.hc_{place}_fn", every, (hc * (2 + hc), hc * d.hidden), Component.OTHER)
        inv.each(f"{prefix}.hc_{place}_base", every, (hc * (2 + hc),), Component.OTHER)
        inv.each(f"{prefix}.hc_{place}_scale", every, (3,), Component.OTHER)


def _compressors(inv: Inventory, attn: str, kinds: Sequence[str], d: Dims, s: Sizes) -> None:
    """What pools tokens in the layers whose kinds are given, and the indexers of the sparse ones."""
    for kind, overlap in ((HEAVY, False), (SPARSE, True)):
        where = indices_of(kinds, kind)
        _compressor(inv, f"{attn}.compressor", where, d.hidden, d.head_dim, s.rates[kind], overlap=overlap)
    sparse, index = indices_of(kinds, SPARSE), f"{attn}.indexer"
    _compressor(inv, f"{index}.compressor", sparse, d.hidden, s.index_dim, s.rates[SPARSE], overlap=True)
    linear(inv, f"{index}.wq_b", sparse, s.index_heads * s.index_dim, s.q_rank, PART, WHOLE)
    linear(inv, f"{index}.weights_proj", sparse, s.index_heads, d.hidden, PART, WHOLE)


def _hyper_head(inv: Inventory, prefix: str, indices: Sequence[int] | None, hidden: int, hc: int) -> None:
    """What folds the `hc` residual streams back into one."""
    for name, shape in (("fn", (hc, hc * hidden)), ("base", (hc,)), ("scale", (1,))):
        if indices is None:
            inv.add(f"{prefix}hc_head_{name}", shape, Component.OTHER)
        else:
            inv.each(f"{prefix}hc_head_{name}", indices, shape, Component.OTHER)


def draft(
    stack: Stack, cfg: Config, s: Sizes, experts: Experts, hc: int, steps: int, tables: Sequence[str], *, folded: bool
) -> None:
    """The draft layers (DSpark): blocks of the window alone; what joins layers of the model in front, heads at the end.

    `tables`: what the two tables of the Markov head are called. `folded`: the last folds its residual streams into one.
    """
    d, last = stack.d, [steps - 1]

    def describe(part: Inventory) -> None:
        trunk(part, "mtp.{}", steps, d, s, experts, hc)
        if targets := cfg.opt_list("dspark_target_layer_ids"):
            linear(part, "mtp.{}.main_proj", [0], d.hidden, d.hidden * len(targets), Component.MTP, WHOLE)
            norm(part, "mtp.{}.main_norm", [0], d.hidden)
        norm(part, "mtp.{}.norm", last, d.hidden)
        if rank := cfg.opt_int("dspark_markov_rank"):
            for name in tables:
                part.each(f"mtp.{{}}.markov_head.{name}.weight", last, (stack.vocab, rank), Component.MTP)
            linear(part, "mtp.{}.confidence_head.proj", last, 1, d.hidden + rank, Component.MTP, WHOLE)
        if folded:
            _hyper_head(part, "mtp.{}.", last, d.hidden, hc)

    as_mtp(stack.inv, describe)


def read_dims(cfg: Config) -> Dims:
    """Widths and heads; K and V are one shared row, whatever `num_key_value_heads` says."""
    return Dims(cfg.positive(*HIDDEN), cfg.positive(*LAYERS), cfg.positive(*HEADS), 1, cfg.positive("head_dim"))


def read_sizes(cfg: Config, d: Dims, rates: dict[str, int]) -> Sizes:
    """Ranks, output groups and the indexer's heads."""
    sizes = Sizes(
        cfg.positive("q_lora_rank"),
        cfg.positive("o_groups"),
        cfg.positive("o_lora_rank"),
        cfg.positive("index_n_heads"),
        cfg.positive("index_head_dim"),
        cfg.opt_int("index_topk") or None,
        rates,
    )
    if (d.num_heads * d.head_dim) % sizes.o_groups:
        raise ContradictionError(f"{cfg.file}: {d.num_heads} heads do not divide into {sizes.o_groups} output groups")
    return sizes


def need_experts(cfg: Config) -> Experts:
    """The experts of every layer."""
    experts = read_experts(cfg)
    if experts is None:
        raise ContradictionError(f"{cfg.file}: 'n_routed_experts' is 0 and DeepSeek V4 has experts in every layer")
    return experts


def deepseek_v4(cfg: Config) -> Architecture:
    """DeepSeek V4 Flash and Pro."""
    d = read_dims(cfg)
    rates = _rates(cfg)
    kinds = _kinds(cfg, d.num_layers, rates)
    sizes = read_sizes(cfg, d, rates)
    experts = need_experts(cfg)
    hash_layers = cfg.opt_int("num_hash_layers")
    moe_kinds = cfg.opt_list("mlp_layer_types")
    if moe_kinds is not None:
        words = layer_kinds(cfg, "mlp_layer_types", moe_kinds[: d.num_layers], ("hash_moe", "moe"), d.num_layers)
        hash_layers = len(indices_of(words, "hash_moe"))
    hash_layers = min(3 if hash_layers is None else hash_layers, d.num_layers)  # three in the class
    stack = open_stack(cfg, cfg, d, embed="embed.weight", final_norm="norm", head="head.weight")
    inv, hc = stack.inv, cfg.positive("hc_mult")
    trunk(inv, LAYER, d.num_layers, d, sizes, experts, hc, hash_layers=hash_layers)
    _compressors(inv, f"{LAYER}.attn", kinds, d, sizes)
    inv.each(
        f"{LAYER}.ffn.gate.tid2eid",
        range(hash_layers),
        (stack.vocab, experts.top_k),
        Component.EXPERTS,
        buffer=True,
        optional=True,
    )
    _hyper_head(inv, "", None, d.hidden, hc)
    drafted = cfg.opt_int("dspark_block_size") if cfg.opt_list("dspark_target_layer_ids") else None
    if drafted:
        layers = cfg.opt_int("n_mtp_layers") or _SPARKS
        draft(stack, cfg, sizes, experts, hc, layers, ("markov_w1", "markov_w2"), folded=True)
    elif steps := nextn_layers(cfg):
        run = range(steps)

        def mtp(part: Inventory) -> None:
            trunk(part, "mtp.{}", steps, d, sizes, experts, hc)
            for name in ("e_proj", "h_proj"):
                linear(part, f"mtp.{{}}.{name}", run, d.hidden, d.hidden, Component.MTP, WHOLE)
            for name in ("enorm", "hnorm", "norm"):
                norm(part, f"mtp.{{}}.{name}", run, d.hidden)
            _hyper_head(part, "mtp.{}.", run, d.hidden, hc)

        as_mtp(inv, mtp)
    stack.intermediate, stack.num_experts, stack.top_k = experts.width, experts.count, experts.top_k
    window = cfg.positive("sliding_window")
    caches = {
        WINDOW: CompressedAttention(d.num_heads, d.head_dim, window, 0),
        HEAVY: CompressedAttention(d.num_heads, d.head_dim, window, rates[HEAVY]),
        SPARSE: CompressedAttention(
            d.num_heads, d.head_dim, window, rates[SPARSE], sizes.index_dim, overlap=True, index_topk=sizes.index_topk
        ),
    }
    stack.layers = [Layer((caches[kind],)) for kind in kinds]
    return replace(stack.finish(cfg, "deepseek_v4"), drafted=drafted or None)
