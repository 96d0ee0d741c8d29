"""Building blocks that families share: what a projection, a feed-forward or a router stores, and how it splits over ranks.

Names and shapes are those of published checkpoints (`nn.Linear` weights are `[out_features, in_features]`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from hfmem.dtypes import canonical
from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated, Row, Vocab
from hfmem.model.layers import FullAttention, Layer, SlidingAttention
from hfmem.records import dataclass

HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
KV_HEADS = ("num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num", "kv_n_heads")
POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "max_sequence_length",
    "model_max_length",
    "max_target_positions",
)
_MAX_LAYERS = 100_000
VOCAB = ("vocab_size", "padded_vocab_size", "n_vocab")


@dataclass(frozen=True, slots=True)
class Dims:
    """The five numbers every transformer has. `num_kv_heads` and `head_dim` follow the usual rules when a config is silent."""

    hidden: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


def read_dims(cfg: Config, *, rounded: bool = False) -> Dims:
    """Read hidden size, layers and heads under any of their names.

    Absent KV heads mean one for each head (MHA); an absent or null `head_dim` means hidden_size / num_attention_heads, as in
    transformers' attention classes; `rounded`: rounded down where the heads do not divide it.

    Raises:
        MissingKeyError: one of them is not told. ContradictionError: heads that cannot share, or do not divide the hidden size.
    """
    hidden = cfg.positive(*HIDDEN)
    heads = cfg.positive(*HEADS)
    kv_heads = cfg.opt_int(*KV_HEADS)
    if kv_heads is None:
        kv_heads = heads
    if kv_heads < 1 or heads % kv_heads:
        raise ContradictionError(f"{cfg.file}: {heads} attention heads cannot share {kv_heads} KV heads")
    head_dim = cfg.opt_int("head_dim", "attention_head_dim")
    if not head_dim:
        if hidden % heads and not rounded:
            raise ContradictionError(
                f"{cfg.file}: 'head_dim' is absent and hidden_size {hidden} does not divide by {heads} heads"
            )
        head_dim = hidden // heads
    return Dims(hidden, num_layers(cfg), heads, kv_heads, head_dim)


def num_layers(cfg: Config, *names: str) -> int:
    """How many layers, under any of their names. A number that no real model comes near is an error, not a list to fill memory."""
    count = cfg.positive(*(names or LAYERS))
    if count > _MAX_LAYERS:
        raise ContradictionError(f"{cfg.file}: {(names or LAYERS)[0]!r} is {count}, beyond any real model")
    return count


def full(d: Dims) -> FullAttention:
    """Full attention with the model's own heads."""
    return FullAttention(d.num_heads, d.num_kv_heads, d.head_dim, d.head_dim)


def sliding(d: Dims, window: int) -> SlidingAttention:
    """Sliding-window attention with the model's own heads."""
    return SlidingAttention(d.num_heads, d.num_kv_heads, d.head_dim, d.head_dim, window)


def attention_by_types(cfg: Config, d: Dims, layer_types: Sequence[str], window: int | None) -> list[Layer]:
    """Layers from a `layer_types` list of `full_attention` and `sliding_attention`."""
    known = {"full_attention": Layer((full(d),))}
    for kind in dict.fromkeys(layer_types):
        if cfg.choice("layer_types", kind, ("full_attention", "sliding_attention")) == "sliding_attention":
            if window is None:
                raise ContradictionError(
                    f"{cfg.file}: 'layer_types' names sliding layers and 'sliding_window' is not set"
                )
            known[kind] = Layer((sliding(d, window),))
    return [known[kind] for kind in layer_types]


def embedding(inv: Inventory, name: str, vocab: int, hidden: int) -> None:
    """The token embedding `[vocab, hidden]`."""
    inv.add(name, (vocab, hidden), Component.EMBEDDING, Vocab())


def lm_head(inv: Inventory, name: str, vocab: int, hidden: int, tied_to: str | None) -> None:
    """The output projection `[vocab, hidden]`; tied to the embedding it shares storage and a file may or may not repeat it."""
    inv.add(name, (vocab, hidden), Component.LM_HEAD, Vocab(), tied_to=tied_to, optional=tied_to is not None)


def norm(inv: Inventory, pattern: str, indices: Iterable[int] | None, size: int, *, bias: bool = False) -> None:
    """A norm's weight (and bias): in each layer of `indices`, or once where None. `pattern` ends before `.weight`."""
    for leaf in ("weight", "bias") if bias else ("weight",):
        if indices is None:
            inv.add(f"{pattern}.{leaf}", (size,), Component.NORM)
        else:
            inv.each(f"{pattern}.{leaf}", indices, (size,), Component.NORM)


