"""The grid of models, contexts, pages, layouts and formats on a real device, in the tables' own configurations.

Everything here needs a GPU and is reported as skipped without one: the interpreter takes a minute for a thousand tokens.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from hfmem_kernels import allocate_workspace, layout, mla_decode_attention, paged_decode_attention, testing
from hfmem_kernels.cache_ops import write_latent
from hfmem_kernels.layout import LatentFormat, Layout
from hfmem_kernels.testing import Case

pytestmark = pytest.mark.gpu

MODELS = {
    "llama_3_1_8b": Case((), num_heads=32, num_kv_heads=8, head_dim=128),
    "llama_70b_tp8": Case((), num_heads=8, num_kv_heads=1, head_dim=128),
    "qwen3_30b_a3b": Case((), num_heads=32, num_kv_heads=4, head_dim=128),
    "qwen2_7b": Case((), num_heads=28, num_kv_heads=4, head_dim=128),
    "llama_2_7b": Case((), num_heads=32, num_kv_heads=32, head_dim=128),
    "gemma_3_window": Case((), num_heads=16, num_kv_heads=8, head_dim=256, window=1024),
    "gpt_oss": Case((), num_heads=64, num_kv_heads=8, head_dim=64, window=128, sinks=True),
    "hybrid_page_528": Case((), num_heads=16, num_kv_heads=2, head_dim=256, page_size=528),
    "phi_3_mini": Case((), num_heads=32, num_kv_heads=32, head_dim=96),
    "gemma_4_full": Case((), num_heads=16, num_kv_heads=1, head_dim=512),
    "bloom_alibi": Case((), num_heads=32, num_kv_heads=32, head_dim=128, alibi=True),
    "gemma_2_softcap": Case((), num_heads=8, num_kv_heads=4, head_dim=256, softcap=50.0),
}
LENGTHS = {
    "one_1k": (1024,),
    "one_17k": (17000,),
    "four_odd": (4097, 1, 523, 2011),
    "sixteen": tuple(100 * i + i for i in range(16)),
    "ragged": (20000, *([700] * 15), 0, 0, 3),
}
FORMATS = {
    "bf16": ("bfloat16", "none"),
    "e4m3_tensor": ("float8_e4m3fn", "tensor"),
    "e5m2_head": ("float8_e5m2", "head"),
    "int8_token": ("int8", "token"),
}


def check(case: Case) -> None:
    inputs = testing.build(case, "cuda")
    arguments = dict(inputs.arguments)
    out, lse = paged_decode_attention(*inputs.positional, **arguments, return_lse=True)
    expected, expected_lse = testing.oracle(inputs)
    bound, lse_bound = testing.error_budget(inputs)
    assert bool(((out.double() - expected).abs() <= bound).all())
    seen = torch.isfinite(expected_lse)
    assert bool(((lse.double() - expected_lse).abs()[seen] <= lse_bound[seen]).all())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("cache", FORMATS)
def test_models(model: str, lengths: str, cache: str) -> None:
    dtype, scales = FORMATS[cache]
    check(replace(MODELS[model], seq_lens=LENGTHS[lengths], cache_dtype=dtype, scales=scales))


@pytest.mark.parametrize("page_size", [1, 16, 64, 256, 528, 672, 1072])
@pytest.mark.parametrize("order", Layout)
@pytest.mark.parametrize("cache", FORMATS)
def test_pages_and_layouts(page_size: int, order: Layout, cache: str) -> None:
    dtype, scales = FORMATS[cache]
    case = replace(MODELS["llama_3_1_8b"], seq_lens=(3000, 17, 0, 1073), page_size=page_size, cache_layout=order)
    check(replace(case, cache_dtype=dtype, scales=scales))


@pytest.mark.parametrize("q_len", [2, 4, 8])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("cache", ["bf16", "e4m3_tensor"])
def test_speculative_queries(q_len: int, model: str, cache: str) -> None:
    dtype, scales = FORMATS[cache]
    check(replace(MODELS[model], seq_lens=(2049, 5, 300), q_len=q_len, cache_dtype=dtype, scales=scales))


@pytest.mark.parametrize("heads", [16, 128])
@pytest.mark.parametrize("latent_format", LatentFormat)
def test_latent(heads: int, latent_format: LatentFormat) -> None:
    lengths = (4097, 0, 63, 900)
    table = layout.page_table(list(lengths), 64, random.Random(0).sample(range(90), 90), "cuda")
    cache = layout.allocate_latent(90, 64, 512, 64, "bfloat16", latent_format, "cuda")
    slots = [int(table[b, t // 64]) * 64 + t % 64 for b, n in enumerate(lengths) for t in range(n)]
    latent, rope = torch.randn(len(slots), 512, device="cuda"), torch.randn(len(slots), 64, device="cuda")
    write_latent(latent, rope, cache, torch.tensor(slots, device="cuda"))
    q = torch.randn(4, heads, 576, device="cuda").to(torch.bfloat16) * 0.1
    seq_lens = torch.tensor(lengths, dtype=torch.int32, device="cuda")
    out = mla_decode_attention(q, cache, table, seq_lens, scale=192**-0.5)
    expected = mla_decode_attention(q, cache, table, seq_lens, scale=192**-0.5, impl="reference")
    assert isinstance(out, torch.Tensor) and isinstance(expected, torch.Tensor)
    torch.testing.assert_close(out.float(), expected.float(), rtol=2**-6, atol=2**-6 * float(expected.abs().max()))


def test_repeats_are_bitwise_equal() -> None:
    """The last program to arrive differs from run to run; the result must not."""
    inputs = testing.build(replace(MODELS["llama_70b_tp8"], seq_lens=(17000, 40)), "cuda")
    workspace = allocate_workspace("cuda")
    first = paged_decode_attention(*inputs.positional, workspace=workspace)
    for _ in range(50):
        again = paged_decode_attention(*inputs.positional, workspace=workspace)
        assert isinstance(first, torch.Tensor) and isinstance(again, torch.Tensor) and torch.equal(again, first)


def test_captured_graph_follows_the_lengths() -> None:
    """A graph captured with short sequences serves long ones: nothing about the lengths was decided by the host."""
    inputs = testing.build(replace(MODELS["llama_3_1_8b"], seq_lens=(9000, 5000)), "cuda")
    lengths = inputs.seq_lens.clone()
    workspace, out = allocate_workspace("cuda"), torch.empty_like(inputs.q)
    inputs.seq_lens.fill_(1)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        paged_decode_attention(*inputs.positional, out=out, workspace=workspace)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    before = torch.cuda.memory_allocated()
    with torch.cuda.graph(graph, stream=stream):
        paged_decode_attention(*inputs.positional, out=out, workspace=workspace)
    assert torch.cuda.memory_allocated() == before, "a call with out and workspace allocates nothing"
    inputs.seq_lens.copy_(lengths)
    graph.replay()
    torch.cuda.synchronize()
    expected, _ = testing.oracle(inputs)
    assert bool(((out.double() - expected).abs() <= testing.error_budget(inputs)[0]).all())


def test_cache_beyond_32_bits() -> None:
    """9 GiB of cache: the last pages lie more than 2^32 elements behind the first."""
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free device memory")
    inputs = testing.build(replace(MODELS["llama_3_1_8b"], seq_lens=(100,), page_size=16), "cuda", spare_pages=0)
    pages = (9 << 30) // (16 * 8 * 128 * 2)
    k = torch.empty(pages, 16, 8, 128, dtype=torch.bfloat16, device="cuda")
    v = torch.empty_like(k)
    used = inputs.cache.k.shape[0]
    k[-used:], v[-used:] = inputs.cache.k, inputs.cache.v
    table = torch.where(inputs.page_table >= 0, inputs.page_table + pages - used, -1).to(torch.int32)
    far = paged_decode_attention(inputs.q, k, v, table, inputs.seq_lens)
    near = paged_decode_attention(*inputs.positional)
    assert isinstance(far, torch.Tensor) and isinstance(near, torch.Tensor) and torch.equal(far, near)
