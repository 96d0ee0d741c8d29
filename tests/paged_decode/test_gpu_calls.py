"""Calls as a whole on a real device: writers, repeats, captured graphs, waiting, allocation, far caches (`test_gpu_grid`)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from gpu_cases import DEVICE, FORMATS, LLAMA, MODELS, gpu

from hfmem_kernels import allocate_workspace, layout, merge_attention, paged_decode_attention, testing
from hfmem_kernels.cache_ops import write_kv
from hfmem_kernels.layout import CacheSpec


@gpu
def test_a_cascade_is_the_whole() -> None:
    """A prefix and the rest, merged: fp32 throughout, so that only the order of sums differs."""
    inputs = testing.build(replace(LLAMA, seq_lens=(5000, 1700), dtype="float32"), DEVICE)
    whole, lse = paged_decode_attention(*inputs.positional, return_lse=True)
    head = (*inputs.positional[:4], torch.full_like(inputs.seq_lens, 1024))
    tail = (*inputs.positional[:3], inputs.page_table[:, 64:].contiguous(), inputs.seq_lens - 1024)
    parts = [paged_decode_attention(*part, return_lse=True) for part in (head, tail)]
    merged, merged_lse = merge_attention(torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]))
    torch.testing.assert_close(merged, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged_lse, lse, rtol=1e-6, atol=1e-6)


@gpu
@pytest.mark.parametrize(("dtype", "scales"), [("bfloat16", "none"), ("float8_e4m3fn", "token"), ("int8", "token")])
def test_a_cache_that_the_writer_filled(dtype: str, scales: str) -> None:
    """write_kv in two steps, then decode: against attention over the dequantized cache."""
    spec = CacheSpec(8, 128, 128, 16, dtype, token_scales=scales == "token")
    cache = layout.allocate(spec, 80, DEVICE)
    table = layout.page_table([1000, 200], 16, random.Random(1).sample(range(80), 80), DEVICE)
    for b, length in enumerate((1000, 200)):
        for first, stop in ((0, length - 1), (length - 1, length)):
            slots = torch.tensor([int(table[b, t // 16]) * 16 + t % 16 for t in range(first, stop)], device=DEVICE)
            k, v = torch.randn(2, stop - first, 8, 128, device=DEVICE).unbind()
            write_kv(k, v, cache.k, cache.v, slots, k_scale=cache.k_scale, v_scale=cache.v_scale)
    q = torch.randn(2, 32, 128, device=DEVICE).to(torch.bfloat16)
    lengths = torch.tensor([1000, 200], dtype=torch.int32, device=DEVICE)
    arguments = (q, cache.k, cache.v, table, lengths)
    scales_given = {"k_scale": cache.k_scale, "v_scale": cache.v_scale}
    out = paged_decode_attention(*arguments, **scales_given)  # type: ignore[arg-type]
    expected = paged_decode_attention(*arguments, **scales_given, impl="reference")  # type: ignore[arg-type]
    assert isinstance(out, torch.Tensor) and isinstance(expected, torch.Tensor)
    torch.testing.assert_close(out.float(), expected.float(), rtol=2**-6, atol=2**-6 * float(expected.abs().max()))


@gpu
@pytest.mark.parametrize("model", ["llama_70b_tp8", "gpt_oss"])
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_repeats_are_bitwise_equal(model: str, batch_invariant: bool) -> None:
    """The last program to arrive differs from run to run; the result must not. Fixed splits need more scratch memory."""
    inputs = testing.build(replace(MODELS[model], seq_lens=(17000, 40)), DEVICE)
    workspace = None if batch_invariant else allocate_workspace(DEVICE)
    arguments = inputs.arguments | {"workspace": workspace, "batch_invariant": batch_invariant}
    first = paged_decode_attention(*inputs.positional, **arguments)
    for _ in range(50):
        again = paged_decode_attention(*inputs.positional, **arguments)
        assert isinstance(first, torch.Tensor) and isinstance(again, torch.Tensor) and torch.equal(again, first)


@gpu
@pytest.mark.parametrize("cache", ["bf16", "e4m3_tensor"])
def test_batch_invariant_rows(cache: str) -> None:
    """A sequence's result is bitwise the same alone and among others, wherever it stands."""
    dtype, scales = FORMATS[cache]
    inputs = testing.build(replace(LLAMA, seq_lens=(9000, 3, 2048, 700), cache_dtype=dtype, scales=scales), DEVICE)
    q, k, v, table, lengths = inputs.positional
    arguments = inputs.arguments | {"batch_invariant": True}
    together = paged_decode_attention(*inputs.positional, **arguments)
    for chosen in ([0], [2, 0], [3, 1, 2]):
        some = paged_decode_attention(q[chosen], k, v, table[chosen], lengths[chosen], **arguments)
        assert isinstance(some, torch.Tensor) and isinstance(together, torch.Tensor)
        assert torch.equal(some, together[chosen])


