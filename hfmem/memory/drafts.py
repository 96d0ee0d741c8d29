"""What a draft takes beside its target: the model's own prediction layers, or a smaller model.

Read from vLLM 0.33.0: `config/speculative.py` (`create_draft_parallel_config`: the target's tensor-parallel ranks, one pipeline
stage, expert parallelism for drafts that have experts), `v1/worker/gpu/spec_decode/speculator.py` (the draft is built on the last
stage, and its layers are registered beside the target's: groups and pages are made for all of them), `eagle/utils.py` (the
target's embedding and head serve both); SGLang drafts with the same ranks, and its pool has a draft's row for every token of the
target's (`pool_configurator.py`). transformers and llama.cpp keep a draft's cache apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import add
from typing import Final, Literal

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.memory import engines
from hfmem.memory.cache import decoding_layers
from hfmem.memory.loaded import HeldTensors
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights, held_tensors, rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component, TensorSpec
from hfmem.model.layers import (
    Cache,
    CompressedAttention,
    Layer,
    NoCache,
    RecurrentCache,
    SharedCache,
    SparseLatentAttention,
)
from hfmem.records import dataclass, replace
from hfmem.remembered import remembered

#: the stacks of what drafts among its target's layers: its own prediction layers, another model's
PREDICT: Final = "predict"
DRAFT: Final = "draft"
#: tokens proposed at once where nobody says how many: of prediction layers, and of a smaller model
DRAFTED_BY_MTP: Final = 1
DRAFTED: Final = 5
#: model types of whose prediction layers vLLM loads the first alone (`mimo_v2_mtp.py`)
_FIRST_ALONE: Final = frozenset({"mimo_v2", "mimo_v2_flash", "mimo_v2_omni"})
#: how something drafts: token by token as an ordinary model, as further layers of the target, or as a head of one of these kinds
Method = Literal["model", "mtp", "eagle", "eagle3", "peagle", "dflash", "dspark"]
_HEADS: Final[tuple[Method, ...]] = ("eagle", "eagle3", "peagle", "dflash", "dspark")
#: SGLang's own (`_auto_choose_speculative_params`: three steps and the last token, verified together)
_DRAFTED_IN_SGLANG: Final = 4


@dataclass(frozen=True, slots=True)
class Drafter:
    """What drafts beside a target: a model with its tensors and the format that it declares for its cache. `own`: the target
    itself, by the layers that predict further tokens. `given`: how many tokens it proposes at once, where somebody says."""

    architecture: Architecture
    groups: tuple[TensorGroup, ...]
    declared_kv_dtype: str | None = None
    own: bool = False
    given: int | None = None

    def tokens(self, engine: str) -> int:
        """Tokens for which an engine keeps something of its own: those proposed, or in SGLang those verified together."""
        told = self.given or self.architecture.drafted
        if engine == "vllm":
            return told or (DRAFTED_BY_MTP if self.own else DRAFTED)
        if engine == "sglang":
            return _DRAFTED_IN_SGLANG if told is None else told + 1
        return 0

    @property
    def method(self) -> Method:
        """How it drafts."""
        if self.own:
            return "dspark" if any("markov_head" in spec.pattern for spec in self.architecture.tensors) else "mtp"
        if self.architecture.family == "gemma4_assistant":
            return "mtp"
        return next((method for method in _HEADS if method == self.architecture.model_type), "model")

    def alone(self, serving: Serving, engine: str) -> Serving:
        """The same load under another engine's rules on one rank, as `Serving.alone`."""
        return replace(serving.alone(engine), speculative_tokens=self.tokens(engine))


def drafting(serving: Serving, draft: Architecture, declared_kv_dtype: str | None) -> Serving:
    """How a draft model is served: like its target, in its own declared format of the cache."""
    own = replace(
        serving,
        declared_kv_dtype=declared_kv_dtype,
        kv_memory_bytes=None,
        cpu_offload_bytes=0,
        num_gpu_blocks=None,
        speculative_tokens=0,
        ep=serving.ep and serving.engine == "vllm" and bool(draft.num_experts),
    )
    return replace(own, pp=1) if engines.engine(serving.engine).DRAFTS_IN_POOL else own


