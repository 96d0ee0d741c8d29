"""Merging partial results: against one call over all keys, and where parts are empty."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hfmem_kernels import testing
from hfmem_kernels.merge import merge_attention
from hfmem_kernels.paged_decode import paged_decode_attention
from hfmem_kernels.testing import Case


def test_prefix_and_rest_are_the_whole(device: str) -> None:
    """A cascade: the first 32 tokens as one call, the rest as another, with the sink in one of them."""
    case = Case((70, 40), page_size=16, head_dim=32, dtype="float32", sinks=True)
    inputs = testing.build(case, device)
    arguments = {k: v for k, v in inputs.arguments.items() if v is not None}
    whole, lse = paged_decode_attention(*inputs.positional, **arguments, return_lse=True)
    sinks = arguments.pop("sinks")
    head = replace(inputs, seq_lens=torch.full_like(inputs.seq_lens, 32))
    tail = replace(inputs, page_table=inputs.page_table[:, 2:].contiguous(), seq_lens=inputs.seq_lens - 32)
    first = paged_decode_attention(*head.positional, **arguments, return_lse=True)
    second = paged_decode_attention(*tail.positional, **arguments, sinks=sinks, return_lse=True)
    merged, merged_lse = merge_attention(torch.stack([first[0], second[0]]), torch.stack([first[1], second[1]]))
    torch.testing.assert_close(merged, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged_lse, lse, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4, 2, 20), (1, 2, 3, 2, 16), (5, 1, 1, 512)])
def test_against_the_reference(shape: tuple[int, ...], device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    outs = torch.randn(shape, generator=generator).to(device)
    lses = torch.randn(shape[:-1], generator=generator).mul(20).to(device)
    lses[0].view(-1)[0] = float("-inf")
    outs[0].view(-1, shape[-1])[0] = float("nan")
    out, lse = merge_attention(outs, lses)
    expected, expected_lse = merge_attention(outs, lses, impl="reference")
    torch.testing.assert_close(out, expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-6, atol=1e-6)


def test_all_parts_empty(device: str) -> None:
    outs = torch.full((2, 3, 1, 8), float("nan"), device=device)
    out, lse = merge_attention(outs, torch.full((2, 3, 1), float("-inf"), device=device))
    assert not out.any() and bool((lse == float("-inf")).all())


def test_buffers_are_written(device: str) -> None:
    outs, lses = torch.randn(2, 3, 1, 8, device=device), torch.randn(2, 3, 1, device=device)
    out, lse = torch.empty(3, 1, 8, device=device), torch.empty(3, 1, device=device)
    result = merge_attention(outs, lses, out=out, lse=lse)
    assert result[0] is out and result[1] is lse
    torch.testing.assert_close(out, merge_attention(outs, lses)[0])


@pytest.mark.parametrize(
    ("outs", "lses", "message"),
    [
        (torch.zeros(3, 8), torch.zeros(3), "outs: expected shape"),
        (torch.zeros(2, 3, 1, 8), torch.zeros(2, 3, 2), r"lses: expected shape \[2, 3, 1\], given shape \[2, 3, 2\]"),
        (torch.zeros(0, 3, 1, 8), torch.zeros(0, 3, 1), "outs: expected at least one part, given 0"),
        (torch.zeros(2, 3, 1, 8), torch.zeros(2, 3, 1).double(), "lses: expected dtype float32, given dtype float64"),
    ],
)
def test_bad_arguments(outs: torch.Tensor, lses: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge_attention(outs, lses)
