"""What a measurement is worth nothing without: device, driver, versions, sources, clocks, temperature, power."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import hfmem_kernels

if TYPE_CHECKING:
    from hfmem.plan.devices import Device

#: nvidia-smi's names for the readings, and ours
READINGS = {
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "clocks.max.sm": "sm_max_mhz",
    "temperature.gpu": "celsius",
    "power.draw": "watts",
    "power.limit": "watts_limit",
}


def device_info(device: torch.device) -> dict[str, Any]:
    """The `device` of a results file."""
    if device.type != "cuda":
        return {
            "name": f"{platform.processor() or platform.machine()} (no GPU)",
            "catalogue": None,
            "capability": None,
            "multiprocessors": 0,
            "memory_bytes": 0,
            "l2_bytes": 0,
            "bf16_operations": None,
        }
    found = torch.cuda.get_device_properties(device)
    known = catalogue_device(found.name, found.total_memory)
    return {
        "name": found.name,
        "catalogue": known.name if known else None,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "l2_bytes": found.L2_cache_size,
        "bf16_operations": known.rates.get("bf16") if known else None,
    }


def catalogue_device(name: str, memory_bytes: int) -> Device | None:
    """hfmem's entry for a device that PyTorch calls `name`: of those whose name begins like it, the nearest in memory."""
    from hfmem.plan.devices import nearest_device

    return nearest_device(name, memory_bytes)


def software_info() -> dict[str, Any]:
    """The `software` of a results file; null where a thing is not there."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda or torch.version.hip,
        "driver": _smi("driver_version"),
        "hfmem": _version("hfmem"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def fingerprint(folder: Path | None = None) -> str:
    """A digest of the kernels' own source files (not the benchmark's): results of other kernels are not continued."""
    root = folder or Path(hfmem_kernels.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def source_info(commit: str | None = None) -> dict[str, Any]:
    """The `source` of a results file. `commit`: for checkouts that were copied without their history."""
    root = Path(hfmem_kernels.__file__).parent
    head = commit or _said(["git", "-C", str(root), "rev-parse", "HEAD"])
    changed = None if commit else _said(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return {"commit": head, "dirty": None if changed is None else bool(changed), "fingerprint": fingerprint()}


def readings() -> dict[str, float] | None:
    """Clocks, temperature and power as the driver reads them now; None where nobody can be asked."""
    names = ",".join(READINGS)
    said = _smi(names)
    if said is None:
        return None
    found = {}
    for ours, text in zip(READINGS.values(), said.split(","), strict=False):
        try:
            found[ours] = float(text)
        except ValueError:  # "[N/A]"
            continue
    return found


def _smi(fields: str) -> str | None:
    said = _said(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"])
    return said.splitlines()[0].strip() if said else None


def _said(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
