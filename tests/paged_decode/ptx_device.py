"""Lets tests run compiled kernels without a GPU: Triton compiles them for an absent device, `ptx_machine` executes the PTX.

`HFMEM_PTX=sm90 pytest tests/paged_decode` runs every test of this folder that way, those marked `gpu` too (but not those that
ask the CUDA runtime something, marked `cuda_runtime`). The launcher, its tables of configurations, the arguments that Triton
specialises on and the machine's registers are what a device would see; only ptxas and time are left out.
"""

from __future__ import annotations

import os
import random
import re
import struct
from typing import Any

import pytest
import torch

#: multiprocessors of the stand-in: few, so that sequences are shared by several programs and tests stay short
NUM_SMS = 3


def install(family: str) -> None:
    """From now on this process compiles for `family` ("sm80", "sm89", …) and runs kernels on CPU tensors.

    Raises:
        RuntimeError: Triton was imported before; it decides then whether it interprets.
    """
    import sys

    if "triton" in sys.modules:
        raise RuntimeError("triton was imported before it could be told to compile")
    os.environ["TRITON_INTERPRET"] = "0"
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    from hfmem_kernels import _launch, compile_only
    from hfmem_kernels._heuristics import DeviceFacts, family_of

    target = compile_only.TARGETS[family]
    driver.set_active(compile_only.AbsentDevice(target))
    rows = family_of(divmod(target.arch, 10))  # sm_89 takes the table's rows for sm_86
    _launch.STAND_IN = DeviceFacts(family=rows, num_sms=NUM_SMS, triton=_launch.triton_version())
    _launch.kernels_run_on = lambda device: True
    compile_only_run = JITFunction.run
    machines: dict[str, Any] = {}

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled = compile_only_run(self, *arguments, grid=grid, warmup=True, **options)
        if not warmup:
            if compiled.hash not in machines:
                machines[compiled.hash] = _Loaded(compiled)
            machines[compiled.hash].launch(arguments, (*grid, 1, 1)[:3])
        return compiled

    JITFunction.run = run


class _Loaded:
    """A compiled kernel, read once."""

    def __init__(self, compiled: Any) -> None:
        from ptx_machine import prepare
        from ptx_text import parse

        if re.search(r"\b(wgmma|tcgen05)\.", compiled.asm["ptx"]):
            pytest.skip("the PTX machine has no wgmma and no tcgen05 (64 query rows on sm_90 and sm_100)")
        self.program = parse(compiled.asm["ptx"])
        self.steps = prepare(self.program)
        self.types = list(compiled.src.signature.values())
        self.shared_bytes = compiled.metadata.shared
        self.launches = 0

    def launch(self, arguments: tuple[Any, ...], grid: tuple[int, int, int]) -> None:
        """Pack the arguments as Triton's launcher does and run the blocks in an order of chance, another at every launch."""
        from ptx_machine import execute
        from ptx_state import GlobalMemory

        bits = [_bits(value, kind) for value, kind in zip(arguments, self.types, strict=False) if kind != "constexpr"]
        bits += [0] * (len(self.program.parameters) - len(bits))  # scratch memory that these kernels do not use
        memory = GlobalMemory(a for a in arguments if isinstance(a, torch.Tensor))
        blocks = [(x, y, z) for z in range(grid[2]) for y in range(grid[1]) for x in range(grid[0])]
        random.Random(self.launches).shuffle(blocks)
        self.launches += 1
        execute(self.program, self.steps, memory, bits, self.shared_bytes, grid, blocks)


def _bits(value: Any, kind: str) -> int:
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    if kind == "fp32":
        return int.from_bytes(struct.pack("<f", value), "little")
    return int(value)
