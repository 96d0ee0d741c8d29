"""What single members of BERT's kin have beside its block: other attention, more embeddings, adapters.

Source: transformers 5.23.0 `models/{deberta,deberta_v2,convbert,esm,longformer,xmod,…}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hfmem.errors import ContradictionError
from hfmem.model.blocks import Dims
from hfmem.model.config import Config
from hfmem.model.families.parts import COLUMN, Part
from hfmem.model.inventory import Column, Component, Vocab

#: members whose q, k and v are none of BERT's
OWN_ATTENTION: Final = frozenset({"deberta", "deberta-v2", "convbert"})


def _deberta2(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    """DeBERTa 2's relative positions: an embedding shared by all layers, projections of it unless q's and k's are reused, and the
    first version-2 models' convolution."""
    hidden = d.hidden
    for name in ("query_proj", "key_proj", "value_proj"):
        block.linear(f"attention.self.{name}", hidden, hidden, Component.ATTENTION, COLUMN)
    if cfg.flag("relative_attention", default=False):
        buckets = cfg.lookup("position_buckets")
        rows = 2 * buckets if isinstance(buckets, int) and buckets > 0 else 2 * _reach(cfg)
        part.tensor("encoder.rel_embeddings.weight", (rows, hidden), Component.EMBEDDING)
        if not cfg.flag("share_att_key", default=False):
            for kind, name in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")):
                if kind in _position_kinds(cfg):
                    block.linear(f"attention.self.{name}", hidden, hidden, Component.ATTENTION, COLUMN)
    if "layer_norm" in (cfg.opt_str("norm_rel_ebd") or "none").lower().split("|"):
        part.norm("encoder.LayerNorm", hidden)
    kernel = cfg.opt_int("conv_kernel_size") or 0
    if kernel:
        groups = cfg.opt_int("conv_groups") or 1
        part.conv("encoder.conv.conv", hidden, hidden // groups, (kernel,), Component.ATTENTION)
        part.norm("encoder.conv.LayerNorm", hidden)


def _reach(cfg: Config) -> int:
    """How far relative positions go, to either side."""
    reach = cfg.lookup("max_relative_positions")
    return reach if isinstance(reach, int) and reach > 0 else cfg.positive("max_position_embeddings")


def _position_kinds(cfg: Config) -> list[str]:
    kinds = cfg.lookup("pos_att_type") or ""
    return [str(kind) for kind in kinds] if isinstance(kinds, list) else str(kinds).split("|")


def _deberta(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    """DeBERTa 1: q, k and v fused, biases of q and v apart, projections of the relative positions in every layer."""
    at = block.at("attention.self.", component=Component.ATTENTION)
    at.linear("in_proj", 3 * d.hidden, d.hidden, split=Column((d.hidden,) * 3, (None,) * 3), bias=False)
    for name in ("q_bias", "v_bias"):
        at.tensor(name, (d.hidden,), split=COLUMN)
    if cfg.flag("talking_head", default=False):
        for name in ("head_logits_proj", "head_weights_proj"):
            at.linear(name, d.num_heads, d.num_heads, bias=False)
    if cfg.flag("relative_attention", default=False):
        part.tensor("encoder.rel_embeddings.weight", (2 * _reach(cfg), d.hidden), Component.EMBEDDING)
        kinds = _position_kinds(cfg)
        if "c2p" in kinds:
            at.linear("pos_proj", d.hidden, d.hidden, split=COLUMN, bias=False)
        if "p2c" in kinds:
            at.linear("pos_q_proj", d.hidden, d.hidden, split=COLUMN)


def _convbert(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    """ConvBERT: half the heads attend, the other half are convolutions whose kernels depend on the token."""
    heads = max(d.num_heads // cfg.positive("head_ratio"), 1)
    if d.hidden % heads:
        raise ContradictionError(f"{cfg.file}: {heads} heads do not share a width of {d.hidden}")
    inner, kernel = heads * (d.hidden // heads // 2), cfg.positive("conv_kernel_size")
    at = block.at("attention.self.", component=Component.ATTENTION)
    for name in ("query", "key", "value"):
        at.linear(name, inner, d.hidden)
    at.tensor("key_conv_attn_layer.bias", (inner, 1))
    at.tensor("key_conv_attn_layer.depthwise.weight", (d.hidden, 1, kernel))
    at.tensor("key_conv_attn_layer.pointwise.weight", (inner, d.hidden, 1))
    at.linear("conv_kernel_layer", heads * kernel, inner)
    at.linear("conv_out_layer", inner, d.hidden)
    groups, width = cfg.positive("num_groups"), cfg.positive("intermediate_size")
    if groups > 1:
        for name, out, inputs in (("intermediate", width, d.hidden), ("output", d.hidden, width)):
            block.tensor(f"{name}.dense.weight", (groups, inputs // groups, out // groups), Component.MLP)
            block.tensor(f"{name}.dense.bias", (out,), Component.MLP)


def _ernie(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    if cfg.flag("use_task_id", default=False):
        rows = cfg.positive("task_type_vocab_size")
        part.tensor("embeddings.task_type_embeddings.weight", (rows, d.hidden), Component.EMBEDDING)


def _esm(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    part.linear("contact_head.regression", 1, d.num_layers * d.num_heads, Component.OTHER)
    half = d.head_dim // 2
    block.tensor("attention.self.rotary_embeddings.inv_freq", (half,), Component.OTHER, optional=True, buffer=True)


def _layoutlm(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    rows = cfg.positive("max_2d_position_embeddings")
    for axis in "xyhw":
        part.tensor(f"embeddings.{axis}_position_embeddings.weight", (rows, d.hidden), Component.EMBEDDING)


def _longformer(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    for name in ("query_global", "key_global", "value_global"):
        block.linear(f"attention.self.{name}", d.hidden, d.hidden, Component.ATTENTION, COLUMN)


def _nystromformer(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    kernel = cfg.opt_int("conv_kernel_size")
    if kernel is not None:
        block.tensor("attention.self.conv.weight", (d.num_heads, 1, kernel, 1), Component.ATTENTION)


def _roc_bert(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    """RoCBert: characters are also how they sound and look."""
    width = d.hidden
    for name, word in (("pronunciation", "pronunciation_embed"), ("shape", "shape_embed")):
        size = cfg.positive(f"{word}_dim")
        rows = cfg.positive(f"{name}_vocab_size")
        part.tensor(f"embeddings.{word}.weight", (rows, size), Component.EMBEDDING)
        width += size if cfg.flag(f"enable_{name}") else 0
    if cfg.flag("concat_input"):
        part.linear("embeddings.map_inputs_layer", d.hidden, width, Component.EMBEDDING)


def _roformer(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    rows = cfg.positive("max_position_embeddings")  # sinusoids, which transformers counts as a parameter
    part.tensor("encoder.embed_positions.weight", (rows, d.hidden // d.num_heads), Component.EMBEDDING, optional=True)


def _xmod(cfg: Config, part: Part, block: Part, d: Dims) -> None:
    """X-MOD: an adapter for each language after each block."""
    width = d.hidden // cfg.positive("adapter_reduction_factor")
    for language in cfg.need_list("languages"):
        at = block.at(f"output.adapter_modules.{language}.", component=Component.MLP)
        at.linear("dense1", width, d.hidden)
        at.linear("dense2", d.hidden, width)
    if cfg.flag("adapter_layer_norm", default=False):
        block.norm("output.adapter_layer_norm", d.hidden)


def widened_head(cfg: Config, top: Part, vocab: int, hidden: int) -> None:
    """RemBERT's head: wider than the embedding and never tied to it."""
    width = cfg.positive("output_embedding_size")
    at = top.at("cls.predictions.", component=Component.LM_HEAD)
    at.linear("dense", width, hidden)
    top.norm("cls.predictions.LayerNorm", width)
    at.tensor("decoder.weight", (vocab, width), split=Vocab())
    at.tensor("decoder.bias", (vocab,), split=Vocab())


EXTRAS: Final[dict[str, Callable[[Config, Part, Part, Dims], None]]] = {
    "convbert": _convbert,
    "deberta": _deberta,
    "deberta-v2": _deberta2,
    "ernie": _ernie,
    "esm": _esm,
    "layoutlm": _layoutlm,
    "longformer": _longformer,
    "nystromformer": _nystromformer,
    "roc_bert": _roc_bert,
    "roformer": _roformer,
    "xmod": _xmod,
}