def served_with(arch: Architecture, drafter: Drafter | None, serving: Serving) -> Architecture:
    """The model whose cache an engine plans: with the layers of what drafts after its own, where they share one pool."""
    return (
        arch
        if drafter is None or not engines.engine(serving.engine).DRAFTS_IN_POOL
        else joined(arch, drafter, serving.engine)
    )


@remembered
def joined(arch: Architecture, drafter: Drafter, engine: str) -> Architecture:
    """The model with the layers of what drafts after its own, and the size of its blocks."""
    own = prediction_layers(arch) if drafter.own else _decoder(drafter.architecture)
    own = own[:1] if drafter.own and _first_alone(arch, engine) else own
    kept, stack = tuple(layer for layer in arch.layers if layer.stack != "mtp"), PREDICT if drafter.own else DRAFT
    layers = (*kept, *(Layer(layer.caches, stack) for layer in own))
    return replace(arch, layers=layers, drafted=drafter.architecture.drafted)


def _decoder(arch: Architecture) -> tuple[Layer, ...]:
    """A draft's layers with what they keep themselves."""
    own = (layer.caches for layer in arch.layers if layer.stack == "decoder")
    return tuple(Layer(tuple(cache for cache in caches if not isinstance(cache, SharedCache))) for caches in own)


def cache_with(arch: Architecture, drafter: Drafter | None, serving: Serving) -> CacheBytes:
    """The cache of the model and of what drafts beside it.

    Raises:
        UnsupportedError: the engine refuses one of them, or the layout.
    """
    rules = engines.engine(serving.engine)
    found = rules.cache(served_with(arch, drafter, serving), serving)
    if drafter is None or engines.engine(serving.engine).DRAFTS_IN_POOL:
        return found
    return _together(found, rules.cache(*apart(arch, drafter, serving)), len(decoding_layers(arch)))


def apart(arch: Architecture, drafter: Drafter, serving: Serving) -> tuple[Architecture, Serving]:
    """What drafts as a model of its own, and how it is served."""
    if drafter.own:
        layers = prediction_layers(arch)
        return replace(arch, layers=layers, num_hidden_layers=len(layers)), replace(serving, pp=1)
    draft = drafter.architecture
    return draft, drafting(serving, draft, drafter.declared_kv_dtype)


def _together(target: CacheBytes, draft: CacheBytes, num_layers: int) -> CacheBytes:
    """Two caches; a draft's of fewer stages lies on the last ones. Its layers are numbered after the target's `num_layers`."""
    later = (replace(group, layers=tuple(num_layers + i for i in group.layers)) for group in draft.layer_groups)
    stages, layers = target.stage_bytes, target.stage_layers
    if stages:
        last = draft.stage_bytes or (draft.bytes_per_rank,)
        padded = (*(0,) * (len(stages) - len(last)), *last)
        stages = tuple(a + b for a, b in zip(stages, padded, strict=True))
        moved = [tuple(range(num_layers + r.start, num_layers + r.stop) for r in runs) for runs in draft.stage_layers]
        layers = tuple(map(add, layers, [*[()] * (len(layers) - len(moved)), *moved]))
    return replace(
        target,
        bytes=target.bytes + draft.bytes,
        bytes_per_rank=max(stages) if stages else target.bytes_per_rank + draft.bytes_per_rank,
        bytes_per_seq=target.bytes_per_seq + draft.bytes_per_seq,
        state_bytes_per_seq=target.state_bytes_per_seq + draft.state_bytes_per_seq,
        layer_groups=(*target.layer_groups, *later),
        stage_bytes=stages,
        stage_layers=layers,
        host_bytes=target.host_bytes + draft.host_bytes,
    )


def weights_with(
    arch: Architecture, groups: Iterable[TensorGroup], drafter: Drafter | None, serving: Serving
) -> RankWeights:
    """Weights of the model and of what drafts, which lies on the last pipeline stage.

    Raises:
        UnsupportedError: as `rank_weights`.
    """
    if drafter is None:
        return rank_weights(arch, groups, serving)
    if drafter.own:
        return rank_weights(_predicting(arch, serving.engine), groups, serving)
    target = rank_weights(arch, groups, serving)
    served = drafting(serving, drafter.architecture, drafter.declared_kv_dtype)
    return _beside(target, rank_weights(drafter.architecture, drafter.groups, served))


