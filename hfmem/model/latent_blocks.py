"""Multi-head latent attention (DeepSeek V2 and after): what it reads from a config, stores, and keeps between tokens.

Source: transformers 5.23.0 `models/deepseek_v2`, `deepseek_v3`, `deepseek_v32`; published tensor names.
"""

from __future__ import annotations

from collections.abc import Iterable

from hfmem.model.blocks import HEADS, HIDDEN, LAYERS, Dims, norm
from hfmem.model.blocks import linear as linear_block
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.layers import LatentAttention, SparseLatentAttention
from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class Latent:
    """Ranks and head sizes of latent attention. `q_lora_rank` None: queries are projected in one step."""

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    rope: int
    nope: int
    v: int

    def cache(self) -> LatentAttention:
        """What a layer keeps: one latent row a token."""
        return LatentAttention(self.num_heads, self.kv_lora_rank, self.rope, self.nope, self.v)

    def sparse(self, index: Indexer, has_indexer: bool = True) -> SparseLatentAttention:
        """What a layer keeps beside an indexer (or with another layer's)."""
        return SparseLatentAttention(
            self.num_heads, self.kv_lora_rank, self.rope, self.nope, self.v, index.head_dim, index.topk, has_indexer
        )


@dataclass(frozen=True, slots=True)
class Indexer:
    """DeepSeek V3.2's lightning indexer: `num_heads` small query heads, one key of `head_dim` a token, `topk` tokens picked."""

    num_heads: int
    head_dim: int
    topk: int


def read_latent(cfg: Config) -> Latent:
    """The ranks and head sizes. A null `q_lora_rank` means one query projection; `v_head_dim` null: hidden / heads (MiniCPM3)."""
    heads = cfg.positive(*HEADS)
    v = cfg.opt_int("v_head_dim") or cfg.positive(*HIDDEN) // heads
    q_rank = cfg.opt_int("q_lora_rank")
    return Latent(
        heads, q_rank or None, cfg.positive("kv_lora_rank"), cfg.need_int("qk_rope_head_dim"), cfg.need_int("qk_nope_head_dim"), v
    )  # fmt: skip


def read_indexer(cfg: Config) -> Indexer:
    """`index_n_heads`, `index_head_dim`, `index_topk`."""
    return Indexer(cfg.positive("index_n_heads"), cfg.positive("index_head_dim"), cfg.positive("index_topk"))


def latent_dims(cfg: Config, latent: Latent) -> Dims:
    """Dimensions of a latent-attention stack: `head_dim` is a query head's (nope + rope), KV heads as the config names them.

    The KV heads are what the latent expands to; no cache holds them.
    """
    kv_heads = cfg.opt_int("num_key_value_heads") or latent.num_heads
    return Dims(cfg.positive(*HIDDEN), cfg.positive(*LAYERS), latent.num_heads, kv_heads, latent.nope + latent.rope)


def latent_attention(
    inv: Inventory,
    prefix: str,
    indices: Iterable[int],
    hidden: int,
    latent: Latent,
    *,
    bias: bool = False,
) -> None:
    """Down- and up-projections of queries and of the shared latent, and the output projection.

    The down-projections are replicated on every rank, the up-projections split by heads.
    """
    layers = list(indices)
    part = Component.ATTENTION
    q_rows = latent.num_heads * (latent.nope + latent.rope)
    if latent.q_lora_rank is None:
        linear_block(inv, f"{prefix}.q_proj", layers, q_rows, hidden, part, Column())
    else:
        linear_block(inv, f"{prefix}.q_a_proj", layers, latent.q_lora_rank, hidden, part, Replicated(), bias=bias)
        norm(inv, f"{prefix}.q_a_layernorm", layers, latent.q_lora_rank)
        linear_block(inv, f"{prefix}.q_b_proj", layers, q_rows, latent.q_lora_rank, part, Column())
    row = latent.kv_lora_rank + latent.rope
    linear_block(inv, f"{prefix}.kv_a_proj_with_mqa", layers, row, hidden, part, Replicated(), bias=bias)
    norm(inv, f"{prefix}.kv_a_layernorm", layers, latent.kv_lora_rank)
    expanded = latent.num_heads * (latent.nope + latent.v)
    linear_block(inv, f"{prefix}.kv_b_proj", layers, expanded, latent.kv_lora_rank, part, Column())
    linear_block(inv, f"{prefix}.o_proj", layers, hidden, latent.num_heads * latent.v, part, Row(), bias=bias)


def indexer(inv: Inventory, prefix: str, indices: Iterable[int], hidden: int, query_width: int, index: Indexer) -> None:
    """The indexer's own projections, replicated on every rank. `query_width`: what its queries are projected from."""
    layers = list(indices)
    part = Component.ATTENTION
    for name, rows, columns in (
        ("wq_b", index.num_heads * index.head_dim, query_width),
        ("wk", index.head_dim, hidden),
        ("weights_proj", index.num_heads, hidden),
    ):
        linear_block(inv, f"{prefix}.{name}", layers, rows, columns, part, Replicated())
    norm(inv, f"{prefix}.k_norm", layers, index.head_dim, bias=True)
