"""Describing a sub-module at a time: a prefix, the layers it stands in, and the component its tensors count for.

Where a family differs from the common blocks in most of its names (towers, encoders, encoder-decoders), writing one line a module
under a prefix is shorter than a block with ten switches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import prod

from hfmem.model.inventory import Box, Column, Component, Inventory, Replicated, Row, Split, TensorSpec, as_ranges
from hfmem.records import dataclass, replace

COLUMN = Column()
ROW = Row()
WHOLE = Replicated()


@dataclass(frozen=True, slots=True)
class Part:
    """A place in a model: `prefix` with one `{}` for each entry of `axes`, in an inventory.

    `component` None means that linear layers must say what they are; norms are then `NORM`, in a tower they belong to the tower.
    `optional`: files may leave out everything here.
    """

    inv: Inventory
    prefix: str = ""
    component: Component | None = None
    axes: tuple[tuple[int, ...], ...] = ()
    optional: bool = False

    def at(self, suffix: str, indices: Iterable[int] | None = None, component: Component | None = None) -> Part:
        """A sub-module; `indices` are the values of the `{}` in `suffix`."""
        axes = self.axes if indices is None else (*self.axes, tuple(indices))
        return replace(self, prefix=self.prefix + suffix, axes=axes, component=component or self.component)

    def maybe(self) -> Part:
        """The same place for tensors that files may leave out: what a published checkpoint holds and no code reads."""
        return replace(self, optional=True)

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        component: Component | None = None,
        split: Split = WHOLE,
        *,
        active: Fraction = Fraction(1),
        tied_to: str | None = None,
        optional: bool = False,
        buffer: bool = False,
    ) -> None:
        """One tensor `prefix + name` in each combination of the axes; nothing where an axis is empty."""
        boxes: list[Box] = [()]
        for axis in self.axes:
            boxes = [(*box, r) for box in boxes for r in as_ranges(axis)]
        boxes = [box for box in boxes if prod(len(r) for r in box)]
        kind = component or self.component
        if kind is None:
            raise AssertionError(f"{self.prefix}{name}: no component")
        if boxes:
            pattern = self.prefix + name
            layer_axis = 0 if self.axes else None
            spec = TensorSpec(
                pattern,
                shape,
                tuple(boxes),
                kind,
                split,
                active,
                tied_to,
                optional or self.optional,
                buffer,
                layer_axis=layer_axis,
            )
            self.inv.specs.append(spec)

    def linear(
        self,
        name: str,
        out_features: int,
        in_features: int,
        component: Component | None = None,
        split: Column | Row | Replicated = WHOLE,
        *,
        bias: bool = True,
        optional: bool = False,
    ) -> None:
        """`nn.Linear`: weight `[out, in]`, bias `[out]`."""
        self.tensor(f"{name}.weight", (out_features, in_features), component, split, optional=optional)
        if bias:
            own = split if isinstance(split, Column) else WHOLE
            self.tensor(f"{name}.bias", (out_features,), component, own, optional=optional)

    def norm(self, name: str, size: int, *, bias: bool = True) -> None:
        """A norm's weight and, for layer norms, bias."""
        kind = self.component or Component.NORM
        for leaf in ("weight", "bias") if bias else ("weight",):
            self.tensor(f"{name}.{leaf}", (size,), kind)

    def norms(self, names: Sequence[str], size: int, *, bias: bool = True) -> None:
        """Several norms of one size."""
        for name in names:
            self.norm(name, size, bias=bias)

    def batch_norm(self, name: str, size: int) -> None:
        """A batch norm: weight and bias, running statistics as buffers."""
        self.norm(name, size)
        kind = self.component or Component.NORM
        for leaf in ("running_mean", "running_var"):
            self.tensor(f"{name}.{leaf}", (size,), kind, buffer=True, optional=True)
        self.tensor(f"{name}.num_batches_tracked", (), kind, buffer=True, optional=True)

    def conv(
        self,
        name: str,
        out_channels: int,
        in_channels: int,
        kernel: tuple[int, ...],
        component: Component | None = None,
        *,
        bias: bool = True,
    ) -> None:
        """A convolution: weight `[out, in / groups, *kernel]`, bias `[out]`."""
        self.tensor(f"{name}.weight", (out_channels, in_channels, *kernel), component)
        if bias:
            self.tensor(f"{name}.bias", (out_channels,), component)
