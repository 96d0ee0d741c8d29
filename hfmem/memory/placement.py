"""Which rank holds which layers: pipeline stages as each engine cuts them, and llama.cpp's devices beside the host.

Read from vLLM 0.33.0 and SGLang 0.5.23 (`get_pp_indices`, which differ in where the remainder goes) and llama.cpp
(`llama_model_base::load_tensors`: the output counts as one layer more, the last `-ngl` of them go to the devices in equal runs,
the input embedding always stays on the host).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.serving import Serving
from hfmem.records import dataclass

#: engines that deal whole layers out to devices: their tensor and pipeline sizes both count devices
BY_LAYER: Final = frozenset({"llama.cpp"})


@dataclass(frozen=True, slots=True)
class Placement:
    """Layers of each stage in turn and of the host; `output` is the stage of the final norm and the head, None: the host's."""

    stages: tuple[range, ...]
    host: range
    output: int | None


def placement(engine: str, num_layers: int, serving: Serving) -> Placement:
    """Where the layers run under `engine` and `serving`.

    Raises:
        UnsupportedError: more pipeline stages than layers.
    """
    if engine in BY_LAYER:
        return _offloaded(num_layers, serving)
    return Placement(pipeline_stages(engine, num_layers, serving.pp), range(0), serving.pp - 1)


def pipeline_stages(engine: str, num_layers: int, pp: int) -> tuple[range, ...]:
    """Layers of each pipeline stage.

    Raises:
        UnsupportedError: more stages than layers.
    """
    if pp == 1:
        return (range(num_layers),)
    if pp > num_layers:
        raise UnsupportedError(f"{num_layers} layers do not fill {pp} pipeline stages")
    match engine:
        case "sglang":
            from hfmem.memory.engines.sglang.support import pipeline_stages as cut
        case "transformers":
            return _even(num_layers, pp)
        case _:
            from hfmem.memory.engines.vllm.support import pipeline_stages as cut
    return cut(num_layers, pp)


def _even(num_layers: int, parts: int, start: int = 0, last: int = 0) -> tuple[range, ...]:
    """Layers from `start` on, dealt out by their place among them; `last` more than there are count for the last part."""
    count = num_layers + last - start
    edges = [start + -(-part * count // parts) for part in range(parts + 1)]
    return tuple(range(min(a, num_layers), min(b, num_layers)) for a, b in pairwise(edges))


def _offloaded(num_layers: int, serving: Serving) -> Placement:
    devices, given = serving.tp * serving.pp, serving.llama_cpp.gpu_layers
    offloaded = num_layers + 1 if given is None else min(given, num_layers + 1)
    if not offloaded:
        return Placement((range(0),) * devices, range(num_layers), None)
    start = num_layers + 1 - offloaded
    return Placement(_even(num_layers, devices, start, 1), range(min(start, num_layers)), devices - 1)
