"""FlashAttention 2 and 3 and FlashMLA, through their `*_with_kvcache` functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.ours import Launch
from hfmem_kernels.benchmarks.peers.base import Peer, first_refusal, scalar
from hfmem_kernels.benchmarks.peers.loading import Absent, installed, member
from hfmem_kernels.benchmarks.rows import Row

#: modules with FA3's `flash_attn_with_kvcache`: its own, and builds of it under other names
FA3_MODULES = ("flash_attn_interface", "sgl_kernel.flash_attn", "fa3_fwd_interface")
#: what FA2's paged cache demands of a page
FA2_PAGE = 256


def _fa3_module(folder: Path | None) -> ModuleType:
    reasons = []
    for name in FA3_MODULES:
        try:
            return installed(name, "fa3", folder)
        except Absent as error:
            reasons.append(str(error))
    raise Absent(reasons[0])


def _first(result: Any) -> torch.Tensor:
    out: torch.Tensor = result[0] if isinstance(result, tuple | list) else result
    return out


def _window(row: Row) -> tuple[int, int]:
    return (row.shape.window - 1, 0) if row.shape.window else (-1, -1)


def _fa3_refuses(row: Row) -> str | None:
    return first_refusal(row, kv=True, window=True, ragged=True, queries=True, e4m3=True)


def _fa3(inputs: Inputs, folder: Path | None) -> Launch:
    """A plain call, which plans its splits on the device in a kernel of its own."""
    return _fa3_paged(inputs, _fa3_module(folder), {})


def _fa3_planned(inputs: Inputs, folder: Path | None) -> Launch:
    """As engines call it: the splits are planned once a step, for all layers, and beforehand."""
    module = _fa3_module(folder)
    plan = member(
        module,
        "get_scheduler_metadata",
        "cache_seqlens",
        "qkv_dtype",
        "headdim_v",
        "page_size",
        "causal",
        "window_size",
    )
    row, s = inputs.row, inputs.row.shape
    metadata = plan(
        inputs.batch, row.q_len, inputs.page_table.shape[1] * row.page_size, s.num_heads, s.num_kv_heads, s.head_dim,
        cache_seqlens=inputs.seq_lens, qkv_dtype=inputs.sets[0].k.dtype, headdim_v=s.v_head_dim, page_size=row.page_size,
        causal=True, window_size=_window(row),
    )  # fmt: skip
    return _fa3_paged(inputs, module, {"scheduler_metadata": metadata})


def _fa3_paged(inputs: Inputs, module: ModuleType, planned: dict[str, Any]) -> Launch:
    attend = member(module, "flash_attn_with_kvcache", "cache_seqlens", "page_table", "k_descale", *planned)
    row, s = inputs.row, inputs.row.shape
    options: dict[str, Any] = {"softmax_scale": s.scale, "causal": True, "window_size": _window(row), **planned}
    queries, ready = _quantized(inputs)

    def launch(index: int) -> torch.Tensor:
        each = inputs.sets[index]
        return _first(
            attend(
                queries[index], each.k, each.v, cache_seqlens=inputs.seq_lens, page_table=inputs.page_table,
                **options, **ready(index),
            )
        )  # fmt: skip

    return launch


def _quantized(inputs: Inputs) -> tuple[list[torch.Tensor], Callable[[int], dict[str, torch.Tensor]]]:
    """FA3 wants queries in the cache's dtype: quantized beforehand where that is fp8, with its factors for each KV head."""
    if inputs.row.dtype == inputs.row.query_dtype:
        return list(inputs.queries), lambda index: {}
    size = (inputs.batch, inputs.row.shape.num_kv_heads)
    factor = max(float(q.abs().amax()) for q in inputs.queries) / 448.0
    queries = [(q.float() / factor).to(torch.float8_e4m3fn) for q in inputs.queries]

    def full(value: float) -> torch.Tensor:
        return torch.full(size, value, device=inputs.device)

    factors = [
        {"q_descale": full(factor), "k_descale": full(scalar(each.k_scale)), "v_descale": full(scalar(each.v_scale))}
        for each in inputs.sets
    ]
    return queries, lambda index: factors[index]


def _fa3_dense_refuses(row: Row) -> str | None:
    return first_refusal(row, kv=True, queries=True, hnd=True, packed=True)


def _fa3_dense(inputs: Inputs, folder: Path | None) -> Launch:
    attend = member(_fa3_module(folder), "flash_attn_with_kvcache", "cache_seqlens")
    dense, scale = inputs.dense, inputs.row.shape.scale

    def launch(index: int) -> torch.Tensor:
        k, v = (cache.transpose(1, 2) for cache in dense[index])
        return _first(
            attend(inputs.queries[index], k, v, cache_seqlens=inputs.seq_lens, softmax_scale=scale, causal=True)
        )

    return launch


def _fa2_refuses(row: Row) -> str | None:
    if row.page_size % FA2_PAGE:
        return "pages are multiples of 256"
    return first_refusal(row, kv=True, window=True, ragged=True, queries=True)


def _fa2(inputs: Inputs, folder: Path | None) -> Launch:
    attend = member(installed("flash_attn", "fa2", folder), "flash_attn_with_kvcache", "cache_seqlens", "block_table")
    row, s = inputs.row, inputs.row.shape

    def launch(index: int) -> torch.Tensor:
        each = inputs.sets[index]
        return _first(
            attend(
                inputs.queries[index], each.k, each.v, cache_seqlens=inputs.seq_lens, block_table=inputs.page_table,
                softmax_scale=s.scale, causal=True, window_size=_window(row),
            )
        )  # fmt: skip

    return launch


def _mla_refuses(row: Row) -> str | None:
    if row.page_size != 64:
        return "pages of 64"
    return first_refusal(row, latent=True, ragged=True, queries=True)


def _flash_mla(inputs: Inputs, folder: Path | None) -> Launch:
    module = installed("flash_mla", "flash_mla", folder)
    row, s = inputs.row, inputs.row.shape
    metadata = member(module, "get_mla_metadata")
    attend = member(module, "flash_mla_with_kvcache", "softmax_scale", "causal")
    if inspect.signature(metadata).parameters.get("cache_seqlens") is not None:
        plan = metadata(inputs.seq_lens, row.q_len * s.num_heads, 1)
    else:  # releases that plan within the first call, which the gate makes before anything is captured
        plan = metadata()

    def launch(index: int) -> torch.Tensor:
        cache = inputs.sets[index].latent
        assert cache is not None
        out, _ = attend(
            inputs.queries[index], cache[:, :, None, :], inputs.page_table, inputs.seq_lens, s.v_head_dim, *plan,
            softmax_scale=s.scale, causal=row.q_len > 1,
        )  # fmt: skip
        assert isinstance(out, torch.Tensor)
        return out

    return launch


PEERS = (
    Peer("fa3", "fa3", "cuda", _fa3_refuses, _fa3),
    Peer("fa3_planned", "fa3", "cuda", _fa3_refuses, _fa3_planned),
    Peer("fa3_dense", "fa3", "cuda", _fa3_dense_refuses, _fa3_dense),
    Peer("fa2", "fa2", "cuda", _fa2_refuses, _fa2),
    Peer("flash_mla", "flash_mla", "cuda", _mla_refuses, _flash_mla),
)
