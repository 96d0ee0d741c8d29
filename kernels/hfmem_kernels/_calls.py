"""What the public decode ops do alike: the table's choice, the reference's result, the call of a registered op."""

from __future__ import annotations

from typing import Any, Literal

import torch

from hfmem_kernels import _ops, _reference, _validate
from hfmem_kernels._heuristics import DecodeShape, DeviceFacts, LaunchConfig, select_config
from hfmem_kernels._launch import MOST_TOKENS, Workspace, device_facts
from hfmem_kernels._register import wants_backward, without_backward

Impl = Literal["triton", "reference"]
#: what the table said before: a decode step asks the same for every layer
_chosen: dict[tuple[DecodeShape, DeviceFacts, bool], LaunchConfig] = {}


def choose(shape: DecodeShape, device: torch.device, batch_invariant: bool) -> LaunchConfig:
    facts = device_facts(device)
    if torch.compiler.is_compiling():
        return select_config(shape, facts.family, batch_invariant=batch_invariant, triton=facts.triton)
    key = (shape, facts, batch_invariant)
    if key not in _chosen:
        _chosen[key] = select_config(shape, facts.family, batch_invariant=batch_invariant, triton=facts.triton)
    return _chosen[key]


def limits(window: int | None, softcap: float | None) -> tuple[int, float]:
    if window is not None and (not isinstance(window, int) or window < 1):
        _validate.fail("window", "an integer of at least 1, or None for no window", window)
    if softcap is not None and not softcap >= 0.0:
        _validate.fail("softcap", "a positive number, or None", softcap)
    return min(window or 0, MOST_TOKENS), float(softcap or 0.0)  # a larger window hides nothing


def parted(scale: torch.Tensor | float | None) -> tuple[float, torch.Tensor | None]:
    """A scale as a number, 1 if it is a tensor or none, and a tensor, None if it is a number."""
    return (1.0, scale) if scale is None or isinstance(scale, torch.Tensor) else (float(scale), None)


def tensor(scale: torch.Tensor | float | None, like: torch.Tensor) -> torch.Tensor | None:
    if scale is None or isinstance(scale, torch.Tensor):
        return scale
    return torch.tensor(scale, dtype=torch.float32, device=like.device)


def reference_result(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor | None, page_table: torch.Tensor,
    seq_lens: torch.Tensor, keywords: dict[str, Any], out: torch.Tensor | None, lse: torch.Tensor | None,
    return_lse: bool,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    batched = q.dim() == 3 and keywords["cu_q"] is None
    result, log_sum = _reference.decode(
        q[:, None] if batched else q,
        k_cache,
        v_cache,
        page_table,
        seq_lens,
        **keywords,
        dtype=torch.float32,
    )
    if batched:
        result, log_sum = result[:, 0], log_sum[:, 0]
    return stored(result, log_sum, q, out, lse, return_lse)


def stored(
    result: torch.Tensor, log_sum: torch.Tensor, q: torch.Tensor, out: torch.Tensor | None, lse: torch.Tensor | None,
    return_lse: bool,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """What the reference found, in q's dtype or in the caller's buffers."""
    result = result.to(q.dtype) if out is None else out.copy_(result)
    log_sum = log_sum if lse is None else lse.copy_(log_sum)
    return (result, log_sum) if return_lse else result


def dispatch(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor,
    cu_q: torch.Tensor | None, max_q_len: int, scale: float, window: int, softcap: float, sinks: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None, v_factor: float,
    kv_lora_rank: int, by_slot: bool, config: LaunchConfig, out: torch.Tensor | None, lse: torch.Tensor | None,
    return_lse: bool, workspace: Workspace | None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Call the functional op, or the one that writes into the caller's buffers."""
    arguments = (
        q, k_cache, v_cache, page_table, seq_lens, cu_q, max_q_len, scale, window, softcap, sinks, alibi_slopes,
        k_scale, v_scale, v_factor, kv_lora_rank, by_slot, _ops.values_of(config),
    )  # fmt: skip
    if out is None and workspace is None:
        with torch.no_grad():
            result, log_sum = _ops.paged_decode(*arguments, return_lse)
        if wants_backward(q, k_cache, v_cache):
            result = without_backward(result, q, k_cache, v_cache)
        return (result, log_sum) if return_lse else result
    if out is None:
        out = q.new_empty(*q.shape[:-1], kv_lora_rank or v_cache.shape[-1])
        lse = q.new_empty(q.shape[:-1], dtype=torch.float32) if return_lse else None
    if workspace is None:
        workspace = _ops.workspace_for(*arguments)
    else:
        _ops.check_workspace(workspace, *arguments)
    with torch.no_grad():
        _ops.paged_decode_out(*arguments, out, lse, workspace.counters, workspace.partials)
    if return_lse:
        assert lse is not None
        return out, lse
    return out
