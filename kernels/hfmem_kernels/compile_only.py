"""What a compiler makes of a Triton kernel for a device that is not here: registers, spills, shared memory, the loop over tiles.

A stand-in driver answers Triton's questions about the device; a launch with `warmup=True` then compiles exactly what it would
have launched. The tools that read machine code come with the triton wheel. Needs a process in which Triton compiles, not one in
which it interprets; imports triton when it is imported itself. For the tests and for `scripts/compare_static.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver

TARGETS = {
    "sm80": GPUTarget("cuda", 80, 32),
    "sm86": GPUTarget("cuda", 86, 32),
    "sm89": GPUTarget("cuda", 89, 32),
    "sm90": GPUTarget("cuda", 90, 32),
    "sm100": GPUTarget("cuda", 100, 32),
    "sm120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """What programs share. Source: CUDA programming guide, technical specifications per compute capability."""

    shared_bytes: int
    warps: int
    programs: int
    registers: int = 65536
    system_shared_bytes: int = 1024  #: reserved for each program


MULTIPROCESSORS = {
    "sm80": Multiprocessor(164 * 1024, 64, 32),
    "sm86": Multiprocessor(100 * 1024, 48, 16),
    "sm89": Multiprocessor(100 * 1024, 48, 24),
    "sm90": Multiprocessor(228 * 1024, 64, 32),
    "sm100": Multiprocessor(228 * 1024, 64, 32),
    "sm120": Multiprocessor(100 * 1024, 48, 24),
}


@dataclass(frozen=True, slots=True)
class CudaReport:
    """One kernel in machine code. Counts are of instructions in the text, not of executions.

    wide_copies, narrow_copies: asynchronous copies of 16 and of fewer bytes. byte_loads: 1-byte loads of any kind.
    The loop is the smallest one around the kernel's tensor-core instructions (or, without any, around its copies):
    loop_instructions, its loads of global memory that the arithmetic waits for (loop_loads), the barriers of all warps in it
    (loop_barriers). copy_depth: groups of copies that may still be under way when the loop begins
    to work on a tile, divided by the groups a tile takes: whole tiles in flight behind the one at work.
    """

    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    num_warps: int
    wide_copies: int
    narrow_copies: int
    byte_loads: int
    tensor_instructions: int
    loop_instructions: int
    loop_loads: int
    loop_barriers: int
    loop_narrow_copies: int
    copy_depth: float

    def occupancy(self, family: str) -> int:
        """Programs that a multiprocessor holds at once, by registers, shared memory and warps.

        Registers are handed out to warps in units of 256, and to warps in fours; shared memory in units of 128 bytes.
        """
        has = MULTIPROCESSORS[family]
        per_warp = -(-self.registers * 32 // 256) * 256
        by_registers = has.registers // per_warp // 4 * 4 // self.num_warps
        shared = -(-(self.shared_bytes + has.system_shared_bytes) // 128) * 128
        return min(by_registers, has.shared_bytes // shared, has.warps // self.num_warps, has.programs)


class _Properties:
    def __init__(self, target: GPUTarget) -> None:
        family = f"sm{target.arch}"
        self.max_shared = 65536 if target.backend == "hip" else MULTIPROCESSORS[family].shared_bytes - 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {
            "max_shared_mem": self.max_shared,
            "multiprocessor_count": 132,
            "warpSize": 32,
            "max_num_regs": 65536,
        }


class AbsentDevice(DriverBase):  # type: ignore[misc]
    """Says it is `target`; can compile for it, cannot launch."""

    def __init__(self, target: GPUTarget) -> None:
        self.target, self.utils = target, _Properties(target)

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


def pretend(family: str, *kernels: Any) -> None:
    """From now on Triton compiles for `family`; `kernels` forget the target that they saw first as "device 0"."""
    driver.set_active(AbsentDevice(TARGETS[family]))
    for kernel in kernels:
        kernel.device_caches.clear()


def disassemble(cubin: bytes) -> tuple[str, str]:
    """What cuobjdump says of a cubin: resource usage, machine code."""
    tools = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        texts = [
            subprocess.run([f"{tools}/cuobjdump", what, file.name], capture_output=True, text=True, check=True).stdout
            for what in ("-res-usage", "-sass")
        ]
    return texts[0], texts[1]


def instructions_of(sass: str) -> list[tuple[int, str]]:
    """(address, text) of every instruction."""
    return [(int(a, 16), text) for a, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", sass)]


def opcode(text: str) -> str:
    """ "LDGSTS.E.BYPASS.128" of "@P0 LDGSTS.E.BYPASS.128 [R1], …"."""
    return re.sub(r"^@!?U?P\w+ ", "", text).split()[0]


def hot_loop(code: list[tuple[int, str]]) -> list[str]:
    """The smallest loop around tensor-core instructions; without any, around asynchronous copies, then around wide loads."""
    loops = []
    for address, text in code:
        jump = re.search(r"BRA.*0x([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < address:
            start = int(jump[1], 16)
            loops.append([t for a, t in code if start <= a <= address])
    for wanted in (r"MMA", r"LDGSTS.*\.128", r"LDG\.E\.128"):
        around = [body for body in loops if any(re.search(wanted, t) for t in body)]
        if around:
            return min(around, key=len)
    return []


def _copy_depth(body: list[str]) -> float:
    """Tiles still under way when the loop starts on one; 0 where copies are waited for at once or there are none."""
    groups = sum(opcode(t) == "LDGDEPBAR" for t in body)
    waits = [int(found[1], 16) for t in body if (found := re.search(r"DEPBAR\.LE SB0, 0x([0-9a-f]+)", t))]
    return min(waits) / groups if groups and waits else 0.0


def read_cuda(kernel: Any) -> CudaReport:
    """Read a compiled kernel's machine code."""
    usage, sass = disassemble(kernel.asm["cubin"])
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise ValueError(f"cuobjdump: expected REG and STACK, given {usage[:200]!r}")
    code = instructions_of(sass)
    count = Counter(opcode(text) for _, text in code)
    body = hot_loop(code)
    inside = Counter(opcode(text) for text in body)

    def total(counter: Counter[str], *starts: str) -> int:
        return sum(n for op, n in counter.items() if op.startswith(starts))

    def wide(counter: Counter[str]) -> int:
        return sum(n for op, n in counter.items() if op.startswith("LDGSTS") and op.endswith(".128"))

    return CudaReport(
        registers=int(found[1]),
        stack_bytes=int(found[2]),
        spills=total(count, "STL", "LDL"),
        shared_bytes=kernel.metadata.shared,
        num_warps=kernel.metadata.num_warps,
        wide_copies=wide(count),
        narrow_copies=total(count, "LDGSTS") - wide(count),
        byte_loads=total(count, "LDS.U8", "LDS.S8", "LDG.E.U8", "LDG.E.S8"),
        tensor_instructions=sum(n for op, n in count.items() if "MMA" in op),
        loop_instructions=len(body),
        loop_loads=total(inside, "LDG.") + inside["LDG"],
        loop_barriers=total(inside, "BAR.SYNC"),
        loop_narrow_copies=total(inside, "LDGSTS") - wide(inside),
        copy_depth=_copy_depth(body),
    )


def read_hip(kernel: Any) -> dict[str, int]:
    """Registers, spills and loads of AMD's assembly."""
    text = kernel.asm["amdgcn"]

    def value(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        if found is None:
            raise ValueError(f"amdgcn: expected .{name}")
        return int(found[1])

    return {
        "registers": value("vgpr_count"),
        "spills": value("vgpr_spill_count"),
        "scratch_bytes": value("private_segment_fixed_size"),
        "shared_bytes": kernel.metadata.shared,
        "wide_copies": len(re.findall(r"(?:buffer|global)_load_dwordx4", text)),
        "byte_loads": len(re.findall(r"(?:buffer|global)_load_[us]byte", text)),
    }


def read(kernel: Any) -> dict[str, Any]:
    """The report of a compiled kernel as a plain dictionary, whatever it was compiled for."""
    return asdict(read_cuda(kernel)) if "cubin" in kernel.asm else read_hip(kernel)
