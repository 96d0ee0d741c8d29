"""How these tests run kernels: on the GPU if there is one, else in Triton's interpreter, on CPU tensors.

The interpreter is chosen by an environment variable that Triton reads while it is imported, so one process has one mode: this
file sets it before anything imports Triton, and `compile_worker.py` is a process of its own, with the interpreter off, that
compiles for devices which are not here. The same tests check a GPU where there is one; tests that only a GPU can run are
marked `gpu`.

The interpreter gets bf16 wrong in two ways, mended here: products of bf16 blocks are taken of the raw 16-bit patterns, and a
conversion from fp32 cuts digits off where the hardware rounds to nearest even.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import pytest

collect_ignore_glob: list[str] = []
HAS_GPU = False

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
    collect_ignore_glob.append("test_*.py")
else:
    import torch

    HAS_GPU = torch.cuda.is_available()
    if not HAS_GPU:
        if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
            raise RuntimeError("triton was imported before tests/paged_decode could choose its interpreter")
        os.environ["TRITON_INTERPRET"] = "1"


def _mend_interpreter() -> None:
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
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

    builder.create_dot, builder.cast_impl = dot, cast


if "torch" in sys.modules and not HAS_GPU and not collect_ignore_glob:
    _mend_interpreter()


@pytest.fixture
def device() -> str:
    """Where the kernels run."""
    return "cuda" if HAS_GPU else "cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Report what needs a GPU as skipped, with the reason."""
    if HAS_GPU:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA or ROCm device; torch.cuda.is_available() is False"))
