"""What a draft takes on a rank beside its target: the model's own prediction layers, or a smaller model.

Read from vLLM 0.33.0: `config/speculative.py` (`create_draft_parallel_config`: the target's tensor-parallel ranks, one pipeline
stage, expert parallelism for drafts that have experts), `v1/spec_decode/llm_base_proposer.py` (the target's embedding and head
serve both; its layers' caches are groups of the target's pool); SGLang drafts with the same ranks, and its pool has a draft's row
for every token of the target's (`pool_configurator.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component, TensorSpec
from hfmem.model.layers import CompressedAttention, Layer
from hfmem.records import replace

#: a draft's cache on a rank, by its name in the report's `runtime`
DRAFT_CACHE: Final = "draft_kv_cache_bytes"
#: engines whose last pipeline stage drafts alone, with the target's embedding and head
_ON_LAST_STAGE: Final = frozenset({"vllm", "sglang"})


def drafting(serving: Serving, draft: Architecture, declared_kv_dtype: str | None) -> Serving:
    """How a draft model is served: like its target, in its own declared format of the cache."""
    own = replace(
        serving,
        declared_kv_dtype=declared_kv_dtype,
        kv_memory_bytes=None,
        ep=serving.ep and serving.engine == "vllm" and bool(draft.num_experts),
    )
    return replace(own, pp=1) if serving.engine in _ON_LAST_STAGE else own


def prediction_bytes(arch: Architecture, groups: Iterable[TensorGroup], serving: Serving) -> int:
    """Bytes on a rank of the layers that predict further tokens, split like the layers of the model."""
    alone, stored = replace(serving, pp=1), tuple(groups)
    counted = replace(arch, tensors=tuple(_loaded(spec, arch, serving) for spec in arch.tensors))
    return rank_weights(counted, stored, alone).bytes - rank_weights(arch, stored, alone).bytes


def targets_part(memory: Sequence[int], needs: Sequence[int], beside: int) -> list[int]:
    """What of a pool of `memory` bytes, by stage, is for the target's own layers where a draft's share it: as much of it as they
    take of `needs + beside`, the caches of the same sequences. A stage that keeps nothing has it all."""
    return [size * need // (need + beside) if need else size for size, need in zip(memory, needs, strict=True)]


def prediction_layers(architecture: Architecture) -> tuple[Layer, ...]:
    """The layers that predict further tokens: as the file has them, else as many blocks as they have weights for, each like
    the last one of the decoder (so are DeepSeek's, GLM's and Qwen's)."""
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
    last = next(layer for layer in reversed(architecture.layers) if layer.stack == "decoder")
    # DeepSeek V4's keep the window alone: they have no compressor
    kept = tuple(
        CompressedAttention(c.num_heads, c.head_dim, c.window, 0) if isinstance(c, CompressedAttention) else c
        for c in last.caches
    )
    return (Layer(kept),) * max(len(numbers), 1)


def with_predictions(arch: Architecture, serving: Serving) -> Architecture:
    """The model as vLLM loads it where its own prediction layers draft: they are weights and layers like the others."""
    if not any(spec.component is Component.MTP for spec in arch.tensors):
        return arch
    own = prediction_layers(arch)
    kept = tuple(layer for layer in arch.layers if layer.stack != "mtp")
    tensors = tuple(_loaded(spec, arch, serving) for spec in arch.tensors)
    return replace(arch, tensors=tensors, layers=(*kept, *own))


def _loaded(spec: TensorSpec, arch: Architecture, serving: Serving) -> TensorSpec:
    """A prediction layer's tensor as one that is loaded, unless the target's embedding or head serves in its place."""
    table = len(spec.shape) == 2 and spec.shape[0] == arch.vocab_size
    if spec.component is not Component.MTP or (table and serving.engine in _ON_LAST_STAGE):
        return spec
    return replace(spec, component=Component.OTHER)
