"""Every argument that an adapter passes, held against the parameter lists of the peers' releases, which are facts noted here.

The lists are those of FlashAttention 3 (`hopper/flash_attn_interface.py`, and the wheels fa3_fwd 0.0.3 and sgl_kernel 0.3),
FlashAttention 2.8, FlashMLA of 2025 and 2026, and FlashInfer 0.7.2. What a call computes is tested in test_benchmark_peers.py.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from hfmem_kernels.benchmarks import inputs
from hfmem_kernels.benchmarks.peers import PEERS, Absent
from hfmem_kernels.benchmarks.rows import Mix, Row, uniform
from hfmem_kernels.benchmarks.shapes import shape
from hfmem_kernels.layout import Layout

LLAMA, MLA = shape("llama-3.1-70b-tp8"), shape("deepseek-v3-tp8")
MIX = Mix("m", (40, 2, 17))
PREPARE = {peer.name: peer.prepare for peer in PEERS}

FA3 = (
    "q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None, cache_batch_idx=None, "
    "cache_leftpad=None, page_table=None, cu_seqlens_q=None, cu_seqlens_k_new=None, max_seqlen_q=None, rotary_seqlens=None, "
    "q_descale=None, k_descale=None, v_descale=None, softmax_scale=None, causal=False, window_size=(-1, -1), attention_chunk=0, "
    "softcap=0.0, rotary_interleaved=True, scheduler_metadata=None, num_splits=0, pack_gqa=None, sm_margin=0, "
    "return_softmax_lse=False"
)
FA3_PLAN = (
    "batch_size, max_seqlen_q, max_seqlen_k, num_heads_q, num_heads_kv, headdim, cache_seqlens, qkv_dtype=torch.bfloat16, "
    "headdim_v=None, cu_seqlens_q=None, cu_seqlens_k_new=None, cache_leftpad=None, page_size=None, max_seqlen_k_new=0, "
    "causal=False, window_size=(-1, -1), attention_chunk=0, has_softcap=False, num_splits=0, pack_gqa=None, sm_margin=0"
)
FA2 = (
    "q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None, cache_batch_idx=None, "
    "cache_leftpad=None, block_table=None, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, "
    "rotary_interleaved=True, alibi_slopes=None, num_splits=0, return_softmax_lse=False"
)
FLASH_MLA = (
    "q, k_cache, block_table, cache_seqlens, head_dim_v, tile_scheduler_metadata, num_splits=None, softmax_scale=None, "
    "causal=False, is_fp8_kvcache=False, indices=None"
)
XQA = (
    "query, kv_cache, workspace_buffer, block_tables, seq_lens, max_seq_len, bmm1_scale=1.0, bmm2_scale=1.0, window_left=-1, "
    "out=None, sinks=None, kv_layout='NHD', enable_pdl=None, q_len_per_req=1, o_scale=1.0, mask=None, kv_cache_sf=None, "
    "q_cu_seq_lens=None"
)
DECODE_INIT = (
    "float_workspace_buffer, kv_layout='NHD', use_cuda_graph=False, use_tensor_cores=False, paged_kv_indptr_buffer=None, "
    "paged_kv_indices_buffer=None, paged_kv_last_page_len_buffer=None, backend='auto', jit_args=None"
)
DECODE_PLAN = (
    "indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, *, pos_encoding_mode='NONE', "
    "window_left=-1, logits_soft_cap=None, q_data_type='float16', kv_data_type=None, o_data_type=None, sm_scale=None, "
    "rope_scale=None, rope_theta=None, non_blocking=True, block_tables=None, seq_lens=None, fixed_split_size=None, "
    "disable_split_kv=False, q_len_per_req=1"
)
DECODE_RUN = (
    "q, paged_kv_cache, *args, q_scale=None, k_scale=None, v_scale=None, out=None, lse=None, return_lse=False, enable_pdl=None, "
    "window_left=None, sinks=None, q_len_per_req=None"
)
MLA_INIT = (
    "float_workspace_buffer, use_cuda_graph=False, qo_indptr=None, kv_indptr=None, kv_indices=None, kv_len_arr=None, "
    "backend='auto'"
)
MLA_PLAN = (
    "qo_indptr, kv_indptr, kv_indices, kv_len_arr, num_heads, head_dim_ckv, head_dim_kpe, page_size, causal, sm_scale, "
    "q_data_type, kv_data_type, use_profiler=False"
)
MLA_RUN = (
    "q_nope, q_pe, ckv_cache, kpe_cache, out=None, lse=None, return_lse=False, profiler_buffer=None, kv_len=None, "
    "page_table=None, return_lse_base_on_e=False, o_scale=None"
)


def like(parameters: str, body: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    """A function with these parameters: a call that does not fit them is a TypeError, one that does gives them to `body`."""
    scope: dict[str, Any] = {"torch": torch}
    exec(f"def fits({parameters}): ...", scope)
    signature = inspect.signature(scope["fits"])

    def call(*args: Any, **options: Any) -> Any:
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        return body(bound.arguments)

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    made = ModuleType(name)
    made.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, made)


def zeros(given: dict[str, Any], width: int = 128) -> torch.Tensor:
    return torch.zeros(*given["q"].shape[:-1], width, dtype=torch.bfloat16)


def run(name: str, row: Row) -> torch.Tensor:
    made = inputs.build(row, "cpu")
    out = PREPARE[name](made, None)(0)
    assert out.shape == (len(row.mix.lengths), row.q_len, row.shape.num_heads, row.shape.v_head_dim)
    return out


ROWS = [
    Row(LLAMA, MIX), Row(LLAMA, MIX).in_fp8(), Row(LLAMA, uniform(2, 33), q_len=3), Row(replace(LLAMA, window=8), MIX),
    Row(LLAMA, MIX, page_size=528),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "_"))
@pytest.mark.parametrize("name", ["fa3", "fa3_planned"])
def test_fa3(name: str, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = object()

    def plan(given: dict[str, Any]) -> object:
        pages = max(-(-n // row.page_size) for n in row.mix.lengths)
        assert (given["batch_size"], given["max_seqlen_q"]) == (len(row.mix.lengths), row.q_len)
        assert given["max_seqlen_k"] == pages * row.page_size  # as the kernel takes it from the page table
        assert (given["num_heads_q"], given["num_heads_kv"], given["headdim"], given["headdim_v"]) == (8, 1, 128, 128)
        assert given["page_size"] == row.page_size and given["qkv_dtype"] == getattr(torch, row.dtype)
        assert given["causal"] and given["cache_seqlens"].dtype == torch.int32
        return planned

    def attend(given: dict[str, Any]) -> torch.Tensor:
        assert given["q"].dim() == 4 and given["k_cache"].stride(-1) == given["v_cache"].stride(-1) == 1
        assert given["q"].dtype == given["k_cache"].dtype
        assert given["page_table"].dtype == given["cache_seqlens"].dtype == torch.int32
        assert given["window_size"] == ((7, 0) if row.shape.window else (-1, -1))
        assert given["num_splits"] == 0  # its own choice
        assert given["scheduler_metadata"] is (planned if name == "fa3_planned" else None)
        fp8 = row.dtype == "float8_e4m3fn"
        assert all((given[scale] is not None) == fp8 for scale in ("q_descale", "k_descale", "v_descale"))
        return zeros(given)

    module(
        monkeypatch, "flash_attn_interface", flash_attn_with_kvcache=like(FA3, attend),
        get_scheduler_metadata=like(FA3_PLAN, plan),
    )  # fmt: skip
    run(name, row)


def test_a_build_of_fa3_that_cannot_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "flash_attn_interface", flash_attn_with_kvcache=like(FA3, zeros))
    with pytest.raises(Absent, match="flash_attn_interface has no get_scheduler_metadata"):
        run("fa3_planned", ROWS[0])
    run("fa3", ROWS[0])
    run("fa3_dense", Row(LLAMA, uniform(2, 33)))


def test_fa2(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(given: dict[str, Any]) -> torch.Tensor:
        assert given["k_cache"].shape[1] % 256 == 0 and given["block_table"].dtype == torch.int32
        return zeros(given)

    module(monkeypatch, "flash_attn", flash_attn_with_kvcache=like(FA2, attend))
    run("fa2", Row(LLAMA, MIX, page_size=256))


@pytest.mark.parametrize("old", [True, False])
def test_flash_mla(old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older releases plan beforehand; the newer ones in the first call, with a plan that must come back the second time."""
    plans: list[object] = []

    def metadata(*args: Any, **options: Any) -> tuple[object, None]:
        plans.append(object())
        return plans[-1], None

    def attend(given: dict[str, Any]) -> tuple[torch.Tensor, None]:
        assert given["tile_scheduler_metadata"] is plans[0] and given["num_splits"] is None and len(plans) == 1
        assert given["k_cache"].shape[1:] == (64, 1, 576) and given["q"].is_contiguous()
        return zeros(given, 512), None

    parameters = (
        "cache_seqlens, num_q_tokens_per_head_k, num_heads_k, num_heads_q=None, is_fp8_kvcache=False, topk=None"
    )
    planning = like(parameters, metadata) if old else metadata
    module(
        monkeypatch, "flash_mla", __version__="1.0.0", get_mla_metadata=planning,
        flash_mla_with_kvcache=like(FLASH_MLA, attend),
    )  # fmt: skip
    launch = PREPARE["flash_mla"](inputs.build(Row(MLA, MIX, page_size=64), "cpu", 2), None)
    assert launch(0).shape == launch(1).shape == (3, 1, 16, 512)
    module(monkeypatch, "flash_mla", __version__="0.1", get_mla_metadata=planning)
    with pytest.raises(Absent, match=r"flash_mla of release 0\.1 has no flash_mla_with_kvcache"):
        run("flash_mla", Row(MLA, MIX, page_size=64))


