"""The public decode ops: check, choose a configuration, call a registered torch op. Nothing here waits for the device."""

from __future__ import annotations

from typing import Any, Literal

import torch

from hfmem_kernels import _ops, _reference, _validate
from hfmem_kernels._heuristics import DecodeShape, DeviceFacts, LaunchConfig, select_config
from hfmem_kernels._launch import Workspace, device_facts, require_triton
from hfmem_kernels._register import wants_backward, without_backward
from hfmem_kernels.layout import LatentFormat

Impl = Literal["triton", "reference"]
#: positions and windows up to here add up in int32
MOST_TOKENS = 1 << 30
#: what the table said before: a decode step asks the same for every layer
_chosen: dict[tuple[DecodeShape, DeviceFacts, bool], LaunchConfig] = {}


def paged_decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    alibi_slopes: torch.Tensor | None = None,
    k_scale: torch.Tensor | float | None = None,
    v_scale: torch.Tensor | float | None = None,
    cu_q: torch.Tensor | None = None,
    max_q_len: int | None = None,
    out: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    return_lse: bool = False,
    workspace: Workspace | None = None,
    batch_invariant: bool = False,
    config: LaunchConfig | None = None,
    check_indices: bool = False,
    impl: Impl = "triton",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attention of the newest tokens of each sequence to its paged KV cache, which already holds their keys and values.

    Args:
        q: [batch, heads, dim] or [batch, q_len, heads, dim]; with `cu_q` [tokens, heads, dim]. bf16, fp16 or fp32.
        k_cache, v_cache: [pages, page_size, kv_heads, dim] by view: any strides, any page size, v's dim may differ. q's dtype,
            or float8_e4m3fn, float8_e5m2, int8. `layout` makes such views of the usual memory orders. The kernel reads e4m3's
            NaN code as ±480; writers that saturate, as `write_kv` does, never store it.
        page_table: int32 [batch, pages of the longest]; entries behind a sequence's end, or before what a window still sees,
            are never read and may be -1.
        seq_lens: int32 [batch], tokens in the cache, the newest included; 0 gives zeros and an lse of -inf.
        scale: factor of the logits, dim ** -0.5 by default.
        window: query i sees the last `window` tokens up to and with itself (`sliding_window` of Hugging Face configs).
        softcap: logits become softcap · tanh(logits / softcap).
        sinks: [heads]; one more logit for each head, with a value of zero. Part of the lse.
        alibi_slopes: [heads]; slope · (key position - query position) is added.
        k_scale, v_scale: what stored elements are multiplied by: a number, one element, [kv_heads], or
            [pages, page_size, kv_heads] (any strides).
        cu_q, max_q_len: int32 [batch + 1] first rows of each sequence in q, and the most rows of one, known to the host.
        out, lse: buffers of q's shape (v's dim), and float32 of q's shape without dim. With `out` and `workspace` the call
            allocates nothing, and neither waits for the device: both are needed inside a captured CUDA graph's pool anyway.
        workspace: see `allocate_workspace`; calls that may run at the same time need their own.
        batch_invariant: split every sequence at the same places whatever else is in the batch: bitwise the same row, slower.
        config: a launch configuration instead of the table's.
        check_indices: check page ids and lengths by value (waits for the device).
        impl: "triton", or "reference" for plain PyTorch. Neither ever stands in for the other.

    Returns:
        out, or (out, lse) with `return_lse`; lse is the natural logarithm of the sum of exponentials, float32.

    Raises:
        ValueError: an argument does not fit; the message names it.
        RuntimeError: impl="triton" without Triton or without a device it runs on.
    """
    batch = seq_lens.shape[0] if seq_lens.dim() else 0
    most = _validate.check_queries(q, cu_q, max_q_len, batch)
    _validate.check_pages(page_table, seq_lens, q.device)
    _validate.check_caches(q, k_cache, v_cache)
    _validate.check_vector("sinks", sinks, q.shape[-2], q.device)
    _validate.check_vector("alibi_slopes", alibi_slopes, q.shape[-2], q.device)
    _validate.check_scale("k_scale", k_scale, k_cache)
    _validate.check_scale("v_scale", v_scale, v_cache)
    if (isinstance(k_scale, torch.Tensor) and k_scale.dim() == 3) != (
        isinstance(v_scale, torch.Tensor) and v_scale.dim() == 3
    ):
        _validate.fail("v_scale", "scales of tokens for both k_scale and v_scale, or for neither", "one of them")
    _validate.check_outputs(q, v_cache.shape[-1], out, lse, return_lse)
    window, softcap = _limits(window, softcap)
    if check_indices:
        _validate.check_indices(page_table, seq_lens, k_cache.shape[0], k_cache.shape[1], window)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if impl == "reference":
        keywords: dict[str, Any] = {"cu_q": cu_q, "scale": scale, "window": window, "softcap": softcap, "sinks": sinks}
        keywords |= {"alibi_slopes": alibi_slopes, "k_scale": _tensor(k_scale, q), "v_scale": _tensor(v_scale, q)}
        return _reference_result(q, k_cache, v_cache, page_table, seq_lens, keywords, out, lse, return_lse)
    require_triton(impl, q)
    if config is None:
        shape = DecodeShape(
            q.shape[-2] // k_cache.shape[2], most, q.shape[-1], v_cache.shape[-1], k_cache.element_size(),
            token_scales=isinstance(k_scale, torch.Tensor) and k_scale.dim() == 3,
        )  # fmt: skip
        config = _choose(shape, q.device, batch_invariant)
    if not isinstance(k_scale, torch.Tensor) and k_scale is not None:
        scale, k_scale = scale * k_scale, None
    v_factor = 1.0
    if not isinstance(v_scale, torch.Tensor) and v_scale is not None:
        v_factor, v_scale = float(v_scale), None
    return _dispatch(
        q, k_cache, v_cache, page_table, seq_lens, cu_q, most, scale, window, softcap, sinks, alibi_slopes,
        k_scale, v_scale, v_factor, 0, config, out, lse, return_lse, workspace,
    )  # fmt: skip


def mla_decode_attention(
    q: torch.Tensor,
    cache: torch.Tensor,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    scale: float,
    kv_lora_rank: int = 512,
    window: int | None = None,
    cache_scale: torch.Tensor | float | None = None,
    cu_q: torch.Tensor | None = None,
    max_q_len: int | None = None,
    out: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    return_lse: bool = False,
    workspace: Workspace | None = None,
    batch_invariant: bool = False,
    config: LaunchConfig | None = None,
    check_indices: bool = False,
    impl: Impl = "triton",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Decode attention over a latent (MLA) cache, with the up-projections absorbed into the query and the output.

    Args:
        q: as in `paged_decode_attention`, its columns the latent (`kv_lora_rank`) and then the rotary ones: 512 + 64.
        cache: [pages, page_size, 576] in q's dtype or 8-bit with `cache_scale`, or uint8 rows [pages, page_size, 656]
            (`LatentFormat.FP8_DS`). Every head reads the same row; the value is its latent part.
        scale: required: it is that of the heads before absorption, (qk_nope_head_dim + qk_rope_head_dim) ** -0.5 and more.
        cache_scale: a number or one element, for 8-bit caches without scales of their own.

    The other arguments, the result and what is raised are those of `paged_decode_attention`; out's dim is `kv_lora_rank`.
    """
    batch = seq_lens.shape[0] if seq_lens.dim() else 0
    most = _validate.check_queries(q, cu_q, max_q_len, batch)
    _validate.check_pages(page_table, seq_lens, q.device)
    latent_format = _validate.check_latent(q, cache, kv_lora_rank)
    rows = cache[:, :, None, :]
    if latent_format is LatentFormat.PLAIN:
        _validate.check_scale("cache_scale", cache_scale, rows)
    elif cache_scale is not None:
        _validate.fail("cache_scale", "None for rows that carry their scales", "a scale")
    if isinstance(cache_scale, torch.Tensor) and cache_scale.numel() != 1:
        _validate.fail("cache_scale", "a number or one element", f"shape {list(cache_scale.shape)}")
    _validate.check_outputs(q, kv_lora_rank, out, lse, return_lse)
    window, softcap = _limits(window, None)
    if check_indices:
        _validate.check_indices(page_table, seq_lens, cache.shape[0], cache.shape[1], window)
    if impl == "reference":
        keywords = {"cu_q": cu_q, "scale": float(scale), "window": window, "kv_lora_rank": kv_lora_rank}
        keywords["k_scale"] = _tensor(cache_scale, q)
        return _reference_result(q, cache, None, page_table, seq_lens, keywords, out, lse, return_lse)
    require_triton(impl, q)
    if config is None:
        packed = latent_format is LatentFormat.FP8_DS
        shape = DecodeShape(q.shape[-2], most, q.shape[-1], kv_lora_rank, cache.element_size(), True, packed)
        config = _choose(shape, q.device, batch_invariant)
    factor = 1.0
    if cache_scale is not None and not isinstance(cache_scale, torch.Tensor):
        factor, cache_scale = float(cache_scale), None
    values = rows if latent_format is LatentFormat.FP8_DS else rows[..., :kv_lora_rank]
    return _dispatch(
        q, rows, values, page_table, seq_lens, cu_q, most, scale * factor, window, softcap, None, None, cache_scale,
        cache_scale, factor, kv_lora_rank, config, out, lse, return_lse, workspace,
    )  # fmt: skip


