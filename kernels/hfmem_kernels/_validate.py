"""Checks before any launch. Every message: the argument, what was expected, what was given."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from numbers import Real

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


def check_tensor(name: str, tensor: torch.Tensor) -> None:
    """`tensor` is one."""
    if not isinstance(tensor, torch.Tensor):
        fail(name, "a tensor", type(tensor).__name__)


def check_dtype(name: str, tensor: torch.Tensor, allowed: Sequence[torch.dtype]) -> None:
    """`tensor` is one, and has one of the dtypes."""
    check_tensor(name, tensor)
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
    check_dtype(name, tensor, QUERY_DTYPES)
    check_device(name, tensor, device)
    check_shape(name, tensor, [size])
    if tensor.stride(0) != 1 and size > 1:
        fail(name, "stride 1", f"stride {tensor.stride(0)}")


def check_scale(name: str, scale: torch.Tensor | float | None, cache: torch.Tensor) -> None:
    """A number, one element, [kv heads], or [pages, page, kv heads]; only caches of 8-bit elements have scales."""
    if scale is None:
        return
    if cache.dtype not in QUANTIZED:
        fail(name, "None for a cache that is not quantized", f"a scale for dtype {dtype_name(cache.dtype)}")
    heads, token_heads = [cache.shape[2]], [cache.shape[0], cache.shape[1], cache.shape[2]]
    expected = f"a number, one element, {heads} or {token_heads}"
    if not isinstance(scale, torch.Tensor):
        if not isinstance(scale, Real):
            fail(name, expected, repr(scale))
        return
    check_dtype(name, scale, [torch.float32])
    check_device(name, scale, cache.device)
    one = scale.numel() == 1 and scale.dim() != 3  # three dimensions are those of tokens
    if not one and list(scale.shape) not in (heads, token_heads):
        fail(name, expected, f"shape {list(scale.shape)}")


def check_one_scale(
    name: str, scale: torch.Tensor | float | None, cache: torch.Tensor
) -> torch.Tensor | float | None:  # fmt: skip
    """A number or one element, of whatever shape, for a cache [pages, page, columns]; returns it as it was, or as [1]."""
    if isinstance(scale, torch.Tensor):
        if scale.numel() != 1:
            fail(name, "a number or one element", f"shape {list(scale.shape)}")
        scale = scale.reshape(1)
    check_scale(name, scale, cache[:, :, None, :])
    return scale


def check_indices(
    page_table: torch.Tensor, seq_lens: torch.Tensor, cache: torch.Tensor, window: int = 0, counts: list[int] | None = None
) -> None:  # fmt: skip
    """Page ids and lengths by value; counts: queries of each sequence, the newest of its tokens, one by default.

    Reads device memory, so it waits for the device: for debugging, not for capture.
    """
    num_pages, page_size = cache.shape[0], cache.shape[1]
    capacity = page_table.shape[1] * page_size
    lengths = seq_lens.tolist()
    if lengths and not 0 <= min(lengths) <= max(lengths) <= capacity:
        fail("seq_lens", f"values 0 … {capacity} (page_table's width × page size)", lengths)
    for b, (length, count) in enumerate(zip(lengths, counts or [1] * len(lengths), strict=True)):
        first = max(0, length - count + 1 - window) // page_size if window else 0
        used = page_table[b, first : -(-length // page_size)]
        if used.numel() and (int(used.min()) < 0 or int(used.max()) >= num_pages):
            fail("page_table", f"ids 0 … {num_pages - 1} in the {length} tokens of sequence {b}", used.tolist())


def check_slot_values(slots: torch.Tensor, lengths: torch.Tensor, cache: torch.Tensor) -> None:
    """No slot that counts is behind the cache's last; negative ones are of nothing. Waits for the device, as `check_indices`."""
    most = cache.shape[0] * cache.shape[1]
    counts = torch.arange(slots.shape[1], device=slots.device) < lengths[:, None]
    listed = slots[counts]
    if listed.numel() and int(listed.max()) >= most:
        fail("slots", f"slots below {most} (pages × page size)", int(listed.max()))


def query_counts(q: torch.Tensor, cu_q: torch.Tensor | None, most: int, batch: int) -> list[int]:
    """Queries of each sequence, `cu_q` checked by value. Waits for the device, as `check_indices`."""
    if cu_q is None:
        return [most] * batch
    starts = cu_q.tolist()
    counts = [stop - start for start, stop in itertools.pairwise(starts)]
    if starts[0] < 0 or starts[-1] > q.shape[0] or not all(0 <= count <= most for count in counts):
        fail("cu_q", f"rows from 0 to {q.shape[0]} in order, {most} (max_q_len) at most of a sequence", starts)
    return counts


def check_queries(q: torch.Tensor, cu_q: torch.Tensor | None, max_q_len: int | None, seq_lens: torch.Tensor) -> int:
    """The shapes a query may have; returns the most queries of a sequence."""
    check_dtype("q", q, QUERY_DTYPES)
    check_dtype("seq_lens", seq_lens, [torch.int32])
    check_shape("seq_lens", seq_lens, ["batch"])
    batch = seq_lens.shape[0]
    if cu_q is None:
        if q.dim() not in (3, 4):
            fail("q", "shape [batch, heads, dim] or [batch, q_len, heads, dim]", f"shape {list(q.shape)}")
        if q.shape[0] != batch:
            fail("q", f"batch {batch} (seq_lens')", f"batch {q.shape[0]}")
        if max_q_len is not None:
            fail("max_q_len", "None without cu_q (q's shape says it)", max_q_len)
        return q.shape[1] if q.dim() == 4 else 1
    check_shape("q", q, ["tokens", "heads", "dim"])
    check_dtype("cu_q", cu_q, [torch.int32])
    check_device("cu_q", cu_q, q.device)
    check_shape("cu_q", cu_q, [batch + 1])
    if not cu_q.is_contiguous():
        fail("cu_q", "a contiguous tensor", f"stride {cu_q.stride(0)}")
    if max_q_len is None or max_q_len < 1:
        fail("max_q_len", "the most queries of a sequence, at least 1, with cu_q", max_q_len)
    assert max_q_len is not None
    return max_q_len


