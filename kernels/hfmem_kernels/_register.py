"""How functions become torch ops (`torch.ops.hfmem_kernels.*`): what torch.compile, the meta device and CUDA graphs see.

`torch.library.custom_op` would do the same and more, in Python, at every call: with the twenty arguments of a decode some 30 times
what the dispatcher itself takes, and a decode step makes a call a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

_TAGS = (torch.Tag.pt2_compliant_tag, getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order))


def op(name: str, *, mutates: Iterable[str], fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Registers the decorated function for every device, with `fake` for tensors that hold nothing; it becomes the op.

    The schema comes from the annotations, so the function must not live in a scope of its own.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        qualified = f"hfmem_kernels::{name}"
        schema = torch.library.infer_schema(function, mutates_args=tuple(mutates))
        torch.library.define(qualified, schema, tags=_TAGS)
        torch.library.impl(qualified, "default")(function)
        torch.library.register_fake(qualified)(fake)
        return getattr(torch.ops.hfmem_kernels, name).default

    return decorate


def nothing(*_: Any) -> None:
    """What an op that only writes into its arguments does to tensors that hold nothing."""


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        raise RuntimeError("hfmem_kernels: decode attention is for inference and has no backward")


def wants_backward(*inputs: torch.Tensor | None) -> bool:
    """Whether autograd would want to come back through a call with these inputs."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and any(t is not None and t.requires_grad for t in inputs)
    )


def without_backward(result: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    """`result`, which raises where autograd comes back through it instead of leaving gradients out."""
    checked: torch.Tensor = _NoBackward.apply(result, *inputs)  # type: ignore[no-untyped-call]
    return checked
