"""Decode over latent (MLA) caches, all of a sequence or the tokens that are listed: as `paged_decode`."""

from __future__ import annotations

import torch

from hfmem_kernels import _reference, _validate
from hfmem_kernels._calls import Impl, choose, dispatch, limits, parted, reference_result, stored, tensor
from hfmem_kernels._heuristics import DecodeShape, LaunchConfig
from hfmem_kernels._launch import Workspace, require_triton
from hfmem_kernels.layout import LatentFormat


def mla_decode_attention(
    q: torch.Tensor,
    cache: torch.Tensor,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    scale: float,
    kv_lora_rank: int = 512,
    window: int | None = None,
    sinks: torch.Tensor | None = None,
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
        q: as in `paged_decode_attention`, its columns the latent (`kv_lora_rank`) and then the rotary ones: 512 + 64. DeepSeek V4
            has 448 + 64, all of which are values: its `kv_lora_rank` is 512, the output's columns, as many as q's.
        cache: [pages, page_size, columns] in q's dtype or 8-bit with `cache_scale`, or uint8 rows that carry their scales,
            [pages, page_size, 656, 584 or 352] (`LatentFormat`; 584: a view by `layout.latent_view`). Every head reads the same
            row; the value is its first `kv_lora_rank` columns.
        scale: required: it is that of the heads before absorption, (qk_nope_head_dim + qk_rope_head_dim) ** -0.5 and more.
        sinks: [heads]; one more logit for each head, with a value of zero. Part of the lse.
        cache_scale: a number or one element, for 8-bit caches without scales of their own.

    The other arguments, the result and what is raised are those of `paged_decode_attention`; out's dim is `kv_lora_rank`.
    """
    most = _validate.check_queries(q, cu_q, max_q_len, seq_lens)
    _validate.check_pages(page_table, seq_lens, q.device)
    packed = _check(q, cache, kv_lora_rank, cache_scale, sinks)
    _validate.check_outputs(q, kv_lora_rank, out, lse, return_lse)
    window, _ = limits(window, None)
    if check_indices:
        counts = _validate.query_counts(q, cu_q, most, seq_lens.shape[0])
        _validate.check_indices(page_table, seq_lens, cache, window, counts)
    if impl == "reference":
        keywords = {"cu_q": cu_q, "scale": float(scale), "window": window, "sinks": sinks, "kv_lora_rank": kv_lora_rank}
        keywords["k_scale"] = tensor(cache_scale, q)
        return reference_result(q, cache, None, page_table, seq_lens, keywords, out, lse, return_lse)
    require_triton(impl, q)
    if config is None:
        shape = DecodeShape(q.shape[-2], most, q.shape[-1], kv_lora_rank, cache.element_size(), True, packed)
        config = choose(shape, q.device, batch_invariant)
    return _call(
        q, cache, page_table, seq_lens, cu_q, most, scale, window, sinks, cache_scale, kv_lora_rank, False, config, out, lse,
        return_lse, workspace,
    )  # fmt: skip


def sparse_mla_decode_attention(
    q: torch.Tensor,
    cache: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    kv_lora_rank: int = 512,
    sinks: torch.Tensor | None = None,
    cache_scale: torch.Tensor | float | None = None,
    out: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    return_lse: bool = False,
    workspace: Workspace | None = None,
    batch_invariant: bool = False,
    config: LaunchConfig | None = None,
    check_indices: bool = False,
    impl: Impl = "triton",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Decode attention of each token to a list of its own of tokens in a latent cache, such as an indexer picks (DSA).

    Args:
        q: [tokens, heads, columns], columns as in `mla_decode_attention`; several queries of a sequence are tokens of their own.
        cache: as in `mla_decode_attention`, in any of its formats.
        slots: int32 [tokens, most], page · page_size + place in the page, in any order; negative ones are left out. What is
            listed twice counts twice.
        lengths: int32 [tokens], how many entries of each list count; the rest is never read. 0 gives zeros and an lse of -inf.
        check_indices: check the slots by value (waits for the device); else they are believed.

    The other arguments, the result and what is raised are those of `mla_decode_attention`. Two caches under one softmax, as
    DeepSeek V4's window and its compressed rows, are two calls with `return_lse`, sinks in one of them, and `merge_attention`.
    """
    _validate.check_slots(slots, lengths, q)
    packed = _check(q, cache, kv_lora_rank, cache_scale, sinks)
    _validate.check_outputs(q, kv_lora_rank, out, lse, return_lse)
    if check_indices:
        _validate.check_slot_values(slots, lengths, cache)
    if impl == "reference":
        result, log_sum = _reference.decode_listed(
            q, cache, slots, lengths, scale=float(scale), kv_lora_rank=kv_lora_rank, sinks=sinks,
            cache_scale=tensor(cache_scale, q),
        )  # fmt: skip
        return stored(result, log_sum, q, out, lse, return_lse)
    require_triton(impl, q)
    if config is None:
        shape = DecodeShape(q.shape[-2], 1, q.shape[-1], kv_lora_rank, cache.element_size(), True, packed, listed=True)
        config = choose(shape, q.device, batch_invariant)
    return _call(
        q, cache, slots, lengths, None, 1, scale, 0, sinks, cache_scale, kv_lora_rank, True, config, out, lse, return_lse,
        workspace,
    )  # fmt: skip


def _check(
    q: torch.Tensor, cache: torch.Tensor, kv_lora_rank: int, cache_scale: torch.Tensor | float | None,
    sinks: torch.Tensor | None,
) -> int:  # fmt: skip
    """What both ops ask of their arguments; the bytes of rows that carry their scales, else 0."""
    latent_format = _validate.check_latent(q, cache, kv_lora_rank)
    packed = 0 if latent_format is LatentFormat.PLAIN else cache.shape[2]
    if not packed:
        _validate.check_one_scale("cache_scale", cache_scale, cache)
    elif cache_scale is not None:
        _validate.fail("cache_scale", "None for rows that carry their scales", "a scale")
    _validate.check_vector("sinks", sinks, q.shape[-2], q.device)
    return packed


def _call(
    q: torch.Tensor, cache: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor, cu_q: torch.Tensor | None,
    max_q_len: int, scale: float, window: int, sinks: torch.Tensor | None, cache_scale: torch.Tensor | float | None,
    kv_lora_rank: int, by_slot: bool, config: LaunchConfig, out: torch.Tensor | None, lse: torch.Tensor | None,
    return_lse: bool, workspace: Workspace | None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """`dispatch` for a cache [pages, page, columns or bytes]; table: page ids, or slots if `by_slot`."""
    rows = cache[:, :, None, :]
    values = rows if cache.dtype == torch.uint8 else rows[..., :kv_lora_rank]
    factor, one = parted(cache_scale)
    one = one if one is None else one.reshape(1)
    return dispatch(
        q, rows, values, table, lengths, cu_q, max_q_len, scale * factor, window, 0.0, sinks, None, one, one,
        factor, kv_lora_rank, by_slot, config, out, lse, return_lse, workspace,
    )  # fmt: skip
