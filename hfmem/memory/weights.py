"""Weights on the most loaded rank: logical parameters from the family's inventory, bytes from the tensors that are stored.

Tensor parallelism splits each tensor as `hfmem.memory.shares` says; pipeline stages hold runs of layers, the first the embedding
and the towers, the last the final norm and the head. Engines leave out what they do not load: a tied head's copy,
multi-token-prediction layers without speculation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Final, Literal

from hfmem.checkpoint.logical import LogicalGroup
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.dtypes import BITS, num_bytes
from hfmem.errors import UnsupportedError
from hfmem.memory import engines
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.fused import FusedProjections, fused_projections
from hfmem.memory.loaded import HeldTensors, rounding
from hfmem.memory.model_classes import (
    BUFFER_PARAMETERS,
    HOSTED,
    NOT_SERVED,
    SINK_HEADS,
    UNPADDED_VOCAB,
    kept_whole,
    through_transformers,
)
from hfmem.memory.mxfp4 import PADDED_BY_DEVICE, held_share, is_packed, kernel_of
from hfmem.memory.offload import offloaded
from hfmem.memory.padding import copies_beside_codes, fp4_share, in_fp32, padded_share, refined_scales
from hfmem.memory.placement import BY_LAYER
from hfmem.memory.serving import Serving
from hfmem.memory.shares import VOCAB_PADDING, Sharding, check_blocks, in_image_attention, share
from hfmem.memory.stages import Stages, stages_of
from hfmem.memory.torch_allocator import Allocated
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component, ExpertSplit, Replicated, Row, TensorSpec, Vocab
from hfmem.model.matching import Expected, matcher_of
from hfmem.model.names import core
from hfmem.records import dataclass, replace

#: devices of one machine, where nothing else is known
_RANKS_OF_HOST: Final = 8
#: names of the codes of weights that are packed
_CODES: Final = (".weight", ".qweight")
#: what stands beside the codes of GPTQ and AWQ and is not held as it is stored
_BESIDE_CODES: Final = ("qzeros", "g_idx", "bias")
#: what SGLang shares out within a group of data-parallel attention, as it does an image encoder's attention
#: (`layers/attention/vision.py`); the head and feed-forward layers run on all ranks
_IN_ATTENTION_GROUP: Final = frozenset({Component.ATTENTION, Component.EMBEDDING})
#: BERT's pooler outside a task's model: vLLM embeds with the last layer's output (`bert.py`, `BertEmbeddingModel`)
_POOLER: Final = "pooler."


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
    tensors = tuple(_held(arch, _as_stored(groups), stages, sharding, serving, release))
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
    yield from _held(arch, _as_stored(groups), stages, sharding, serving, release or Release())


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


def _as_stored(groups: Iterable[TensorGroup]) -> tuple[TensorGroup, ...]:
    """`groups` tensor by tensor: what a quantization section promises comes as logical weights, each of several stored tensors."""
    found: list[TensorGroup] = []
    for group in groups:
        if isinstance(group, LogicalGroup):
            found += (TensorGroup(part.pattern, part.dtype, part.shape, group.boxes) for part in group.parts)
        else:
            found.append(group)
    return tuple(found)


def _passed_over(spec: TensorSpec, serving: Serving, fused: FusedProjections) -> bool:
    """Whether the engine loads no such tensor: what it does not serve or read, what only predicts, what the settings leave out."""
    if _only_predicts(spec) or _left_out(spec, serving) or fused.left_out(spec):
        return True
    if engines.engine(serving.engine).OWN_CLASSES and spec.pattern.startswith(NOT_SERVED):
        return True
    return serving.engine == "vllm" and (spec.unread or spec.pattern.startswith(_POOLER))


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


def _only_predicts(spec: TensorSpec) -> bool:
    """Whether the tensor belongs to a layer that predicts further tokens, and these do not draft."""
    return spec.component is Component.MTP and not spec.drafts


def _parameters(arch: Architecture, stages: Stages, sharding: Sharding, serving: Serving) -> list[int]:
    engine = serving.engine
    totals = [Fraction(0)] * stages.count
    fused = fused_projections(arch, engine)
    for spec in arch.tensors:
        loaded = not _passed_over(spec, serving, fused) and _has_room(arch, spec, stages, engine)
        part = _share(spec, sharding) if loaded else Fraction(0)
        if loaded and engine == "vllm":
            part = padded_share(arch, spec, sharding, part)
        size = (spec.elements + fused.bias(spec)) * fused.copies(spec) * part
        for stage, count in enumerate(stages.counts(spec, spec.boxes, spec.layer_axis)):
            totals[stage] += count * size
    return [-(-total.numerator // total.denominator) for total in totals]


def _left_out(spec: TensorSpec, serving: Serving) -> bool:
    """Whether the settings leave the tensor out."""
    return (serving.language_model_only and spec.component is Component.VISION) or (
        serving.pooling and spec.component is Component.LM_HEAD
    )


def _share(spec: TensorSpec, sharding: Sharding) -> Fraction:
    """`share`, with what serving engines make of a head's bias (split like the head) and of DeepSeek V4's sinks (padded)."""
    if any(part in spec.pattern for part in sharding.whole):
        return Fraction(1)
    if sharding.attn_tp is not None and (spec.component in _IN_ATTENTION_GROUP or in_image_attention(spec)):
        sharding = replace(sharding, tp=sharding.attn_tp)
    if spec.component is Component.LM_HEAD and len(spec.shape) == 1:
        return share(replace(spec, split=Vocab()), sharding)
    if spec.pattern.endswith(".attn_sink") and sharding.vocab_padding > 1:
        heads = -(-spec.shape[0] // sharding.tp)
        return Fraction(-(-heads // SINK_HEADS) * SINK_HEADS, spec.shape[0])
    return share(spec, sharding)


def _held(
    arch: Architecture,
    groups: Sequence[TensorGroup],
    stages: Stages,
    sharding: Sharding,
    serving: Serving,
    release: Release,
) -> Iterator[HeldTensors]:
    engine = serving.engine
    packed = arch.model_type in PADDED_BY_DEVICE and any(is_packed(group.pattern, group.dtype) for group in groups)
    capability = serving.compute_capability
    kernel = kernel_of(engine, capability, release) if packed and engines.engine(engine).OWN_CLASSES else None
    gated = any(isinstance(spec.split, ExpertSplit) and "gate" in spec.pattern for spec in arch.tensors)
    own_classes = engines.engine(engine).OWN_CLASSES
    codes: dict[str, list[TensorGroup]] = {}
    for group in groups if own_classes else ():
        if group.pattern.endswith(_CODES):
            codes.setdefault(core(group.pattern), []).append(group)
    matcher = matcher_of(arch.tensors)
    nowhere = [0] * stages.count
    downcast = _target_dtype(arch, groups) if engines.engine(engine).HALVES_FP32 else None
    fused = fused_projections(arch, engine)
    places = {spec: place for place, spec in enumerate(arch.tensors)} if serving.cpu_offload_bytes else {}
    for group in groups:
        for match in matcher.assign(group.pattern, group.boxes):
            expected = match.expected or matcher.owner(group.pattern, match.boxes)
            if expected is None:
                counts = (match.count, *nowhere[1:])
                yield HeldTensors(group.pattern, group.tensor_bytes, counts, tuple(match.boxes), None)
                continue
            spec = expected.spec
            if match.expected is not None and (spec.tied_to is not None or spec.pattern == stages.dropped):
                continue
            if _passed_over(spec, serving, fused):
                continue
            target = downcast if match.expected is not None else None
            size = num_bytes(_held_dtype(group, target), group.elements)
            if engine == "vllm" and BITS.get(group.dtype) == 16 and in_fp32(group.pattern):
                size *= 2
            if match.expected is not None:
                size += num_bytes(_held_dtype(group, target), fused.bias(spec))
            if match.expected is not None or _same_module(group.pattern, expected):
                size *= fused.copies(spec)
            if match.expected is None and not _same_module(group.pattern, expected):
                spec = replace(spec, split=Replicated())  # a neighbour in the same layer, whose split is not known
            finer = None
            if match.expected is None and engines.engine(engine).OWN_CLASSES and not isinstance(spec.split, Replicated):
                routed = isinstance(spec.split, ExpertSplit)
                ranks = sharding.expert_ranks if routed else sharding.tp
                if not (routed and sharding.expert_parallel):
                    finer = refined_scales(spec, group.pattern, group.shape, ranks) if engine == "vllm" else None
                    if finer is None:
                        check_blocks(spec, group.pattern, group.shape, ranks, merged=engine == "vllm")
            part = finer or _group_share(group, spec, sharding, match.expected is not None)
            module, _, leaf = core(group.pattern).rpartition(".")
            if (
                leaf in _BESIDE_CODES
                and match.expected is None
                and (own := _beside(group, codes.get(f"{module}.qweight")))
            ):
                size *= copies_beside_codes(spec, leaf, own.shape, sharding, capability, release, engine)
            if engine == "vllm" and finer is None:
                part = padded_share(arch, spec, sharding, part)
                if group.elements > 1 and (own := _beside(group, codes.get(f"{module}.weight"))) and own.dtype == "U8":
                    part *= fp4_share(spec, sharding, capability, release, gated=gated)
            if kernel is not None:
                padded = held_share(group.pattern, arch, sharding, kernel)
                part = part if padded is None else padded
            on_rank = -(-size * part.numerator // part.denominator)
            axis = _folded_axis(expected)
            held = stages.counts(spec, match.boxes, axis)
            place = stages.place(expected.spec, places.get(expected.spec))
            yield HeldTensors(group.pattern, on_rank, tuple(held), tuple(match.boxes), axis, _use(spec, arch), place)


def _beside(group: TensorGroup, codes: Sequence[TensorGroup] | None) -> TensorGroup | None:
    """The codes that a tensor stands beside: layers of two kinds have matrices of two shapes under one name."""
    return next((own for own in codes or () if own.boxes == group.boxes), codes[0] if codes else None)


def _use(spec: TensorSpec, arch: Architecture) -> Literal["read", "routed", "idle"]:
    if isinstance(spec.split, ExpertSplit):
        return "routed"
    # a table of another width than the model's (inputs of each layer, n-grams) is looked up even where words are tied to the head
    head = arch.tie_word_embeddings and spec.shape[-1:] == (arch.hidden_size,)
    if spec.component is Component.VISION or (spec.component is Component.EMBEDDING and not head):
        return "idle"
    return "read"


def _same_module(pattern: str, expected: Expected) -> bool:
    """Whether a stored tensor belongs to the expected one's own module: `q_proj.qweight` to `q_proj.weight`."""
    module = expected.core.rpartition(".")[0]
    return core(pattern).startswith((f"{module}.", f"{expected.core}."))


