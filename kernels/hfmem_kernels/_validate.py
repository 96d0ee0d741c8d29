"""Checks before any launch. Every message: the argument, what was expected, what was given."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hfmem_kernels.layout import PACKED_ROWS, LatentFormat

QUERY_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
QUANTIZED = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)


def fail(name: str, expected: str, given: object) -> None:
    """Raise the ValueError that all checks raise."""
    raise ValueError(f"{name}: expected {expected}, given {given}")


def dtype_name(dtype: torch.dtype) -> str:
    """ "bfloat16" for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def check_dtype(name: str, tensor: torch.Tensor, allowed: Sequence[torch.dtype]) -> None:
    """`tensor` has one of the dtypes."""
    if tensor.dtype not in allowed:
        fail(name, "dtype " + " or ".join(map(dtype_name, allowed)), f"dtype {dtype_name(tensor.dtype)}")


def check_shape(name: str, tensor: torch.Tensor, expected: Sequence[int | str]) -> None:
    """`tensor` has as many dimensions as `expected`, and its sizes where that has a number; a word stands for any size."""
    same = tensor.dim() == len(expected)
    if not same or any(isinstance(e, int) and e != s for e, s in zip(expected, tensor.shape, strict=True)):
        fail(name, f"shape [{', '.join(map(str, expected))}]", f"shape {list(tensor.shape)}")


def check_device(name: str, tensor: torch.Tensor, device: torch.device) -> None:
    """`tensor` is where q is."""
    if tensor.device != device:
        fail(name, f"device {device} (q's)", f"device {tensor.device}")


def check_vector(name: str, tensor: torch.Tensor | None, size: int, device: torch.device) -> None:
    """A contiguous floating-point vector, or nothing."""
    if tensor is None:
        return
    check_device(name, tensor, device)
    check_shape(name, tensor, [size])
    check_dtype(name, tensor, QUERY_DTYPES)
    if tensor.stride(0) != 1 and size > 1:
        fail(name, "stride 1", f"stride {tensor.stride(0)}")


def check_scale(name: str, scale: torch.Tensor | float | None, cache: torch.Tensor) -> None:
    """A number, one element, [kv heads], or [pages, page, kv heads]; only caches of 8-bit elements have scales."""
    if scale is None:
        return
    if cache.dtype not in QUANTIZED:
        fail(name, "None for a cache that is not quantized", f"a scale for dtype {dtype_name(cache.dtype)}")
    if not isinstance(scale, torch.Tensor):
        return
    check_device(name, scale, cache.device)
    check_dtype(name, scale, [torch.float32])
    heads, token_heads = [cache.shape[2]], [cache.shape[0], cache.shape[1], cache.shape[2]]
    if scale.numel() != 1 and list(scale.shape) not in (heads, token_heads):
        fail(name, f"a number, one element, {heads} or {token_heads}", f"shape {list(scale.shape)}")


