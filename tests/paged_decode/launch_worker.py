"""Drives cases of the GPU grid through the whole launcher, up to the call of the driver, for a device that is not here.

    python tests/paged_decode/launch_worker.py FAMILY [pytest arguments: test ids, -k …] > REPORT.json

A process of its own (see conftest.py). Tensors stay on the CPU, what the tests ask of "cuda" is answered there, and a stand-in
driver takes every launch: Triton binds the arguments, specialises, compiles, loads and packs exactly as it would on a device,
and the stand-in counts what it is to launch instead of running it. A case ends where it first looks at
a result. Prints {test id: {"launches": [report and grid of each kernel]} or {"error": text}}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import pytest
import torch
from torch.overrides import TorchFunctionMode

from hfmem_kernels import (
    _calls,
    _launch,
    _launch_index,
    _ops,
    _reference,
    _reference_index,
    cache_ops,
    compile_only,
    indexer,
    latent_decode,
    merge,
    paged_decode,
    testing,
)
from hfmem_kernels._heuristics import DeviceFacts

#: multiprocessors of an A100, H200, B200, RTX 5090, MI300X
NUM_SMS = {"sm80": 108, "sm90": 132, "sm100": 148, "sm120": 170, "gfx942": 304}


class LooksAtAResult(Exception):
    """Raised where a case would compare what a kernel wrote: it has launched all it launches."""


class StandInDriver(compile_only.AbsentDevice):
    """Loads nothing and launches nothing, and counts what came; no argument is kept, as caches are large."""

    def __init__(self, family: str) -> None:
        super().__init__(compile_only.TARGETS[family])
        self.launches = 0
        self.utils.load_binary = lambda *_: (1, 1, 0, 0, 1024)
        self.utils.unload_module = lambda _: None

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        def launch(x: int, y: int, z: int, *_: Any) -> None:
            assert 0 < x < 2**31 and 0 < y < 2**16 and 0 < z < 2**16, "the grids that CUDA takes"
            self.launches += 1

        return launch


class OnTheCpu(TorchFunctionMode):
    """Everything that is asked for on "cuda" is made on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def moved(x: Any) -> Any:
            return "cpu" if x == "cuda" else x

        named = {k: moved(v) for k, v in (kwargs or {}).items()}
        return func(*(moved(a) if isinstance(a, str) else a for a in args), **named)


def stop(*_: Any, **__: Any) -> Any:
    """What stands in for an oracle."""
    raise LooksAtAResult


class Recorder:
    """A pytest plugin: runs each test as above and keeps what it launched."""

    def __init__(self, family: str) -> None:
        self.family, self.found = family, {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.driver = StandInDriver(family)
        compile_only.driver.set_active(self.driver)

    def report(self, kernel: Any, grid: tuple[int, ...]) -> dict[str, Any]:
        """What the compiler made of a kernel; each is read once."""
        if kernel.hash not in self.found:
            self.found[kernel.hash] = {"kernel": kernel.name, "hash": kernel.hash, **compile_only.read(kernel)}
        return self.found[kernel.hash] | {"grid": grid}

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool:
        names = pyfuncitem._fixtureinfo.argnames
        compiled: list[tuple[Any, tuple[int, ...], dict[str, Any]]] = []
        run = _launch.run

        def recording(kernel: Any, grid: Any, arguments: Any, constants: Any, config: Any, warmup: bool) -> Any:
            done = run(kernel, grid, arguments, constants, config, warmup)
            chosen = {n: getattr(config, n) for n in ("ctas_per_sm", "register_cap", "block_n")}
            compiled.append((done, grid, chosen))
            return done

        before = self.driver.launches
        for module in (_launch, _launch_index, cache_ops, merge):
            module.run = recording  # type: ignore[attr-defined]
        try:
            with OnTheCpu():
                pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
        except (LooksAtAResult, AssertionError):  # nothing ran, so what a test expects of a result is not there
            pass
        except Exception as error:
            self.reports[pyfuncitem.name] = {"error": f"{type(error).__name__}: {str(error)[:600]}"}
            return True
        finally:
            for module in (_launch, _launch_index, cache_ops, merge):
                module.run = run  # type: ignore[attr-defined]
        assert self.driver.launches - before >= len(compiled) > 0, "every launch came to the driver"
        kept = {(k.hash, grid): (k, grid, chosen) for k, grid, chosen in compiled}
        self.reports[pyfuncitem.name] = {"launches": [self.report(k, g) | c for k, g, c in kept.values()]}
        return True


def devices(family: str) -> None:
    """What the host asks about the device is answered for `family`; nothing computes a reference."""
    facts = DeviceFacts(family, NUM_SMS[family], _launch.triton_version())
    for module in (_calls, _launch, _ops, indexer, paged_decode):
        module.device_facts = lambda _: facts  # type: ignore[attr-defined]
    for module in (cache_ops, indexer, latent_decode, merge, paged_decode):
        module.require_triton = lambda *_: None  # type: ignore[attr-defined]
    torch.cuda.is_available = lambda: True
    torch.cuda.mem_get_info = lambda *_: (1 << 40, 1 << 40)
    for name in ("synchronize", "Stream", "stream"):  # the first look at a result, or at what holds one
        setattr(torch.cuda, name, stop)
    testing.oracle = testing.error_budget = _reference.decode = _reference.decode_listed = stop
    _reference_index.index_logits = stop


def main(family: str, arguments: list[str]) -> None:
    """Run, print the reports."""
    devices(family)
    recorder = Recorder(family)
    folder = Path(__file__).parent
    status = pytest.main(
        ["-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir", str(folder.parents[1]),
         *(str(folder / a) if "::" in a else a for a in arguments or map(str, sorted(folder.glob("test_gpu_*.py"))))],
        plugins=[recorder],
    )  # fmt: skip
    if not recorder.reports:
        raise SystemExit(f"no case ran: pytest ended with {status}")
    json.dump(recorder.reports, sys.__stdout__)


if __name__ == "__main__":
    sys.stdout = sys.stderr  # what pytest and libraries print does not mix with the report
    main(sys.argv[1], sys.argv[2:])
