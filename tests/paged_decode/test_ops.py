"""The registered torch ops: schemas, fake tensors, the meta device, torch.compile, buffers that the caller owns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hfmem_kernels import (
    _ops,
    allocate_workspace,
    index_logits,
    merge_attention,
    mla_decode_attention,
    paged_decode_attention,
    testing,
)
from hfmem_kernels._heuristics import DecodeShape, select_config
from hfmem_kernels._launch import Workspace
from hfmem_kernels.cache_ops import write_kv_op, write_latent_op
from hfmem_kernels.layout import LatentFormat, allocate_index, allocate_latent
from hfmem_kernels.merge import merge_op
from hfmem_kernels.testing import Case


def op_arguments(inputs: testing.Inputs, **changes: Any) -> tuple[Any, ...]:
    """The flat argument list of the decode ops."""
    config = select_config(DecodeShape(2, inputs.case.q_len, 64, 64, 2), "interpreter")
    values = {
        "cu_q": None, "max_q_len": inputs.case.q_len, "scale": 0.125, "window": 0, "softcap": 0.0, "sinks": None,
        "alibi_slopes": None, "k_scale": None, "v_scale": None, "v_factor": 1.0, "kv_lora_rank": 0, "by_slot": False,
        "config": _ops.values_of(config),
    }  # fmt: skip
    return (*inputs.positional, *(values | changes).values())


# opcheck also traces with dynamic shapes, which takes seconds; once is enough
FAST = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("want_lse", [True, False])
def test_opcheck_functional(want_lse: bool, device: str) -> None:
    inputs = testing.build(Case((20, 0), q_len=2), device)
    tests = torch.library.opcheck(_ops.paged_decode, (*op_arguments(inputs), want_lse), test_utils=FAST)
    assert set(tests.values()) == {"SUCCESS"}


def test_opcheck_in_place(device: str) -> None:
    inputs = testing.build(Case((20, 0)), device)
    arguments = op_arguments(inputs)
    workspace = _ops.workspace_for(*arguments)
    out, lse = torch.empty_like(inputs.q), torch.empty(inputs.q.shape[:-1], device=device)
    tests = torch.library.opcheck(_ops.paged_decode_out, (*arguments, out, lse, workspace.counters, workspace.partials))
    assert set(tests.values()) == {"SUCCESS"}


def test_opcheck_of_the_others(device: str) -> None:
    k = torch.randn(3, 2, 16, device=device)
    cache = torch.zeros(2, 4, 2, 16, dtype=torch.int8, device=device)
    slots = torch.tensor([0, 5, -1], device=device)
    scale = torch.ones(2, device=device)
    torch.library.opcheck(
        write_kv_op, (k, k, cache, cache.clone(), slots, scale, scale.clone(), 1.0, 1.0), test_utils=FAST
    )
    latent = torch.randn(3, 512, device=device)
    rows = torch.zeros(2, 4, 656, dtype=torch.uint8, device=device)
    torch.library.opcheck(write_latent_op, (latent, latent[:, :64].clone(), rows, slots), test_utils=FAST)
    outs = torch.randn(2, 3, 1, 16, device=device)
    empty = torch.empty(3, 1, 16, device=device), torch.empty(3, 1, device=device)
    torch.library.opcheck(merge_op, (outs, outs[..., 0].clone(), *empty), test_utils=FAST)


def test_meta_device() -> None:
    """Shapes and dtypes without memory: a cache of 10 TB is no hurdle."""
    meta: dict[str, Any] = {"device": "meta"}
    k = torch.empty(1 << 24, 16, 8, 128, dtype=torch.float8_e4m3fn, **meta)
    v = torch.empty(1 << 24, 16, 8, 64, dtype=torch.float8_e4m3fn, **meta)
    q = torch.empty(4, 2, 32, 128, dtype=torch.bfloat16, **meta)
    table, lengths = torch.empty(4, 9, dtype=torch.int32, **meta), torch.empty(4, dtype=torch.int32, **meta)
    out, lse = paged_decode_attention(q, k, v, table, lengths, return_lse=True)
    assert out.shape == (4, 2, 32, 64) and out.dtype == torch.bfloat16 and out.device.type == "meta"
    assert lse.shape == (4, 2, 32) and lse.dtype == torch.float32
    rows = torch.empty(1 << 24, 64, 656, dtype=torch.uint8, **meta)
    q = torch.empty(4, 16, 576, dtype=torch.bfloat16, **meta)
    latent = mla_decode_attention(q, rows, table, lengths, scale=0.1)
    assert isinstance(latent, torch.Tensor) and latent.shape == (4, 16, 512)


def test_compiles_into_one_graph(device: str) -> None:
    """torch.compile sees one op: no graph break, the same result."""
    inputs = testing.build(Case((20, 7), dtype="float32"), device)
    config = select_config(DecodeShape(2, 1, 64, 64, 4), "interpreter" if device == "cpu" else "sm90")

    def step(q: torch.Tensor) -> torch.Tensor:
        out = paged_decode_attention(q * 2.0, *inputs.positional[1:], config=config)
        assert isinstance(out, torch.Tensor)
        return out + 1.0

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs.q), step(inputs.q))


@pytest.mark.parametrize("latent_format", [LatentFormat.FP8_DS, LatentFormat.FP8_V4])
def test_rows_and_index_keys_compile_into_one_graph(latent_format: LatentFormat, device: str) -> None:
    """What the checks ask of addresses is not asked while torch.compile traces."""
    lengths, table = torch.tensor([20], device=device).int(), torch.arange(2, device=device).int()[None]
    rank, rope = latent_format.columns
    rows = allocate_latent(2, 16, rank, rope, "bfloat16", latent_format, device)
    keys = allocate_index(2, 16, 64, device)

    def step(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = mla_decode_attention(q * 2.0, rows, table, lengths, scale=0.1)
        assert isinstance(out, torch.Tensor)
        return out, index_logits(q[:, :, :64], keys, q[:, :, 0].float(), table, lengths)

    q = torch.randn(1, 4, rank + rope, device=device).to(torch.bfloat16)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(q), step(q), strict=True):
        assert torch.equal(found, expected)


def test_gradients_are_refused_not_left_out(device: str) -> None:
    """Queries of a model in training pass; the error comes where autograd would go back through the call."""
    inputs = testing.build(Case((20, 7), dtype="float32"), device)
    out = paged_decode_attention(inputs.q.requires_grad_(), *inputs.positional[1:])
    assert isinstance(out, torch.Tensor)
    with pytest.raises(RuntimeError, match="for inference and has no backward"):
        out.sum().backward()
    outs = torch.randn(2, 3, 1, 8, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="for inference and has no backward"):
        merge_attention(outs, torch.zeros(2, 3, 1, device=device))[0].sum().backward()


def test_given_buffers_are_the_result(device: str) -> None:
    """With out, lse and a workspace the call returns exactly those tensors, and their memory alone has changed."""
    inputs = testing.build(Case((20, 7)), device)
    workspace = allocate_workspace(device, max_rows=64, v_head_dim=64)
    out, lse = torch.empty_like(inputs.q), torch.empty(inputs.q.shape[:-1], device=device)
    before = [t.clone() for t in inputs.positional]
    result = paged_decode_attention(*inputs.positional, out=out, lse=lse, return_lse=True, workspace=workspace)
    assert result[0] is out and result[1] is lse
    fresh = paged_decode_attention(*inputs.positional, return_lse=True)
    assert torch.equal(out, fresh[0]) and torch.equal(lse, fresh[1])
    for old, new in zip(before, inputs.positional, strict=True):
        assert torch.equal(old.view(torch.uint8), new.view(torch.uint8))


@pytest.mark.parametrize(
    ("workspace", "message"),
    [
        (
            Workspace(torch.zeros(3, dtype=torch.int32), torch.empty(1 << 20)),
            r"workspace: expected at least \d+ counters, given 3",
        ),
        (
            Workspace(torch.zeros(999, dtype=torch.int32), torch.empty(5)),
            r"workspace: expected at least \d+ floats, given 5",
        ),
        (
            Workspace(torch.zeros(999, dtype=torch.int64), torch.empty(1 << 20)),
            r"workspace: expected contiguous counters of torch.int32 on \w+.*, given torch.int64",
        ),
        (
            Workspace(torch.zeros(999, dtype=torch.int32), torch.empty(1 << 20, 2)[:, 0]),
            r"workspace: expected contiguous partials of torch.float32 .* strides \[2\]",
        ),
    ],
    ids=["counters", "partials", "dtype", "strides"],
)
def test_unfit_workspaces_are_refused(workspace: Workspace, message: str, device: str) -> None:
    inputs = testing.build(Case((20, 7)), device)
    there = Workspace(*(t if device == "cpu" else t.to(device) for t in (workspace.counters, workspace.partials)))
    with pytest.raises(ValueError, match=message):
        paged_decode_attention(*inputs.positional, workspace=there)


def test_a_workspace_elsewhere_is_refused(device: str) -> None:
    inputs = testing.build(Case((20, 7)), device)
    elsewhere = Workspace(torch.zeros(999, dtype=torch.int32, device="meta"), torch.empty(1 << 20, device="meta"))
    with pytest.raises(ValueError, match=r"workspace: expected contiguous counters .*, given torch.int32 on meta"):
        paged_decode_attention(*inputs.positional, workspace=elsewhere)


def test_a_workspace_serves_every_length(device: str) -> None:
    """With equal shares the scratch memory depends on the device, not on batch or context: one allocation a process."""
    needs = set()
    for seq_lens in ((1,), (100, 3), (40,) * 9):
        split = _ops._split(*op_arguments(testing.build(Case(seq_lens), device)))
        needs.add((split.num_slots, split.partial_floats))
    assert len(needs) == 1
