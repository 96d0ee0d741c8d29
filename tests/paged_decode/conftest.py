"""How these tests run kernels: on the GPU if there is one, else in Triton's interpreter, on CPU tensors.

The interpreter is chosen by an environment variable that Triton reads while it is imported, so one process has one mode: this
file sets it before anything imports Triton, and `compile_worker.py` is a process of its own, with the interpreter off, that
compiles for devices which are not here. The same tests check a GPU where there is one; tests that only a GPU can run are
marked `gpu`.

The interpreter gets bf16 wrong in two ways, which `hfmem_kernels.interpreter` mends.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

collect_ignore_glob: list[str] = []
HAS_GPU = False
#: run compiled kernels in the PTX machine, compiled for this family of devices
PTX_FAMILY = os.environ.get("HFMEM_PTX", "")

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
    collect_ignore_glob.append("test_*.py")
else:
    import torch

    HAS_GPU = torch.cuda.is_available()
    if PTX_FAMILY:
        from ptx_device import install

        install(PTX_FAMILY)
    elif not HAS_GPU:
        from hfmem_kernels.interpreter import use_interpreter

        use_interpreter()


@pytest.fixture
def device() -> str:
    """Where the kernels run."""
    return "cuda" if HAS_GPU and not PTX_FAMILY else "cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Report what needs a GPU as skipped, with the reason."""
    if HAS_GPU and not PTX_FAMILY:
        return
    missing = "cuda_runtime" if PTX_FAMILY else "gpu"
    for item in items:
        if item.get_closest_marker(missing):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA or ROCm device; torch.cuda.is_available() is False"))