def check_indices(
    page_table: torch.Tensor, seq_lens: torch.Tensor, num_pages: int, page_size: int, window: int
) -> None:
    """Page ids and lengths by value. Reads device memory, so it waits for the device: for debugging, not for capture."""
    capacity = page_table.shape[1] * page_size
    if seq_lens.numel() and (int(seq_lens.min()) < 0 or int(seq_lens.max()) > capacity):
        fail("seq_lens", f"values 0 … {capacity} (page_table's width × page size)", f"{seq_lens.tolist()}")
    for b, length in enumerate(seq_lens.tolist()):
        first = max(0, length - window) // page_size if window else 0
        used = page_table[b, first : -(-length // page_size)]
        if used.numel() and (int(used.min()) < 0 or int(used.max()) >= num_pages):
            fail("page_table", f"ids 0 … {num_pages - 1} in the {length} tokens of sequence {b}", f"{used.tolist()}")


def check_queries(q: torch.Tensor, cu_q: torch.Tensor | None, max_q_len: int | None, batch: int) -> int:
    """The shapes a query may have; returns the most queries of a sequence."""
    check_dtype("q", q, QUERY_DTYPES)
    if cu_q is None:
        if q.dim() not in (3, 4):
            fail("q", "shape [batch, heads, dim] or [batch, q_len, heads, dim]", f"shape {list(q.shape)}")
        if q.shape[0] != batch:
            fail("q", f"batch {batch} (seq_lens')", f"batch {q.shape[0]}")
        if max_q_len is not None:
            fail("max_q_len", "None without cu_q (q's shape says it)", max_q_len)
        return q.shape[1] if q.dim() == 4 else 1
    check_shape("q", q, ["tokens", "heads", "dim"])
    check_device("cu_q", cu_q, q.device)
    check_dtype("cu_q", cu_q, [torch.int32])
    check_shape("cu_q", cu_q, [batch + 1])
    if not cu_q.is_contiguous():
        fail("cu_q", "a contiguous tensor", f"stride {cu_q.stride(0)}")
    if max_q_len is None or max_q_len < 1:
        fail("max_q_len", "the most queries of a sequence, at least 1, with cu_q", max_q_len)
    assert max_q_len is not None
    return max_q_len


def check_pages(page_table: torch.Tensor, seq_lens: torch.Tensor, device: torch.device) -> None:
    """int32 page table [batch, pages] with adjacent columns, int32 lengths [batch]."""
    check_device("seq_lens", seq_lens, device)
    check_dtype("seq_lens", seq_lens, [torch.int32])
    check_shape("seq_lens", seq_lens, ["batch"])
    check_device("page_table", page_table, device)
    check_dtype("page_table", page_table, [torch.int32])
    check_shape("page_table", page_table, [seq_lens.shape[0], "pages"])
    if page_table.shape[1] > 1 and page_table.stride(1) != 1:
        fail("page_table", "adjacent columns (stride 1)", f"stride {page_table.stride(1)}")
    if not seq_lens.is_contiguous():
        fail("seq_lens", "a contiguous tensor", f"stride {seq_lens.stride(0)}")


def check_caches(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
    """Shapes, dtypes and devices of K and V against the queries."""
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        check_device(name, cache, q.device)
        check_dtype(name, cache, [q.dtype, *QUANTIZED])
    if v_cache.dtype != k_cache.dtype:
        fail("v_cache", f"dtype {dtype_name(k_cache.dtype)} (k_cache's)", f"dtype {dtype_name(v_cache.dtype)}")
    check_shape("k_cache", k_cache, ["pages", "page size", "kv heads", q.shape[-1]])
    check_shape("v_cache", v_cache, [*k_cache.shape[:3], "dim"])
    heads, kv_heads = q.shape[-2], k_cache.shape[2]
    if kv_heads == 0 or heads % kv_heads:
        fail("q", f"a multiple of the cache's {kv_heads} KV heads", f"{heads} heads")
    for name, dim in (("k_cache", k_cache.shape[3]), ("v_cache", v_cache.shape[3])):
        if not 1 <= dim <= 1024:
            fail(name, "a head dimension of 1 … 1024", dim)


def check_latent(q: torch.Tensor, cache: torch.Tensor, kv_lora_rank: int) -> LatentFormat:
    """An MLA cache against the queries; returns its format."""
    check_device("cache", cache, q.device)
    width = q.shape[-1]
    if kv_lora_rank < 16 or kv_lora_rank & (kv_lora_rank - 1) or not 0 <= width - kv_lora_rank <= kv_lora_rank:
        fail(
            "kv_lora_rank", f"a power of two, at least half of q's {width} columns and not more than they", kv_lora_rank
        )
    if cache.dtype == torch.uint8:
        latent_format = check_packed_rows(cache)
        columns = sum(latent_format.columns)
        if kv_lora_rank != 512 or width != columns:
            name = f"a uint8 ({latent_format.value}) cache"
            fail("q", f"{columns} columns, 512 of them of values, for {name}", f"{width}, {kv_lora_rank}")
        check_dtype("q", q, [torch.bfloat16])
        return latent_format
    check_dtype("cache", cache, [q.dtype, *QUANTIZED, torch.uint8])
    check_shape("cache", cache, ["pages", "page size", width])
    return LatentFormat.PLAIN


def check_packed_rows(cache: torch.Tensor) -> LatentFormat:
    """uint8 rows that carry their scales; their width says which."""
    check_shape("cache", cache, ["pages", "page size", "bytes"])
    if cache.shape[2] not in PACKED_ROWS:
        widths = " or ".join(map(str, PACKED_ROWS))
        fail("cache", f"shape [pages, page size, {widths}]", f"shape {list(cache.shape)}")
    latent_format = PACKED_ROWS[cache.shape[2]]
    page, token, byte = cache.stride()
    if latent_format is LatentFormat.FP8_V4:
        if byte != 1 or token != cache.shape[2] or page % 16 or page < cache.shape[1] * token or cache.data_ptr() % 16:
            fail(
                "cache",
                "whole pages at multiples of 16 bytes (`layout.latent_view`)",
                f"strides {list(cache.stride())}",
            )
    elif byte != 1 or page % 16 or token % 16 or cache.storage_offset() % 16:
        fail("cache", "adjacent bytes and rows at multiples of 16", f"strides {list(cache.stride())}")
    return latent_format


def check_slots(slots: torch.Tensor, lengths: torch.Tensor, q: torch.Tensor) -> None:
    """int32 lists of slots [tokens, most] with adjacent columns, int32 lengths [tokens]."""
    check_shape("q", q, ["tokens", "heads", "dim"])
    check_dtype("q", q, QUERY_DTYPES)
    for name, tensor in (("slots", slots), ("lengths", lengths)):
        check_device(name, tensor, q.device)
        check_dtype(name, tensor, [torch.int32])
    check_shape("slots", slots, [q.shape[0], "most"])
    check_shape("lengths", lengths, [q.shape[0]])
    if slots.shape[1] > 1 and slots.stride(1) != 1:
        fail("slots", "adjacent columns (stride 1)", f"stride {slots.stride(1)}")
    if not lengths.is_contiguous():
        fail("lengths", "a contiguous tensor", f"stride {lengths.stride(0)}")


def check_outputs(
    q: torch.Tensor, v_head_dim: int, out: torch.Tensor | None, lse: torch.Tensor | None, return_lse: bool
) -> None:
    """Buffers that the caller gave."""
    if out is not None:
        check_device("out", out, q.device)
        check_dtype("out", out, [q.dtype])
        check_shape("out", out, [*q.shape[:-1], v_head_dim])
    if lse is not None:
        if out is None:
            fail("lse", "None without out", "a tensor")
        check_device("lse", lse, q.device)
        check_dtype("lse", lse, [torch.float32])
        check_shape("lse", lse, list(q.shape[:-1]))
    elif out is not None and return_lse:
        fail("lse", "a float32 tensor with out and return_lse", None)
