"""llama.cpp's model buffers against the weights that its rules put on the devices and on the host.

A GGUF file that is read itself is known tensor by tensor. Of a model that is read from its own repository the format is the one
that the log names, whose mix differs from maker to maker: those figures are estimates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from hfmem.errors import HfmemError
from hfmem.memory.serving import LlamaCpp, Serving
from hfmem.memory.weights import RankWeights, rank_weights
from hfmem.records import replace
from hfmem.server_logs.checks import Check, check
from hfmem.server_logs.parse import LogFacts, Reading

if TYPE_CHECKING:
    from hfmem.api.reading import Model

#: how far files of one name lie apart: what importance matrices and makers keep in more bits
_MIX: Final = 0.1
_OTHER_MIX: Final = (
    "the file keeps other tensors in more bits than its format's name says: give the .gguf file as MODEL"
)
#: end of a format's name in the log → of its own
_SIZES: Final = {"small": "_s", "medium": "_m", "large": "_l"}


def buffer_checks(read: Model, log: LogFacts, serving: Serving) -> Iterator[Check]:
    """The model buffers of all devices, and the host's."""
    devices = filled(log, "device_weights_bytes")
    if not devices:
        return
    model, exact = _stored(read, log)
    if model is None:
        return
    layers = log.first("offloaded_layers")
    placed = LlamaCpp(gpu_layers=None if layers is None else int(layers.value))
    try:
        held = rank_weights(
            model.architecture, model.parameters.groups, replace(serving, tp=1, pp=len(devices), llama_cpp=placed)
        )
    except HfmemError:
        return
    yield from _compared(log, held, exact)


def _compared(log: LogFacts, held: RankWeights, exact: bool) -> Iterator[Check]:
    devices = _together(filled(log, "device_weights_bytes"))
    host = filled(log, "host_weights_bytes")
    rows = [("weights on the devices", devices, sum(held.stage_bytes))]
    if host and held.host_bytes:
        rows.append(("weights of the host", _together(host), held.host_bytes))
    moved = log.settings.moved_tensors or (len(rows) > 1 and rows[1][1].value > 1.5 * held.host_bytes)
    if moved:  # by name (`-ot`, `--n-cpu-moe`): which are on which side the log does not say
        everywhere = _together((devices, *(host or ())))
        rows = [("weights on devices and host", everywhere, sum(held.stage_bytes) + held.host_bytes)]
    for title, reading, size in rows:
        if exact:
            yield check(title, "bytes", reading, size)
        else:
            low, high = int(size * (1 - _MIX)), int(size * (1 + _MIX))
            item = check(title, "bytes", reading, size, low=low, high=high, estimated=True)
            yield replace(item, reason=_OTHER_MIX) if item.verdict == "differs" else item


def filled(log: LogFacts, name: str) -> tuple[Reading, ...]:
    """The buffers that hold anything: a server that fits its settings to the device (`--fit`) first makes empty ones."""
    return tuple(item for item in log.readings.get(name, ()) if item.value > 0)


def _together(readings: tuple[Reading, ...]) -> Reading:
    """Several buffers as one; how layers are dealt out to devices, by their free memory, the log does not say."""
    size, slack = sum(item.value for item in readings), sum(item.slack for item in readings)
    return replace(readings[0], value=size, slack=slack)


def _stored(read: Model, log: LogFacts) -> tuple[Model | None, bool]:
    """The model in the log's format, and whether that is the file's own."""
    from hfmem.api.reading import in_format
    from hfmem.checkpoint.whatif import names

    checkpoint = read.facts.checkpoint
    if checkpoint is not None and checkpoint.format == "gguf":
        return read, True
    name = format_name(log.settings.file_type or "")
    if name not in names():
        return None, False
    try:
        return in_format(read, name), name in ("bf16", "fp16", "fp32", "q8_0")
    except HfmemError:
        return None, False


def format_name(told: str) -> str:
    """`Q4_K - Medium` → `q4_k_m`, `F16` → `fp16`, `IQ3_XXS - 3.0625 bpw` → `iq3_xxs`."""
    name, _, size = told.strip().lower().partition(" - ")
    name = re.sub(r"^all ", "", name)
    if match := re.fullmatch(r"f(16|32)", name):
        return f"fp{match[1]}"
    return name + _SIZES.get(size.split(" ")[0], "")
