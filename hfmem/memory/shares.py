"""How much of one tensor a rank holds under tensor and expert parallelism, as an exact share of its elements.

Read from vLLM 0.33.0: `model_executor/layers/linear.py` (column, row and merged projections, KV-head replication),
`vocab_parallel_embedding.py` (padding), `fused_moe/config.py` (experts over `tp × dp` ranks), `expert_map_manager.py`.
SGLang shards by the same classes.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Final, assert_never

from hfmem.errors import UnsupportedError
from hfmem.model.inventory import Column, Component, ExpertSplit, Replicated, Row, Split, TensorSpec, Vocab
from hfmem.records import dataclass

#: rows that vLLM and SGLang pad a vocabulary to a multiple of (`DEFAULT_VOCAB_PADDING_SIZE`)
VOCAB_PADDING: Final = 64


@dataclass(frozen=True, slots=True)
class Sharding:
    """The ranks that share a tensor: `tp` for everything but routed experts, which `expert_ranks` share, whole ones with
    `expert_parallel`, and what runs in `attn_tp` ranks where attention is data-parallel (None: in all `tp`).

    `vocab_padding` is the multiple that vocabularies are padded to, 1 for none. Tensors whose names hold one of `whole` are not
    split.
    """

    tp: int = 1
    expert_ranks: int = 1
    expert_parallel: bool = False
    num_experts: int | None = None
    vocab_padding: int = 1
    whole: tuple[str, ...] = ()
    attn_tp: int | None = None


def share(spec: TensorSpec, sharding: Sharding) -> Fraction:
    """Elements of the tensor on the most loaded rank, as a share of `spec.elements`; above 1 where padding exceeds the tensor.

    For one expert among many (`ExpertSplit` with an axis), the average over all of them: under expert parallelism a rank holds
    some whole.

    Raises:
        UnsupportedError: a dimension that the ranks cannot divide.
    """
    if not spec.elements:  # an empty tensor, which some exporters leave
        return Fraction(1)
    match spec.split:
        case Replicated():
            return Fraction(1)
        case Column(divides=heads) | Row(divides=heads):
            if heads is not None and heads % sharding.tp:
                return Fraction(1)
            return _divided(spec.split, spec.shape, sharding.tp, spec.pattern)
        case Vocab():
            rows = spec.shape[0]
            padded = -(-rows // sharding.vocab_padding) * sharding.vocab_padding
            return Fraction(-(-padded // sharding.tp), rows)
        case ExpertSplit(axis=axis, inner=inner):
            if not sharding.expert_parallel:
                if axis is None:
                    return _stacked(inner, spec, sharding.expert_ranks)
                return _divided(inner, spec.shape, sharding.expert_ranks, spec.pattern)
            experts = _num_experts(spec, axis, sharding)
            return Fraction(-(-experts // sharding.expert_ranks), experts)
        case _:
            assert_never(spec.split)


def in_image_attention(spec: TensorSpec) -> bool:
    """Whether the tensor is part of an image encoder's attention."""
    words = spec.pattern.split(".")
    return (
        spec.component is Component.VISION
        and spec.layer_axis is not None
        and not any("audio" in word for word in words)
        and any(word.endswith(("attn", "attention")) for word in words)
    )


def _num_experts(spec: TensorSpec, axis: int | None, sharding: Sharding) -> int:
    if axis is not None:
        return max(len(box[axis]) for box in spec.boxes)
    return sharding.num_experts or spec.shape[0]


def _stacked(inner: Split, spec: TensorSpec, ranks: int) -> Fraction:
    """Experts stacked in the first dimension: the inner split speaks of one expert's matrix."""
    if len(spec.shape) > 2:
        return _divided(inner, spec.shape[1:], ranks, spec.pattern)
    if isinstance(inner, Replicated):
        return Fraction(1)
    if prod(spec.shape) % ranks:
        raise UnsupportedError(f"{spec.pattern}: {spec.shape} does not divide over {ranks} ranks")
    return Fraction(1, ranks)


