"""The decode kernels as torch ops.

Flat argument lists, because an op's schema knows only tensors and plain values; `config` is a `LaunchConfig`, field by field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from hfmem_kernels._heuristics import LaunchConfig
from hfmem_kernels._launch import Columns, Split, Workspace, device_facts, launch_decode, plan_split, token_limits
from hfmem_kernels._register import nothing, op
from hfmem_kernels._validate import fail

_FIELDS = tuple(field.name for field in fields(LaunchConfig))
_TYPES = tuple(bool if field.type == "bool" else int for field in fields(LaunchConfig))


def values_of(config: LaunchConfig) -> list[int]:
    """A configuration, field by field; `dataclasses.astuple` copies each and takes ten times as long."""
    return [int(getattr(config, name)) for name in _FIELDS]


def config_of(values: Sequence[int]) -> LaunchConfig:
    """The configuration of `values_of`."""
    typed: list[Any] = [kind(value) for kind, value in zip(_TYPES, values, strict=True)]
    return LaunchConfig(*typed)


def _split(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor,
    cu_q: torch.Tensor | None, max_q_len: int, scale: float, window: int, softcap: float, sinks: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None, v_factor: float,
    kv_lora_rank: int, by_slot: bool, config: Sequence[int],
) -> Split:  # fmt: skip
    """Grid and workspace of a call."""
    chosen = config_of(config)
    kv_heads = k_cache.shape[2]
    m_blocks = -(-(q.shape[-2] // kv_heads) * max_q_len // chosen.block_m)
    _, tokens = token_limits(page_table, 1 if by_slot else k_cache.shape[1], window, max_q_len)
    v_dim = kv_lora_rank or v_cache.shape[-1]
    dv = Columns.of(q.shape[-1], v_dim, pairs=chosen.pairs, latent=bool(kv_lora_rank)).dv
    return plan_split(chosen, seq_lens.shape[0] * kv_heads * m_blocks, tokens, device_facts(q.device).num_sms, dv)


def workspace_for(*arguments: object) -> Workspace:
    """A fresh workspace for one call."""
    split = _split(*arguments)  # type: ignore[arg-type]
    q = arguments[0]
    assert isinstance(q, torch.Tensor)
    return Workspace.empty(split.num_slots, split.partial_floats, q.device)


def check_workspace(workspace: Workspace, *arguments: object) -> None:
    """A workspace that the caller gave is where the tensors are, of the right kind and large enough."""
    split = _split(*arguments)  # type: ignore[arg-type]
    q = arguments[0]
    assert isinstance(q, torch.Tensor)
    for name, tensor, dtype in (
        ("counters", workspace.counters, torch.int32),
        ("partials", workspace.partials, torch.float32),
    ):
        if tensor.device != q.device or tensor.dtype != dtype or not tensor.is_contiguous():
            expected = f"contiguous {name} of {dtype} on {q.device}"
            fail("workspace", expected, f"{tensor.dtype} on {tensor.device}, strides {list(tensor.stride())}")
    if workspace.counters.numel() < 2 * split.num_slots:
        fail("workspace", f"at least {2 * split.num_slots} counters", workspace.counters.numel())
    if workspace.partials.numel() < split.partial_floats:
        fail("workspace", f"at least {split.partial_floats} floats", workspace.partials.numel())


def _run(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor,
    cu_q: torch.Tensor | None, max_q_len: int, scale: float, window: int, softcap: float, sinks: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None, v_factor: float,
    kv_lora_rank: int, by_slot: bool, config: Sequence[int], out: torch.Tensor, lse: torch.Tensor | None, workspace: Workspace,
) -> None:  # fmt: skip
    if q.numel() == 0 or seq_lens.numel() == 0:
        return
    if cu_q is None and q.dim() == 3:
        q, out = q.unsqueeze(1), out.unsqueeze(1)
        lse = lse.unsqueeze(1) if lse is not None else None
    launch_decode(
        q, k_cache, v_cache, page_table, seq_lens, cu_q=cu_q, max_q_len=max_q_len, out=out, lse=lse,
        workspace=workspace, scale=scale, window=window, softcap=softcap, sinks=sinks, alibi_slopes=alibi_slopes,
        k_scale=k_scale, v_scale=v_scale, v_factor=v_factor, kv_lora_rank=kv_lora_rank, config=config_of(config),
        num_sms=device_facts(q.device).num_sms, by_slot=by_slot,
    )  # fmt: skip


def _paged_decode_fake(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor,
    cu_q: torch.Tensor | None, max_q_len: int, scale: float, window: int, softcap: float, sinks: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None, v_factor: float,
    kv_lora_rank: int, by_slot: bool, config: Sequence[int], want_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    out = q.new_empty(*q.shape[:-1], kv_lora_rank or v_cache.shape[-1])
    return out, q.new_empty(q.shape[:-1] if want_lse else (0,), dtype=torch.float32)


@op("paged_decode", mutates=(), fake=_paged_decode_fake)
def paged_decode(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor,
    cu_q: torch.Tensor | None, max_q_len: int, scale: float, window: int, softcap: float, sinks: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None, v_factor: float,
    kv_lora_rank: int, by_slot: bool, config: Sequence[int], want_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Returns out and lse; lse is empty without `want_lse`."""
    out = q.new_empty(*q.shape[:-1], kv_lora_rank or v_cache.shape[-1])
    lse = q.new_empty(q.shape[:-1] if want_lse else (0,), dtype=torch.float32)
    arguments = (
        q, k_cache, v_cache, page_table, seq_lens, cu_q, max_q_len, scale, window, softcap, sinks, alibi_slopes,
        k_scale, v_scale, v_factor, kv_lora_rank, by_slot, config,
    )  # fmt: skip
    _run(*arguments, out, lse if want_lse else None, workspace_for(*arguments))
    return out, lse


@op("paged_decode_out", mutates=("out", "lse", "counters", "partials"), fake=nothing)
def paged_decode_out(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor,
    cu_q: torch.Tensor | None, max_q_len: int, scale: float, window: int, softcap: float, sinks: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None, v_factor: float,
    kv_lora_rank: int, by_slot: bool, config: Sequence[int], out: torch.Tensor, lse: torch.Tensor | None, counters: torch.Tensor,
    partials: torch.Tensor,
) -> None:  # fmt: skip
    """Writes out and lse in place and allocates nothing."""
    _run(
        q, k_cache, v_cache, page_table, seq_lens, cu_q, max_q_len, scale, window, softcap, sinks, alibi_slopes,
        k_scale, v_scale, v_factor, kv_lora_rank, by_slot, config, out, lse, Workspace(counters, partials),
    )  # fmt: skip
