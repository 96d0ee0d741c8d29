"""Weights on the most loaded rank: logical parameters from the family's inventory, bytes from the tensors that are stored.

Tensor parallelism splits each tensor as `hfmem.memory.shares` says; pipeline stages hold runs of layers, the first the embedding
and the towers, the last the final norm and the head. Engines leave out what they do not load: a tied head's copy,
multi-token-prediction layers without speculation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Final

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import UnsupportedError
from hfmem.memory import engines
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.fused import fused_projections
from hfmem.memory.loaded import HeldTensors, rounding
from hfmem.memory.model_classes import (
    BUFFER_PARAMETERS,
    HOSTED,
    UNPADDED_VOCAB,
    kept_whole,
    through_transformers,
)
from hfmem.memory.offload import offloaded
from hfmem.memory.padding import padded_share
from hfmem.memory.placement import BY_LAYER
from hfmem.memory.rank_tensors import RankTensors, is_passed_over, rank_share
from hfmem.memory.serving import Serving
from hfmem.memory.shares import VOCAB_PADDING, Sharding
from hfmem.memory.stages import Stages, stages_of
from hfmem.memory.torch_allocator import Allocated
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component, TensorSpec
from hfmem.records import dataclass

#: devices of one machine, where nothing else is known
_RANKS_OF_HOST: Final = 8


@dataclass(frozen=True, slots=True)
class RankWeights:
    """`parameters` and `bytes` on the most loaded rank, of pipeline stage `stage`; `all_ranks_bytes` over every rank and the host.

    `stage_bytes` and `stage_parameters` are those of a rank of each stage in turn, `host_bytes` those of layers, experts and
    embeddings that an engine leaves in the host's memory. Of a rank of each stage together, `routed_bytes` are those of routed
    experts, of which a token uses a few, and `idle_bytes` those that no decode step reads: encoders, and an embedding that is not
    the head too. `rounding` is what PyTorch's allocator adds on the most loaded rank of vLLM or SGLang. `offloaded_bytes` are
    those of a rank of each stage together that vLLM leaves on the host and reads there; they are in `host_bytes`, not in `bytes`.
    """

    parameters: int
    bytes: int
    all_ranks_bytes: int
    stage: int
    stage_bytes: tuple[int, ...]
    stage_parameters: tuple[int, ...]
    host_bytes: int = 0
    routed_bytes: int = 0
    idle_bytes: int = 0
    rounding: Allocated = Allocated(0, 0)
    offloaded_bytes: int = 0


def rank_weights(
    arch: Architecture, groups: Iterable[TensorGroup], serving: Serving, release: Release | None = None
) -> RankWeights:
    """Weights of the most loaded rank under `serving`.

    Args:
        groups: the tensors behind the model's bytes: a checkpoint's, or the inventory's at the config's dtype.
        release: vLLM's, None: today's.

    Raises:
        UnsupportedError: a tensor that the ranks cannot divide, or more pipeline stages than layers.
    """
    stages, sharding = _layout(arch, serving)
    parameters = _parameters(arch, stages, sharding, serving)
    sizes = [0] * stages.count
    used = {"read": 0, "routed": 0, "idle": 0}
    release = release or Release()
    tensors = tuple(RankTensors(arch, groups, stages, sharding, serving, release))
    for held in tensors:
        for stage, count in enumerate(held.stage_counts):
            sizes[stage] += count * held.bytes
        used[held.use] += sum(held.stage_counts[: stages.host]) * held.bytes
    stage_bytes, host = sizes[: stages.host], sizes[stages.host]
    host *= _hosts(serving)
    moved = offloaded(arch, tensors, stages, serving)
    stage_bytes = [size - away for size, away in zip(stage_bytes, moved, strict=True)]
    host += sum(moved) * sharding.tp * serving.dp
    heaviest = max(range(len(stage_bytes)), key=lambda stage: stage_bytes[stage])
    return RankWeights(
        parameters=max(parameters[: stages.host]),
        bytes=stage_bytes[heaviest],
        all_ranks_bytes=sum(stage_bytes) * sharding.tp * serving.dp + host,
        stage=heaviest,
        stage_bytes=tuple(stage_bytes),
        stage_parameters=tuple(parameters[: stages.host]),
        host_bytes=host,
        routed_bytes=used["routed"],
        idle_bytes=used["idle"],
        rounding=(
            rounding(tensors, stage_bytes[heaviest], max_split=release.max_split)
            if engines.engine(serving.engine).OWN_CLASSES
            else Allocated(0, 0)
        ),
        offloaded_bytes=sum(moved),
    )


def _hosts(serving: Serving) -> int:
    """How many copies of the host's tensors there are: vLLM's data-parallel replicas on one machine share their tables
    (`config/engram.py`: `resolve_dp_shared_memory`), other programs are as many servers as there are replicas."""
    if serving.engine != "vllm":
        return serving.dp
    together = max(_RANKS_OF_HOST // (serving.tp * serving.pp), 1)
    return -(-serving.dp // together)


def held_tensors(
    arch: Architecture, groups: Iterable[TensorGroup], serving: Serving, release: Release | None = None
) -> Iterator[HeldTensors]:
    """What the ranks of `rank_weights` hold, tensors of one pattern at a time.

    Raises:
        UnsupportedError: as `rank_weights`.
    """
    stages, sharding = _layout(arch, serving)
    yield from RankTensors(arch, groups, stages, sharding, serving, release or Release())


def _layout(arch: Architecture, serving: Serving) -> tuple[Stages, Sharding]:
    """Pipeline stages and the ranks that share a tensor, as the engine lays them out."""
    tp = 1 if serving.engine in BY_LAYER else serving.tp
    sharding = Sharding(
        tp=tp,
        attn_tp=serving.attn_tp if serving.attn_dp > 1 else None,
        expert_ranks=tp * serving.dp if serving.engine == "vllm" else tp,  # SGLang's replicas share nothing
        expert_parallel=serving.ep,
        num_experts=arch.num_experts,
        whole=(*kept_whole(arch, serving.engine), *(HOSTED if serving.engine == "vllm" else ()))
        if engines.engine(serving.engine).OWN_CLASSES
        else (),
        vocab_padding=VOCAB_PADDING
        if engines.engine(serving.engine).OWN_CLASSES and arch.model_type not in UNPADDED_VOCAB
        else 1,
    )
    if serving.engine == "sglang" and serving.ep and (arch.num_experts or 0) % tp:
        raise UnsupportedError(f"SGLang deals {arch.num_experts} experts out evenly: not over {tp} ranks")
    return stages_of(arch, serving), sharding


def _has_room(arch: Architecture, spec: TensorSpec, stages: Stages, engine: str) -> bool:
    """Whether the engine makes room for a tensor that it does not pass over, stored or not."""
    if spec.buffer:
        counted = engines.engine(engine).OWN_CLASSES and not (engine == "vllm" and through_transformers(arch))
        return counted and spec.pattern.endswith(BUFFER_PARAMETERS)
    if spec.component is Component.LM_HEAD and engine == "vllm":
        if len(spec.shape) == 1:
            return not through_transformers(arch)
        if spec.pattern == stages.dropped:
            return False
    return spec.tied_to is None


def _parameters(arch: Architecture, stages: Stages, sharding: Sharding, serving: Serving) -> list[int]:
    engine = serving.engine
    totals = [Fraction(0)] * stages.count
    fused = fused_projections(arch, engine)
    for spec in arch.tensors:
        loaded = not is_passed_over(spec, serving, fused) and _has_room(arch, spec, stages, engine)
        part = rank_share(spec, sharding) if loaded else Fraction(0)
        if loaded and engine == "vllm":
            part = padded_share(arch, spec, sharding, part)
        size = (spec.elements + fused.bias(spec)) * fused.copies(spec) * part
        for stage, count in enumerate(stages.counts(spec, spec.boxes, spec.layer_axis)):
            totals[stage] += count * size
    return [-(-total.numerator // total.denominator) for total in totals]
