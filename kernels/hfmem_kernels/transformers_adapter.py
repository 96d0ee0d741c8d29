"""A seam into transformers: its continuous batching decodes with the paged kernel, straight from its cache.

transformers' own way for implementations other than flash-attention gathers every sequence's keys and values into new tensors
at each layer and step. Here the new tokens are written into their slots and the cache is read where it lies: the index lists
that transformers hands to the attention function become a page table. Written against transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from hfmem_kernels._calls import Impl
from hfmem_kernels.cache_ops import write_kv
from hfmem_kernels.paged_decode import paged_decode_attention

#: with more new tokens than this in some sequence a step is a prefill, which transformers' own attention does
MAX_QUERIES = 8

#: the attention implementation that is replaced while `paged_decode` is active
IMPLEMENTATION = "sdpa"

Attention = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(slots=True)
class Calls:
    """How many attention calls went where: a seam that is never used should not go unnoticed."""

    decoded: int = 0
    passed_on: int = 0


@contextmanager
def paged_decode(*, impl: Impl = "triton") -> Iterator[Calls]:
    """While active, models with `attn_implementation="sdpa"` decode with `paged_decode_attention` under continuous batching.

    Steps of at most `MAX_QUERIES` new tokens a sequence, in full-attention layers. Prefills, sliding-window layers (whose ring
    of slots transformers keeps without a page table) and everything outside continuous batching reach transformers' own
    function unchanged.

        with paged_decode() as calls:
            outputs = model.generate_batch(inputs, generation_config=...)
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    original: Attention = ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION]
    calls = Calls()

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not decodable(module, kwargs):
            calls.passed_on += 1
            return original(module, query, key, value, attention_mask, **kwargs)
        calls.decoded += 1
        return decode(module, query, key, value, kwargs, impl), None

    ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] = attention
    try:
        yield calls
    finally:
        del ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION]
        if ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] is not original:
            ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] = original


def decodable(module: torch.nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether a call is a decode step over a cache with pages."""
    cache = kwargs.get("cache")
    if cache is None or not hasattr(cache, "layer_to_allocator") or kwargs["max_length_q"] > MAX_QUERIES:
        return False
    allocator = cache.layer_to_allocator[module.layer_idx]
    if not allocator.supports_block_table:
        return False
    return kwargs.get("block_table") is not None or kwargs["read_index"][allocator.index].numel() > 0


def decode(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kwargs: dict[str, Any],
    impl: Impl,
) -> torch.Tensor:
    """Write the new tokens, then attend to the pages.

    query [1, heads, tokens, dim], key and value [1, kv heads, tokens, dim], all sequences' tokens one after the other.
    Returns [1, tokens, heads, dim], as transformers' attention functions do.
    """
    cache = kwargs["cache"]
    allocator = cache.layer_to_allocator[module.layer_idx]
    k_cache, v_cache = allocator.get_cache_for_block_table(module.layer_idx)
    cu_k = kwargs["cu_seq_lens_k"][allocator.layer_type]
    seq_lens = (cu_k[1:] - cu_k[:-1]).to(torch.int32)
    page_size = k_cache.shape[1]
    if kwargs.get("block_table") is not None:
        table = kwargs["block_table"][allocator.index]
        newest = (seq_lens - 1).clamp(min=0).long()
        pages = table.gather(1, (newest // page_size)[:, None].clamp(max=table.shape[1] - 1))[:, 0].long()
        slots = torch.where((seq_lens > 0) & (pages >= 0), pages * page_size + newest % page_size, -1)
    else:
        slots = kwargs["write_index"][allocator.index]
        most_pages = -(-kwargs["max_length_k"][allocator.layer_type] // page_size)
        table = page_table_of(kwargs["read_index"][allocator.index], cu_k, most_pages, page_size)
    rows = [t[0].transpose(0, 1) for t in (query, key, value)]
    write_kv(rows[1], rows[2], k_cache, v_cache, slots, impl=impl)
    out = paged_decode_attention(
        rows[0],
        k_cache,
        v_cache,
        table,
        seq_lens,
        scale=kwargs.get("scaling"),
        softcap=kwargs.get("softcap"),
        sinks=kwargs.get("s_aux"),
        cu_q=kwargs["cu_seq_lens_q"].to(torch.int32),
        max_q_len=kwargs["max_length_q"],
        impl=impl,
    )
    assert isinstance(out, torch.Tensor)
    return out[None]


def page_table_of(read_index: torch.Tensor, cu_k: torch.Tensor, most_pages: int, page_size: int) -> torch.Tensor:
    """int32 [sequences, most_pages], -1 behind each end, from the concatenated slots of all sequences' tokens.

    The first token of each page lies at the page's first slot. Nothing here waits for the device.
    """
    starts = torch.arange(most_pages, device=read_index.device)[None, :] * page_size
    inside = starts < (cu_k[1:] - cu_k[:-1])[:, None]
    where = (cu_k[:-1, None] + starts).clamp(max=read_index.numel() - 1).long()
    return torch.where(inside, read_index[where] // page_size, -1).to(torch.int32)
