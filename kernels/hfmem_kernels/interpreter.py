"""Triton's interpreter, mended: it gets bf16 wrong in two ways, and then runs these kernels on CPU tensors as a device would.

It is chosen by an environment variable that Triton reads while kernels are defined, so one process has one mode.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def use_interpreter() -> None:
    """Interpret all kernels of this process, with bf16 as the hardware has it.

    Raises:
        RuntimeError: Triton has been imported before, without it.
    """
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("triton was imported before its interpreter could be chosen")
    os.environ["TRITON_INTERPRET"] = "1"
    _mend()


def _mend() -> None:
    """Products of bf16 blocks are taken of the raw 16-bit patterns, and a conversion from fp32 cuts digits off where the
    hardware rounds to nearest even."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    if getattr(builder.create_dot, "mended", False):
        return
    create_dot, cast_impl = builder.create_dot, builder.cast_impl

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), *rest)

    def cast(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            bits = np.ascontiguousarray(source.data).view(np.uint32).astype(np.uint64)
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            return interpreter.TensorHandle(np.where(np.isnan(source.data), np.uint16(0x7FC0), rounded), tl.bfloat16)
        return cast_impl(self, source, target)

    dot.mended = True  # type: ignore[attr-defined]
    builder.create_dot, builder.cast_impl = dot, cast
