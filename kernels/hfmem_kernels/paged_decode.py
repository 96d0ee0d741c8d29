"""Decode over keys and values: check, choose a configuration, call a registered torch op. Nothing waits for the device."""

from __future__ import annotations

from typing import Any

import torch

from hfmem_kernels import _validate
from hfmem_kernels._calls import Impl, choose, dispatch, limits, parted, reference_result, tensor
from hfmem_kernels._heuristics import DecodeShape, LaunchConfig
from hfmem_kernels._launch import Workspace, device_facts, require_triton


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
        q: [batch, heads, dim] or [batch, q_len, heads, dim], the newest tokens of each sequence, the last at position seq_lens - 1;
            with `cu_q` [tokens, heads, dim]. bf16, fp16 or fp32 (with fp16's digits against 8-bit caches). Query heads are in
            groups: head h reads KV head h // (heads // kv_heads).
        k_cache, v_cache: [pages, page_size, kv_heads, dim] by view: any strides, any page size, v's dim may differ. q's dtype,
            or float8_e4m3fn, float8_e5m2, int8. Both dims, each as the next power of two, are 1,024 together at the most (fp32:
            2,048 on sm_90, sm_100 and gfx942). `layout` makes such views of the usual memory orders. The kernel reads
            e4m3's NaN code as ±480; writers that saturate, as `write_kv` does, never store it.
        page_table: int32 [batch, pages of the longest]; entries behind a sequence's end, or before what a window still sees,
            are never read and may be -1.
        seq_lens: int32 [batch], tokens in the cache, the newest included; 0 gives zeros and an lse of -inf.
        scale: factor of the logits, dim ** -0.5 by default.
        window: query i sees the last `window` tokens up to and with itself (`sliding_window` of Hugging Face configs).
        softcap: logits become softcap · tanh(logits / softcap).
        sinks: [heads]; one more logit for each head, with a value of zero. Part of the lse.
        alibi_slopes: [heads]; slope · (key position - query position) is added.
        k_scale, v_scale: what stored elements of 8-bit caches are multiplied by, 1 by default: a number, or in float32 one
            element, [kv_heads] or, for both, [pages, page_size, kv_heads] (any strides; those of values are not negative).
        cu_q, max_q_len: int32 [batch + 1] first rows of each sequence in q, and the most rows of one, known to the host. Rows of
            nobody, behind the last, are not written.
        out, lse: buffers of q's shape (v's dim), and float32 of q's shape without dim. With `out` and `workspace` the call
            allocates nothing, and neither waits for the device: both are needed inside a captured CUDA graph's pool anyway.
        workspace: see `allocate_workspace`; calls that may run at the same time need their own.
        batch_invariant: split every sequence at the same places whatever else is in the batch: bitwise the same row, slower.
        config: a launch configuration instead of the table's.
        check_indices: check page ids, lengths and `cu_q` by value (waits for the device); else they are believed, and a page id
            that is none reads foreign memory.
        impl: "triton", or "reference" for plain PyTorch. Neither ever stands in for the other.

    Returns:
        out, or (out, lse) with `return_lse`; lse is the natural logarithm of the sum of exponentials, float32.

    Raises:
        ValueError: an argument does not fit; the message names it.
        RuntimeError: impl="triton" without Triton or without a device it runs on.
    """
    most = _validate.check_queries(q, cu_q, max_q_len, seq_lens)
    _validate.check_pages(page_table, seq_lens, q.device)
    _validate.check_caches(q, k_cache, v_cache)
    _validate.check_vector("sinks", sinks, q.shape[-2], q.device)
    _validate.check_vector("alibi_slopes", alibi_slopes, q.shape[-2], q.device)
    _validate.check_scale("k_scale", k_scale, k_cache)
    _validate.check_scale("v_scale", v_scale, v_cache)
    by_token = [isinstance(s, torch.Tensor) and s.dim() == 3 for s in (k_scale, v_scale)]
    if by_token[0] != by_token[1]:
        _validate.fail("v_scale", "scales of tokens for both k_scale and v_scale, or for neither", "one of them")
    _validate.check_outputs(q, v_cache.shape[-1], out, lse, return_lse)
    window, softcap = limits(window, softcap)
    if check_indices:
        counts = _validate.query_counts(q, cu_q, most, seq_lens.shape[0])
        _validate.check_indices(page_table, seq_lens, k_cache, window, counts)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if impl == "reference":
        keywords: dict[str, Any] = {"cu_q": cu_q, "scale": scale, "window": window, "softcap": softcap, "sinks": sinks}
        keywords |= {"alibi_slopes": alibi_slopes, "k_scale": tensor(k_scale, q), "v_scale": tensor(v_scale, q)}
        return reference_result(q, k_cache, v_cache, page_table, seq_lens, keywords, out, lse, return_lse)
    require_triton(impl, q)
    if config is None:
        shape = DecodeShape(
            q.shape[-2] // k_cache.shape[2], most, q.shape[-1], v_cache.shape[-1], k_cache.element_size(),
            token_scales=by_token[0],
        )  # fmt: skip
        config = choose(shape, q.device, batch_invariant)
    (k_factor, k_scale), (v_factor, v_scale) = parted(k_scale), parted(v_scale)
    return dispatch(
        q, k_cache, v_cache, page_table, seq_lens, cu_q, most, scale * k_factor, window, softcap, sinks, alibi_slopes,
        k_scale, v_scale, v_factor, 0, False, config, out, lse, return_lse, workspace,
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
