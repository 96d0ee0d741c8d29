"""Which pipeline stage holds which tensors: runs of layers, and the parts outside them at the first, the last or every stage."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from hfmem.checkpoint.tensors import Box
from hfmem.memory.engines.vllm.support import pipeline_stages
from hfmem.memory.model_classes import Placement, is_tied, placement, through_transformers
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component, TensorSpec
from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class Stages:
    """The layers of each stage, and how the engine's class deals the rest.

    `shared` is the pattern of an embedding that serves as the head too, `copied` that of one whose head the class builds apart
    although the config ties them; at most one of them is set. `dropped` is the pattern of a head that the class computes with the
    embedding although the file has one. `has_encoder`: names that say encoder mean one (ChatGLM's decoder is called so too).
    `follows`: where the last stage holds the embedding as its head, positions go with it.
    """

    ranges: tuple[range, ...]
    placed: Placement
    shared: str | None
    copied: str | None
    dropped: str | None
    has_encoder: bool
    follows: bool

    @property
    def last(self) -> int:
        """The index of the last stage."""
        return len(self.ranges) - 1

    def counts(self, spec: TensorSpec, boxes: Sequence[Box], axis: int | None) -> list[int]:
        """How many of the tensors in `boxes` each stage holds."""
        total = [0] * len(self.ranges)
        if axis is None or self._in_front(spec):
            count = sum(prod(len(r) for r in box) for box in boxes)
            for stage in self._homes(spec):
                total[stage] += count
            return total
        for box in boxes:
            others = prod(len(r) for index, r in enumerate(box) if index != axis)
            for layer in box[axis]:
                total[self._stage_of(layer)] += others
        return total

    def _stage_of(self, layer: int) -> int:
        for stage, layers in enumerate(self.ranges):
            if layer in layers:
                return stage
        return self.last

    def _homes(self, spec: TensorSpec) -> list[int]:
        """The stages of a tensor outside the layers, one entry for each copy."""
        every = list(range(len(self.ranges)))
        if self._in_front(spec):
            return [0]
        if spec.component is Component.LM_HEAD:
            return every if self.placed.head else [self.last]
        if spec.component is Component.NORM:
            return every if self.placed.norm else [self.last]
        homes = every if self.placed.embedding else [0]
        if spec.pattern == self.copied:  # the table that the head has of its own
            return homes + (every if self.placed.head else [self.last])
        moves = spec.pattern == self.shared or (self.follows and spec.component is Component.EMBEDDING)
        if (
            moves and self.shared is not None and self.last not in homes
        ):  # the last stage needs the embedding as its head
            return [*homes, self.last]
        return homes

    def _in_front(self, spec: TensorSpec) -> bool:
        """Whether a tensor is part of a tower or an encoder, which the first stage holds whole."""
        return spec.component is Component.VISION or (self.has_encoder and "encoder" in spec.pattern.split("."))


def stages_of(arch: Architecture, pp: int, engine: str) -> Stages:
    """The stages of a model over `pp` pipeline ranks.

    Raises:
        UnsupportedError: more stages than layers.
    """
    layers = max(arch.num_hidden_layers, 1)
    ranges = pipeline_stages(layers, pp) if pp > 1 else (range(layers),)
    heads = [s for s in arch.tensors if s.component is Component.LM_HEAD and len(s.shape) == 2]
    target = next((s.tied_to for s in heads if s.tied_to is not None), None)
    tied, dropped = is_tied(arch, engine), None
    if tied and not arch.tie_word_embeddings:
        tables = [s for s in arch.tensors if s.component is Component.EMBEDDING and s.shape[0] == arch.vocab_size]
        dropped = next((s.pattern for s in heads if s.tied_to is None and s.shape[0] == arch.vocab_size), None)
        target = tables[0].pattern if tables and dropped else None
    encoder = any(layer.stack == "encoder" for layer in arch.layers)
    follows = engine == "vllm" and through_transformers(arch)
    shared, copied = (target, None) if tied else (None, target)
    return Stages(ranges, placement(arch, engine), shared, copied, dropped, encoder, follows)