def allocate_workspace(
    device: torch.device | str, *, max_rows: int = 64, v_head_dim: int = 512, num_slots: int | None = None
) -> Workspace:
    """Scratch memory for calls that are to allocate nothing.

    Large enough for every call with equal shares (not `batch_invariant`) whose launch has at most `max_rows` query rows and
    `v_head_dim` value columns a block; `num_slots` for fixed splits: items × pieces, `Split.num_slots` of `_launch`.
    """
    where = torch.device(device)
    slots = num_slots or 2 * 8 * device_facts(where).num_sms
    return Workspace.empty(slots, slots * max_rows * (v_head_dim + 2), where)


def _choose(shape: DecodeShape, device: torch.device, batch_invariant: bool) -> LaunchConfig:
    facts = device_facts(device)
    if torch.compiler.is_compiling():
        return select_config(shape, facts.family, batch_invariant=batch_invariant, triton=facts.triton)
    key = (shape, facts, batch_invariant)
    if key not in _chosen:
        _chosen[key] = select_config(shape, facts.family, batch_invariant=batch_invariant, triton=facts.triton)
    return _chosen[key]


def _limits(window: int | None, softcap: float | None) -> tuple[int, float]:
    if window is not None and (not isinstance(window, int) or window < 1):
        _validate.fail("window", "an integer of at least 1, or None for no window", window)
    if softcap is not None and softcap < 0.0:
        _validate.fail("softcap", "a positive number, or None", softcap)
    return min(window or 0, MOST_TOKENS), float(softcap or 0.0)  # a larger window hides nothing


def _tensor(scale: torch.Tensor | float | None, like: torch.Tensor) -> torch.Tensor | None:
    if scale is None or isinstance(scale, torch.Tensor):
        return scale
    return torch.tensor(scale, dtype=torch.float32, device=like.device)


def _reference_result(
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
    result = result.to(q.dtype) if out is None else out.copy_(result)
    log_sum = log_sum if lse is None else lse.copy_(log_sum)
    return (result, log_sum) if return_lse else result


def _dispatch(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor,
    cu_q: torch.Tensor | None, max_q_len: int, scale: float, window: int, softcap: float, sinks: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None, v_factor: float,
    kv_lora_rank: int, config: LaunchConfig, out: torch.Tensor | None, lse: torch.Tensor | None, return_lse: bool,
    workspace: Workspace | None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Call the functional op, or the one that writes into the caller's buffers."""
    arguments = (
        q, k_cache, v_cache, page_table, seq_lens, cu_q, max_q_len, scale, window, softcap, sinks, alibi_slopes,
        k_scale, v_scale, v_factor, kv_lora_rank, _ops.values_of(config),
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
