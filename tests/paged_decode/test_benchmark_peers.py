"""Adapters of peers, against fakes that have the peers' signatures and compute by the reference.

A fake takes what the peer takes and nothing else, so that a call with a wrong name or shape fails here. The real modules are tried
where the environment names them: HFMEM_PEER_PATHS=vllm=FOLDER,sglang=FOLDER,lmdeploy=FOLDER (in the interpreter, a minute or two).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hfmem_kernels import _reference
from hfmem_kernels.benchmarks import gate, inputs
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.peers import PEERS, Absent, Peer, base, loading
from hfmem_kernels.benchmarks.rows import Mix, Row, uniform
from hfmem_kernels.benchmarks.shapes import shape
from hfmem_kernels.layout import LatentFormat, Layout

LLAMA = shape("llama-3.1-70b-tp8")
MLA = shape("deepseek-v3-tp8")
MIX = Mix("m", (40, 1, 17))
BY_NAME = {peer.name: peer for peer in PEERS}


@pytest.fixture(autouse=True)
def clean_modules() -> Iterator[None]:
    """What a test loads under a peer's name is gone after it."""
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {
            "vllm",
            "sglang",
            "lmdeploy",
            "flash_attn",
            "flash_attn_interface",
            "flash_mla",
            "flashinfer",
            "made_up",
        }:
            del sys.modules[name]
    sys.path[:] = path


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int = 0) -> torch.Tensor:
    """q [q_len, heads, dim] over k, v [tokens, kv heads, dim], in fp32."""
    return _reference.attend(
        q.float(), k.float(), v.float(), seq_len=k.shape[0], start=0, scale=scale, window=window, softcap=0.0, sinks=None,
        alibi_slopes=None,
    )[0]  # fmt: skip


def run(name: str, row: Row, made: Inputs | None = None) -> gate.Gate:
    made = made or inputs.build(row, "cpu")
    assert BY_NAME[name].refuses(row) is None
    return gate.same_function(made, BY_NAME[name].prepare(made, None)(0))


