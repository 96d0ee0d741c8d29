"""The grid of models, contexts, pages, layouts and formats on a real device, in the tables' own configurations.

Everything here needs a GPU and is reported as skipped without one: the interpreter takes a minute for a thousand tokens.

What it costs is compilation, three to five seconds of a CPU for each kernel that differs; running a case takes milliseconds, its
inputs and its oracle some tenths of a second. The axes are therefore crossed where they meet in the code and not all with all:
`test_the_grid_stays_small` counts the cases. `pytest -n 8 tests/paged_decode/test_gpu_grid.py` shares them among processes.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
import torch

from hfmem_kernels import (
    allocate_workspace,
    layout,
    merge_attention,
    mla_decode_attention,
    paged_decode_attention,
    sparse_mla_decode_attention,
    testing,
)
from hfmem_kernels.cache_ops import write_kv, write_latent
from hfmem_kernels.layout import CacheSpec, LatentFormat, Layout
from hfmem_kernels.testing import Case

gpu = pytest.mark.gpu
#: the PTX machine takes hundredths of a second for a tile of keys
MOST_EXECUTED = 300
#: not "cuda" in the PTX machine (`ptx_device`), which runs compiled kernels on CPU tensors
DEVICE = "cpu" if os.environ.get("HFMEM_PTX") else "cuda"

LLAMA = Case((), num_heads=32, num_kv_heads=8, head_dim=128)
MODELS = {
    "llama_3_1_8b": LLAMA,
    "llama_70b_tp8": Case((), num_heads=8, num_kv_heads=1, head_dim=128),
    "qwen3_30b_a3b": Case((), num_heads=32, num_kv_heads=4, head_dim=128),
    "qwen2_7b": Case((), num_heads=28, num_kv_heads=4, head_dim=128),
    "llama_2_7b": Case((), num_heads=32, num_kv_heads=32, head_dim=128),
    "gemma_3_window": Case((), num_heads=16, num_kv_heads=8, head_dim=256, window=1024),
    "gpt_oss": Case((), num_heads=64, num_kv_heads=8, head_dim=64, window=128, sinks=True),
    "hybrid_page_528": Case((), num_heads=16, num_kv_heads=2, head_dim=256, page_size=528),
    "phi_3_mini": Case((), num_heads=32, num_kv_heads=32, head_dim=96),
    "mimo_v2": Case((), num_heads=64, num_kv_heads=4, head_dim=192, v_head_dim=128),
    "gemma_4_full": Case((), num_heads=16, num_kv_heads=1, head_dim=512),
    "bloom_alibi": Case((), num_heads=32, num_kv_heads=32, head_dim=128, alibi=True),
    "gemma_2_softcap": Case((), num_heads=8, num_kv_heads=4, head_dim=256, softcap=50.0),
}
SHORT = {"four_odd": (4097, 1, 523, 2011), "sixteen": tuple(101 * i for i in range(16))}
LONG = {"one_17k": (17000,), "ragged": (20000, *([700] * 15), 0, 0, 3)}
FORMATS = {
    "bf16": ("bfloat16", "none"),
    "e4m3_tensor": ("float8_e4m3fn", "tensor"),
    "e5m2_head": ("float8_e5m2", "head"),
    "int8_token": ("int8", "token"),
}
#: what is left of formats × scales
OTHER_FORMATS = [
    (dtype, scales)
    for dtype in ("float8_e4m3fn", "float8_e5m2", "int8")
    for scales in ("none", "tensor", "head", "token")
    if (dtype, scales) not in FORMATS.values()
]
PAGES = (1, 16, 64, 256, 528, 672, 1072)
#: (key, value) columns beyond the models'
DIMS = ((64, 64), (80, 80), (96, 96), (112, 112), (128, 64), (192, 192), (512, 512), (40, 72), (256, 128), (13, 5))
FEATURES = {
    "window": {"window": 100},
    "softcap": {"softcap": 5.0, "magnitude": 8.0},
    "sinks": {"sinks": True},
    "alibi": {"alibi": True},
    "everything": {"window": 100, "softcap": 5.0, "sinks": True, "alibi": True},
    "extreme_logits": {"magnitude": 1e3},
}


def check(case: Case) -> None:
    """out and lse within their bounds, from buffers and scratch memory full of NaN; zeros and -inf where nothing is seen."""
    if DEVICE == "cpu":
        case = replace(case, seq_lens=tuple(min(n, MOST_EXECUTED) for n in case.seq_lens))
    inputs = testing.build(case, DEVICE)
    arguments = dict(inputs.arguments)
    if case.q_lens:
        arguments["max_q_len"] = max(case.q_lens)
    q, v = inputs.q, inputs.cache.v
    out = torch.full((*q.shape[:-1], v.shape[-1]), float("nan"), dtype=q.dtype, device=DEVICE)
    lse = torch.full(q.shape[:-1], float("nan"), device=DEVICE)
    workspace = allocate_workspace(DEVICE)
    workspace.partials.fill_(float("nan"))
    paged_decode_attention(*inputs.positional, **arguments, out=out, lse=lse, return_lse=True, workspace=workspace)
    assert not workspace.counters.any(), "a launch leaves its counters as it found them"
    expected, expected_lse = testing.oracle(inputs)
    bound, lse_bound = testing.error_budget(inputs)
    assert bool(((out.double() - expected).abs() <= bound).all())
    empty = torch.isinf(expected_lse)
    assert torch.equal(torch.isinf(lse), empty) and not out[empty].any()
    assert bool(((lse.double() - expected_lse).abs()[~empty] <= lse_bound[~empty]).all())


@gpu
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lengths", SHORT)
@pytest.mark.parametrize("cache", ["bf16", "e4m3_tensor"])
def test_models(model: str, lengths: str, cache: str) -> None:
    dtype, scales = FORMATS[cache]
    check(replace(MODELS[model], seq_lens=SHORT[lengths], cache_dtype=dtype, scales=scales))


@gpu
@pytest.mark.parametrize("model", ["llama_3_1_8b", "llama_70b_tp8", "gemma_3_window"])
@pytest.mark.parametrize("lengths", LONG)
@pytest.mark.parametrize("cache", FORMATS)
def test_long_and_ragged(model: str, lengths: str, cache: str) -> None:
    dtype, scales = FORMATS[cache]
    check(replace(MODELS[model], seq_lens=LONG[lengths], cache_dtype=dtype, scales=scales))


@gpu
@pytest.mark.parametrize(("dtype", "scales"), OTHER_FORMATS)
def test_formats_and_scales(dtype: str, scales: str) -> None:
    check(replace(LLAMA, seq_lens=(700, 0, 33), cache_dtype=dtype, scales=scales))


@gpu
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("cache_dtype", [None, "float8_e4m3fn", "int8"])
def test_query_dtypes(dtype: str, cache_dtype: str | None) -> None:
    scales = "head" if cache_dtype else "none"
    check(replace(LLAMA, seq_lens=(700, 0, 33), dtype=dtype, cache_dtype=cache_dtype, scales=scales))


@gpu
@pytest.mark.parametrize("dims", DIMS, ids=lambda d: f"{d[0]}_{d[1]}")
@pytest.mark.parametrize("cache", ["bf16", "e4m3_tensor"])
def test_head_dims(dims: tuple[int, int], cache: str) -> None:
    dtype, scales = FORMATS[cache]
    case = Case((900, 0, 17), num_heads=8, num_kv_heads=2, head_dim=dims[0], v_head_dim=dims[1])
    check(replace(case, cache_dtype=dtype, scales=scales))


@gpu
@pytest.mark.parametrize("page_size", PAGES)
@pytest.mark.parametrize("order", Layout)
def test_pages_and_layouts(page_size: int, order: Layout) -> None:
    """Lengths around the pages' edges; table entries behind a sequence's end are -1, foreign slots NaN."""
    lengths = (3000, 17, 0, 1073, page_size, 2 * page_size + 1, max(1, page_size - 1))
    check(replace(LLAMA, seq_lens=lengths, page_size=page_size, cache_layout=order))


@gpu
@pytest.mark.parametrize(
    ("page_size", "order"), [(p, Layout.NHD) for p in PAGES] + [(16, o) for o in Layout if o is not Layout.NHD]
)
@pytest.mark.parametrize("cache", ["e4m3_tensor", "int8_token"])
def test_pages_and_layouts_of_8_bits(page_size: int, order: Layout, cache: str) -> None:
    dtype, scales = FORMATS[cache]
    case = replace(LLAMA, seq_lens=(3000, 17, 0, 1073), page_size=page_size, cache_layout=order)
    check(replace(case, cache_dtype=dtype, scales=scales))


@gpu
@pytest.mark.parametrize("q_len", [2, 3, 4, 8])
@pytest.mark.parametrize("model", MODELS)
def test_speculative_queries(q_len: int, model: str) -> None:
    check(replace(MODELS[model], seq_lens=(2049, 5, 300), q_len=q_len))


@gpu
@pytest.mark.parametrize("q_len", [2, 8])
@pytest.mark.parametrize("model", ["llama_3_1_8b", "gemma_3_window", "gpt_oss", "mimo_v2"])
def test_speculative_queries_in_fp8(q_len: int, model: str) -> None:
    check(replace(MODELS[model], seq_lens=(2049, 5, 300), q_len=q_len, cache_dtype="float8_e4m3fn", scales="tensor"))


@gpu
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("cache", FORMATS)
@pytest.mark.parametrize("ragged_queries", [False, True], ids=["even", "varlen"])
def test_features(feature: str, cache: str, ragged_queries: bool) -> None:
    """With q_len 3, or as many queries of each sequence as it likes, none included."""
    dtype, scales = FORMATS[cache]
    queries = {"q_lens": (2, 0, 8, 1)} if ragged_queries else {"q_len": 3}
    case = replace(LLAMA, seq_lens=(900, 0, 65, 128), cache_dtype=dtype, scales=scales)
    check(replace(case, **queries, **FEATURES[feature]))  # type: ignore[arg-type]


@gpu
@pytest.mark.parametrize("window", [1, 15, 16, 17, 64, 4096])
@pytest.mark.parametrize("q_len", [1, 4])
def test_windows_at_page_edges(window: int, q_len: int) -> None:
    """Pages that a window has left are -1 in the table and belong to others."""
    check(replace(LLAMA, seq_lens=(48, 64, 65, 1000, 16), window=window, q_len=q_len))


@gpu
@pytest.mark.parametrize("batch", [33, 200, 1500])
def test_batches_that_are_scanned_in_blocks(batch: int) -> None:
    check(Case(tuple((37 * b) % 90 for b in range(batch)), num_heads=4, num_kv_heads=1, head_dim=64))


def latent_inputs(heads: int, q_len: int, kind: str) -> tuple[torch.Tensor, ...]:
    """Queries, a cache whose foreign rows are NaN, page table, lengths."""
    lengths = (4097, 0, 63, 900) if DEVICE == "cuda" else (MOST_EXECUTED, 0, 63, 129)
    table = layout.page_table(list(lengths), 64, random.Random(0).sample(range(90), 90), DEVICE)
    latent_format = LatentFormat(kind) if kind.endswith(("_mla", "_v4")) else LatentFormat.PLAIN
    rank = 448 if latent_format is LatentFormat.FP8_V4 else 512
    dtype = "float8_e4m3fn" if kind == "e4m3" else "bfloat16"
    cache = layout.allocate_latent(90, 64, rank, 64, dtype, latent_format, DEVICE)
    cache.view(torch.uint8).fill_(0xFF)  # NaN in bf16, fp32 and e4m3
    slots = [int(table[b, t // 64]) * 64 + t % 64 for b, n in enumerate(lengths) for t in range(n)]
    latent, rope = torch.randn(len(slots), rank, device=DEVICE), torch.randn(len(slots), 64, device=DEVICE)
    scale = 0.02 if kind == "e4m3" else None
    write_latent(latent, rope, cache, torch.tensor(slots, device=DEVICE), cache_scale=scale)
    q = torch.randn(4, q_len, heads, rank + 64, device=DEVICE).to(torch.bfloat16) * 0.1
    return q, cache, table, torch.tensor(lengths, dtype=torch.int32, device=DEVICE)


@gpu
@pytest.mark.parametrize("heads", [16, 20, 128])
@pytest.mark.parametrize("q_len", [1, 2])
@pytest.mark.parametrize("kind", ["bf16", "e4m3", "fp8_ds_mla", "fp8_ds_mla_v4", "nvfp4_ds_mla"])
def test_latent(heads: int, q_len: int, kind: str) -> None:
    """All rows against the reference in fp32, which reads the very same bytes."""
    inputs = latent_inputs(heads, q_len, kind)
    options = {"scale": 192**-0.5, "cache_scale": 0.02 if kind == "e4m3" else None, "return_lse": True}
    out, lse = mla_decode_attention(*inputs, **options)  # type: ignore[arg-type]
    expected, expected_lse = mla_decode_attention(*inputs, **options, impl="reference")  # type: ignore[arg-type]
    torch.testing.assert_close(out.float(), expected.float(), rtol=2**-6, atol=2**-6 * float(expected.abs().max()))
    torch.testing.assert_close(lse, expected_lse, rtol=1e-3, atol=1e-3)
    assert not out[1].any() and bool((lse[1] == float("-inf")).all())


@gpu
@pytest.mark.parametrize("heads", [16, 128])
@pytest.mark.parametrize("kind", ["bf16", "e4m3", "fp8_ds_mla", "fp8_ds_mla_v4", "nvfp4_ds_mla"])
def test_lists_of_slots(heads: int, kind: str) -> None:
    """Some tokens of each sequence in any order with gaps between them, and sinks, against the reference in fp32."""
    q, cache, table, lengths = latent_inputs(heads, 1, kind)
    slots = torch.full((4, 600), -1, dtype=torch.int32)
    for b, length in enumerate(lengths.tolist()):
        for place, t in enumerate(random.Random(b).sample(range(length), min(length, 500))):
            slots[b, place + place // 8] = int(table[b, t // 64]) * 64 + t % 64
    counts = torch.tensor([600, 0, 300, 600], dtype=torch.int32, device=DEVICE)
    options = {"scale": 192**-0.5, "cache_scale": 0.02 if kind == "e4m3" else None, "return_lse": True}
    arguments = (q[:, 0], cache, slots.to(DEVICE), counts)
    options |= {"sinks": torch.linspace(-4, 4, heads, device=DEVICE)}
    out, lse = sparse_mla_decode_attention(*arguments, **options)  # type: ignore[arg-type]
    expected, expected_lse = sparse_mla_decode_attention(*arguments, **options, impl="reference")  # type: ignore[arg-type]
    torch.testing.assert_close(out.float(), expected.float(), rtol=2**-6, atol=2**-6 * float(expected.abs().max()))
    torch.testing.assert_close(lse, expected_lse, rtol=1e-3, atol=1e-3)


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


def test_the_grid_stays_small(request: pytest.FixtureRequest) -> None:
    """Runs anywhere. If every case were a kernel of its own: 400 · 4 s over eight processes are 200 s, within four minutes."""
    cases = sum("test_gpu_grid" in item.nodeid for item in request.session.items)
    assert 0 < cases <= 400
