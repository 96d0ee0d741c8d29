"""FlashInfer: its planned decode on tensor cores, XQA, and its MLA wrapper. What engines plan once a step is planned beforehand."""

from __future__ import annotations

from pathlib import Path

import torch

from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.ours import Launch
from hfmem_kernels.benchmarks.peers.base import Peer, by_sequence, first_refusal, flat_pages, query_starts, scalar
from hfmem_kernels.benchmarks.peers.loading import installed, member
from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.layout import Layout

#: the workspace that its documentation recommends; XQA wants it zeroed
WORKSPACE_BYTES = 128 << 20


def _workspace(inputs: Inputs) -> torch.Tensor:
    return torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=inputs.device)


def _layout(row: Row) -> str:
    return "HND" if row.layout is Layout.HND else "NHD"


def _caches(inputs: Inputs) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """K and V in the order of axes that the layout's name says."""
    if inputs.row.layout is Layout.HND:
        return [(each.k.transpose(1, 2), each.v.transpose(1, 2)) for each in inputs.sets]
    return [(each.k, each.v) for each in inputs.sets]


def _decode_refuses(row: Row) -> str | None:
    if row.layout not in (Layout.NHD, Layout.HND, Layout.FLAT):
        return "K and V apart"
    return first_refusal(row, kv=True, window=True, ragged=True, queries=True, e4m3=True, e5m2=True, hnd=True)


def _decode(inputs: Inputs, folder: Path | None) -> Launch:
    flashinfer = installed("flashinfer", "flashinfer", folder)
    row, s = inputs.row, inputs.row.shape
    made = member(flashinfer, "BatchDecodeWithPagedKVCacheWrapper", "use_tensor_cores", "backend")
    wrapper = made(_workspace(inputs), _layout(row), use_tensor_cores=True, backend="fa2")
    starts, ids, last = flat_pages(inputs)
    extra = {"q_len_per_req": row.q_len} if row.q_len > 1 else {}
    wrapper.plan(
        starts, ids, last, s.num_heads, s.num_kv_heads, s.head_dim, row.page_size,
        window_left=s.window - 1 if s.window else -1, q_data_type=inputs.queries[0].dtype,
        kv_data_type=inputs.sets[0].k.dtype, sm_scale=s.scale, **extra,
    )  # fmt: skip
    caches = _caches(inputs)
    outs = [torch.empty_like(q).flatten(0, 1) for q in inputs.queries]

    def launch(index: int) -> torch.Tensor:
        each = inputs.sets[index]
        factors = {} if each.k_scale is None else {"k_scale": scalar(each.k_scale), "v_scale": scalar(each.v_scale)}
        out: torch.Tensor = wrapper.run(inputs.queries[index].flatten(0, 1), caches[index], out=outs[index], **factors)
        return by_sequence(inputs, out)

    return launch


def _xqa_refuses(row: Row) -> str | None:
    if row.page_size not in (16, 32, 64, 128):
        return "pages of 16 to 128"
    if row.layout not in (Layout.NHD, Layout.HND, Layout.FLAT):
        return "K and V apart"
    return first_refusal(row, kv=True, window=True, sinks=True, ragged=True, e4m3=True, hnd=True)


def _xqa(inputs: Inputs, folder: Path | None) -> Launch:
    decode = installed("flashinfer.decode", "flashinfer", folder)
    row, s = inputs.row, inputs.row.shape
    attend = member(decode, "xqa_batch_decode_with_kv_cache", "bmm1_scale", "window_left", "sinks", "kv_layout")
    workspace, caches = _workspace(inputs), _caches(inputs)
    outs = [torch.empty_like(q).flatten(0, 1) for q in inputs.queries]
    lengths, longest = inputs.seq_lens.to(torch.uint32), max(row.mix.lengths)

    def launch(index: int) -> torch.Tensor:
        each = inputs.sets[index]
        out: torch.Tensor = attend(
            inputs.queries[index].flatten(0, 1), caches[index], workspace, inputs.page_table, lengths, longest,
            bmm1_scale=s.scale * scalar(each.k_scale), bmm2_scale=scalar(each.v_scale),
            window_left=s.window - 1 if s.window else -1, out=outs[index], sinks=inputs.sinks, kv_layout=_layout(row),
        )  # fmt: skip
        return out[:, None]

    return launch


def _mla_refuses(row: Row) -> str | None:
    return first_refusal(row, latent=True, ragged=True, queries=True)


def _mla(inputs: Inputs, folder: Path | None) -> Launch:
    mla = installed("flashinfer.mla", "flashinfer", folder)
    row, s = inputs.row, inputs.row.shape
    wrapper = member(mla, "BatchMLAPagedAttentionWrapper", "backend")(_workspace(inputs), backend="auto")
    starts, ids, _ = flat_pages(inputs)
    rank = s.v_head_dim
    dtype = inputs.queries[0].dtype
    wrapper.plan(
        query_starts(inputs), starts, ids, inputs.seq_lens, s.num_heads, rank, s.head_dim - rank, row.page_size,
        row.q_len > 1, s.scale, dtype, dtype,
    )  # fmt: skip
    outs = [q.new_empty(inputs.batch * row.q_len, s.num_heads, rank) for q in inputs.queries]

    def launch(index: int) -> torch.Tensor:
        q, cache = inputs.queries[index].flatten(0, 1), inputs.sets[index].latent
        assert cache is not None
        out: torch.Tensor = wrapper.run(
            q[..., :rank], q[..., rank:], cache[..., :rank], cache[..., rank:], out=outs[index], return_lse=False
        )
        return by_sequence(inputs, out)

    return launch


PEERS = (
    Peer("flashinfer_fa2", "flashinfer", "cuda", _decode_refuses, _decode, slow=True),
    Peer("flashinfer_xqa", "flashinfer", "cuda", _xqa_refuses, _xqa, slow=True),
    Peer("flashinfer_mla", "flashinfer", "cuda", _mla_refuses, _mla, slow=True),
)
