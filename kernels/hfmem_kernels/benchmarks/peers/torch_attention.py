"""PyTorch's own attention: dense kernels on a cache gathered beforehand, which no engine could do for free, and varlen on pages."""

from __future__ import annotations

from pathlib import Path

import torch

from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.ours import Launch
from hfmem_kernels.benchmarks.peers.base import Peer, by_sequence, first_refusal, query_starts
from hfmem_kernels.benchmarks.peers.loading import installed, member
from hfmem_kernels.benchmarks.rows import Row


def _dense_only(row: Row) -> str | None:
    return first_refusal(row, kv=True, window=True, hnd=True, packed=True)


def _sdpa(inputs: Inputs, folder: Path | None) -> Launch:
    dense, scale = inputs.dense, inputs.row.shape.scale

    def launch(index: int) -> torch.Tensor:
        k, v = dense[index]
        q = inputs.queries[index].transpose(1, 2)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True)
        return out.transpose(1, 2)

    return launch


def _flex(inputs: Inputs, folder: Path | None) -> Launch:
    flex = member(installed("torch.nn.attention.flex_attention", "torch"), "flex_attention", "scale", "enable_gqa")
    compiled = torch.compile(flex, dynamic=False) if inputs.device.type == "cuda" else flex
    dense, scale = inputs.dense, inputs.row.shape.scale

    def launch(index: int) -> torch.Tensor:
        k, v = dense[index]
        out: torch.Tensor = compiled(inputs.queries[index].transpose(1, 2), k, v, scale=scale, enable_gqa=True)
        return out.transpose(1, 2)

    return launch


def _pages_of_varlen(row: Row) -> str | None:
    return first_refusal(row, kv=True, window=True, ragged=True, queries=True)


def _varlen(inputs: Inputs, folder: Path | None) -> Launch:
    module = installed("torch.nn.attention.varlen", "torch")
    varlen = member(module, "varlen_attn", "scale", "window_size", "enable_gqa", "seqused_k", "block_table")
    row, starts = inputs.row, query_starts(inputs)
    longest = max(row.mix.lengths)
    window = (row.shape.window - 1, 0) if row.shape.window else (-1, 0)

    def launch(index: int) -> torch.Tensor:
        each = inputs.sets[index]
        out: torch.Tensor = varlen(
            inputs.queries[index].flatten(0, 1), each.k, each.v, starts, None, row.q_len, longest,
            scale=row.shape.scale, window_size=window, enable_gqa=True, seqused_k=inputs.seq_lens,
            block_table=inputs.page_table,
        )  # fmt: skip
        return by_sequence(inputs, out)

    return launch


PEERS = (
    Peer("torch_varlen", "torch", "torch", _pages_of_varlen, _varlen),
    Peer("torch_sdpa_dense", "torch", "torch", _dense_only, _sdpa),
    Peer("torch_flex_dense", "torch", "torch", _dense_only, _flex, slow=True),
)
