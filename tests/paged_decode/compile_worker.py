"""Compiles decode kernels for devices that are not here and says what the compiler made of them.

A process of its own, because Triton is either compiling or interpreting (see conftest.py): reads a JSON list of jobs on stdin,
writes a JSON list of reports. A stand-in driver answers Triton's questions about the device, and the launcher compiles
(`warmup`) exactly what it would launch. The tools that read the result come with the triton wheel.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver

from hfmem_kernels import _kernels, _launch
from hfmem_kernels._heuristics import LaunchConfig

TARGETS = {
    "sm80": GPUTarget("cuda", 80, 32),
    "sm90": GPUTarget("cuda", 90, 32),
    "sm100": GPUTarget("cuda", 100, 32),
    "sm120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


class _Properties:
    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32, "max_num_regs": 65536}


class AbsentDevice(DriverBase):
    """Says it is `target`; can compile for it, cannot launch."""

    def __init__(self, target: GPUTarget) -> None:
        self.target, self.utils = target, _Properties()

    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cpu

    def map_python_to_cpp_type(self, ty: str) -> str:
        return "void*"

    def get_benchmarker(self) -> Any:
        return None


def compile_job(job: dict[str, Any]) -> Any:
    """The compiled kernel of a job: target, config, and what of the call differs from the defaults below."""
    driver.set_active(AbsentDevice(TARGETS[job["target"]]))
    _kernels.decode_kernel.device_caches.clear()  # it remembers the first target that it saw as "device 0"
    shape = {
        "heads": 32, "kv_heads": 8, "dim": 128, "v_dim": 0, "page": 16, "q_len": 1, "layout": "nhd", "window": 0,
        "softcap": 0.0, "sinks": False, "alibi": False, "varlen": False, "scale": "none", "lora": 0, "pages": 4,
    } | job["shape"]  # fmt: skip
    dtype = getattr(torch, job["dtype"])
    v_dim = shape["v_dim"] or shape["dim"]
    if shape["lora"]:
        k = torch.empty(shape["pages"], shape["page"], 1, 656 if dtype == torch.uint8 else shape["dim"], dtype=dtype)
        v, v_dim = k[..., : shape["lora"]], shape["lora"]
    elif shape["layout"] == "packed":
        both = torch.empty(shape["pages"], shape["page"], shape["kv_heads"], shape["dim"] + v_dim, dtype=dtype)
        k, v = both[..., : shape["dim"]], both[..., shape["dim"] :]
    else:
        device = "cpu" if shape["pages"] < 1000 else "meta"  # too large to be there; only its strides count
        k = torch.empty(shape["pages"], shape["page"], shape["kv_heads"], shape["dim"], dtype=dtype, device=device)
        v = torch.empty(shape["pages"], shape["page"], shape["kv_heads"], v_dim, dtype=dtype, device=device)
        if shape["layout"] == "hnd":
            k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (k, v))
    scale = None
    if shape["scale"] != "none":
        scale = torch.ones(k.shape[:3] if shape["scale"] == "token" else k.shape[2])
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
        alibi_slopes=vector if shape["alibi"] else None, k_scale=scale, v_scale=scale, v_factor=1.0,
        kv_lora_rank=shape["lora"], config=LaunchConfig(**job["config"]), num_sms=132, warmup=True,
    )  # fmt: skip


def read_cuda(kernel: Any) -> dict[str, int]:
    """Registers, stack, shared memory, and the instructions that say how memory is read."""
    tools = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        options = {"capture_output": True, "text": True, "check": True}
        usage = subprocess.run([f"{tools}/cuobjdump", "-res-usage", file.name], **options).stdout
        sass = subprocess.run([f"{tools}/cuobjdump", "-sass", file.name], **options).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None
    code = [(int(a, 16), text) for a, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", sass)]
    count = Counter(re.sub(r"^@!?U?P\w+ ", "", text).split()[0] for _, text in code)
    copies = {op: n for op, n in count.items() if op.startswith("LDGSTS")}
    wide = sum(n for op, n in copies.items() if op.endswith(".128"))
    return {
        "registers": int(found[1]),
        "stack_bytes": int(found[2]),
        "spills": sum(n for op, n in count.items() if op.startswith(("STL", "LDL"))),
        "shared_bytes": kernel.metadata.shared,
        "wide_copies": wide,
        "narrow_copies": sum(copies.values()) - wide,
        "byte_loads": sum(n for op, n in count.items() if op.startswith(("LDS.U8", "LDS.S8", "LDG.E.U8", "LDG.E.S8"))),
        "loop_instructions": _hot_loop(code),
    }


def _hot_loop(code: list[tuple[int, str]]) -> int:
    """Instructions of the smallest loop around tensor-core instructions: the loop over tiles."""
    best = 0
    for address, text in code:
        jump = re.search(r"BRA.*0x([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < address:
            body = [t for a, t in code if int(jump[1], 16) <= a <= address]
            if any("MMA" in t for t in body) and (not best or len(body) < best):
                best = len(body)
    return best


def read_hip(kernel: Any) -> dict[str, int]:
    """The same for AMD's assembly."""
    text = kernel.asm["amdgcn"]

    def value(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        assert found is not None
        return int(found[1])

    return {
        "registers": value("vgpr_count"),
        "spills": value("vgpr_spill_count"),
        "shared_bytes": kernel.metadata.shared,
        "wide_copies": len(re.findall(r"(?:buffer|global)_load_dwordx4", text)),
        "byte_loads": len(re.findall(r"(?:buffer|global)_load_[us]byte", text)),
    }


def main() -> None:
    """stdin → stdout; a job that does not compile is reported with its error."""
    reports = []
    for job in json.load(sys.stdin):
        try:
            kernel = compile_job(job)
            reports.append(read_hip(kernel) if job["target"].startswith("gfx") else read_cuda(kernel))
        except Exception as error:
            reports.append({"error": f"{type(error).__name__}: {str(error)[:300]}"})
    json.dump(reports, sys.__stdout__)


if __name__ == "__main__":
    sys.stdout = sys.stderr  # what libraries print does not mix with the report
    main()
