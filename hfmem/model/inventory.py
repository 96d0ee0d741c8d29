"""The tensors a family is expected to store: name pattern, shape, component, and how each splits over tensor-parallel ranks.

The same patterns as `hfmem.checkpoint.tensors` so that an expected inventory and a checkpoint's header compare group by group.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from fractions import Fraction
from math import prod

from hfmem.errors import ContradictionError
from hfmem.records import dataclass

Box = tuple[range, ...]


class Component(StrEnum):
    """What a tensor is part of; the keys of `parameters.by_component` in the report."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"  # every token mixer: attention, state space, convolution, delta net, indexer
    MLP = "mlp"  # dense feed-forward, shared experts
    EXPERTS = "experts"  # routed experts and their router
    NORM = "norm"
    LM_HEAD = "lm_head"
    VISION = "vision"  # every non-text encoder and its projector, audio too
    MTP = "mtp"  # multi-token-prediction layers
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Replicated:
    """Every rank holds the whole tensor (norms, routers, MLA down-projections)."""


@dataclass(frozen=True, slots=True)
class Column:
    """Split over dim 0 (output features). `parts` are the row counts of fused sub-matrices, each split on its own; empty: one part.

    With `num_kv_heads` set for a part, that part is K or V: when there are more ranks than heads, heads are replicated.
    `divides`: of a block with so many heads that stays whole on every rank where the ranks do not divide them.
    """

    parts: tuple[int, ...] = ()
    kv_heads: tuple[int | None, ...] = ()
    divides: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Split over the last dim (input features). `divides` as in `Column`."""

    divides: int | None = None


@dataclass(frozen=True, slots=True)
class Vocab:
    """Split over the vocabulary (dim 0), padded as the engine pads it."""


@dataclass(frozen=True, slots=True)
class ExpertSplit:
    """One routed expert's matrix: under expert parallelism the experts are dealt out whole, else split as `inner` says.

    `axis`: which `{}` of the pattern is the expert; None when experts are stacked in dim 0 of one tensor.
    """

    axis: int | None
    inner: Column | Row | Replicated


Split = Replicated | Column | Row | Vocab | ExpertSplit


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Expected tensors of one pattern and shape.

    `active` is the share of the tensor's elements that one token uses (routed experts: top_k / num_experts; an embedding table is
    counted whole, as model cards do). `tied_to` names the pattern whose storage this tensor shares: a file may store it or not, and
    it counts once. `optional`: a file may leave it out. `buffer`: stored, and not a parameter. `layer_axis`: which `{}` is the
    layer, for pipeline stages. `unread`: what vLLM does not build, as a tower behind the last block that the text model sees.
    `drafts`: of a prediction layer where these draft, which is loaded on the last pipeline stage.
    """

    pattern: str
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]
    component: Component
    split: Split
    active: Fraction = Fraction(1)
    tied_to: str | None = None
    optional: bool = False
    buffer: bool = False
    layer_axis: int | None = None
    unread: bool = False
    drafts: bool = False

    def __post_init__(self) -> None:
        """Refuses sizes that are no whole numbers: lists in a config may hold anything.

        Raises:
            ContradictionError: naming the tensor.
        """
        if not all(type(size) is int and size >= 0 for size in self.shape):
            shape = ", ".join(map(str, self.shape))[:80]
            raise ContradictionError(f"config.json: {self.pattern} would have the shape ({shape})")

    @property
    def count(self) -> int:
        """How many tensors there are."""
        return sum(prod(len(r) for r in box) for box in self.boxes)

    @property
    def elements(self) -> int:
        """Elements of one tensor."""
        return prod(self.shape)


def as_ranges(indices: Iterable[int]) -> tuple[range, ...]:
    """Ascending integers as maximal ranges: `[0, 1, 2, 5, 7, 9]` → `(range(0, 3), range(5, 10, 2))`."""
    if isinstance(indices, range) and indices.step == 1:
        return (indices,) if indices else ()
    values = sorted(set(indices))
    ranges: list[range] = []
    start = 0
    while start < len(values):
        if start + 1 == len(values):
            ranges.append(range(values[start], values[start] + 1))
            break
        step = values[start + 1] - values[start]
        end = start + 1
        while end + 1 < len(values) and values[end + 1] - values[end] == step:
            end += 1
        if end == start + 1 and step > 1:  # two distant values are two runs, not a stride
            ranges.append(range(values[start], values[start] + 1))
            start += 1
            continue
        ranges.append(range(values[start], values[end] + 1, step))
        start = end + 1
    return tuple(ranges)


class Inventory:
    """Collects `TensorSpec`s while a family describes its model."""

    def __init__(self, specs: Iterable[TensorSpec] = ()) -> None:
        self.specs = list(specs)

    def add(
        self,
        pattern: str,
        shape: tuple[int, ...],
        component: Component,
        split: Split | None = None,
        *,
        tied_to: str | None = None,
        optional: bool = False,
        buffer: bool = False,
    ) -> None:
        """One tensor outside the layers (`pattern` has no `{}`)."""
        self.specs.append(
            TensorSpec(
                pattern,
                shape,
                ((),),
                component,
                split or Replicated(),
                tied_to=tied_to,
                optional=optional,
                buffer=buffer,
            )
        )

    def each(
        self,
        pattern: str,
        indices: Iterable[int],
        shape: tuple[int, ...],
        component: Component,
        split: Split | None = None,
        *,
        inner: int | None = None,
        active: Fraction = Fraction(1),
        optional: bool = False,
        buffer: bool = False,
    ) -> None:
        """One tensor in each layer of `indices`; with `inner`, one for each of `inner` experts (the second `{}`) in each layer."""
        rest: Box = () if inner is None else (range(inner),)
        boxes = tuple((r, *rest) for r in as_ranges(indices))
        if boxes:
            self.specs.append(
                TensorSpec(
                    pattern,
                    shape,
                    boxes,
                    component,
                    split or Replicated(),
                    active,
                    optional=optional,
                    buffer=buffer,
                    layer_axis=0,
                )
            )
