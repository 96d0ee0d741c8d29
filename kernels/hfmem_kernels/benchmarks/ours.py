"""Our own ops as a contender: a launch that allocates nothing, with the table's configuration or another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from hfmem_kernels import (
    allocate_workspace,
    mla_decode_attention,
    paged_decode_attention,
    sparse_mla_decode_attention,
)
from hfmem_kernels._heuristics import DecodeShape, LaunchConfig, select_config
from hfmem_kernels._launch import device_facts
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.layout import LatentFormat

#: launches a contender on one of the sets and returns its output [batch, q_len, heads, dim]
Launch = Callable[[int], torch.Tensor]


def default_config(row: Row, device: torch.device) -> LaunchConfig:
    """The configuration that the op would choose."""
    s = row.shape
    packed = row.token_row_bytes if row.latent_format is not LatentFormat.PLAIN else 0
    size = 1 if row.dtype.startswith(("float8", "int8")) or packed else 2
    group = s.num_heads if s.latent else s.group
    shape = DecodeShape(
        group,
        row.q_len,
        s.head_dim,
        s.v_head_dim,
        size,
        latent=s.latent,
        packed=packed,
        token_scales=row.scales == "token",
        listed=row.listed,
    )
    facts = device_facts(device)
    return select_config(shape, facts.family, triton=facts.triton)


def prepare(inputs: Inputs, config: LaunchConfig | None = None, seq_lens: torch.Tensor | None = None) -> Launch:
    """The op on the inputs; `seq_lens` instead of the row's own, none of them longer."""
    row = inputs.row
    lengths = inputs.seq_lens if seq_lens is None else seq_lens
    chosen = config or default_config(row, inputs.device)
    workspace = allocate_workspace(inputs.device, max_rows=chosen.block_m, v_head_dim=max(16, row.shape.v_head_dim))
    outs = [query.new_full((*query.shape[:-1], row.shape.v_head_dim), float("nan")) for query in inputs.queries]

    def launch(index: int) -> torch.Tensor:
        each, out = inputs.sets[index], outs[index]
        if each.latent is not None and row.listed:
            sparse_mla_decode_attention(
                inputs.queries[index][:, 0], each.latent, inputs.page_table, lengths, scale=row.shape.scale,
                kv_lora_rank=row.shape.v_head_dim, sinks=inputs.sinks, cache_scale=each.k_scale, out=out[:, 0],
                workspace=workspace, config=chosen,
            )  # fmt: skip
        elif each.latent is not None:
            mla_decode_attention(
                inputs.queries[index], each.latent, inputs.page_table, lengths, scale=row.shape.scale,
                kv_lora_rank=row.shape.v_head_dim, window=row.shape.window, sinks=inputs.sinks, cache_scale=each.k_scale,
                out=out, workspace=workspace, config=chosen,
            )  # fmt: skip
        else:
            paged_decode_attention(
                inputs.queries[index], each.k, each.v, inputs.page_table, lengths, scale=row.shape.scale,
                window=row.shape.window, sinks=inputs.sinks, k_scale=each.k_scale, v_scale=each.v_scale, out=out,
                workspace=workspace, config=chosen,
            )  # fmt: skip
        return out

    return launch


def override(config: LaunchConfig, **changes: int | bool) -> LaunchConfig:
    """A configuration with changes, and the register cap that the new number of programs allows, unless it is given."""
    changed = replace(config, **changes)  # type: ignore[arg-type]
    return changed if "register_cap" in changes else replace(changed, register_cap=changed.max_registers)
