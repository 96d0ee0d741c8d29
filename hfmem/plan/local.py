"""The devices of this machine, through NVML (the `nvml` extra): total memory as CUDA would report it, and what is in use."""

from __future__ import annotations

from typing import Any

from hfmem.errors import UsageError
from hfmem.plan.devices import Device, Devices, nearest_device
from hfmem.units import format_gib


def local_devices() -> Devices:
    """The device of this machine and how many of it there are.

    Where devices differ in free memory, the fullest one counts: a rank on each must fit.

    Raises:
        UsageError: no NVML package, no driver, no device, or devices of several kinds.
    """
    try:
        import pynvml
    except ImportError:
        raise UsageError(
            "--gpu local reads NVIDIA devices through nvidia-ml-py, which is not installed (pip install 'hfmem[nvml]')"
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise UsageError(f"--gpu local: NVML finds no NVIDIA driver on this machine ({error})") from None
    try:
        found = [_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise UsageError(f"--gpu local: NVML cannot read this machine's devices ({error})") from None
    finally:
        pynvml.nvmlShutdown()
    if not found:
        raise UsageError("--gpu local: this machine has no NVIDIA device")
    kinds = {(device.name, device.memory_bytes) for device in found}
    if len(kinds) > 1:
        names = ", ".join(f"{device.name} ({format_gib(device.memory_bytes, 1)})" for device in found)
        raise UsageError(f"--gpu local: devices of several kinds ({names}); name one, e.g. --gpu '{found[0].name}'")
    return Devices(max(found, key=lambda device: device.memory_used_bytes), len(found), "local")


def _read(pynvml: Any, index: int) -> Device:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    name = name.decode() if isinstance(name, bytes) else name
    total, used = _memory(pynvml, handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    known = nearest_device(name, total)
    return Device(
        name=name.removeprefix("NVIDIA "),
        vendor="nvidia",
        memory_bytes=total,
        memory_reading="nvml",
        architecture=f"sm_{major}{minor}",
        compute_capability=10 * major + minor,
        bandwidth=known.bandwidth if known else None,
        rates=known.rates if known else {},
        interconnect=known.interconnect if known else None,
        gpus_per_node=known.gpus_per_node if known else None,
        memory_used_bytes=used,
        sources=("NVML on this machine", *(known.sources[1:] if known else ())),
    )


def _memory(pynvml: Any, handle: Any) -> tuple[int, int]:
    """Total and used bytes; what the driver reserves is in neither, as CUDA counts (NVML's second memory structure)."""
    try:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return int(info.total) - int(info.reserved), int(info.used)
    except (AttributeError, TypeError, pynvml.NVMLError):
        info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(info.total), int(info.used)
