"""What an engine's cache holds layer by layer, on one rank of the stage that a layer runs on."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from hfmem.memory.cache import decoding_layers
from hfmem.memory.result import CacheBytes, LayerGroup
from hfmem.model.architecture import Architecture

#: stacks as engines number them that begin with the decoder; towers, of which they keep nothing, come last
_ORDER: Final = {"decoder": 0, "encoder": 1, "predict": 2, "draft": 2}


class HeldLayers:
    """What an engine holds of each layer. `stages`: of each layer, the pipeline stage, None: the host. `copies`: how often what a
    rank holds is held in all."""

    def __init__(self, arch: Architecture, engine: CacheBytes) -> None:
        layers = decoding_layers(arch)
        order = sorted(range(len(layers)), key=lambda i: _ORDER.get(layers[i].stack, len(_ORDER)))
        self._numbers = {index: number for number, index in enumerate(order)} if engine.decoder_first else {}
        self._caches = [layer.caches for layer in layers]
        self._groups: dict[int, list[LayerGroup]] = {}
        for group in engine.layer_groups:
            for number in group.layers:
                self._groups.setdefault(number, []).append(group)
        where = {n: stage for stage, runs in enumerate(engine.stage_layers) for run in runs for n in run}
        everywhere = None if engine.host_bytes else 0
        self.stages = [where.get(self._number(index), everywhere) for index in range(len(layers))]
        on_host = sum(g.rank_bytes for n, held in self._groups.items() if n not in where for g in held)
        on_devices = sum(engine.stage_bytes)
        held, once = (engine.bytes - engine.host_bytes, on_devices) if on_devices else (engine.bytes, on_host)
        self.copies = Fraction(held, once) if once else Fraction(0)

    def _number(self, index: int) -> int:
        """What the engine numbers a layer."""
        return self._numbers.get(index, index)

    def of_run(self, layers: range) -> list[int]:
        """Bytes on a rank of each of the caches that these layers have. What an engine keeps of another kind than the layer has
        (SGLang's rows for every layer, windows in its one pool) counts with the first."""
        found = [0] * len(self._caches[layers.start])
        for index in layers:
            caches = self._caches[index]
            for group in self._groups.get(self._number(index), ()):
                if caches:
                    found[caches.index(group.cache) if group.cache in caches else 0] += group.rank_bytes
        return found