def attention(
    inv: Inventory,
    prefix: str,
    indices: Iterable[int],
    d: Dims,
    *,
    qkv_bias: bool = False,
    o_bias: bool = False,
    v_head_dim: int | None = None,
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    qk_norm: str | None = None,
    qk_norm_names: tuple[str, str] = ("q_norm", "k_norm"),
    q_gate: bool = False,
) -> None:
    """Separate q, k, v and o projections in each layer.

    `qk_norm`: None, `"head"` (weight `[head_dim]`, Qwen3), `"full"` (weight over all heads, OLMo 2), or `"shared"` (the same, which
    ranks share out with the heads, MiniMax M2). `q_gate` doubles q's rows (Qwen3-Next's output gate).
    """
    layers = list(indices)
    dv = d.head_dim if v_head_dim is None else v_head_dim
    q, k, v, o = names
    part = Component.ATTENTION
    q_rows = d.num_heads * d.head_dim * (2 if q_gate else 1)
    inv.each(f"{prefix}.{q}.weight", layers, (q_rows, d.hidden), part, Column())
    inv.each(
        f"{prefix}.{k}.weight",
        layers,
        (d.num_kv_heads * d.head_dim, d.hidden),
        part,
        Column(kv_heads=(d.num_kv_heads,)),
    )
    inv.each(f"{prefix}.{v}.weight", layers, (d.num_kv_heads * dv, d.hidden), part, Column(kv_heads=(d.num_kv_heads,)))
    inv.each(f"{prefix}.{o}.weight", layers, (d.hidden, d.num_heads * dv), part, Row())
    if qkv_bias:
        inv.each(f"{prefix}.{q}.bias", layers, (q_rows,), part, Column())
        inv.each(f"{prefix}.{k}.bias", layers, (d.num_kv_heads * d.head_dim,), part, Column(kv_heads=(d.num_kv_heads,)))
        inv.each(f"{prefix}.{v}.bias", layers, (d.num_kv_heads * dv,), part, Column(kv_heads=(d.num_kv_heads,)))
    if o_bias:
        inv.each(f"{prefix}.{o}.bias", layers, (d.hidden,), part, Replicated())
    if qk_norm is not None:
        sizes = (
            (d.head_dim, d.head_dim) if qk_norm == "head" else (d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim)
        )
        splits: tuple[Column | None, Column | None] = (None, None)
        if qk_norm == "shared":
            splits = (Column(), Column(kv_heads=(d.num_kv_heads,)))
        for name, size, split in zip(qk_norm_names, sizes, splits, strict=True):
            inv.each(f"{prefix}.{name}.weight", layers, (size,), Component.NORM, split)


def fused_qkv(
    inv: Inventory, pattern: str, indices: Iterable[int], d: Dims, *, bias: bool = False, v_head_dim: int | None = None
) -> None:
    """One projection holding q, k and v. `pattern` ends before `.weight`. Ranks split each part on its own."""
    layers = list(indices)
    dv = d.head_dim if v_head_dim is None else v_head_dim
    parts = (d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim, d.num_kv_heads * dv)
    split = Column(parts, (None, d.num_kv_heads, d.num_kv_heads))
    inv.each(f"{pattern}.weight", layers, (sum(parts), d.hidden), Component.ATTENTION, split)
    if bias:
        inv.each(f"{pattern}.bias", layers, (sum(parts),), Component.ATTENTION, split)


def linear(
    inv: Inventory,
    pattern: str,
    indices: Iterable[int],
    out_features: int,
    in_features: int,
    component: Component,
    split: Column | Row | Replicated,
    *,
    bias: bool = False,
) -> None:
    """One `nn.Linear` in each layer: weight `[out, in]` and bias `[out]`. `pattern` ends before `.weight`."""
    layers = list(indices)
    inv.each(f"{pattern}.weight", layers, (out_features, in_features), component, split)
    if bias:
        inv.each(
            f"{pattern}.bias", layers, (out_features,), component, split if isinstance(split, Column) else Replicated()
        )