@gpu
@pytest.mark.cuda_runtime
def test_captured_graph_follows_the_lengths() -> None:
    """A graph captured with short sequences serves long ones: nothing about the lengths was decided by the host."""
    inputs = testing.build(replace(LLAMA, seq_lens=(9000, 5000)), DEVICE)
    lengths = inputs.seq_lens.clone()
    workspace, out = allocate_workspace(DEVICE), torch.empty_like(inputs.q)
    inputs.seq_lens.fill_(1)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        paged_decode_attention(*inputs.positional, out=out, workspace=workspace)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        # not before: a capture seems to allocate a kibibyte for itself
        before = torch.cuda.memory_allocated()
        paged_decode_attention(*inputs.positional, out=out, workspace=workspace)
        assert torch.cuda.memory_allocated() == before, "a call with out and workspace allocates nothing"
    inputs.seq_lens.copy_(lengths)
    graph.replay()
    torch.cuda.synchronize()
    expected, _ = testing.oracle(inputs)
    assert bool(((out.double() - expected).abs() <= testing.error_budget(inputs)[0]).all())


@gpu
@pytest.mark.cuda_runtime
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_call_neither_waits_nor_allocates() -> None:
    """PyTorch raises where something waits for the device; the allocator's count of requests stays as it was."""
    inputs = testing.build(replace(LLAMA, seq_lens=(900, 50)), DEVICE)
    q = inputs.q
    buffers = {"out": torch.empty_like(q), "lse": torch.empty(q.shape[:-1], device=DEVICE), "return_lse": True}
    workspace = allocate_workspace(DEVICE)
    paged_decode_attention(*inputs.positional, **buffers, workspace=workspace)  # type: ignore[arg-type]
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        paged_decode_attention(*inputs.positional, **buffers, workspace=workspace)  # type: ignore[arg-type]
        paged_decode_attention(*inputs.positional)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    paged_decode_attention(*inputs.positional, **buffers, workspace=workspace)  # type: ignore[arg-type]
    after = torch.cuda.memory_stats()["allocation.all.allocated"]
    assert after - before <= 4, "only the call without buffers allocates: out, counters, partials and an empty lse"


@gpu
@pytest.mark.cuda_runtime
@pytest.mark.parametrize(
    ("dtype", "padding"), [("bfloat16", 0), ("float8_e4m3fn", 0), ("bfloat16", 1)], ids=["bf16", "e4m3", "odd_rows"]
)
def test_cache_beyond_32_bits(dtype: str, padding: int) -> None:
    """The last pages lie more than 2^32 bytes behind the first; with rows of 129 elements, counted one by one, more than 2^31 rows'
    units too, where the kernel's own offsets need 64 bits.
    """
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free device memory")
    scales = "none" if dtype == "bfloat16" else "tensor"
    case = replace(LLAMA, seq_lens=(100,), page_size=16, cache_dtype=dtype, scales=scales)
    inputs = testing.build(case, DEVICE, spare_pages=0)
    pages = (9 << 30) // (16 * 8 * 128 * 2)
    used = inputs.cache.k.shape[0]

    def cache(pages: int, rows: torch.Tensor) -> torch.Tensor:
        made = torch.empty(pages, 16, 8, 128 + padding, dtype=rows.dtype, device=DEVICE)[..., :128]
        made[-used:] = rows
        return made

    k, v, near_k, near_v = (cache(n, rows) for n in (pages, used) for rows in (inputs.cache.k, inputs.cache.v))
    table = torch.where(inputs.page_table >= 0, inputs.page_table + pages - used, -1).to(torch.int32)
    far = paged_decode_attention(inputs.q, k, v, table, inputs.seq_lens, **inputs.arguments)
    near = paged_decode_attention(inputs.q, near_k, near_v, inputs.page_table, inputs.seq_lens, **inputs.arguments)
    assert isinstance(far, torch.Tensor) and isinstance(near, torch.Tensor) and torch.equal(far, near)