def held_with(
    arch: Architecture, groups: Iterable[TensorGroup], drafter: Drafter | None, serving: Serving
) -> Iterator[HeldTensors]:
    """What the ranks hold of the model, its own prediction layers included where these draft.

    Raises:
        UnsupportedError: as `rank_weights`.
    """
    return held_tensors(
        _predicting(arch, serving.engine) if drafter is not None and drafter.own else arch, groups, serving
    )


def _beside(target: RankWeights, draft: RankWeights) -> RankWeights:
    count = len(target.stage_bytes)
    before = (0,) * (count - len(draft.stage_bytes))
    sizes = tuple(a + b for a, b in zip(target.stage_bytes, (*before, *draft.stage_bytes), strict=True))
    numbers = zip(target.stage_parameters, (*before, *draft.stage_parameters), strict=True)
    parameters = tuple(a + b for a, b in numbers)
    heaviest = max(range(count), key=lambda stage: sizes[stage])
    return replace(
        target,
        parameters=max(parameters),
        bytes=sizes[heaviest],
        all_ranks_bytes=target.all_ranks_bytes + draft.all_ranks_bytes,
        stage=heaviest,
        stage_bytes=sizes,
        stage_parameters=parameters,
        host_bytes=target.host_bytes + draft.host_bytes,
    )


@remembered
def prediction_layers(architecture: Architecture) -> tuple[Layer, ...]:
    """The layers that predict further tokens: as the architecture has them, else as many blocks as they have weights for, each like
    the decoder's last one that attends (so are DeepSeek's, GLM's and Qwen's), with an indexer of its own."""
    own = tuple(Layer(layer.caches) for layer in architecture.layers if layer.stack == "mtp")
    if own:
        return own
    numbers = {
        value
        for spec in architecture.tensors
        if spec.component is Component.MTP and spec.layer_axis is not None
        for box in spec.boxes
        for value in box[spec.layer_axis]
    }
    attending = (layer for layer in reversed(architecture.layers) if layer.stack == "decoder" and _attends(layer))
    last = next(attending, Layer(()))
    kept: list[Cache] = []
    for cache in last.caches:
        match cache:
            case CompressedAttention():  # DeepSeek V4's keep the window alone: they have no compressor
                kept.append(CompressedAttention(cache.num_heads, cache.head_dim, cache.window, 0))
            case SparseLatentAttention():
                kept.append(replace(cache, has_indexer=True))
            case _:
                kept.append(cache)
    return (Layer(tuple(kept)),) * max(len(numbers), 1)


def _attends(layer: Layer) -> bool:
    return any(not isinstance(cache, NoCache | SharedCache | RecurrentCache) for cache in layer.caches)


def with_predictions(arch: Architecture, serving: Serving) -> Architecture:
    """The model as vLLM loads it where its own prediction layers draft: they are weights and layers like the others."""
    if not any(spec.component is Component.MTP for spec in arch.tensors):
        return arch
    return replace(
        _predicting(arch, serving.engine), layers=joined(arch, Drafter(arch, (), own=True), serving.engine).layers
    )


def _first_alone(arch: Architecture, engine: str) -> bool:
    return engine == "vllm" and arch.model_type in _FIRST_ALONE


@remembered
def _predicting(arch: Architecture, engine: str) -> Architecture:
    """The model with its prediction layers among the tensors that are loaded."""
    return replace(arch, tensors=tuple(part for spec in arch.tensors for part in _loaded(spec, arch, engine)))


def _loaded(spec: TensorSpec, arch: Architecture, engine: str) -> Iterator[TensorSpec]:
    """A prediction layer's tensor as one that is loaded, unless the target's embedding or head serves in its place."""
    table = len(spec.shape) == 2 and spec.shape[0] == arch.vocab_size
    if spec.component is not Component.MTP or (table and engines.engine(engine).DRAFTS_IN_POOL):
        yield spec
        return
    axis = spec.layer_axis
    if _first_alone(arch, engine) and axis is not None:
        first = min(box[axis].start for box in spec.boxes)
        later = tuple(
            (*b[:axis], range(max(b[axis].start, first + 1), b[axis].stop), *b[axis + 1 :]) for b in spec.boxes
        )
        if kept := tuple(box for box in later if box[axis]):
            yield replace(spec, boxes=kept)
        boxes = tuple((*b[:axis], range(first, first + 1), *b[axis + 1 :]) for b in spec.boxes if first in b[axis])
        spec = replace(spec, boxes=boxes)
    yield replace(spec, drafts=True)
