"""What to serve on: devices, how many, and the share of each that an engine takes.

vLLM 0.33 takes `gpu_memory_utilization`, 0.92, of the device's total (`v1/worker/utils.py`); SGLang 0.5.23 `mem_fraction_static`
of what is free before weights are loaded (`hfmem.plan.sglang_share`); the others take what is free.
"""

from __future__ import annotations

import math
from fractions import Fraction

from hfmem.errors import UsageError
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.serving import Serving
from hfmem.plan.devices import Device, Devices, find_device
from hfmem.plan.layouts import place
from hfmem.plan.sglang_share import ServedModel, chunk_tokens, features_bytes, static_fraction
from hfmem.records import dataclass, replace


@dataclass(frozen=True, slots=True)
class Target:
    """Devices to serve on, and the share of each that the engine may take (None: its default).

    `named` is what to type for one of them where the user's text counted them, `most` how many there are where that is known.
    `model` is what SGLang's share depends on.
    """

    device: Device
    num_devices: int
    utilization: Fraction | None = None
    named: str | None = None
    most: int | None = None
    model: ServedModel = ServedModel()

    def __post_init__(self) -> None:
        if self.utilization is not None and not 0 < self.utilization <= 1:
            raise UsageError(f"--utilization must be above 0 and at most 1, not {float(self.utilization):g}")

    def share(self, serving: Serving) -> Fraction:
        """The share of a device's memory that the engine takes; vLLM heeds none where its pool is given (`gpu_worker.py`)."""
        if serving.engine == "vllm" and (serving.kv_memory_bytes or serving.num_gpu_blocks):
            return Fraction(1)
        if self.utilization is not None:
            return self.utilization
        match serving.engine:
            case "vllm":
                return Release().utilization
            case "sglang":
                return static_fraction(
                    self.device.memory_bytes, serving, self.model, cuda=self.device.vendor in ("nvidia", "any")
                )
            case _:
                return Fraction(1)

    def free_bytes(self) -> int:
        """What other processes leave."""
        return self.device.memory_bytes - self.device.memory_used_bytes

    def usable_bytes(self, serving: Serving, gone: int = 0) -> int:
        """Bytes of one device that the engine may take; `gone`: those it does not count into what it takes its share of."""
        found = min(math.ceil((self.device.memory_bytes - gone) * self.share(serving)), self.free_bytes())
        if serving.engine != "sglang":
            return found
        capability = self.device.compute_capability or serving.compute_capability
        return found - features_bytes(self.device.memory_bytes, capability, self.model)


def place_on(
    device: str | Device,
    num_devices: int | None,
    utilization: Fraction | float | None,
    engine: str,
    tp: int,
    pp: int,
    dp: int,
) -> tuple[Target, int, int]:
    """The devices that were named, and the tensor and pipeline sizes over them.

    Raises:
        UsageError: no such device, two different counts, or sizes that do not make them up.
    """
    found = find_device(device) if isinstance(device, str) else Devices(device)
    count, ranks = num_devices or found.count, tp * pp * dp
    if found.count is not None and count != found.count and (not found.local or (count or 0) > found.count):
        raise UsageError(f"--gpu names {found.count} × {found.device.name}, not the {num_devices} of --num-gpus")
    if found.local and num_devices is None and 1 < ranks <= (found.count or 1):
        count = ranks  # some of this machine's devices
    placed, tp, pp = place(count, engine, tp, pp, dp)
    share = None if utilization is None else Fraction(str(utilization))
    return Target(found.device, placed, share, found.text, found.count if found.local else None), tp, pp


def on_device(serving: Serving, device: Device) -> Serving:
    """`serving` with the settings that the engine derives from the device: its kernels, and the tokens of one step."""
    if device.compute_capability not in (None, serving.compute_capability):
        serving = replace(serving, compute_capability=device.compute_capability)
    if serving.engine == "vllm" and serving.max_num_batched_tokens is None:
        tokens = Release().max_num_batched_tokens(device.memory_bytes, device.name)
        serving = replace(serving, device_batched_tokens=tokens)
    if serving.engine == "sglang" and serving.max_num_batched_tokens is None:
        serving = replace(serving, max_num_batched_tokens=chunk_tokens(device.memory_bytes))
    return serving
