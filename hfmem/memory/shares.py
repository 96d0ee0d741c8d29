"""How much of one tensor a rank holds under tensor and expert parallelism, as an exact share of its elements.

Read from vLLM 0.33.0: `model_executor/layers/linear.py` (column, row and merged projections, KV-head replication),
`vocab_parallel_embedding.py` (padding), `fused_moe/config.py` (experts over `tp × dp` ranks), `expert_map_manager.py`.
SGLang shards by the same classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Final, assert_never

from hfmem.errors import UnsupportedError
from hfmem.model.inventory import Column, ExpertSplit, Replicated, Row, Split, TensorSpec, Vocab

#: rows that vLLM and SGLang pad a vocabulary to a multiple of (`DEFAULT_VOCAB_PADDING_SIZE`)
VOCAB_PADDING: Final = 64


@dataclass(frozen=True, slots=True)
class Sharding:
    """The ranks that share a tensor: `tp` for everything but routed experts, which `expert_ranks` share, whole ones with
    `expert_parallel`.

    `vocab_padding` is the multiple that vocabularies are padded to, 1 for none. Tensors whose names begin like one of `whole` are
    not split.
    """

    tp: int = 1
    expert_ranks: int = 1
    expert_parallel: bool = False
    num_experts: int | None = None
    vocab_padding: int = 1
    whole: tuple[str, ...] = ()


def share(spec: TensorSpec, sharding: Sharding) -> Fraction:
    """Elements of the tensor on the most loaded rank, as a share of `spec.elements`; above 1 where padding exceeds the tensor.

    For one expert among many (`ExpertSplit` with an axis), the average over all of them: under expert parallelism a rank holds
    some whole.

    Raises:
        UnsupportedError: a dimension that the ranks cannot divide.
    """
    match spec.split:
        case Replicated():
            return Fraction(1)
        case Column() | Row():
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
