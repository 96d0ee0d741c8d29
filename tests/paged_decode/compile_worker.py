"""Compiles decode kernels for devices that are not here and says what the compiler made of them.

A process of its own, because Triton is either compiling or interpreting (see conftest.py): reads a JSON list of jobs on stdin,
writes a JSON list of reports (`hfmem_kernels.compile_only`). The launcher compiles (`warmup`) exactly what it would launch.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch

from hfmem_kernels import _kernels, _kernels_index, _launch, compile_only
from hfmem_kernels._heuristics import LaunchConfig
from hfmem_kernels._launch_index import launch_index
from hfmem_kernels.layout import (
    SPLIT_ROW_BYTES,
    CacheSpec,
    LatentFormat,
    Layout,
    allocate,
    allocate_index,
    allocate_latent,
)


def compile_job(job: dict[str, Any]) -> Any:
    """The compiled kernel of a job: target, config, and what of the call differs from the defaults below."""
    compile_only.pretend(job["target"], _kernels.decode_kernel)
    shape = {
        "heads": 32, "kv_heads": 8, "dim": 128, "v_dim": 0, "page": 16, "q_len": 1, "layout": "nhd", "window": 0,
        "softcap": 0.0, "sinks": False, "alibi": False, "varlen": False, "scale": "none", "lora": 0, "pages": 4, "row": 0,
        "slots": False,
    } | job["shape"]  # fmt: skip
    dtype = getattr(torch, job["dtype"])
    v_dim = shape["v_dim"] or shape["dim"]
    if shape["lora"]:
        k = torch.empty(shape["pages"], shape["page"], 1, shape["row"] or shape["dim"], dtype=dtype)
        if shape["row"] == SPLIT_ROW_BYTES:
            k = allocate_latent(shape["pages"], shape["page"], 448, 64, "", LatentFormat.FP8_V4, "cpu")[:, :, None]
        v, v_dim = k[..., : shape["lora"]], shape["lora"]
    elif shape["scale"] == "token":
        spec = CacheSpec(
            shape["kv_heads"], shape["dim"], v_dim, shape["page"], job["dtype"], Layout(shape["layout"]), True
        )
        made = allocate(spec, shape["pages"], "cpu")
        k, v = made.k, made.v
    elif shape["layout"] == "packed":
        both = torch.empty(shape["pages"], shape["page"], shape["kv_heads"], shape["dim"] + v_dim, dtype=dtype)
        k, v = both[..., : shape["dim"]], both[..., shape["dim"] :]
    else:
        device = "cpu" if shape["pages"] < 1000 else "meta"  # too large to be there; only its strides count
        k = torch.empty(shape["pages"], shape["page"], shape["kv_heads"], shape["dim"], dtype=dtype, device=device)
        v = torch.empty(shape["pages"], shape["page"], shape["kv_heads"], v_dim, dtype=dtype, device=device)
        if shape["layout"] == "hnd":
            k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (k, v))
    k_scale = v_scale = torch.ones(k.shape[2]) if shape["scale"] == "head" else None
    if shape["scale"] == "token":  # in the rows, behind the elements
        k_scale, v_scale = made.k_scale, made.v_scale
    batch, q_len, heads = 8, shape["q_len"], shape["heads"]
    lead = (batch * q_len,) if shape["varlen"] else (batch, q_len)
    q_dtype = dtype if dtype.itemsize > 1 else torch.bfloat16
    q = torch.empty(*lead, heads, shape["dim"], dtype=q_dtype)
    vector = torch.ones(heads)
    return _launch.launch_decode(
        q, k, v, torch.zeros(batch, 64, dtype=torch.int32), torch.zeros(batch, dtype=torch.int32),
        cu_q=torch.zeros(batch + 1, dtype=torch.int32) if shape["varlen"] else None, max_q_len=q_len,
        out=torch.empty(*lead, heads, v_dim, dtype=q_dtype), lse=torch.empty(*lead, heads),
        workspace=_launch.Workspace(torch.zeros(1 << 16, dtype=torch.int32), torch.empty(1 << 24)), scale=0.1,
        window=shape["window"], softcap=shape["softcap"], sinks=vector if shape["sinks"] else None,
        alibi_slopes=vector if shape["alibi"] else None, k_scale=k_scale, v_scale=v_scale, v_factor=1.0,
        kv_lora_rank=shape["lora"], by_slot=shape["slots"], config=LaunchConfig(**job["config"]), num_sms=132, warmup=True,
    )  # fmt: skip


def compile_index_job(job: dict[str, Any]) -> Any:
    """The same of an indexer's scores; `dtype`: of queries, `packed`: keys in e4m3 with a scale, else in the queries' dtype."""
    compile_only.pretend(job["target"], _kernels_index.index_kernel)
    shape = {"heads": 64, "dim": 128, "page": 64, "queries": 1, "packed": True} | job["shape"]
    dtype, lead = getattr(torch, job["dtype"]), (8, shape["queries"])
    keys = torch.empty(4, shape["page"], shape["dim"], dtype=dtype)
    if shape["packed"]:
        keys = allocate_index(4, shape["page"], shape["dim"], "cpu")
    return launch_index(
        torch.empty(*lead, shape["heads"], shape["dim"], dtype=dtype), keys, torch.empty(*lead, shape["heads"]),
        torch.zeros(8, 64, dtype=torch.int32), torch.zeros(8, dtype=torch.int32), torch.empty(*lead, 64 * shape["page"]),
        config=LaunchConfig(**job["config"]), num_sms=132, warmup=True,
    )  # fmt: skip


def main() -> None:
    """stdin → stdout; a job that does not compile is reported with its error."""
    reports = []
    for job in json.load(sys.stdin):
        try:
            reports.append(compile_only.read(compile_index_job(job) if job.get("index") else compile_job(job)))
        except Exception as error:
            reports.append({"error": f"{type(error).__name__}: {str(error)[:300]}"})
    json.dump(reports, sys.__stdout__)


if __name__ == "__main__":
    sys.stdout = sys.stderr  # what libraries print does not mix with the report
    main()
