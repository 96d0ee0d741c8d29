"""Merging attention results over disjoint keys: cascades (a shared prefix and the rest) and context parallelism."""

from __future__ import annotations

import torch

from hfmem_kernels import _reference, _validate
from hfmem_kernels._heuristics import LaunchConfig, next_power_of_2
from hfmem_kernels._launch import decoder_of, require_triton, run
from hfmem_kernels._register import nothing, op, wants_backward, without_backward


def merge_attention(
    outs: torch.Tensor,
    lses: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    impl: str = "triton",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Combine partial results into what one call over all keys would have given, up to rounding.

    Args:
        outs: [parts, …, heads, dim]; what a part holds where its lse is -inf is not looked at.
        lses: float32 [parts, …, heads], natural logarithms. Sinks belong into one part only.
        out, lse: contiguous buffers [, …, heads, dim] of outs' dtype and [, …, heads] of float32.

    Returns:
        out and lse; 0 and -inf where every part is empty.

    Raises:
        ValueError: an argument does not fit; the message names it.
        RuntimeError: impl="triton" without Triton or without a device it runs on.
    """
    _validate.check_dtype("outs", outs, _validate.QUERY_DTYPES)
    if outs.dim() < 3:
        _validate.fail("outs", "shape [parts, …, heads, dim]", f"shape {list(outs.shape)}")
    _validate.check_dtype("lses", lses, [torch.float32])
    _validate.check_device("lses", lses, outs.device)
    _validate.check_shape("lses", lses, list(outs.shape[:-1]))
    if outs.shape[0] == 0:
        _validate.fail("outs", "at least one part", 0)
    for name, buffer, like, dtype in (("out", out, outs, outs.dtype), ("lse", lse, lses, torch.float32)):
        if buffer is not None:
            _validate.check_dtype(name, buffer, [dtype])
            _validate.check_device(name, buffer, outs.device)
            _validate.check_shape(name, buffer, list(like.shape[1:]))
            if not buffer.is_contiguous():
                _validate.fail(name, "a contiguous tensor", f"strides {list(buffer.stride())}")
    out = torch.empty(outs.shape[1:], dtype=outs.dtype, device=outs.device) if out is None else out
    lse = torch.empty(lses.shape[1:], dtype=torch.float32, device=outs.device) if lse is None else lse
    if impl == "reference":
        merged, log_sum = _reference.merge(outs.float(), lses)
        return out.copy_(merged), lse.copy_(log_sum)
    require_triton(impl, outs)
    with torch.no_grad():
        merge_op(outs, lses, out, lse)
    return (without_backward(out, outs, lses), lse) if wants_backward(outs, lses) else (out, lse)


@op("merge_attention", mutates=("out", "lse"), fake=nothing)
def merge_op(outs: torch.Tensor, lses: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
    """The checked call."""
    from hfmem_kernels._kernels_cache import merge_kernel

    dim = outs.shape[-1]
    flat, log_sums = outs.flatten(1, -2), lses.flatten(1)
    out_rows, lse_rows = out.view(-1, dim), lse.view(-1)
    rows = out_rows.shape[0]
    if rows == 0:
        return
    block_d = next_power_of_2(dim)
    block_r = max(1, min(16, 4096 // block_d))
    arguments = [
        flat, log_sums, out_rows, lse_rows, flat.shape[0], rows, *flat.stride(), *log_sums.stride(),
        *out_rows.stride(), lse_rows.stride(0),
    ]  # fmt: skip
    constants = {"DIM": dim, "BLOCK_D": block_d, "BLOCK_R": block_r, "DECODER": decoder_of(outs.device)}
    run(merge_kernel, (-(-rows // block_r),), arguments, constants, LaunchConfig(16, 16, 4, 1, 2), warmup=False)
