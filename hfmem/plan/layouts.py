"""How ranks are laid out over devices: what an engine does with N of them when nobody says how."""

from __future__ import annotations

from functools import cache

from hfmem.errors import UsageError

#: engines that deal whole layers out to devices instead of cutting tensors
_BY_LAYER = frozenset({"llama.cpp", "transformers"})


def default_layout(num_devices: int, engine: str) -> tuple[int, int]:
    """Tensor and pipeline parallel sizes over `num_devices` of one machine: cut tensors, or whole layers (`device_map="auto"`)."""
    return (1, num_devices) if engine in _BY_LAYER else (num_devices, 1)


@cache
def all_layouts(num_devices: int, engine: str, gpus_per_node: int | None = None) -> tuple[tuple[int, int], ...]:
    """Every tp × pp = `num_devices`, widest tensor parallelism first; tensors are not cut across machines."""
    if engine in _BY_LAYER:
        return ((1, num_devices),)
    widest = num_devices if gpus_per_node is None else min(num_devices, gpus_per_node)
    return tuple((tp, num_devices // tp) for tp in range(widest, 0, -1) if num_devices % tp == 0)


def place(num_devices: int | None, engine: str, tp: int, pp: int, dp: int) -> tuple[int, int, int]:
    """Devices, tensor and pipeline sizes. Sizes that were given count; else the engine's default over all devices.

    Raises:
        UsageError: the sizes given do not make up the devices given.
    """
    ranks = tp * pp * dp
    if num_devices is None:
        return ranks, tp, pp
    if num_devices < 1:
        raise UsageError(f"--num-gpus must be at least 1, not {num_devices}")
    if ranks == num_devices:
        return num_devices, tp, pp
    if tp == pp == 1 and num_devices % dp == 0:
        tp, pp = default_layout(num_devices // dp, engine)
        return num_devices, tp, pp
    raise UsageError(
        f"--tp {tp} × --pp {pp} × --dp {dp} are {ranks} ranks, not {num_devices} devices: leave one of them out"
    )