def gated_mlp(
    inv: Inventory,
    prefix: str,
    indices: Iterable[int],
    hidden: int,
    intermediate: int,
    *,
    bias: bool = False,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> None:
    """Gate, up and down projections (SwiGLU and kin) in each layer."""
    layers = list(indices)
    gate, up, down = names
    linear(inv, f"{prefix}.{gate}", layers, intermediate, hidden, Component.MLP, Column(), bias=bias)
    linear(inv, f"{prefix}.{up}", layers, intermediate, hidden, Component.MLP, Column(), bias=bias)
    linear(inv, f"{prefix}.{down}", layers, hidden, intermediate, Component.MLP, Row(), bias=bias)


def plain_mlp(
    inv: Inventory,
    prefix: str,
    indices: Iterable[int],
    hidden: int,
    intermediate: int,
    *,
    bias: bool,
    names: tuple[str, str],
) -> None:
    """Up and down projections without a gate (GPT, OPT, Falcon …) in each layer."""
    layers = list(indices)
    up, down = names
    linear(inv, f"{prefix}.{up}", layers, intermediate, hidden, Component.MLP, Column(), bias=bias)
    linear(inv, f"{prefix}.{down}", layers, hidden, intermediate, Component.MLP, Row(), bias=bias)


def routed_experts(
    inv: Inventory,
    prefix: str,
    indices: Iterable[int],
    hidden: int,
    intermediate: int,
    num_experts: int,
    top_k: int,
    *,
    names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj"),
    router: str | None = "gate",
    router_bias: bool = False,
    stem: str = "experts",
) -> None:
    """Routed experts `{prefix}.{stem}.{e}.…` and their router `{prefix}.{router}` (None: another's) in each layer.

    The last of `names` projects back to `hidden`; the others up from it. A token uses `top_k` of `num_experts`; the router is used
    whole.
    """
    layers = list(indices)
    if layers and not 1 <= top_k <= num_experts:
        raise ContradictionError(f"{top_k} experts per token cannot be picked from {num_experts}")
    if router is not None:
        linear(
            inv, f"{prefix}.{router}", layers, num_experts, hidden, Component.EXPERTS, Replicated(), bias=router_bias
        )
    share = Fraction(top_k, num_experts) if layers else Fraction(1)
    *ups, down = names
    for name in ups:
        inv.each(
            f"{prefix}.{stem}.{{}}.{name}.weight",
            layers,
            (intermediate, hidden),
            Component.EXPERTS,
            ExpertSplit(1, Column()),
            inner=num_experts,
            active=share,
        )
    inv.each(
        f"{prefix}.{stem}.{{}}.{down}.weight",
        layers,
        (hidden, intermediate),
        Component.EXPERTS,
        ExpertSplit(1, Row()),
        inner=num_experts,
        active=share,
    )


def read_dtype(*configs: Config) -> str:
    """The canonical dtype that the first of `configs` with one names (`dtype` or `torch_dtype`); F32 where none does.

    transformers loads a checkpoint whose config names no dtype in float32.
    """
    for cfg in configs:
        name = cfg.published("dtype", "torch_dtype")
        if isinstance(name, str) and name != "auto":
            return canonical(name)
    return "F32"


def assemble(
    cfg: Config,
    text: Config,
    family: str,
    d: Dims,
    layers: Sequence[Layer],
    inv: Inventory,
    *,
    vocab: int,
    tied: bool,
    intermediate: int | None = None,
    num_experts: int | None = None,
    top_k: int | None = None,
    notes: Sequence[Note] = (),
) -> Architecture:
    """Put an `Architecture` together. `cfg` is the whole config, `text` the part that describes the main stack (often the same)."""
    published = cfg.published("architectures")
    architectures = tuple(a for a in published if isinstance(a, str)) if isinstance(published, list) else ()
    rope = text.published("rope_scaling", "rope_parameters")
    rope_type = (rope.get("rope_type") or rope.get("type")) if isinstance(rope, dict) else None
    router_dtype = text.published("router_dtype", "moe_router_dtype")
    return Architecture(
        family=family,
        model_type=cfg.model_type,
        architectures=architectures,
        dtype=read_dtype(cfg, text),
        hidden_size=d.hidden,
        num_hidden_layers=d.num_layers,
        num_attention_heads=d.num_heads,
        num_kv_heads=d.num_kv_heads,
        head_dim=d.head_dim,
        vocab_size=vocab,
        max_position_embeddings=text.opt_int(*POSITIONS),
        layers=tuple(layers),
        tensors=tuple(inv.specs),
        tie_word_embeddings=tied,
        intermediate_size=intermediate,
        num_experts=num_experts,
        num_experts_per_tok=top_k,
        rope_scaled=rope_type not in (None, "default"),
        class_defaults=tuple(cfg.used_defaults),
        notes=tuple(notes),
        router_dtype=router_dtype if isinstance(router_dtype, str) else None,
    )