@pytest.mark.parametrize(
    "row", [*ROWS, Row(LLAMA, MIX, layout=Layout.HND), Row(LLAMA, MIX, layout=Layout.FLAT)], ids=lambda row: row.name
)
def test_flashinfer(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(given: dict[str, Any]) -> Any:
        assert given["use_tensor_cores"] and given["backend"] == "fa2" and given["kv_layout"] in ("NHD", "HND")
        return made

    def plan(given: dict[str, Any]) -> None:
        assert given["indptr"].dtype == given["indices"].dtype == given["last_page_len"].dtype == torch.int32
        assert given["q_len_per_req"] == row.q_len and min(row.mix.lengths) >= row.q_len  # what it demands

    def attend(given: dict[str, Any]) -> torch.Tensor:
        q, (k, _) = given["q"], given["paged_kv_cache"]
        heads, tokens = (1, 2) if row.layout is Layout.HND else (2, 1)
        assert q.shape == given["out"].shape == (len(row.mix.lengths) * row.q_len, 8, 128)
        assert (k.shape[heads], k.shape[tokens]) == (1, row.page_size)
        assert given["k_scale"] is None or isinstance(given["k_scale"], float)
        return given["out"].zero_()  # type: ignore[no-any-return]

    made = ModuleType("wrapper")
    made.__dict__.update(plan=like(DECODE_PLAN, plan), run=like(DECODE_RUN, attend))
    module(monkeypatch, "flashinfer", BatchDecodeWithPagedKVCacheWrapper=like(DECODE_INIT, init))
    run("flashinfer_fa2", row)


def test_flashinfer_xqa(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(given: dict[str, Any]) -> torch.Tensor:
        assert given["seq_lens"].dtype == torch.uint32 and given["block_tables"].dtype == torch.int32
        assert given["workspace_buffer"].dtype == torch.uint8 and not given["workspace_buffer"].any()
        assert isinstance(given["kv_cache"], tuple) and isinstance(given["bmm1_scale"], float)
        return given["out"].zero_()  # type: ignore[no-any-return]

    module(monkeypatch, "flashinfer", __version__="0.7.2")
    module(monkeypatch, "flashinfer.decode", xqa_batch_decode_with_kv_cache=like(XQA, attend))
    for row in (ROWS[0], ROWS[1], ROWS[3], Row(replace(LLAMA, sinks=True), MIX), Row(LLAMA, MIX, layout=Layout.HND)):
        run("flashinfer_xqa", row)
    module(monkeypatch, "flashinfer.decode")
    with pytest.raises(Absent, match=r"flashinfer\.decode of release 0\.7\.2 has no xqa_batch_decode_with_kv_cache"):
        run("flashinfer_xqa", ROWS[0])
    module(monkeypatch, "flashinfer.decode", xqa_batch_decode_with_kv_cache=like("query, kv_cache", attend))
    with pytest.raises(Absent, match=r"takes no bmm1_scale, window_left, sinks, kv_layout"):
        run("flashinfer_xqa", ROWS[0])


def test_flashinfer_mla(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(given: dict[str, Any]) -> None:
        assert (given["num_heads"], given["head_dim_ckv"], given["head_dim_kpe"], given["page_size"]) == (
            16,
            512,
            64,
            64,
        )
        assert all(given[name].dtype == torch.int32 for name in ("qo_indptr", "kv_indptr", "kv_indices", "kv_len_arr"))
        assert given["q_data_type"] == given["kv_data_type"] == torch.bfloat16

    def attend(given: dict[str, Any]) -> torch.Tensor:
        assert given["ckv_cache"].shape[1:] == (64, 512) and given["kpe_cache"].shape[1:] == (64, 64)
        assert given["q_nope"].shape == (3, 16, 512) and given["q_pe"].shape == (3, 16, 64)
        return given["out"].zero_()  # type: ignore[no-any-return]

    made = ModuleType("wrapper")
    made.__dict__.update(plan=like(MLA_PLAN, plan), run=like(MLA_RUN, attend))
    module(monkeypatch, "flashinfer")
    module(monkeypatch, "flashinfer.mla", BatchMLAPagedAttentionWrapper=like(MLA_INIT, lambda given: made))
    run("flashinfer_mla", Row(MLA, MIX, page_size=64))


def test_this_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own varlen attention by the parameter list of the release that is installed here."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    signature = inspect.signature(varlen.varlen_attn)
    if "block_table" not in signature.parameters:
        pytest.skip(f"torch {torch.__version__} has no pages there")

    def call(*args: Any, **options: Any) -> torch.Tensor:
        given = signature.bind(*args, **options).arguments
        assert given["query"].dim() == 3 and given["key"].dim() == 4 and given["max_q"] == 1
        return torch.zeros_like(given["query"])

    call.__signature__ = signature  # type: ignore[attr-defined]
    module(monkeypatch, "torch.nn.attention.varlen", varlen_attn=call)
    run("torch_varlen", Row(LLAMA, MIX))
