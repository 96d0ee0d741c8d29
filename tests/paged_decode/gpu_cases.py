"""What the grids for a real device share: where cases run, models, formats, and the check of a case."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from hfmem_kernels import allocate_workspace, paged_decode_attention, testing
from hfmem_kernels.testing import Case

gpu = pytest.mark.gpu
#: the PTX machine takes hundredths of a second for a tile of keys
MOST_EXECUTED = 300
#: not "cuda" in the PTX machine (`ptx_device`), which runs compiled kernels on CPU tensors
DEVICE = "cpu" if os.environ.get("HFMEM_PTX") else "cuda"

LLAMA = Case((), num_heads=32, num_kv_heads=8, head_dim=128)
MODELS = {
    "llama_3_1_8b": LLAMA,
    "llama_70b_tp8": Case((), num_heads=8, num_kv_heads=1, head_dim=128),
    "qwen3_30b_a3b": Case((), num_heads=32, num_kv_heads=4, head_dim=128),
    "qwen2_7b": Case((), num_heads=28, num_kv_heads=4, head_dim=128),
    "llama_2_7b": Case((), num_heads=32, num_kv_heads=32, head_dim=128),
    "gemma_3_window": Case((), num_heads=16, num_kv_heads=8, head_dim=256, window=1024),
    "gpt_oss": Case((), num_heads=64, num_kv_heads=8, head_dim=64, window=128, sinks=True),
    "hybrid_page_528": Case((), num_heads=16, num_kv_heads=2, head_dim=256, page_size=528),
    "phi_3_mini": Case((), num_heads=32, num_kv_heads=32, head_dim=96),
    "mimo_v2": Case((), num_heads=64, num_kv_heads=4, head_dim=192, v_head_dim=128),
    "gemma_4_full": Case((), num_heads=16, num_kv_heads=1, head_dim=512),
    "bloom_alibi": Case((), num_heads=32, num_kv_heads=32, head_dim=128, alibi=True),
    "gemma_2_softcap": Case((), num_heads=8, num_kv_heads=4, head_dim=256, softcap=50.0),
}
FORMATS = {
    "bf16": ("bfloat16", "none"),
    "e4m3_tensor": ("float8_e4m3fn", "tensor"),
    "e5m2_head": ("float8_e5m2", "head"),
    "int8_token": ("int8", "token"),
}


def check(case: Case) -> None:
    """out and lse within their bounds, from buffers and scratch memory full of NaN; zeros and -inf where nothing is seen."""
    if DEVICE == "cpu":
        case = replace(case, seq_lens=tuple(min(n, MOST_EXECUTED) for n in case.seq_lens))
    inputs = testing.build(case, DEVICE)
    arguments = dict(inputs.arguments)
    if case.q_lens:
        arguments["max_q_len"] = max(case.q_lens)
    q, v = inputs.q, inputs.cache.v
    out = torch.full((*q.shape[:-1], v.shape[-1]), float("nan"), dtype=q.dtype, device=DEVICE)
    lse = torch.full(q.shape[:-1], float("nan"), device=DEVICE)
    workspace = allocate_workspace(DEVICE)
    workspace.partials.fill_(float("nan"))
    paged_decode_attention(*inputs.positional, **arguments, out=out, lse=lse, return_lse=True, workspace=workspace)
    assert not workspace.counters.any(), "a launch leaves its counters as it found them"
    expected, expected_lse = testing.oracle(inputs)
    bound, lse_bound = testing.error_budget(inputs)
    assert bool(((out.double() - expected).abs() <= bound).all())
    empty = torch.isinf(expected_lse)
    assert torch.equal(torch.isinf(lse), empty) and not out[empty].any()
    assert bool(((lse.double() - expected_lse).abs()[~empty] <= lse_bound[~empty]).all())
