"""lmdeploy's Triton kernel over pages (`lmdeploy.pytorch.kernels.cuda.pagedattention`)."""

from __future__ import annotations

import enum
import logging
from pathlib import Path
from types import ModuleType

import torch

from hfmem_kernels._launch import device_facts, interpreting
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.ours import Launch
from hfmem_kernels.benchmarks.peers.base import Peer, by_sequence, first_refusal, scalar
from hfmem_kernels.benchmarks.peers.loading import StandIns, alone, class_of, member
from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.layout import Layout

KERNEL = "lmdeploy.pytorch.kernels.cuda.pagedattention"


def stand_ins(folder: Path) -> StandIns:
    """What the kernel's file imports of LMDeploy."""
    policy = class_of(folder, "lmdeploy/messages.py", "QuantPolicy", {"enum": enum})
    return {
        "lmdeploy.messages": {"QuantPolicy": policy},
        "lmdeploy.utils": {"get_logger": logging.getLogger},
    }


def _on_cpu(module: ModuleType, device: torch.device) -> None:
    """Answer in the interpreter what it asks CUDA, and give it functions there instead of CUDA's library and of aliases that
    the interpreter does not see."""
    from hfmem_kernels.benchmarks.peers import _interpreted

    facts = {"multi_processor_count": device_facts(device).num_sms, "compute_capability": (8, 0)}
    answers = {
        "get_device_props": lambda index: {**facts, "warps_per_sm": 64, "blocks_per_sm": 32},
        "is_cuda": lambda: False,
        "fast_dividef": _interpreted.divide,
        "tl_exp2": _interpreted.exp2,
        "tl_log2": _interpreted.log2,
    }
    module.__dict__.update(answers)


def _refuses(row: Row) -> str | None:
    """Queries of one sequence see each other there, the later ones too: another function than ours."""
    if row.page_size < 16 or row.page_size & (row.page_size - 1):
        return "pages of 16, 32, 64 …"
    return first_refusal(
        row, kv=True, latent=True, window=True, sinks=True, ragged=True, e4m3=True, e5m2=True, hnd=True, packed=True
    )


def _prepare(inputs: Inputs, folder: Path | None) -> Launch:
    module = alone(KERNEL, "lmdeploy", folder, stand_ins)
    attend = member(module, "flash_attn_with_kvcache", "quant_policy", "sinks", "k_scales_zeros", "kv_layout")
    row, s = inputs.row, inputs.row.shape
    if interpreting():
        _on_cpu(module, inputs.device)
    policies = member(module, "QuantPolicy")
    policy = {"float8_e4m3fn": policies.FP8, "float8_e5m2": policies.FP8_E5M2}.get(row.dtype, policies.NONE)
    factors = [
        [torch.full((1,), scalar(scale), device=inputs.device) for scale in (each.k_scale, each.v_scale)]
        for each in inputs.sets
    ]
    quantized = policy != policies.NONE
    hnd = row.layout in (Layout.HND, Layout.PACKED_HND)
    sinks = inputs.sinks.contiguous() if inputs.sinks is not None else None

    def launch(index: int) -> torch.Tensor:
        each = inputs.sets[index]
        k, v = (each.k.transpose(1, 2), each.v.transpose(1, 2)) if hnd else (each.k, each.v)
        out: torch.Tensor = attend(
            inputs.queries[index].flatten(0, 1), k, v, inputs.seq_lens, inputs.page_table, max_seqlen_q=row.q_len,
            softmax_scale=s.scale, window_size=s.window - 1 if s.window else None, quant_policy=policy, sinks=sinks,
            k_scales_zeros=factors[index][0] if quantized else None,
            v_scales_zeros=factors[index][1] if quantized else None, kv_layout="bhsd" if hnd else "bshd",
        )  # fmt: skip
        return by_sequence(inputs, out)

    return launch


PEERS = (Peer("lmdeploy", "lmdeploy", "triton", _refuses, _prepare),)
