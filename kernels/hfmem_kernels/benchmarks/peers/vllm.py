"""vLLM's Triton kernels (`vllm.v1.attention.ops`), called as its attention backends call them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from hfmem_kernels._launch import device_facts
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.ours import Launch
from hfmem_kernels.benchmarks.peers.base import Peer, by_sequence, first_refusal, query_starts, scalar
from hfmem_kernels.benchmarks.peers.loading import Absent, StandIns, alone, class_of, member
from hfmem_kernels.benchmarks.rows import Row

OPS = "vllm.v1.attention.ops"
#: TritonAttentionMetadataBuilder: split where batch <= 128 // KV heads, into 16 segments
GRID_2D, SEGMENTS = 128, 16
#: TritonMLAImpl: one split for 512 tokens, a power of two, at most two for each multiprocessor
TOKENS_OF_A_SPLIT, SPLITS_OF_AN_SM = 512, 2


def stand_ins(folder: Path) -> StandIns:
    """What the kernel files import of vLLM besides each other."""
    import triton
    import triton.language as tl

    class Quiet:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **options: None

    platform = SimpleNamespace(
        fp8_dtype=lambda: torch.float8_e4m3fn,
        is_rocm=lambda: torch.version.hip is not None,
        is_cuda=lambda: torch.version.cuda is not None,
        is_xpu=lambda: False,
        is_device_capability_family=lambda family: (
            torch.cuda.is_available() and torch.cuda.get_device_capability()[0] * 10 == family
        ),
    )
    found: dict[str, Mapping[str, Any]] = {
        "vllm.envs": {"__getattr__": _unset},
        "vllm.logger": {"init_logger": lambda name: Quiet()},
        "vllm.platforms": {"current_platform": platform},
        "vllm.triton_utils": {"triton": triton, "tl": tl},
    }
    with suppress(Absent):  # releases before per-token scales; `unified_attention` is asked for them below
        mode = class_of(folder, "vllm/v1/kv_cache_interface.py", "KVQuantMode", {"IntEnum": IntEnum})
        found["vllm.v1.kv_cache_interface"] = {"KVQuantMode": mode}
    return found


def _unset(name: str) -> bool:
    """An environment variable of vLLM's that is not set."""
    if not name.startswith("VLLM_"):
        raise AttributeError(name)
    return False


def _module(name: str, folder: Path | None) -> ModuleType:
    return alone(f"{OPS}.{name}", "vllm", folder, stand_ins)


def _unified_refuses(row: Row) -> str | None:
    if row.page_size % 16:
        return "pages are multiples of 16"
    return first_refusal(
        row,
        kv=True,
        window=True,
        sinks=True,
        ragged=True,
        queries=True,
        e4m3=True,
        int8_token=True,
        hnd=True,
        packed=True,
    )


def _unified(inputs: Inputs, folder: Path | None) -> Launch:
    module = _module("triton_unified_attention", folder)
    attend = member(
        module,
        "unified_attention",
        "seq_threshold_3D",
        "softmax_segm_output",
        "sinks",
        "kv_quant_mode",
        "k_scale_cache",
    )
    row, s = inputs.row, inputs.row.shape
    rows, padded = inputs.batch * row.q_len, 1 << (s.head_dim - 1).bit_length()
    size = (rows, s.num_heads, SEGMENTS)

    def floats(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=inputs.device)

    scratch = (floats(*size, padded), floats(*size), floats(*size))
    starts, outs = query_starts(inputs), [torch.empty_like(q).flatten(0, 1) for q in inputs.queries]
    modes = member(module, "KVQuantMode")
    mode = {"float8_e4m3fn": modes.FP8_PER_TENSOR, "int8": modes.INT8_PER_TOKEN_HEAD}.get(row.dtype, modes.NONE)
    token_scales = mode == modes.INT8_PER_TOKEN_HEAD
    factors = [
        None
        if token_scales
        else [
            torch.full((1,), scalar(scale), device=inputs.device).expand(inputs.batch, s.num_kv_heads)
            for scale in (each.k_scale, each.v_scale)
        ]
        for each in inputs.sets
    ]

    def launch(index: int) -> torch.Tensor:
        each, out, factor = inputs.sets[index], outs[index], factors[index]
        attend(
            q=inputs.queries[index].flatten(0, 1), k=each.k, v=each.v, out=out, cu_seqlens_q=starts,
            max_seqlen_q=row.q_len, seqused_k=inputs.seq_lens, max_seqlen_k=max(row.mix.lengths),
            softmax_scale=s.scale, causal=True, window_size=(s.window - 1, 0) if s.window else (-1, -1),
            block_table=inputs.page_table, softcap=0, q_descale=None, k_descale=factor[0] if factor else None,
            v_descale=factor[1] if factor else None, seq_threshold_3D=GRID_2D // s.num_kv_heads,
            num_par_softmax_segments=SEGMENTS, softmax_segm_output=scratch[0], softmax_segm_max=scratch[1],
            softmax_segm_expsum=scratch[2], sinks=inputs.sinks, kv_quant_mode=mode,
            k_scale_cache=each.k_scale if token_scales else None, v_scale_cache=each.v_scale if token_scales else None,
        )  # fmt: skip
        return by_sequence(inputs, out)

    return launch


def _decode_refuses(row: Row) -> str | None:
    return first_refusal(row, latent=True, kv=True, ragged=True, e4m3=True, hnd=True, packed=True)


def _decode(inputs: Inputs, folder: Path | None) -> Launch:
    module = _module("triton_decode_attention", folder)
    attend = member(module, "decode_attention_fwd", "k_scale", "v_scale", "is_mla")
    row, s = inputs.row, inputs.row.shape
    wanted = 1 << max(0, max(1, max(row.mix.lengths) // TOKENS_OF_A_SPLIT) - 1).bit_length()
    splits = min(wanted, SPLITS_OF_AN_SM * device_facts(inputs.device).num_sms)
    logits = torch.empty(inputs.batch, s.num_heads, splits, s.v_head_dim + 1, device=inputs.device)
    lse = torch.empty(inputs.batch, s.num_heads, device=inputs.device)
    outs = [q.new_empty(inputs.batch, s.num_heads, s.v_head_dim) for q in inputs.queries]
    factors = [
        [torch.tensor(scalar(scale), device=inputs.device) for scale in (each.k_scale, each.v_scale)]
        for each in inputs.sets
    ]

    def launch(index: int) -> torch.Tensor:
        each, out = inputs.sets[index], outs[index]
        attend(
            inputs.queries[index].flatten(0, 1), each.k, each.v, out, lse, inputs.page_table, inputs.seq_lens, logits,
            splits, s.scale, row.page_size, k_scale=factors[index][0], v_scale=factors[index][1], is_mla=s.latent,
        )  # fmt: skip
        return out[:, None]

    return launch


PEERS = (
    Peer("vllm_unified", "vllm", "triton", _unified_refuses, _unified),
    Peer("vllm_decode", "vllm", "triton", _decode_refuses, _decode),
)
