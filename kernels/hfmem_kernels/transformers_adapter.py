"""A seam into transformers: its continuous batching decodes with the paged kernel, straight from its cache.

transformers' own way for implementations other than flash-attention gathers every sequence's keys and values into new tensors
at each layer and step. Here the new tokens are written into their slots where its cache is updated, and the attention function
that follows reads the cache where it lies: the index lists that transformers hands to both become a page table. Written against
transformers 5.24; in 5.23 the attention function itself updated the cache.
"""

from __future__ import annotations

import inspect
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

#: the key under which an update hands its step to the attention that follows
_STEP = "hfmem_step"

Attention = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(slots=True)
class Calls:
    """How many attention calls went where: a seam that is never used should not go unnoticed."""

    decoded: int = 0
    passed_on: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One decode step in one layer: its cache, with the new tokens written.

    `k_cache`, `v_cache` [pages, page size, kv heads, dim]; `page_table` int32 [sequences, pages], `seq_lens` int32 [sequences].
    """

    k_cache: torch.Tensor
    v_cache: torch.Tensor
    page_table: torch.Tensor
    seq_lens: torch.Tensor


@contextmanager
def paged_decode(*, impl: Impl = "triton") -> Iterator[Calls]:
    """While active, models with `attn_implementation="sdpa"` decode with `paged_decode_attention` under continuous batching.

    Steps of at most `MAX_QUERIES` new tokens a sequence, in full-attention layers. Prefills, sliding-window layers (whose ring
    of slots transformers keeps without a page table) and everything outside continuous batching reach transformers' own
    functions unchanged.

        with paged_decode() as calls:
            outputs = model.generate_batch(inputs, generation_config=...)

    Raises:
        RuntimeError: a transformers before 5.24.
    """
    from transformers.generation.continuous_batching.cache import PagedAttentionCache
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own_update: Callable[..., tuple[torch.Tensor, torch.Tensor]] = PagedAttentionCache.update
    if "kwargs" not in inspect.signature(own_update).parameters:
        raise RuntimeError("paged_decode needs transformers 5.24 or later")
    own_attention: Attention = ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION]
    calls = Calls()

    def update(
        cache: Any, key: torch.Tensor, value: torch.Tensor, layer_idx: int, kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        allocator = cache.layer_to_allocator[layer_idx]
        if not decodable(allocator, kwargs):
            return own_update(cache, key, value, layer_idx, kwargs)
        kwargs[_STEP] = written(allocator, key, value, layer_idx, kwargs, impl)
        return key, value

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        step = kwargs.pop(_STEP, None)
        if step is None:
            calls.passed_on += 1
            return own_attention(module, query, key, value, attention_mask, **kwargs)
        calls.decoded += 1
        return attended(step, query, kwargs, impl), None

    ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] = attention
    PagedAttentionCache.update = update
    try:
        yield calls
    finally:
        PagedAttentionCache.update = own_update
        del ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION]
        if ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] is not own_attention:
            ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] = own_attention


def decodable(allocator: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an update is of a decode step over a cache with pages.

    Args:
        allocator: of the layer's cache (`CacheAllocator`).
        kwargs: what transformers hands to the update and the attention that follows (`PagedAttentionArgs`).
    """
    if kwargs["max_length_q"] > MAX_QUERIES or not allocator.supports_block_table:
        return False
    return kwargs.get("block_table") is not None or kwargs["read_index"][allocator.index].numel() > 0


def written(
    allocator: Any, key: torch.Tensor, value: torch.Tensor, layer_idx: int, kwargs: dict[str, Any], impl: Impl
) -> Step:
    """The step of a layer, its new tokens written.

    key and value [1, kv heads, tokens, dim], all sequences' tokens one after the other.
    """
    k_cache, v_cache = allocator.get_cache_for_block_table(layer_idx)
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
    k_rows, v_rows = (t[0].transpose(0, 1) for t in (key, value))
    write_kv(k_rows, v_rows, k_cache, v_cache, slots, impl=impl)
    return Step(k_cache, v_cache, table, seq_lens)


def attended(step: Step, query: torch.Tensor, kwargs: dict[str, Any], impl: Impl) -> torch.Tensor:
    """Attention of query [1, heads, tokens, dim] to a step's pages: [1, tokens, heads, dim], as transformers' functions give it."""
    out = paged_decode_attention(
        query[0].transpose(0, 1),
        step.k_cache,
        step.v_cache,
        step.page_table,
        step.seq_lens,
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
