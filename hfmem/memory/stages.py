"""Which pipeline stage holds which tensors: runs of layers, and the parts outside them on the first, the last or every stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from hfmem.checkpoint.tensors import Box
from hfmem.memory.model_classes import HOSTED, LAST_PARTS, Everywhere, built_everywhere, through_transformers, ties_head
from hfmem.memory.placement import BY_LAYER, Placement, placement
from hfmem.memory.result import count_in
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component, ExpertSplit, TensorSpec
from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class Stages:
    """The layers of each stage, and how the engine's class deals the rest; the host comes after the stages, as one more.

    `first` is where the input embedding is; the routed experts of the first `host_experts` layers are the host's.
    `shared` is the pattern of an embedding that serves as the head too, `copied` that of one whose head the class builds apart
    although the config ties them; at most one of them is set. `dropped` is the pattern of a head that the class computes with the
    embedding although the file has one. `has_encoder`: names that say encoder mean one (ChatGLM's decoder is called so too).
    `hosted`: parts of the names of tables that are the host's. `follows`: where the last stage holds the embedding as its head,
    positions go with it.
    """

    where: Placement
    everywhere: Everywhere
    first: int
    host_experts: int
    shared: str | None
    copied: str | None
    dropped: str | None
    has_encoder: bool
    hosted: tuple[str, ...]
    follows: bool

    @property
    def count(self) -> int:
        """Stages and the host."""
        return len(self.where.stages) + 1

    @property
    def host(self) -> int:
        """The host's index."""
        return len(self.where.stages)

    @property
    def last(self) -> int:
        """Where the final norm and the head are."""
        return self.host if self.where.output is None else self.where.output

    def counts(self, spec: TensorSpec, boxes: Sequence[Box], axis: int | None) -> list[int]:
        """How many of the tensors in `boxes` each stage holds, and the host."""
        total = [0] * self.count
        if spec.drafts:
            total[self.last] = sum(prod(len(r) for r in box) for box in boxes)
            return total
        if axis is None or self._in_front(spec):
            count = sum(prod(len(r) for r in box) for box in boxes)
            for stage in self._homes(spec):
                total[stage] += count
            return total
        for box in boxes:
            others = prod(len(r) for index, r in enumerate(box) if index != axis)
            layers = box[axis]
            rest = len(layers)
            for stage, run in self._runs(spec):
                held = count_in(layers, run)
                total[stage] += others * held
                rest -= held
            total[self.last] += others * rest
        return total

    def _runs(self, spec: TensorSpec) -> Iterator[tuple[int, range]]:
        """The layers of the host, which come first, and of each stage after them; layers beyond are the last one's."""
        ours = max(self.where.host.stop, self.host_experts if isinstance(spec.split, ExpertSplit) else 0)
        if any(part in spec.pattern for part in self.hosted):
            ours = sum(map(len, self.where.stages))
        yield self.host, range(ours)
        for stage, layers in enumerate(self.where.stages):
            yield stage, range(max(layers.start, ours), layers.stop)

    def _homes(self, spec: TensorSpec) -> list[int]:
        """The stages of a tensor outside the layers, one entry for each copy."""
        every = list(range(len(self.where.stages)))
        if any(part in spec.pattern for part in LAST_PARTS):
            return [self.last]
        if any(part in spec.pattern for part in self.everywhere.parts):
            return every
        front = self.first if spec.component is Component.EMBEDDING else 0
        if self._in_front(spec):
            return [front]
        if spec.component is Component.LM_HEAD:
            return every if self.everywhere.head else [self.last]
        if spec.component is Component.NORM:
            return every if self.everywhere.norm else [self.last]
        homes = every if self.everywhere.embedding else [front]
        if spec.component is Component.EMBEDDING:
            homes = homes + [front] * (self.everywhere.tables - 1)
        if spec.pattern == self.copied:  # the table that the head has of its own
            return homes + (every if self.everywhere.head else [self.last])
        moves = spec.pattern == self.shared or (self.follows and spec.component is Component.EMBEDDING)
        if moves and self.shared is not None and self.last not in homes:
            return [*homes, self.last]  # the last stage needs the embedding as its head
        return homes

    def place(self, spec: TensorSpec, index: int | None) -> tuple[bool, int] | None:
        """Whether a tensor is of the model's layers (else of a tower), and its `index` in the inventory; None: neither."""
        if (
            index is None
            or spec.drafts
            or spec.component is Component.MTP
            or any(p in spec.pattern for p in self.hosted)
        ):
            return None
        if self._in_front(spec):
            return False, index
        return None if spec.layer_axis is None else (True, index)

    def _in_front(self, spec: TensorSpec) -> bool:
        """Whether a tensor is part of a tower or an encoder, which the first stage holds whole."""
        return spec.component is Component.VISION or (self.has_encoder and "encoder" in spec.pattern.split("."))


def stages_of(arch: Architecture, serving: Serving) -> Stages:
    """The stages of a model under `serving`.

    Raises:
        UnsupportedError: more stages than layers.
    """
    engine = serving.engine
    where = placement(engine, max(arch.num_hidden_layers, 1), serving)
    heads = [s for s in arch.tensors if s.component is Component.LM_HEAD and len(s.shape) == 2]
    target = next((s.tied_to for s in heads if s.tied_to is not None), None)
    ties, dropped = ties_head(arch, engine), None
    if ties and target is None:
        tables = [s for s in arch.tensors if s.component is Component.EMBEDDING and s.shape[0] == arch.vocab_size]
        dropped = next((s.pattern for s in heads if s.shape[0] == arch.vocab_size), None)
        target = tables[0].pattern if tables and dropped else None
    shared, copied = (None, target) if ties is False else (target, None)
    return Stages(
        where,
        built_everywhere(arch, engine),
        first=len(where.stages) if engine in BY_LAYER else 0,  # llama.cpp's input embedding stays on the host
        host_experts=serving.llama_cpp.cpu_moe_layers,
        shared=shared,
        copied=copied,
        dropped=dropped,
        has_encoder=any(layer.stack == "encoder" for layer in arch.layers),
        hosted=HOSTED if engine == "vllm" else (),
        follows=engine == "vllm" and through_transformers(arch),
    )
