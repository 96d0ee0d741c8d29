"""An indexer's scores over its paged keys (DSA: DeepSeek V3.2, V4, GLM-5): check, choose a configuration, launch."""

from __future__ import annotations

from typing import Any

import torch

from hfmem_kernels import _reference_index, _validate
from hfmem_kernels._calls import Impl
from hfmem_kernels._heuristics import MOST_INDEX_HEADS, LaunchConfig, index_config
from hfmem_kernels._launch import device_facts, require_triton
from hfmem_kernels._launch_index import launch_index
from hfmem_kernels._ops import config_of, values_of
from hfmem_kernels._register import nothing, op
from hfmem_kernels.layout import SCALE_BYTES


def index_logits(
    q: torch.Tensor,
    keys: torch.Tensor,
    weights: torch.Tensor,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    config: LaunchConfig | None = None,
    check_indices: bool = False,
    impl: Impl = "triton",
) -> torch.Tensor:
    """Σ over index heads of weight · relu(q · k), of the newest tokens of each sequence against all its keys.

    What is chosen by them is the caller's; `sparse_mla_decode_attention` takes lists of slots. With one query a sequence, e.g.:

        best, at = index_logits(q, keys, weights, page_table, seq_lens).topk(2048)  # no wider than the page table's capacity
        slots = page_table.gather(1, at // page_size) * page_size + at % page_size
        slots = torch.where(best > float("-inf"), slots, -1).to(torch.int32)

    Source of the formula: DeepSeek V3.2's report, equation 1; as vLLM's `fp8_fp4_paged_mqa_logits` computes it.

    Args:
        q: [batch, heads, dim] or [batch, queries, heads, dim]; dim 32, 64 or 128. bf16, fp16 or float8_e4m3fn, whose scales
            belong into the weights; adjacent columns.
        keys: uint8 [pages, page_size, dim + 4], e4m3 elements of all tokens of a page and behind them their fp32 scales, none
            negative, as vLLM and SGLang lay them out (`layout.allocate_index`); or [pages, page_size, dim] in q's dtype of 16 bits.
        weights: float32 [batch(, queries), heads], all other factors included; adjacent heads.
        page_table, seq_lens: as in `paged_decode_attention`; query i sees what a query of decode attention would.
        out: float32 [batch(, queries), columns], adjacent columns; keys behind the last column have no score. What a query does
            not see is left as it is, as with DeepGEMM.
        config: a launch configuration instead of the table's.
        check_indices: as in `paged_decode_attention`.
        impl: "triton" or "reference".

    Returns:
        `out`; without one a tensor as wide as the page table's capacity, -inf where a query sees nothing. On devices of
        compute capability 9.0 products of e4m3 are added up with 14 bits or so, as by all kernels that use those instructions.

    Raises:
        ValueError: an argument does not fit; the message names it.
        RuntimeError: impl="triton" without Triton or without a device it runs on.
    """
    _validate.check_dtype("q", q, [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
    _validate.check_dtype("weights", weights, [torch.float32])
    batched = q.dim() == 3
    if batched:
        q, weights = q[:, None], weights[:, None] if weights.dim() == 2 else weights
    _check(q, keys, weights, page_table, seq_lens)
    if check_indices:
        _validate.check_indices(page_table, seq_lens, keys)
    capacity = page_table.shape[1] * keys.shape[1]
    if out is None:
        made = q.new_full((q.shape[0], q.shape[1], capacity), float("-inf"), dtype=torch.float32)
    else:
        _validate.check_dtype("out", out, [torch.float32])
        made = out[:, None] if batched and out.dim() == 2 else out
        _check_out(made, q)
    if impl == "reference":
        _reference_index.index_logits(q, keys, weights, page_table, seq_lens, made)
    else:
        require_triton(impl, q)
        facts = device_facts(q.device)
        chosen = config or index_config(facts.family, narrow=q.dtype == torch.float8_e4m3fn)
        with torch.no_grad():
            index_op(q, keys, weights, page_table, seq_lens, made, values_of(chosen))
    if out is not None:
        return out
    return made[:, 0] if batched else made


def _check(
    q: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor
) -> None:
    narrow = torch.float8_e4m3fn
    _validate.check_pages(page_table, seq_lens, q.device)
    _validate.check_shape("q", q, [seq_lens.shape[0], "queries", "heads", "dim"])
    dim = q.shape[3]
    if dim not in (32, 64, 128):
        _validate.fail("q", "a dim of 32, 64 or 128", dim)
    if q.stride(3) != 1 or not 1 <= q.shape[2] <= MOST_INDEX_HEADS:
        _validate.fail(
            "q", f"1 … {MOST_INDEX_HEADS} heads, adjacent columns", f"shape {list(q.shape)}, strides {list(q.stride())}"
        )
    _validate.check_dtype("keys", keys, [torch.uint8] if q.dtype == narrow else [torch.uint8, q.dtype])
    _validate.check_device("keys", keys, q.device)
    _validate.check_shape("keys", keys, ["pages", "page size", dim + SCALE_BYTES if keys.dtype == torch.uint8 else dim])
    _validate.check_page("keys", keys)
    if keys.dtype == torch.uint8:
        _validate.check_whole_pages("keys", keys, "`layout.allocate_index`")
    elif keys.stride(2) != 1:
        _validate.fail("keys", "adjacent columns (stride 1)", f"strides {list(keys.stride())}")
    _validate.check_device("weights", weights, q.device)
    _validate.check_shape("weights", weights, list(q.shape[:3]))
    if weights.stride(2) != 1 and weights.shape[2] > 1:
        _validate.fail("weights", "adjacent heads (stride 1)", f"strides {list(weights.stride())}")


def _check_out(out: torch.Tensor, q: torch.Tensor) -> None:
    _validate.check_device("out", out, q.device)
    _validate.check_shape("out", out, [q.shape[0], q.shape[1], "columns"])
    if out.shape[2] > 1 and out.stride(2) != 1:
        _validate.fail("out", "adjacent columns (stride 1)", f"strides {list(out.stride())}")


@op("index_logits", mutates=("out",), fake=nothing)
def index_op(
    q: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor,
    out: torch.Tensor, config: list[int],
) -> None:  # fmt: skip
    """The checked call, q [batch, queries, heads, dim]."""
    if q.numel() == 0 or page_table.numel() == 0:
        return
    arguments: dict[str, Any] = {"config": config_of(config), "num_sms": device_facts(q.device).num_sms}
    launch_index(q, keys, weights, page_table, seq_lens, out, **arguments)
