"""What the ranks hold of each stored tensor: its bytes as the engine keeps it, and a rank's share of them.

A tensor of a checkpoint is one that the inventory expects, stands beside one in its module (scales, codes' zero points), or is
none that the inventory knows: what is no module's is whole on every rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Final, Literal

from hfmem.checkpoint.logical import LogicalGroup
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.dtypes import BITS, num_bytes
from hfmem.memory import engines
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.fused import FusedProjections, fused_projections
from hfmem.memory.in_fp32 import dequantized, in_fp32
from hfmem.memory.loaded import HeldTensors
from hfmem.memory.model_classes import NOT_SERVED, SINK_HEADS
from hfmem.memory.mxfp4 import PADDED_BY_DEVICE, held_share, is_packed, kernel_of
from hfmem.memory.padding import copies_beside_codes, padded_share, refined_scales
from hfmem.memory.quantized_modules import QuantizedModules
from hfmem.memory.serving import Serving
from hfmem.memory.shares import Sharding, check_blocks, in_image_attention, share
from hfmem.memory.stages import Stages
from hfmem.memory.tiles import expanded_scales, kernel_share
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Box, Component, ExpertSplit, Replicated, Row, TensorSpec, Vocab
from hfmem.model.matching import Expected, Match, matcher_of
from hfmem.model.names import core
from hfmem.records import replace

#: names of codes that are packed in words of 32 bits, and what stands beside them and is not held as it is stored
_PACKED: Final = (".qweight", ".weight_packed")
_BESIDE_CODES: Final = ("qzeros", "g_idx", "bias", "weight_zero_point")
#: what an expert's gate is called: `gate_proj`, `gate_up_proj`, `w1` beside `w3`
_GATE: Final = re.compile(r"gate|w13|\bw3\b")
#: what SGLang shares out within a group of data-parallel attention, as it does an image encoder's attention
#: (`layers/attention/vision.py`); the head and feed-forward layers run on all ranks
_IN_ATTENTION_GROUP: Final = frozenset({Component.ATTENTION, Component.EMBEDDING})
#: whose queries, keys and values SGLang cuts between any heads, through blocks of scales (`mimo_v2.py`: `skip_block_quant_check`)
_CUT_BLOCKS: Final = frozenset({"mimo_v2", "mimo_v2_flash"})
#: BERT's pooler outside a task's model: vLLM embeds with the last layer's output (`bert.py`, `BertEmbeddingModel`)
_POOLER: Final = "pooler."


def is_passed_over(spec: TensorSpec, serving: Serving, fused: FusedProjections) -> bool:
    """Whether the engine loads no such tensor: what it does not serve or read, what only predicts, what the settings leave out."""
    if _only_predicts(spec) or _left_out(spec, serving) or fused.left_out(spec):
        return True
    if engines.engine(serving.engine).OWN_CLASSES and spec.pattern.startswith(NOT_SERVED):
        return True
    return serving.engine == "vllm" and (spec.unread or spec.pattern.startswith(_POOLER))


def _only_predicts(spec: TensorSpec) -> bool:
    """Whether the tensor belongs to a layer that predicts further tokens, and these do not draft."""
    return spec.component is Component.MTP and not spec.drafts


def _left_out(spec: TensorSpec, serving: Serving) -> bool:
    """Whether the settings leave the tensor out."""
    return (serving.language_model_only and spec.component is Component.VISION) or (
        serving.pooling and spec.component is Component.LM_HEAD
    )


def rank_share(spec: TensorSpec, sharding: Sharding) -> Fraction:
    """The share of an expected tensor that a rank holds.

    `share`, with what serving engines make of a head's bias (split like the head) and of DeepSeek V4's sinks (padded).

    Raises:
        UnsupportedError: a tensor that the ranks cannot divide.
    """
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


class RankTensors:
    """What the ranks of one layout hold of a model's stored tensors under the engine of `serving`."""

    def __init__(
        self,
        arch: Architecture,
        groups: Iterable[TensorGroup],
        stages: Stages,
        sharding: Sharding,
        serving: Serving,
        release: Release,
    ) -> None:
        """
        Args:
            groups: the tensors behind the model's bytes: a checkpoint's, or the inventory's at the config's dtype.
        """
        self.arch, self.stages, self.sharding, self.serving, self.release = arch, stages, sharding, serving, release
        self.groups = _as_stored(groups)
        self.vllm = serving.engine == "vllm"
        rules = engines.engine(serving.engine)
        self.own_classes = rules.OWN_CLASSES
        self.fused = fused_projections(arch, serving.engine)
        self.target_dtype = _target_dtype(arch, self.groups) if rules.HALVES_FP32 else None
        self.gated = any(isinstance(spec.split, ExpertSplit) and _GATE.search(spec.pattern) for spec in arch.tensors)
        self.places = {spec: place for place, spec in enumerate(arch.tensors)} if serving.cpu_offload_bytes else {}
        packed = arch.model_type in PADDED_BY_DEVICE and any(is_packed(g.pattern, g.dtype) for g in self.groups)
        kernel = packed and self.own_classes
        self.kernel = kernel_of(serving.engine, serving.compute_capability, release) if kernel else None
        self.modules = QuantizedModules(self.groups if self.own_classes else ())

    def __iter__(self) -> Iterator[HeldTensors]:
        """Tensors of one pattern at a time.

        Raises:
            UnsupportedError: a tensor that the ranks cannot divide.
        """
        matcher = matcher_of(self.arch.tensors)
        for group in self.groups:
            for match in matcher.assign(group.pattern, group.boxes):
                if match.expected is not None:
                    yield from self._known(group, match.boxes, match.expected, is_expected=True)
                    continue
                for own in matcher.owners(group.pattern, match.boxes):
                    if own.expected is None:
                        yield self._unknown(group, own)
                    else:
                        yield from self._known(group, own.boxes, own.expected, is_expected=False)

    def _unknown(self, group: TensorGroup, match: Match) -> HeldTensors:
        counts = (match.count, *[0] * (self.stages.count - 1))
        return HeldTensors(group.pattern, group.tensor_bytes, counts, tuple(match.boxes), None)

    def _known(
        self, group: TensorGroup, boxes: tuple[Box, ...], expected: Expected, *, is_expected: bool
    ) -> Iterator[HeldTensors]:
        """Tensors of a group that are the expected one's or stand beside it, if they are loaded."""
        spec = expected.spec
        if is_expected and (spec.tied_to is not None or spec.pattern == self.stages.dropped):
            return
        if is_passed_over(spec, self.serving, self.fused):
            return
        size = self._stored_bytes(group, spec, is_expected=is_expected)
        if is_expected or _is_same_module(group.pattern, expected):
            size *= self.fused.copies(spec)
        else:
            spec = replace(spec, split=Replicated())  # a neighbour in the same layer, whose split is not known
        if not is_expected:
            size *= self._copies_beside_codes(group, spec)
        part = self._part(group, spec, is_expected=is_expected)
        on_rank = -(-size * part.numerator // part.denominator)
        axis = _folded_axis(expected)
        counts = tuple(self.stages.counts(spec, boxes, axis))
        place = self.stages.place(expected.spec, self.places.get(expected.spec))
        yield HeldTensors(group.pattern, on_rank, counts, boxes, axis, _use(spec, self.arch), place)

    def _stored_bytes(self, group: TensorGroup, spec: TensorSpec, *, is_expected: bool) -> int:
        """Bytes of the whole tensor in the dtype in which the engine holds it, with the bias that it adds."""
        dtype = _held_dtype(group, self.target_dtype if is_expected else None)
        size = num_bytes(dtype, group.elements)
        codes = self.modules.codes(group) if self.vllm else None
        if codes is not None and dequantized(self.arch, codes):
            return group.elements * 2 if group is codes else 0
        if codes is not None and (scales := expanded_scales(spec, group, codes, self.serving.compute_capability)):
            return scales
        if self.vllm and BITS.get(dtype) == 16 and in_fp32(self.arch, group.pattern, codes):
            size *= 2
        return size + num_bytes(dtype, self.fused.bias(spec)) if is_expected else size

    def _copies_beside_codes(self, group: TensorGroup, spec: TensorSpec) -> int:
        leaf = group.pattern.rpartition(".")[2]
        codes = self.modules.codes(group) if leaf in _BESIDE_CODES else None
        if codes is None or not codes.pattern.endswith(_PACKED):
            return 1
        serving = self.serving
        return copies_beside_codes(
            spec, leaf, codes.shape, self.sharding, serving.compute_capability, self.release, serving.engine
        )

    def _part(self, group: TensorGroup, spec: TensorSpec, *, is_expected: bool) -> Fraction:
        """A rank's part of the whole tensor's bytes, above 1 where a kernel pads it beyond that."""
        part = None if is_expected else self._refined(group, spec)
        if part is None:
            part = self._by_extent(group, spec, is_expected=is_expected)
            if self.vllm:
                part = self._padded(group, spec, padded_share(self.arch, spec, self.sharding, part))
        if self.kernel is None:
            return part
        by_kernel = held_share(group.pattern, self.arch, self.sharding, self.kernel)
        return part if by_kernel is None else by_kernel

    def _refined(self, group: TensorGroup, spec: TensorSpec) -> Fraction | None:
        """The share of scales whose blocks vLLM cuts smaller; None: the cut between ranks goes through no block.

        Raises:
            UnsupportedError: it goes through one, and the engine takes none smaller.
        """
        routed = isinstance(spec.split, ExpertSplit)
        if not self.own_classes or isinstance(spec.split, Replicated) or (routed and self.sharding.expert_parallel):
            return None
        ranks = self.sharding.expert_ranks if routed else self.sharding.tp
        finer = refined_scales(spec, group.pattern, group.shape, ranks) if self.vllm else None
        codes = self.modules.codes(group)
        makes_groups = self.vllm and routed and codes is not None and codes.pattern.endswith(".qweight")
        if finer is None and not makes_groups:
            own_cut = self.vllm or self.arch.model_type in _CUT_BLOCKS
            check_blocks(spec, group.pattern, group.shape, ranks, merged=own_cut)
        return finer

    def _padded(self, group: TensorGroup, spec: TensorSpec, part: Fraction) -> Fraction:
        """`part`, of packed codes and what stands beside them, with what the device's kernel pads experts to."""
        codes = self.modules.codes(group)
        if codes is None:
            return part
        size, capability = self.modules.group_size(spec, group), self.serving.compute_capability
        return part * kernel_share(spec, group, codes, size, self.sharding, capability, self.release, gated=self.gated)

    def _by_extent(self, group: TensorGroup, spec: TensorSpec, *, is_expected: bool) -> Fraction:
        """A rank's share of a stored tensor: its logical tensor's, unless it has no extent in the split dimension.

        Scales for each output row of a row-split matrix, input permutations of a column-split one, and scalars are whole on
        every rank.
        """
        whole = rank_share(spec, self.sharding)
        if is_expected and group.shape == spec.shape:
            return whole
        if group.elements <= 1:
            return Fraction(1)
        routed = isinstance(spec.split, ExpertSplit)
        inner = spec.split.inner if isinstance(spec.split, ExpertSplit) else spec.split
        if isinstance(inner, Replicated) or len(spec.shape) < 2 or (routed and self.sharding.expert_parallel):
            return whole
        out, inputs = spec.shape[-2], spec.shape[-1]
        if group.pattern.endswith("g_idx"):
            return whole if isinstance(inner, Row) else Fraction(1)
        experts = spec.shape[0] if len(spec.shape) > 2 else 1
        if isinstance(inner, Row) and group.elements == experts * out != experts * inputs:
            return Fraction(1)
        return whole


def _as_stored(groups: Iterable[TensorGroup]) -> tuple[TensorGroup, ...]:
    """`groups` tensor by tensor: what a quantization section promises comes as logical weights, each of several stored tensors."""
    found: list[TensorGroup] = []
    for group in groups:
        if isinstance(group, LogicalGroup):
            found += (TensorGroup(part.pattern, part.dtype, part.shape, group.boxes) for part in group.parts)
        else:
            found.append(group)
    return tuple(found)


def _use(spec: TensorSpec, arch: Architecture) -> Literal["read", "routed", "idle"]:
    if isinstance(spec.split, ExpertSplit):
        return "routed"
    # a table of another width than the model's (inputs of each layer, n-grams) is looked up even where words are tied to the head
    head = arch.tie_word_embeddings and spec.shape[-1:] == (arch.hidden_size,)
    if spec.component is Component.VISION or (spec.component is Component.EMBEDDING and not head):
        return "idle"
    return "read"


def _is_same_module(pattern: str, expected: Expected) -> bool:
    """Whether a stored tensor belongs to the expected one's own module: `q_proj.qweight` to `q_proj.weight`."""
    module = expected.core.rpartition(".")[0]
    return core(pattern).startswith((f"{module}.", f"{expected.core}."))


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
