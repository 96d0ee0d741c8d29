"""One truth: the caches that the kernels read take exactly the bytes that hfmem counts for the models' layers.

Allocated on PyTorch's meta device, so nothing is stored however large the cache.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hfmem.api.estimates import read_model  # noqa: E402
from hfmem.hub import FetchOptions  # noqa: E402
from hfmem.memory.cache import layer_bytes  # noqa: E402
from hfmem.memory.engines import engine  # noqa: E402
from hfmem.memory.serving import Serving  # noqa: E402
from hfmem.model.architecture import Architecture  # noqa: E402
from hfmem.model.layers import Cache, FullAttention, LatentAttention, SlidingAttention, SparseLatentAttention  # noqa: E402
from hfmem.plan.bench import bench_plan  # noqa: E402
from hfmem_kernels.layout import (  # noqa: E402
    CacheSpec,
    LatentFormat,
    Layout,
    allocate,
    allocate_latent,
    num_pages,
)

PAGE = 16
#: a multiple of the page, so that whole pages are what the model itself needs
CONTEXT = 4096

#: the cache format as hfmem names it → torch dtype, and whether a scale stands beside each token and head
FORMATS = {"bf16": ("bfloat16", False), "fp8": ("float8_e4m3fn", False), "int8": ("int8", True)}

#: one of each attention kind
MODELS = (
    "meta-llama/Meta-Llama-3-8B",  # GQA
    "meta-llama/Llama-2-7b-hf",  # MHA
    "google/gemma-2b",  # MQA, head_dim 256
    "mistralai/Mistral-7B-v0.1",  # a window in every layer
    "google/gemma-3-27b-it",  # five windowed layers to one full
    "openai/gpt-oss-20b",  # head_dim 64, alternating windows
)


def _architecture(name: str) -> Architecture:
    return read_model(name, fetch=FetchOptions(offline=True)).architecture


def _allocated(cache: Cache, dtype: str, scales: bool, layout: Layout) -> int:
    assert isinstance(cache, FullAttention | SlidingAttention)
    tokens = min(CONTEXT, cache.window) if isinstance(cache, SlidingAttention) else CONTEXT
    assert tokens % PAGE == 0
    spec = CacheSpec(cache.num_kv_heads, cache.head_dim, cache.v_head_dim, PAGE, dtype, layout, scales)
    return allocate(spec, num_pages(tokens, PAGE), "meta").allocated_bytes


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("kv_dtype", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_every_layer(name: str, kv_dtype: str, layout: Layout) -> None:
    dtype, scales = FORMATS[kv_dtype]
    arch = _architecture(name)
    kept = {cache for cache in arch.caches() if isinstance(cache, FullAttention | SlidingAttention)}
    assert kept
    for cache in kept:
        counted = layer_bytes(cache, CONTEXT, kv_dtype, arch.dtype)
        assert _allocated(cache, dtype, scales, layout) == counted


@pytest.mark.parametrize("name", MODELS[:3])
def test_a_whole_model_as_vllm_holds_it(name: str) -> None:
    arch = _architecture(name)
    layers = [cache for cache in arch.caches() if isinstance(cache, FullAttention)]
    allocated = sum(_allocated(cache, "bfloat16", False, Layout.PACKED) for cache in layers)
    assert allocated == engine("vllm").cache(arch, Serving(context=CONTEXT, kv_dtype="bf16")).bytes


@pytest.mark.parametrize("tp", [1, 8])
@pytest.mark.parametrize("name", MODELS)
def test_bench_plan_allocates_what_it_says(name: str, tp: int) -> None:
    arch = _architecture(name)
    if arch.num_attention_heads is None or arch.num_attention_heads % tp:
        pytest.skip(f"{arch.num_attention_heads} heads do not divide by {tp}")
    plan = bench_plan(arch, Serving(context=CONTEXT, num_seqs=3, tp=tp))
    for shape in plan.shapes:
        spec = CacheSpec(shape.num_kv_heads, shape.head_dim, shape.v_head_dim, plan.page_size, "bfloat16")
        assert allocate(spec, 3 * shape.pages, "meta").allocated_bytes == shape.cache_bytes


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-V2-Lite", "deepseek-ai/DeepSeek-V3"])
def test_latent_rows(name: str) -> None:
    arch = _architecture(name)
    caches = [cache for cache in arch.caches() if isinstance(cache, LatentAttention | SparseLatentAttention)]
    total = 0
    for cache in caches:
        rank, rope = cache.kv_lora_rank, cache.qk_rope_head_dim
        made = allocate_latent(CONTEXT // PAGE, PAGE, rank, rope, "bfloat16", LatentFormat.PLAIN, "meta")
        assert made.numel() * made.element_size() == layer_bytes(cache, CONTEXT, "bf16", arch.dtype)
        total += made.numel() * made.element_size()
    assert total == engine("ideal").cache(arch, Serving(context=CONTEXT, kv_dtype="bf16", engine="ideal")).bytes