def check_pages(page_table: torch.Tensor, seq_lens: torch.Tensor, device: torch.device) -> None:
    """int32 page table [batch, pages] with adjacent columns, int32 lengths [batch]."""
    check_dtype("seq_lens", seq_lens, [torch.int32])
    check_device("seq_lens", seq_lens, device)
    check_shape("seq_lens", seq_lens, ["batch"])
    check_dtype("page_table", page_table, [torch.int32])
    check_device("page_table", page_table, device)
    check_shape("page_table", page_table, [seq_lens.shape[0], "pages"])
    if page_table.shape[1] > 1 and page_table.stride(1) != 1:
        fail("page_table", "adjacent columns (stride 1)", f"stride {page_table.stride(1)}")
    if not seq_lens.is_contiguous():
        fail("seq_lens", "a contiguous tensor", f"stride {seq_lens.stride(0)}")


def check_caches(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
    """Shapes, dtypes and devices of K and V against the queries."""
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        check_dtype(name, cache, [q.dtype, *QUANTIZED])
        check_device(name, cache, q.device)
    if v_cache.dtype != k_cache.dtype:
        fail("v_cache", f"dtype {dtype_name(k_cache.dtype)} (k_cache's)", f"dtype {dtype_name(v_cache.dtype)}")
    check_shape("k_cache", k_cache, ["pages", "page size", "kv heads", q.shape[-1]])
    check_shape("v_cache", v_cache, [*k_cache.shape[:3], "dim"])
    heads, kv_heads = q.shape[-2], k_cache.shape[2]
    if kv_heads == 0 or heads % kv_heads:
        fail("q", f"a multiple of the cache's {kv_heads} KV heads", f"{heads} heads")
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        check_page(name, cache)
        if not 1 <= cache.shape[3] <= 1024:
            fail(name, "a head dimension of 1 … 1024", cache.shape[3])


def check_page(name: str, cache: torch.Tensor) -> None:
    """Pages hold something, and a row's columns lie within what 32 bits count."""
    if cache.shape[1] < 1:
        fail(name, "a page size of at least 1", cache.shape[1])
    if cache.shape[-1] * cache.stride(-1) >= 2**31:
        fail(name, "columns within 2^31 elements of each other", f"strides {list(cache.stride())}")


def check_latent(q: torch.Tensor, cache: torch.Tensor, kv_lora_rank: int) -> LatentFormat:
    """An MLA cache against the queries; returns its format."""
    check_dtype("cache", cache, [q.dtype, *QUANTIZED, torch.uint8])
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
    check_shape("cache", cache, ["pages", "page size", width])
    check_page("cache", cache)
    return LatentFormat.PLAIN


def check_packed_rows(cache: torch.Tensor) -> LatentFormat:
    """uint8 rows that carry their scales; their width says which."""
    check_shape("cache", cache, ["pages", "page size", "bytes"])
    if cache.shape[2] not in PACKED_ROWS:
        widths = " or ".join(map(str, PACKED_ROWS))
        fail("cache", f"shape [pages, page size, {widths}]", f"shape {list(cache.shape)}")
    check_page("cache", cache)
    latent_format = PACKED_ROWS[cache.shape[2]]
    page, token, byte = cache.stride()
    if latent_format is LatentFormat.FP8_V4:
        check_whole_pages("cache", cache, "`layout.latent_view`")
    elif byte != 1 or page % 16 or token % 16 or not aligned(cache):
        fail("cache", "adjacent bytes and rows at multiples of 16", f"strides {list(cache.stride())}")
    return latent_format


def check_whole_pages(name: str, cache: torch.Tensor, made_by: str) -> None:
    """uint8 pages whose scales lie behind the elements of all their tokens, so that each is a whole."""
    page, token, byte = cache.stride()
    if byte != 1 or token != cache.shape[2] or page % 16 or page < cache.shape[1] * token or not aligned(cache):
        fail(name, f"whole pages at multiples of 16 bytes ({made_by})", f"strides {list(cache.stride())}")


def aligned(cache: torch.Tensor) -> bool:
    """Whether a cache begins at a multiple of 16 bytes; taken for granted while torch.compile traces, which knows no addresses."""
    return torch.compiler.is_compiling() or cache.data_ptr() % 16 == 0


def check_slots(slots: torch.Tensor, lengths: torch.Tensor, q: torch.Tensor) -> None:
    """int32 lists of slots [tokens, most] with adjacent columns, int32 lengths [tokens]."""
    check_dtype("q", q, QUERY_DTYPES)
    check_shape("q", q, ["tokens", "heads", "dim"])
    for name, tensor in (("slots", slots), ("lengths", lengths)):
        check_dtype(name, tensor, [torch.int32])
        check_device(name, tensor, q.device)
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
        check_dtype("out", out, [q.dtype])
        check_device("out", out, q.device)
        check_shape("out", out, [*q.shape[:-1], v_head_dim])
    if lse is not None:
        if out is None:
            fail("lse", "None without out", "a tensor")
        check_dtype("lse", lse, [torch.float32])
        check_device("lse", lse, q.device)
        check_shape("lse", lse, list(q.shape[:-1]))
    elif out is not None and return_lse:
        fail("lse", "a float32 tensor with out and return_lse", None)
