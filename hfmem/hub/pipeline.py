"""Diffusers pipelines: `model_index.json` names components, each a folder with weights of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hfmem.checkpoint.index import MAX_INDEX_BYTES
from hfmem.errors import FormatError, HfmemError, MissingFileError
from hfmem.hub.below import Below
from hfmem.hub.facts import WeightFile
from hfmem.hub.files import MAX_CONFIG_BYTES, Files, parse_object
from hfmem.hub.weights import DIFFUSERS, Weights, from_file, from_index, from_torch
from hfmem.records import dataclass

#: names of a component's weights in the order in which diffusers and transformers look for them
_SAFE: Final = ("diffusion_pytorch_model.safetensors", "model.safetensors")
_TORCH: Final = ("diffusion_pytorch_model.bin", "pytorch_model.bin")
_MAX_COMPONENTS: Final = 64


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a pipeline. `bytes` and `parameters` are of its tensors; None for a part without weights (a scheduler)."""

    name: str
    library: str
    kind: str
    bytes: int | None
    parameters: int | None
    by_dtype: Mapping[str, int]
    evidence: str | None
    files: tuple[WeightFile, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline: its class and its components in order."""

    id: str
    kind: str
    components: tuple[Component, ...]


class PipelineError(MissingFileError):
    """A place that holds a diffusers pipeline and not one model. `pipeline` has its components' sizes."""

    code = "pipeline"

    def __init__(self, message: str, pipeline: Pipeline) -> None:
        super().__init__(message)
        self.pipeline = pipeline


def load_pipeline(files: Files) -> Pipeline:
    """The components of a pipeline with what their headers say.

    Raises:
        SourceError, ContradictionError: a component's weights cannot be read.
    """
    data = files.read(DIFFUSERS, MAX_CONFIG_BYTES)
    if data is None:
        raise MissingFileError(f"{files.label} has no {DIFFUSERS}")
    index = parse_object(data, f"{files.label}: {DIFFUSERS}")
    named = [
        (key, str(value[0] or ""), str(value[1] or ""))
        for key, value in index.items()
        if not key.startswith("_") and isinstance(value, list) and len(value) == 2 and any(value)
    ]
    if len(named) > _MAX_COMPONENTS:
        raise FormatError(f"{files.label}: {DIFFUSERS} names {len(named):,} components")
    kind = index.get("_class_name")
    parts = tuple(_component(files, *entry) for entry in named)
    return Pipeline(files.label, kind if isinstance(kind, str) else "DiffusionPipeline", parts)


def _component(files: Files, name: str, library: str, kind: str) -> Component:
    weights = _weights(Below(files, name))
    if weights is None:
        return Component(name, library, kind, None, None, {}, None, ())
    checkpoint = weights.checkpoint
    if checkpoint is None:
        return Component(name, library, kind, weights.index_total_size, None, {}, weights.evidence, weights.files)
    by_dtype: dict[str, int] = {}
    for group in checkpoint.groups:
        by_dtype[group.dtype] = by_dtype.get(group.dtype, 0) + group.total_bytes
    elements = sum(group.total_elements for group in checkpoint.groups)
    return Component(name, library, kind, checkpoint.total_bytes, elements, by_dtype, weights.evidence, weights.files)


def _weights(place: Below) -> Weights | None:
    listing = place.listing()
    for name in _SAFE:
        index = f"{name}.index.json"
        if index in listing:
            data = place.read(index, MAX_INDEX_BYTES)
            if data is not None:
                return from_index(place, data, index)
        if name in listing:
            return from_file(place, name)
    for name in _TORCH:
        if name in listing:
            return from_torch(place, (WeightFile(name, listing[name]),), None)
    return None


def refusal(files: Files, message: str) -> HfmemError:
    """The error for a place with a pipeline, with its components where they can be read."""
    try:
        return PipelineError(message, load_pipeline(files))
    except HfmemError as error:
        return MissingFileError(f"{message}, of which not all can be read: {error.message}")
