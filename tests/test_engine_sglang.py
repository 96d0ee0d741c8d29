"""SGLang's pools: sizes that its logs print, and its own split worked out by hand."""

from __future__ import annotations

import pytest
from example_architectures import (
    build,
    deepseek_v3,
    deepseek_v4_flash,
    deepseek_v32,
    gemma_3_27b,
    llama_3_8b,
    one,
    qwen3_next,
    whisper_large_v3,
)

from hfmem.errors import UnsupportedError
from hfmem.memory.engines import engine, pooling_engine
from hfmem.memory.result import Pool
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import FullAttention
from hfmem.units import GIB

sglang = engine("sglang")


def pool(arch: Architecture, memory: int, context: int = 4096, tp: int = 1) -> Pool:
    rules = pooling_engine("sglang")
    assert rules is not None
    return rules.pool(arch, Serving(context, tp=tp, engine="sglang"), memory)


def test_logged_pools() -> None:
    # "KV Cache is allocated. #tokens: 367404, K size: 8.23 GB, V size: 8.23 GB": Qwen3-235B-A22B on four GPUs
    qwen = build("qwen3_moe", one(FullAttention(64, 4, 128, 128), 94), heads=64)
    cell = 94 * 2 * 128 * 2
    found = pool(qwen, 367_404 * cell + 1000, tp=4)
    assert found.log_lines[0] == "KV Cache is allocated. #tokens: 367404, K size: 8.23 GB, V size: 8.23 GB"
    # "KV Cache is allocated. #tokens: 46611, K size: 1.42 GB, V size: 1.42 GB": a 32B Qwen2 on four GPUs
    dense = build("qwen2", one(FullAttention(40, 8, 128, 128), 64), heads=40)
    assert pool(dense, 46_611 * 64 * 2 * 2 * 128 * 2, tp=4).log_lines[0].endswith("K size: 1.42 GB, V size: 1.42 GB")


def test_dense_and_latent_tokens() -> None:
    assert sglang.cache(llama_3_8b(), Serving(1001, 3)).bytes == 3 * 1001 * 131_072
    assert sglang.cache(deepseek_v3(), Serving(1001)).bytes == 1001 * 70_272
    assert sglang.cache(deepseek_v3(), Serving(1001, tp=8)).bytes_per_rank == 1001 * 70_272
    assert sglang.cache(llama_3_8b(), Serving(1001, tp=8)).bytes_per_rank == 1001 * 131_072 // 8
    assert sglang.cache(llama_3_8b(), Serving(1001, kv_dtype="fp8")).bytes == 1001 * 65_536
    assert sglang.cache(llama_3_8b(), Serving(1001, page_size=64)).bytes == 1024 * 131_072


def test_sparse_latents_are_paged_and_packed() -> None:
    assert sglang.cache(deepseek_v32(), Serving(65)).bytes == 128 * 61 * (1152 + 132)
    assert sglang.cache(deepseek_v32(), Serving(64, kv_dtype="fp8")).bytes == 64 * 61 * (656 + 132)


def test_windowed_pool_at_worst() -> None:
    # a window, 128 steps until eviction and two pages of one token a request; two chunks of 8192 and a page for all
    tokens = 1024 + 128 + 2 + 2 * 8192 + 1
    assert sglang.cache(gemma_3_27b(), Serving(131072)).bytes == 8192 * (10 * 131072 + 52 * tokens)
    four = 4 * (1024 + 128 + 2) + 2 * 8192 + 1
    assert sglang.cache(gemma_3_27b(), Serving(131072, 4)).bytes == 8192 * (10 * 4 * 131072 + 52 * four)
    assert sglang.cache(gemma_3_27b(), Serving(1000)).bytes == 8192 * 62 * 1000


def test_states_have_spare_slots_and_fp32() -> None:
    state = 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 4)
    result = sglang.cache(qwen3_next(), Serving(1000, 2))
    assert result.bytes == 2 * 1000 * 24_576 + (3 * 2 + 1) * state
    assert result.state_bytes_per_seq == state


def test_pool_divides_states_from_tokens() -> None:
    memory = 20 * GIB
    state = 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 4)
    slots = int(memory * 0.9 / 1.9 - state) // state
    found = pool(qwen3_next(), memory, 8192)
    assert found.capacity_tokens == (memory - (slots + 1) * state) // 24_576
    assert found.max_concurrency == min(slots // 3, found.capacity_tokens / 8192)


def test_pool_divides_windowed_from_full() -> None:
    found = pool(gemma_3_27b(), 40 * GIB, 32768)
    assert found.capacity_tokens == int(40 * GIB // (8192 * (10 + 0.8 * 52)))
    assert found.max_concurrency == found.capacity_tokens / 32768


def test_pool_too_small() -> None:
    with pytest.raises(UnsupportedError, match="hold not one sequence"):
        pool(llama_3_8b(), GIB, 131072)


@pytest.mark.parametrize("fmt", ["int8", "int4", "q8_0"])
def test_formats_it_has_not(fmt: str) -> None:
    with pytest.raises(UnsupportedError, match=fmt):
        sglang.cache(llama_3_8b(), Serving(10, kv_dtype=fmt))


@pytest.mark.parametrize("arch", [whisper_large_v3(), deepseek_v4_flash()], ids=lambda arch: arch.family)
def test_models_not_known(arch: Architecture) -> None:
    with pytest.raises(UnsupportedError):
        sglang.cache(arch, Serving(10))


def test_pipeline_stages_and_replicas() -> None:
    assert sglang.cache(llama_3_8b(), Serving(1000, pp=3)).bytes_per_rank == 11 * 4096 * 1000
    result = sglang.cache(llama_3_8b(), Serving(1000, 4, dp=2))
    assert (result.bytes, result.bytes_per_rank) == (4 * 131_072_000, 2 * 131_072_000)