def _divided(split: Split, shape: tuple[int, ...], ranks: int, pattern: str) -> Fraction:
    match split:
        case Replicated():
            return Fraction(1)
        case Column(parts=parts, kv_heads=kv_heads):
            sizes = parts or (shape[0],)
            heads = kv_heads or (None,) * len(sizes)
            rows = sum(_part_rows(size, n, ranks, pattern) for size, n in zip(sizes, heads, strict=True))
            return Fraction(rows, sum(sizes))
        case Row():
            if shape[-1] % ranks:
                raise UnsupportedError(f"{pattern}: {shape[-1]} input features do not divide over {ranks} ranks")
            return Fraction(1, ranks)
        case _:
            raise AssertionError(f"{split} is no split of one matrix")


def _part_rows(rows: int, heads: int | None, ranks: int, pattern: str) -> int:
    """Rows of one part of a column-split matrix on a rank; heads fewer than ranks are held by several."""
    if heads is not None and heads < ranks:
        if ranks % heads:
            raise UnsupportedError(f"{pattern}: {heads} heads cannot be replicated over {ranks} ranks")
        return rows // heads
    if rows % ranks or (heads is not None and heads % ranks):
        raise UnsupportedError(
            f"{pattern}: {heads or rows} {'heads' if heads else 'rows'} do not divide over {ranks} ranks"
        )
    return rows // ranks


#: a matrix may be quantized in as many pieces as ranks trained it (MiMo-V2.5 and 2.6: q, k and v in 4 or 8)
_PIECES: Final = (1, 2, 4, 8, 16)


def check_blocks(spec: TensorSpec, name: str, scales: tuple[int, ...], ranks: int, *, merged: bool = False) -> None:
    """Refuse a split that cuts through quantization blocks, as vLLM does (`fp8_utils.py`, `awq.py`, `gptq.py`).

    `scales` is the shape of the stored scales `name` of a matrix that `ranks` share: `[out / block, in / block]` for fp8 blocks,
    `[in / group, out]` for GPTQ and AWQ, `[out, in / group]` for compressed-tensors. `merged`: blocks of a matrix that holds
    queries, keys and values may be cut between ranks (`linear.py`: `_maybe_allow_fp8_block_shape_mismatch`).

    Raises:
        UnsupportedError: in vLLM's words.
    """
    split = spec.split.inner if isinstance(spec.split, ExpertSplit) else spec.split
    if ranks == 1 or len(scales) != 2 or len(spec.shape) < 2:
        return
    out, inputs = spec.shape[-2:]
    if name.endswith("weight_scale_inv"):
        across, along = block_size(out, scales[0]), block_size(inputs, scales[1])
        if isinstance(split, Row) and inputs // ranks % along:
            raise UnsupportedError(
                f"{name}: input_size_per_partition = {inputs // ranks} is not divisible by weight quantization block_k = {along}"
            )
        if isinstance(split, Column) and not (merged and split.kv_heads):
            for rows, heads in zip(
                split.parts or (out,), split.kv_heads or (None,) * len(split.parts or (out,)), strict=True
            ):
                own = _part_rows(rows, heads, ranks, spec.pattern)
                if own % across:
                    raise UnsupportedError(
                        f"{name}: output_partition_size = {own} is not divisible by weight quantization block_n = {across}"
                    )
        return
    groups = scales[0] if name.endswith((".scales", ".qzeros")) else scales[1]
    if isinstance(split, Row) and 1 < groups < inputs and inputs % groups == 0 and inputs // ranks % (inputs // groups):
        raise UnsupportedError(
            f"{name}: {inputs} input features over {ranks} ranks are not aligned with groups of {inputs // groups}: "
            "too large a tensor parallel size"
        )


def block_size(size: int, blocks: int) -> int:
    """The block size: 128 where that gives as many blocks, of the whole or of equal pieces one by one, else what the shape says."""
    pieces = (n for n in _PIECES if n == 1 or size >= n * 128)
    return 128 if any(n * -(-size // (n * 128)) == blocks for n in pieces) else -(-size // blocks)


def rounded_up(size: int, step: int) -> int:
    """The least multiple of `step` that is not below `size`."""
    return -(-size // step) * step