def _group_share(group: TensorGroup, spec: TensorSpec, sharding: Sharding, is_spec: bool) -> Fraction:
    """The share of a stored tensor that a rank holds: its logical tensor's, unless it has no extent in the split dimension.

    Scales for each output row of a row-split matrix, input permutations of a column-split one, and scalars are whole on every rank.
    """
    whole = _share(spec, sharding)
    if is_spec and group.shape == spec.shape:
        return whole
    if group.elements <= 1:
        return Fraction(1)
    inner = spec.split.inner if isinstance(spec.split, ExpertSplit) else spec.split
    if isinstance(inner, Replicated) or len(spec.shape) < 2:
        return whole
    if isinstance(spec.split, ExpertSplit) and sharding.expert_parallel:
        return whole
    out, inputs = spec.shape[-2], spec.shape[-1]
    if group.pattern.endswith("g_idx"):
        return whole if isinstance(inner, Row) else Fraction(1)
    if isinstance(inner, Row) and group.elements == out != inputs:
        return Fraction(1)
    return whole


def _folded_axis(expected: Expected) -> int | None:
    """The layer's `{}` in the folded pattern, where integers that the spec writes out have become `{}` as well."""
    axis = expected.spec.layer_axis
    if axis is None:
        return None
    seen = 0
    for position, part in enumerate(p for p in expected.spec.pattern.split(".") if p == "{}" or p.isdigit()):
        if part == "{}":
            if seen == axis:
                return position
            seen += 1
    return axis


def _target_dtype(arch: Architecture, groups: Sequence[TensorGroup]) -> str | None:
    """bf16 where the checkpoint is mostly fp32 and the engine computes it in half precision; None: as stored."""
    by_dtype: dict[str, int] = {}
    for group in groups:
        by_dtype[group.dtype] = by_dtype.get(group.dtype, 0) + group.total_bytes
    if not by_dtype or max(by_dtype, key=lambda d: by_dtype[d]) not in ("F32", "F64"):
        return None
    return "BF16" if arch.dtype in ("F32", "F64") else arch.dtype


def _held_dtype(group: TensorGroup, target: str | None) -> str:
    if target is None or group.dtype not in ("F32", "F64") or BITS[target] >= BITS[group.dtype]:
        return group.dtype
    return target
