"""vLLM's pool: pages from its memory, groups of layers, and what devices decide, against its own functions and logs."""

from __future__ import annotations

import pytest
from example_architectures import (
    build,
    deepseek_v3,
    gemma_3_27b,
    llama_3_8b,
    one,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_requests import vllm

from hfmem.errors import UnsupportedError
from hfmem.memory.engines import engine, pooling_engine
from hfmem.memory.engines.vllm import layout, max_model_len
from hfmem.memory.engines.vllm.groups import _approximate_gcd
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    DeltaNetState,
    FullAttention,
    Layer,
    SlidingAttention,
)
from hfmem.units import GIB


def test_unequal_pages_are_made_equal() -> None:
    # Gemma 4 26B: 25 sliding layers of 8 × 256, 5 full ones of 2 × 512, whose page of 16 tokens is half as large
    layers = [
        Layer((FullAttention(16, 2, 512, 512) if i % 6 == 5 else SlidingAttention(16, 8, 256, 256, 1024),))
        for i in range(30)
    ]
    found = layout(build("gemma4", layers, heads=16, kv_heads=8), Serving(131072))
    assert max(found.stage_block_bytes) == 655_360
    assert sorted({member.spec.block_size for group in found.groups for member in group.members}) == [16, 32]


def test_pages_that_do_not_divide_are_padded() -> None:
    layers = [Layer((FullAttention(8, 3, 64, 64) if i % 2 else SlidingAttention(8, 2, 64, 64, 128),)) for i in range(4)]
    found = layout(build("any", layers), Serving(1000))
    assert {member.spec.page_bytes for group in found.groups for member in group.members} == {16 * 3 * 128 * 2}


def test_groups_of_equal_length_or_one_more() -> None:
    def lengths(sliding: int, full: int) -> list[int]:
        layers = one(SlidingAttention(8, 8, 64, 64, 128), sliding) + one(FullAttention(8, 8, 64, 64), full)
        return [len(group.members) for group in layout(build("any", layers), Serving(1000)).groups]

    assert lengths(52, 10) == [9, 9, 9, 9, 8, 8, 10]
    assert lengths(12, 13) == [12, 13]  # less than half as many again: padded to the longer
    assert lengths(20, 30) == [20, 15, 15]


def test_approximate_gcd() -> None:
    assert _approximate_gcd([43, 21, 20], 21) == 22
    assert _approximate_gcd([10, 20, 30], 1) == 10
    assert _approximate_gcd([7, 7], 1) == 7  # the largest value itself, which pads nothing


def test_pool_is_logged_as_vllm_logs_it() -> None:
    pooling = pooling_engine("vllm")
    assert pooling is not None
    # 20 GiB over 2 MiB a page: 10,240 pages; 512 pages a request of 8192 tokens
    dense = pooling.pool(llama_3_8b(), Serving(8192), 20 * GIB)
    assert (dense.page_size, dense.page_bytes, dense.num_pages) == (16, 2_097_152, 10_240)
    assert (dense.max_concurrency, dense.capacity_tokens) == (20.0, 163_840)
    assert dense.log_lines == (
        "GPU KV cache size: 163,840 tokens, Maximum concurrency for 8,192 tokens per request: 20.00x",
    )
    # 40 GiB // 1,310,720 B: 32,768 pages; 14,726 a request of 131,072 tokens
    hybrid = pooling.pool(gemma_3_27b(), Serving(131072), 40 * GIB)
    assert hybrid.num_pages == 32_768
    assert hybrid.capacity_tokens == int(32_768 / 14_726 * 131_072)
    assert hybrid.log_lines[0].endswith("131,072 tokens per request: 2.23x")


def test_a_logged_hybrid_pool() -> None:
    # vLLM 0.24 on an RTX 5090, Qwen3.6-35B-A3B, fp8 cache: "Available KV cache memory: 5.98 GiB", "GPU KV cache size: 567,978
    # tokens", "4.33x"; its delta net exports no checkpoint, as on devices before Hopper today
    linear, full = DeltaNetState(16, 32, 128, 128, 4, "F32"), FullAttention(16, 2, 256, 256)
    arch = build("qwen3_5_moe", [Layer((full if i % 4 == 3 else linear,)) for i in range(40)], heads=16, kv_heads=2)
    pooling = pooling_engine("vllm")
    assert pooling is not None
    found = pooling.pool(arch, Serving(131072, kv_dtype="fp8", compute_capability=89), int(5.98 * GIB))
    assert found.log_lines == (
        "GPU KV cache size: 567,978 tokens, Maximum concurrency for 131,072 tokens per request: 4.33x",
    )


def test_devices_decide_pages() -> None:
    def page(capability: int, kv_dtype: str = "auto") -> int | None:
        return vllm.cache(deepseek_v3(), Serving(100, kv_dtype=kv_dtype, compute_capability=capability)).page_size

    assert [page(c) for c in (80, 90, 100, 120)] == [16, 16, 32, 16]
    assert [page(c, "fp8") for c in (89, 90, 100)] == [16, 64, 32]


def test_pool_too_small_for_one_request() -> None:
    pooling = pooling_engine("vllm")
    assert pooling is not None
    page = 2_097_152
    # one page stays empty: 513 pages serve 512 pages' worth of tokens, 512 do not
    assert pooling.pool(llama_3_8b(), Serving(8192), 513 * page).num_pages == 513
    with pytest.raises(UnsupportedError, match="longest that fits is 8176"):
        pooling.pool(llama_3_8b(), Serving(8192), 512 * page)
    assert max_model_len(llama_3_8b(), Serving(8192), page) == 0
    with pytest.raises(UnsupportedError, match="makes no pool"):
        pooling.pool(build("bert", []), Serving(512), GIB)


def test_batched_tokens_by_device() -> None:
    assert Release().max_num_batched_tokens(192 * GIB) == 16384
    assert Release().max_num_batched_tokens(80 * GIB, "NVIDIA H100 80GB HBM3") == 8192
    assert Release().max_num_batched_tokens(80 * GIB, "NVIDIA A100-SXM4-80GB") == 2048
    assert Release().max_num_batched_tokens(24 * GIB) == 2048


hybrids = st.builds(
    lambda sliding, full, heads, window: build(
        "any",
        one(SlidingAttention(8, heads, 64, 64, window), sliding) + one(FullAttention(8, 8, 64, 64), full),
    ),
    st.integers(0, 9),
    st.integers(1, 9),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 5000),
)


@settings(deadline=None)
@given(hybrids, st.integers(1, 1 << 18), st.integers(0, 4096))
def test_requests_never_shrink_with_context(arch: Architecture, context: int, more: int) -> None:
    small, large = (vllm.cache(arch, Serving(n)) for n in (context, context + more))
    assert small.bytes <= large.bytes
    assert vllm.cache(arch, Serving(context, 2)).bytes == 2 * small.bytes
    assert small.bytes >= engine("ideal").cache(arch, Serving(context)).bytes


@settings(deadline=None)
@given(hybrids, st.integers(1, 40_000), st.integers(1, 400))
def test_longest_context_fits_and_one_more_does_not(arch: Architecture, limit: int, blocks: int) -> None:
    serving = Serving(limit)
    found = layout(arch, serving)
    memory = (blocks + 1) * max(found.stage_block_bytes)
    longest = max_model_len(arch, serving, memory)
    if longest:
        assert layout(arch, Serving(longest)).request_blocks <= blocks
    if longest < limit:
        assert layout(arch, Serving(longest + 1)).request_blocks > blocks
