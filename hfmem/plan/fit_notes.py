"""What is worth saying of a model on devices, beside whether it fits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from hfmem.memory import engines
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.runtime import Host, engine_seqs
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import RecurrentCache
from hfmem.plan.devices import Device
from hfmem.plan.target import Target
from hfmem.report import Report, ReportWarning
from hfmem.units import format_gib

if TYPE_CHECKING:
    from hfmem.plan.fit import Load

#: of memory that is the system's, too: vLLM's recipe for DGX Spark (vllm-project/recipes, Nemotron-3-Super), where its default is
#: more than there is (`request_memory` in `v1/worker/utils.py`)
_SHARE_OF_UNIFIED: Final = Fraction(85, 100)

#: code of the warning that the memory given for the cache is more than is left
POOL_TOO_LARGE: Final = "pool_too_large"
#: code of the warning that vLLM has fewer blocks than sequences to capture graphs for
TOO_FEW_BLOCKS: Final = "max_num_seqs_exceeds_blocks"


def fit_notes(
    report: Report, load: Load, target: Target, serving: Serving, arch: Architecture
) -> Iterator[ReportWarning]:
    """Warnings about `load`, the load of `report` on `target`."""
    device = target.device
    if device.memory_used_bytes and load.usable_bytes == target.free_bytes():
        text = f"{format_gib(device.memory_used_bytes)} of {device.name} are in use by other processes: "
        yield ReportWarning("device_in_use", f"{text}{format_gib(load.usable_bytes)} are left")
    if not load.pool_fits_device:
        room = format_gib(max(load.pool_room_bytes or 0, 0))
        text = f"the pool is to be {format_gib(load.kv_memory_bytes)} and weights and runtime leave {room} for it"
        yield ReportWarning(POOL_TOO_LARGE, text)
    yield from _device_notes(report, device, target.share(serving))
    blocks = load.pool.num_pages if load.pool is not None else 0
    if blocks and blocks < (limit := _captured_seqs(serving, device, arch)):
        told = (
            f"--max-num-seqs {limit:,} is" if serving.max_num_seqs else f"vLLM's default --max-num-seqs, {limit:,}, is"
        )
        text = f"{told} more than the pool's {blocks:,} blocks, of which each sequence of a model with recurrent layers needs one: "
        yield ReportWarning(TOO_FEW_BLOCKS, f"{text}vLLM starts with --max-num-seqs {blocks} or less")


def _captured_seqs(serving: Serving, device: Device, arch: Architecture) -> int:
    """How many sequences vLLM captures full graphs for, if each of them needs a block for its states
    (`resolve_cudagraph_mode_and_sizes` in `config/compilation.py`), else 0."""
    recurrent = any(isinstance(kind, RecurrentCache) for kind in arch.kinds())
    if serving.engine != "vllm" or serving.eager or not recurrent:
        return 0
    return engine_seqs(serving, Host(device.memory_bytes, device.name), Release())


def _device_notes(report: Report, device: Device, share: Fraction) -> list[ReportWarning]:
    """What the engine makes of such a device, as far as it changes the answer."""
    engine = report.kv_cache.engine
    vendors = engines.engine(engine).VENDORS
    if device.vendor not in ("any", *vendors):
        makers = " and ".join(sorted(vendors))
        other = "llama.cpp" if device.vendor in engines.engine("llama.cpp").VENDORS else "ideal"
        text = f"the rules of {engine} are read for devices of {makers}, not of {device.vendor}: --engine {other} may fit better"
        return [ReportWarning("device_engine", text)]
    old = device.compute_capability is not None and device.compute_capability < 80
    if old and engines.engine(engine).OLDEST is not None and report.model.dtype == "bfloat16":
        text = f"{device.name} (compute capability {(device.compute_capability or 0) / 10:.1f}) computes no bf16: --dtype half"
        return [ReportWarning("device_dtype", text)]
    if device.unified and report.host is not None and report.host.cpu_offload_bytes:
        text = (
            f"{device.name} shares its memory with the system: weights that are left to the host lie in the same memory"
        )
        return [ReportWarning("device_unified", text)]
    if device.unified and engine == "vllm" and share > _SHARE_OF_UNIFIED:
        asked = format_gib(math.ceil(device.memory_bytes * share))
        text = (
            f"{device.name} shares its memory with the system: vLLM starts only while {asked} of it are available; "
            f"--utilization {float(_SHARE_OF_UNIFIED):g} leaves the system some"
        )
        return [ReportWarning("device_unified", text)]
    return []