@pytest.mark.parametrize(
    "row",
    [Row(LLAMA, MIX), Row(LLAMA, uniform(2, 33), q_len=3), Row(replace(LLAMA, window=8), MIX)],
    ids=["ragged", "queries", "window"],
)
def test_fa3_and_fa2(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(q, k_cache, v_cache, lengths, table, scale, causal, window_size):  # type: ignore[no-untyped-def]
        assert causal and window_size[1] in (-1, 0)
        outs = []
        for b, n in enumerate(lengths.tolist()):
            k, v = (_reference.gather(cache, table[b], 0, n) for cache in (k_cache, v_cache))
            outs.append(attend(q[b], k, v, scale, window_size[0] + 1))
        return torch.stack(outs).to(torch.bfloat16)

    def fa3(q, k_cache, v_cache, *, cache_seqlens, page_table, softmax_scale, causal, window_size, k_descale=None):  # type: ignore[no-untyped-def]
        return shared(q, k_cache, v_cache, cache_seqlens, page_table, softmax_scale, causal, window_size), "lse"

    def fa2(q, k_cache, v_cache, *, cache_seqlens, block_table, softmax_scale, causal, window_size):  # type: ignore[no-untyped-def]
        return shared(q, k_cache, v_cache, cache_seqlens, block_table, softmax_scale, causal, window_size)

    fake(monkeypatch, "flash_attn_interface", flash_attn_with_kvcache=fa3)
    fake(monkeypatch, "flash_attn", flash_attn_with_kvcache=fa2)
    assert run("fa3", row).passed and run("fa2", replace(row, page_size=256)).passed


def test_fa3_over_fp8_gets_fp8_queries_and_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(LLAMA, uniform(2, 33)).in_fp8()

    def fa3(
        q,
        k_cache,
        v_cache,
        *,
        cache_seqlens,
        page_table,
        softmax_scale,
        causal,
        window_size,
        q_descale,
        k_descale,
        v_descale,
    ):  # type: ignore[no-untyped-def]
        assert q.dtype == k_cache.dtype == torch.float8_e4m3fn
        assert q_descale.shape == k_descale.shape == v_descale.shape == (2, 1)
        outs = []
        for b, n in enumerate(cache_seqlens.tolist()):
            k, v = (_reference.gather(cache, page_table[b], 0, n).float() for cache in (k_cache, v_cache))
            outs.append(attend(q[b].float() * q_descale[b, 0], k * k_descale[b, 0], v * v_descale[b, 0], softmax_scale))
        return torch.stack(outs)

    fake(monkeypatch, "flash_attn_interface", flash_attn_with_kvcache=fa3)
    assert run("fa3", row).passed


def test_fa3_on_dense_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def fa3(q, k_cache, v_cache, *, cache_seqlens, softmax_scale, causal):  # type: ignore[no-untyped-def]
        assert k_cache.shape == (2, 33, 1, 128) and causal
        return torch.stack([attend(q[b], k_cache[b], v_cache[b], softmax_scale) for b in range(2)])

    fake(monkeypatch, "flash_attn_interface", flash_attn_with_kvcache=fa3)
    assert run("fa3_dense", Row(LLAMA, uniform(2, 33))).passed
    assert BY_NAME["fa3_dense"].refuses(Row(LLAMA, MIX)) == "equal lengths only"


@pytest.mark.parametrize("planned", [True, False])
def test_flash_mla(planned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_lengths(cache_seqlens, num_q_tokens_per_head_k, num_heads_k):  # type: ignore[no-untyped-def]
        assert num_q_tokens_per_head_k == 16 and num_heads_k == 1
        return "metadata", "splits"

    def decode(q, k_cache, block_table, cache_seqlens, head_dim_v, metadata, splits, *, softmax_scale, causal):  # type: ignore[no-untyped-def]
        assert (
            k_cache.shape[1:] == (64, 1, 576)
            and head_dim_v == 512
            and not causal
            and splits == ("splits" if planned else None)
        )
        outs = []
        for b, n in enumerate(cache_seqlens.tolist()):
            k = _reference.gather(k_cache, block_table[b], 0, n)
            outs.append(attend(q[b], k, k[..., :512], softmax_scale))
        return torch.stack(outs), "lse"

    plans = with_lengths if planned else lambda: ("metadata", None)
    fake(monkeypatch, "flash_mla", get_mla_metadata=plans, flash_mla_with_kvcache=decode)
    assert run("flash_mla", Row(MLA, MIX, page_size=64)).passed


class FakeWrapper:
    """FlashInfer's planned decode, by its documentation."""

    def __init__(self, workspace: torch.Tensor, kv_layout: str, use_tensor_cores: bool, backend: str) -> None:
        assert use_tensor_cores and backend == "fa2" and workspace.dtype == torch.uint8
        self.layout = kv_layout

    def plan(
        self,
        indptr,
        indices,
        last_page_len,
        num_qo_heads,
        num_kv_heads,
        head_dim,
        page_size,
        *,
        window_left,
        q_data_type,
        kv_data_type,
        sm_scale,
        q_len_per_req=1,
    ):  # type: ignore[no-untyped-def]
        assert indptr.dtype == indices.dtype == last_page_len.dtype == torch.int32
        assert (num_qo_heads, num_kv_heads, head_dim) == (8, 1, 128) and q_data_type == torch.bfloat16
        self.pages = [indices[a:b] for a, b in pairwise(indptr)]
        self.lengths = [(len(p) - 1) * page_size + int(n) for p, n in zip(self.pages, last_page_len, strict=True)]
        self.scale, self.window, self.q_len, self.kv = sm_scale, window_left + 1, q_len_per_req, kv_data_type

    def run(self, q, paged_kv_cache, *, out, k_scale=None, v_scale=None):  # type: ignore[no-untyped-def]
        caches = [c.transpose(1, 2) if self.layout == "HND" else c for c in paged_kv_cache]
        assert caches[0].dtype == self.kv
        for b, n in enumerate(self.lengths):
            k, v = (_reference.gather(c, self.pages[b], 0, n).float() for c in caches)
            rows = slice(b * self.q_len, (b + 1) * self.q_len)
            out[rows] = attend(q[rows], k * (k_scale or 1), v * (v_scale or 1), self.scale, self.window)
        return out


FLASHINFER_ROWS = [
    Row(LLAMA, MIX), Row(LLAMA, MIX, layout=Layout.HND), Row(LLAMA, MIX).in_fp8(), Row(LLAMA, MIX, page_size=7),
    Row(LLAMA, Mix("q", (40, 5)), q_len=2), Row(replace(LLAMA, window=8), MIX),
]  # fmt: skip


@pytest.mark.parametrize("row", FLASHINFER_ROWS, ids=lambda row: row.name.replace(" ", "_"))
def test_flashinfer_plans(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "flashinfer", BatchDecodeWithPagedKVCacheWrapper=FakeWrapper)
    assert run("flashinfer_fa2", row).passed


def test_flashinfer_xqa(monkeypatch: pytest.MonkeyPatch) -> None:
    def xqa(
        query,
        kv_cache,
        workspace_buffer,
        block_tables,
        seq_lens,
        max_seq_len,
        bmm1_scale=1.0,
        bmm2_scale=1.0,
        window_left=-1,
        out=None,
        sinks=None,
        kv_layout="NHD",
    ):  # type: ignore[no-untyped-def]
        assert seq_lens.dtype == torch.uint32 and max_seq_len == 40 and not workspace_buffer.any()
        for b, n in enumerate(seq_lens.to(torch.int64).tolist()):
            k, v = (_reference.gather(c, block_tables[b], 0, n).float() for c in kv_cache)
            out[b] = attend(query[b : b + 1], k, v * bmm2_scale, bmm1_scale, window_left + 1)[0]
        return out

    fake(monkeypatch, "flashinfer")
    fake(monkeypatch, "flashinfer.decode", xqa_batch_decode_with_kv_cache=xqa)
    assert run("flashinfer_xqa", Row(LLAMA, MIX)).passed and run("flashinfer_xqa", Row(LLAMA, MIX).in_fp8()).passed
    assert BY_NAME["flashinfer_xqa"].refuses(Row(LLAMA, MIX, page_size=528)) == "pages of 16 to 128"


def test_flashinfer_mla(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapper:
        def __init__(self, workspace: torch.Tensor, backend: str) -> None:
            pass

        def plan(
            self,
            qo_indptr,
            kv_indptr,
            kv_indices,
            kv_len_arr,
            num_heads,
            head_dim_ckv,
            head_dim_kpe,
            page_size,
            causal,
            sm_scale,
            q_data_type,
            kv_data_type,
        ):  # type: ignore[no-untyped-def]
            assert (
                qo_indptr.tolist() == [0, 1, 2, 3]
                and (num_heads, head_dim_ckv, head_dim_kpe) == (16, 512, 64)
                and not causal
            )
            self.pages = [kv_indices[a:b] for a, b in pairwise(kv_indptr)]
            self.lengths, self.scale = kv_len_arr.tolist(), sm_scale

        def run(self, q_nope, q_pe, ckv_cache, kpe_cache, *, out, return_lse):  # type: ignore[no-untyped-def]
            for b, n in enumerate(self.lengths):
                c, r = (_reference.gather(cache, self.pages[b], 0, n)[:, None] for cache in (ckv_cache, kpe_cache))
                out[b] = attend(torch.cat([q_nope, q_pe], -1)[b : b + 1], torch.cat([c, r], -1), c, self.scale)[0]
            return out

    fake(monkeypatch, "flashinfer")
    fake(monkeypatch, "flashinfer.mla", BatchMLAPagedAttentionWrapper=Wrapper)
    assert run("flashinfer_mla", Row(MLA, MIX, page_size=64)).passed


def test_torch_on_dense_copies() -> None:
    assert run("torch_sdpa_dense", Row(LLAMA, uniform(2, 33))).passed
    assert run("torch_sdpa_dense", Row(replace(LLAMA, window=8), uniform(2, 33), layout=Layout.PACKED_HND)).passed


def test_torch_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    def varlen(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa, seqused_k, block_table
    ):  # type: ignore[no-untyped-def]
        assert enable_gqa and cu_seq_k is None and window_size[1] in (-1, 0)
        outs = []
        for b, n in enumerate(seqused_k.tolist()):
            k, v = (_reference.gather(c, block_table[b], 0, n) for c in (key, value))
            outs.append(attend(query[cu_seq_q[b] : cu_seq_q[b + 1]], k, v, scale, window_size[0] + 1))
        return torch.cat(outs)

    fake(monkeypatch, "torch.nn.attention.varlen", varlen_attn=varlen)
    assert run("torch_varlen", Row(LLAMA, MIX)).passed
    assert run("torch_varlen", Row(replace(LLAMA, window=8), Mix("q", (40, 5)), q_len=2)).passed
    fake(monkeypatch, "torch.nn.attention.varlen", varlen_attn=lambda query, key, value: None)
    with pytest.raises(Absent, match=r"takes no scale, .*block_table"):
        run("torch_varlen", Row(LLAMA, MIX))


def test_peers_that_are_not_there_say_so() -> None:
    made = inputs.build(Row(LLAMA, MIX), "cpu")
    for name, project in (("fa3", "fa3"), ("vllm_unified", "vllm"), ("sglang", "sglang"), ("lmdeploy", "lmdeploy")):
        if loading.importlib.util.find_spec({"fa3": "flash_attn_interface"}.get(project, project)) is None:
            with pytest.raises(Absent, match=rf"is not installed \(--peer-path {project}=FOLDER\)"):
                BY_NAME[name].prepare(made, None)


REFUSED = {
    "vllm_unified": [(Row(MLA, MIX, page_size=64), "no latent cache"), (Row(LLAMA, MIX, page_size=1), "pages are multiples of 16")],
    "vllm_decode": [(Row(LLAMA, MIX, q_len=2), "one query a sequence"), (Row(replace(LLAMA, window=8), MIX), "no window")],
    "sglang": [(Row(LLAMA, MIX, layout=Layout.HND), "a pool of tokens only")],
    "lmdeploy": [(Row(LLAMA, MIX, page_size=528), "pages of 16, 32, 64 …"), (Row(LLAMA, MIX, q_len=2), "one query a sequence")],
    "fa2": [(Row(LLAMA, MIX, page_size=256).in_fp8(), "no e4m3 cache"),
            (Row(LLAMA, MIX), "pages are multiples of 256")],
    "flash_mla": [(Row(MLA, MIX, page_size=16), "pages of 64"),
                  (Row(MLA, MIX, page_size=64, latent_format=LatentFormat.FP8_DS), "no fp8_ds_mla rows")],
    "flashinfer_fa2": [(Row(LLAMA, MIX, layout=Layout.PACKED), "K and V apart"),
                       (Row(LLAMA, Mix("z", (8, 0))), "an empty sequence")],
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_have_reasons(name: str) -> None:
    for row, reason in REFUSED[name]:
        assert BY_NAME[name].refuses(row) == reason
    with pytest.raises(TypeError, match="unknown abilities: flying"):
        base.first_refusal(Row(LLAMA, MIX), flying=True)


def _folders() -> dict[str, Path]:
    words = os.environ.get("HFMEM_PEER_PATHS", "").split(",")
    return {name: Path(folder) for name, _, folder in (word.partition("=") for word in words) if folder}


FOLDERS = _folders()  # now: tests run without the environment's HFMEM_ variables
REAL_ROWS = [
    Row(LLAMA, MIX, dtype="float16"), Row(LLAMA, MIX).in_fp8(), Row(LLAMA, MIX, dtype="float16", layout=Layout.PACKED),
    Row(replace(shape("gpt-oss-20b-window"), num_heads=16, num_kv_heads=2, window=16), MIX, dtype="float16"),
    Row(LLAMA, Mix("q", (40, 7)), dtype="float16", q_len=2), Row(MLA, Mix("l", (33, 5)), dtype="float16", page_size=64),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # theirs: -inf minus -inf in rows that nobody reads
@pytest.mark.parametrize("row", REAL_ROWS, ids=lambda row: row.name.replace(" ", "_"))
@pytest.mark.parametrize(
    "peer", [each for each in PEERS if each.kind == "triton" and each.project in FOLDERS], ids=lambda peer: peer.name
)
def test_the_real_triton_kernels(peer: Peer, row: Row) -> None:
    if (reason := peer.refuses(row)) is not None:
        pytest.skip(f"{peer.name}: {reason}")
    made = inputs.build(row, "cpu")
    found = gate.same_function(made, peer.prepare(made, FOLDERS[peer.project])(0))
    assert found.passed, found.reason
