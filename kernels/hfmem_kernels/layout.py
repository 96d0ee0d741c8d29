"""Cache layouts: how pages, tokens, heads and columns lie in memory, and how many bytes that is.

Counting is plain integers and imports nothing; `allocate` and the page tables import torch when called. Every layout is handed
to the ops as K and V views of shape [num_pages, page_size, num_kv_heads, dim]: strides say the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: bytes of one scale; engines keep them in fp32
SCALE_BYTES = 4

#: DeepSeek V4's rows: all of a token, what of that are the scales behind a page's rows, what pages are multiples of
SPLIT_ROW_BYTES, SPLIT_SCALE_BYTES, SPLIT_PAGE_UNIT = 584, 8, 576

#: dtype names of cache elements → bytes
ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1}


class Layout(Enum):
    """Order of a page's axes, outermost first."""

    NHD = "nhd"  #: K and V apart: [page, token, head, dim] (flash-attn, vLLM's default)
    HND = "hnd"  #: K and V apart: [page, head, token, dim] (FlashInfer, TensorRT-LLM)
    PACKED = "packed"  #: one tensor: [page, token, head, K | V]
    PACKED_HND = "packed_hnd"  #: one tensor: [page, head, token, K | V]
    FLAT = "flat"  #: K and V apart: [page · token, head, dim] (transformers' continuous batching)


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """The cache of one attention layer. `token_scales`: an fp32 scale for K and one for V beside each token and head."""

    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    page_size: int
    dtype: str
    layout: Layout = Layout.NHD
    token_scales: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ELEMENT_BYTES:
            raise ValueError(f"dtype: expected one of {', '.join(ELEMENT_BYTES)}, given {self.dtype!r}")
        for name in ("num_kv_heads", "head_dim", "v_head_dim", "page_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, given {getattr(self, name)}")


class LatentFormat(Enum):
    """Rows of an MLA cache: one latent head and the rotary part of the key; values are the latent itself, V4's the whole row.

    Sources: the comments of vLLM 0.33, `flashmla_sparse.py`, and SGLang 0.5.23, `deepseek_v4_memory_pool.py`.
    """

    PLAIN = "plain"  #: [latent | rope] in one dtype
    FP8_DS = "fp8_ds_mla"  #: [latent e4m3 | one fp32 scale per 128 of it | rope bf16]: 656 bytes for 512 + 64
    #: [latent e4m3 | rope bf16], and behind all such rows of a page [one ue8m0 scale per 64 of the latent | a byte of nothing] of
    #: each token: 584 bytes for 448 + 64, in pages of whole 576 bytes
    FP8_V4 = "fp8_ds_mla_v4"
    #: [latent e2m1, the even column in the low half of a byte | rope e4m3 | one e4m3 scale per 16 of the latent, that of block s at
    #: byte 8 · (s mod 4) + s div 4]: 352 bytes for 512 + 64
    NVFP4_DS = "nvfp4_ds_mla"

    @property
    def columns(self) -> tuple[int, int]:
        """Latent and rotary columns of a row, those of a format that carries its scales."""
        return (448, 64) if self is LatentFormat.FP8_V4 else (512, 64)


def row_bytes(spec: CacheSpec) -> int:
    """Bytes of one token in one KV head: K, V and their scales."""
    elements = (spec.head_dim + spec.v_head_dim) * ELEMENT_BYTES[spec.dtype]
    return elements + (2 * SCALE_BYTES if spec.token_scales else 0)


def page_bytes(spec: CacheSpec) -> int:
    """Bytes of one page of one layer."""
    return spec.page_size * spec.num_kv_heads * row_bytes(spec)


def latent_row_bytes(kv_lora_rank: int, rope_dim: int, dtype: str, latent_format: LatentFormat) -> int:
    """Bytes of one token of an MLA layer (FP8_DS: FlashMLA's and vLLM's row for DeepSeek V3.2).

    `kv_lora_rank`: columns that the format stores as its latent, so DeepSeek V4's 448 of 512.
    """
    match latent_format:
        case LatentFormat.FP8_DS:
            return kv_lora_rank + -(-kv_lora_rank // 128) * SCALE_BYTES + rope_dim * 2
        case LatentFormat.FP8_V4:
            return kv_lora_rank + rope_dim * 2 + kv_lora_rank // 64 + 1
        case LatentFormat.NVFP4_DS:
            return kv_lora_rank // 2 + rope_dim + kv_lora_rank // 16
        case LatentFormat.PLAIN:
            return (kv_lora_rank + rope_dim) * ELEMENT_BYTES[dtype]


#: bytes of a row that carries its scales → its format
PACKED_ROWS = {latent_row_bytes(*f.columns, "", f): f for f in LatentFormat if f is not LatentFormat.PLAIN}


def latent_page_bytes(page_size: int, row: int, latent_format: LatentFormat) -> int:
    """Bytes of one page of an MLA layer whose tokens take `row` bytes each."""
    unit = SPLIT_PAGE_UNIT if latent_format is LatentFormat.FP8_V4 else 1
    return -(-page_size * row // unit) * unit


def num_pages(num_tokens: int, page_size: int) -> int:
    """Pages that hold `num_tokens` tokens of one sequence."""
    return -(-num_tokens // page_size)


def cache_bytes(spec: CacheSpec, seq_lens: list[int]) -> int:
    """Bytes of the whole pages that sequences of these lengths occupy in one layer."""
    return sum(num_pages(n, spec.page_size) for n in seq_lens) * page_bytes(spec)


@dataclass(frozen=True, slots=True)
class PagedCache:
    """A layer's cache: views for the ops, and the storage whose size is what it costs."""

    k: torch.Tensor
    v: torch.Tensor
    k_scale: torch.Tensor | None
    v_scale: torch.Tensor | None
    storage: tuple[torch.Tensor, ...]

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the tensors that hold the cache."""
        return sum(t.numel() * t.element_size() for t in self.storage)


def allocate(spec: CacheSpec, pages: int, device: torch.device | str) -> PagedCache:
    """A zeroed cache of `pages` pages whose tensors take exactly `pages * page_bytes(spec)` bytes."""
    import torch

    element = ELEMENT_BYTES[spec.dtype]
    dtype = getattr(torch, spec.dtype)
    scale = SCALE_BYTES if spec.token_scales else 0
    k_bytes, v_bytes = spec.head_dim * element, spec.v_head_dim * element
    if scale and (k_bytes % SCALE_BYTES or v_bytes % SCALE_BYTES):
        raise ValueError(f"token_scales: rows of {k_bytes} and {v_bytes} bytes cannot carry an aligned fp32 scale")

    def raw(row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Storage, and its byte view [page, token, head, row]."""
        match spec.layout:
            case Layout.NHD | Layout.PACKED:
                store = torch.zeros(pages, spec.page_size, spec.num_kv_heads, row, dtype=torch.uint8, device=device)
                return store, store
            case Layout.HND | Layout.PACKED_HND:
                store = torch.zeros(pages, spec.num_kv_heads, spec.page_size, row, dtype=torch.uint8, device=device)
                return store, store.transpose(1, 2)
            case Layout.FLAT:
                store = torch.zeros(pages * spec.page_size, spec.num_kv_heads, row, dtype=torch.uint8, device=device)
                return store, store.view(pages, spec.page_size, spec.num_kv_heads, row)

    storage: tuple[torch.Tensor, ...]
    if spec.layout in (Layout.PACKED, Layout.PACKED_HND):
        store, rows = raw(k_bytes + v_bytes + 2 * scale)
        k_rows, v_rows, storage = rows[..., : k_bytes + scale], rows[..., k_bytes + scale :], (store,)
    else:
        (k_store, k_rows), (v_store, v_rows) = raw(k_bytes + scale), raw(v_bytes + scale)
        storage = (k_store, v_store)

    def scales(rows: torch.Tensor, start: int) -> torch.Tensor | None:
        return rows[..., start:].view(torch.float32).squeeze(-1) if scale else None

    return PagedCache(
        k=k_rows[..., :k_bytes].view(dtype),
        v=v_rows[..., :v_bytes].view(dtype),
        k_scale=scales(k_rows, k_bytes),
        v_scale=scales(v_rows, v_bytes),
        storage=storage,
    )


def allocate_latent(
    pages: int,
    page_size: int,
    kv_lora_rank: int,
    rope_dim: int,
    dtype: str,
    latent_format: LatentFormat,
    device: torch.device | str,
) -> torch.Tensor:
    """A zeroed MLA cache: [pages, page_size, kv_lora_rank + rope_dim] in `dtype`, or uint8 rows [pages, page_size, bytes].

    FP8_V4: the shape says how many bytes a token has, not where they are; pages are `latent_page_bytes` apart.
    """
    import torch

    width = latent_row_bytes(kv_lora_rank, rope_dim, dtype, latent_format)
    if latent_format is LatentFormat.PLAIN:
        return torch.zeros(pages, page_size, kv_lora_rank + rope_dim, dtype=getattr(torch, dtype), device=device)
    page = latent_page_bytes(page_size, width, latent_format)
    return latent_view(torch.zeros(pages, page, dtype=torch.uint8, device=device), page_size, width)


def index_row_bytes(dim: int) -> int:
    """Bytes of one token's index key in e4m3: `dim` elements, and one fp32 scale for each 128 of them."""
    return dim + -(-dim // 128) * SCALE_BYTES


def allocate_index(
    pages: int, page_size: int, dim: int, device: torch.device | str, *, unit: int = SPLIT_PAGE_UNIT
) -> torch.Tensor:
    """A zeroed cache of index keys in e4m3, as a page's elements and behind them its scales: uint8 [pages, page_size, dim + 4].

    unit: what pages are multiples of, 576 in vLLM with DeepSeek V4's rows, else 1; at least 16 here.
    """
    import torch

    width, unit = index_row_bytes(dim), math.lcm(unit, 16)
    page = -(-page_size * width // unit) * unit
    return latent_view(torch.zeros(pages, page, dtype=torch.uint8, device=device), page_size, width)


def latent_view(pages: torch.Tensor, page_size: int, width: int) -> torch.Tensor:
    """uint8 pages [pages, bytes] of `width` bytes a token as the ops take them: [pages, page_size, width]; nothing is copied."""
    return pages.as_strided((pages.shape[0], page_size, width), (pages.stride(0), width, 1), pages.storage_offset())


def paged_view(flat: torch.Tensor, page_size: int) -> torch.Tensor:
    """A flat cache [tokens, heads, dim] as pages [tokens // page_size, page_size, heads, dim]; nothing is copied.

    Raises:
        ValueError: the tokens are no whole number of pages.
    """
    if flat.dim() != 3 or flat.shape[0] % page_size:
        raise ValueError(
            f"flat: expected [tokens, heads, dim] with tokens a multiple of {page_size}, given {tuple(flat.shape)}"
        )
    token, head, dim = flat.stride()
    shape = (flat.shape[0] // page_size, page_size, flat.shape[1], flat.shape[2])
    return flat.as_strided(shape, (page_size * token, token, head, dim))


def page_table(seq_lens: list[int], page_size: int, page_ids: list[int], device: torch.device | str) -> torch.Tensor:
    """int32 [batch, most pages] that deals `page_ids` out to the sequences in turn; the rest is -1."""
    import torch

    counts = [num_pages(n, page_size) for n in seq_lens]
    if sum(counts) > len(page_ids):
        raise ValueError(f"page_ids: expected at least {sum(counts)}, given {len(page_ids)}")
    table = torch.full((len(seq_lens), max(1, *counts, 1)), -1, dtype=torch.int32)
    start = 0
    for row, count in enumerate(counts):
        table[row, :count] = torch.tensor(page_ids[start : start + count], dtype=torch.int32)
        start += count
    return table.to(device)
