"""The bench plan: a model's layers as a decode kernel's shapes, by hand for one model of each kind."""

from __future__ import annotations

import pytest

from hfmem.api.estimates import read_model
from hfmem.errors import UnsupportedError
from hfmem.hub import FetchOptions
from hfmem.memory.engines import engine
from hfmem.memory.engines.vllm.compressed import v4_specs
from hfmem.memory.engines.vllm.specs import Kind
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    CompressedAttention,
    FullAttention,
    IndexedAttention,
    Layer,
    SharedCache,
    SparseLatentAttention,
)
from hfmem.plan.bench import Beside, bench_plan, beside_bytes, index_heads, read_bytes, sink_layers
from hfmem.plan.bench_shapes import AttentionShape
from hfmem.plan.traffic import cache_moved
from hfmem.records import replace


def _architecture(name: str) -> Architecture:
    return read_model(name, fetch=FetchOptions(offline=True)).architecture


def test_grouped_heads_over_ranks() -> None:
    """Llama-3-8B, 32 / 8 / 128: at TP 8 four query heads and one KV head a rank, at TP 16 the KV head is replicated."""
    arch = _architecture("meta-llama/Meta-Llama-3-8B")
    plan = bench_plan(arch, Serving(context=1000, num_seqs=3, tp=8))
    token = 2 * 1 * 128 * 2  # K and V, one head, 128 wide, bf16
    assert plan.shapes == (
        AttentionShape(
            "paged_decode", "full", 32, 32, 4, 1, 128, 128, None, 1000, 0, 16, 63, token, 3 * 63 * 16 * token
        ),
    )
    assert plan.cache_bytes == 32 * 3 * 63 * 16 * token
    assert bench_plan(arch, Serving(context=1000, num_seqs=3, tp=16)).shapes[0].num_kv_heads == 1
    with pytest.raises(UnsupportedError, match="32"):
        bench_plan(arch, Serving(context=1000, tp=3))


def test_windows_hold_their_window() -> None:
    """Gemma-3-27B: 62 layers, every sixth full: 10 full and 52 with a window of 1024; 32 / 16 / 128."""
    plan = bench_plan(_architecture("google/gemma-3-27b-it"), Serving(context=8192))
    found = {shape.window: (shape.count, shape.tokens, shape.num_heads, shape.num_kv_heads) for shape in plan.shapes}
    assert found == {1024: (52, 1024, 32, 16), None: (10, 8192, 32, 16)}


def test_latent_rows_are_whole_on_every_rank() -> None:
    """DeepSeek-V3: 61 layers of 576-wide rows, 128 heads: 16 a rank at TP 8, the row whole."""
    plan = bench_plan(_architecture("deepseek-ai/DeepSeek-V3"), Serving(context=4096, tp=8, kv_dtype="bf16"))
    assert plan.shapes == (
        AttentionShape(
            "mla_decode", "latent", 61, 61, 16, 1, 576, 512, None, 4096, 0, 16, 256, 576 * 2, 4096 * 576 * 2
        ),
    )


def test_hybrids_skip_their_recurrent_layers() -> None:
    """Qwen3-Next: 12 attention layers of 48, 16 / 2 / 256."""
    plan = bench_plan(_architecture("Qwen/Qwen3-Next-80B-A3B-Instruct"), Serving(context=1024, page_size=528))
    (shape,) = plan.shapes
    assert (shape.count, shape.num_heads, shape.num_kv_heads, shape.head_dim) == (12, 16, 2, 256)
    assert (plan.beside[0].layers, shape.pages, plan.page_size) == (36, 2, 528)
    assert shape.cache_bytes == 2 * 528 * 2 * 2 * 256 * 2


def test_nothing_to_bench() -> None:
    with pytest.raises(UnsupportedError, match="no attention cache"):
        bench_plan(_architecture("sentence-transformers/all-MiniLM-L6-v2"), Serving(context=128))


def test_an_indexer_picks_what_is_read() -> None:
    """DeepSeek-V3.2: 61 latent layers of which a step reads 2,048 tokens; the cache keeps all 5,000, in 79 pages of 64. The keys of
    all of them are compared with 64 queries."""
    arch = _architecture("deepseek-ai/DeepSeek-V3.2")
    plan = bench_plan(arch, Serving(context=5000, num_seqs=3, kv_dtype="bf16"))
    row, key = 576 * 2, 128 * 2
    keys, latents = plan.shapes
    assert latents == AttentionShape(
        "mla_decode", "latent", 61, 61, 128, 1, 576, 512, None, 2048, 1, 64, 79, row, 3 * 79 * 64 * row
    )
    assert keys == AttentionShape(
        "index_logits", "index keys", 61, 61, 64, 1, 128, 0, None, 5000, 0, 64, 79, key, 3 * 79 * 64 * key
    )
    assert plan.page_size == 64 and read_bytes(plan) == 61 * 3 * (2048 * row + 5000 * key)
    assert plan.beside == () and plan.layers == 61
    _, short = bench_plan(arch, Serving(context=1000, kv_dtype="bf16")).shapes
    assert short.tokens == 1000  # fewer than the indexer may pick: all of them


def test_index_heads_are_those_of_the_projection() -> None:
    """GLM-5: 78 layers with 32; DeepSeek V4 Flash: 64 in every second of 43 from the third. Without that tensor the keys are left
    out."""
    assert index_heads(_architecture("zai-org/GLM-5")) == dict.fromkeys(range(78), 32)
    flash = _architecture("deepseek-ai/DeepSeek-V4-Flash")
    assert index_heads(flash) == dict.fromkeys(range(2, 43, 2), 64)
    assert index_heads(_architecture("google/gemma-3-27b-it")) == {}
    unnamed = replace(flash, tensors=tuple(spec for spec in flash.tensors if "weights_proj" not in spec.pattern))
    plan = bench_plan(unnamed, Serving(context=4096, num_seqs=2, kv_dtype="bf16"))
    assert plan.beside == (Beside("index keys", 21, 21 * 2 * 1024 * 128 * 2),)
    assert not [shape for shape in plan.shapes if shape.op == "index_logits"]


def test_deepseek_v4() -> None:
    """V4 Flash at 10,000 tokens in bf16: 43 windows of 128 rows of 512 with sinks; 21 layers read 512 of the 2,500 rows that stand
    for 4 tokens, in pages of 64, by 2,500 keys; 20 all 78 rows that stand for 128, in pages of 2."""
    arch = _architecture("deepseek-ai/DeepSeek-V4-Flash")
    plan = bench_plan(arch, Serving(context=10_000, num_seqs=3, kv_dtype="bf16", tp=4))
    found = {s.kind: (s.count, s.num_heads, s.tokens, s.page_size, s.pages, s.cache_bytes) for s in plan.shapes}
    assert found == {
        "window rows": (43, 16, 128, 64, 2, 3 * 128 * 1024),
        "index keys": (21, 64, 2500, 64, 40, 3 * 40 * 64 * 256),
        "1 of 4": (21, 16, 512, 64, 40, 3 * 40 * 64 * 1024),
        "1 of 128": (20, 16, 78, 2, 39, 3 * 39 * 2 * 1024),
    }
    assert [s.kind for s in plan.shapes if s.merged] == ["1 of 4", "1 of 128"]
    assert [s.kind for s in plan.shapes if s.sinks] == ["window rows"] and plan.layers == 43 and plan.beside == ()
    assert read_bytes(plan) == 3 * ((43 * 128 + 21 * 512 + 20 * 78) * 1024 + 21 * 2500 * 256)
    early = bench_plan(arch, Serving(context=100, kv_dtype="bf16"))
    assert {s.kind: s.tokens for s in early.shapes} == {"window rows": 100, "index keys": 25, "1 of 4": 25}


def test_deepseek_v4_in_fp8_is_what_vllm_allocates() -> None:
    """At 25,600 tokens, whole pages of 256. Rows of 584 bytes and keys of 132, pages rounded up to 576 bytes: 64 · 584 to 65 times
    576, 64 · 132 to 15 times, 2 · 584 to 3 times. The specs of vLLM's layers say the same of a page, the window's of 64 tokens."""
    arch = _architecture("deepseek-ai/DeepSeek-V4-Flash")
    plan = bench_plan(arch, Serving(context=25_600, num_seqs=3, kv_dtype="fp8"))
    found = {s.kind: (s.token_bytes, s.cache_bytes) for s in plan.shapes}
    assert found == {
        "window rows": (584, 3 * 2 * 65 * 576),
        "index keys": (132, 3 * 100 * 15 * 576),
        "1 of 4": (584, 3 * 100 * 65 * 576),
        "1 of 128": (584, 3 * 100 * 3 * 576),
    }
    pages = {}
    for kind in arch.caches():
        assert isinstance(kind, CompressedAttention)
        for spec in v4_specs(kind, "fp8", 256):
            pages[spec.shape[0], kind.ratio, spec.kind is Kind.MLA] = spec.page_bytes
    assert pages["row", 4, True] == 65 * 576 and pages["index", 4, True] == 15 * 576
    assert pages["row", 128, True] == 3 * 576 and pages["row", 0, False] == 65 * 576


def test_picked_rows_in_fp8_carry_their_scales() -> None:
    """DeepSeek-V3.2 in fp8: FlashMLA's rows, 512 codes, a scale of 4 bytes for each 128 and 64 rotary columns in bf16; what the
    plan allocates is what vLLM's planner holds on Hopper, index keys of 128 bytes and a scale included."""
    arch = _architecture("deepseek-ai/DeepSeek-V3.2")
    row, key = 512 + 512 // 128 * 4 + 64 * 2, 128 + 4
    plan = bench_plan(arch, Serving(context=6400, num_seqs=3, kv_dtype="fp8"))
    assert (plan.page_size, plan.shapes[1].rows, plan.cache_bytes) == (64, "fp8_ds_mla", 61 * 3 * 6400 * (row + key))
    assert plan.shapes[0].rows == "fp8_index" and read_bytes(plan) == 61 * 3 * (2048 * row + 6400 * key)
    held = engine("vllm").cache(arch, Serving(context=6400, num_seqs=3, kv_dtype="fp8", compute_capability=90)).bytes
    assert held == plan.cache_bytes
    wide = bench_plan(arch, Serving(context=6400, kv_dtype="fp8_e5m2", page_size=16))
    assert (wide.page_size, wide.shapes[1].rows, wide.cache_bytes) == (16, "", 61 * 6400 * (576 + key))


def test_layers_that_reuse_a_choice_read_the_same() -> None:
    """One kind of read, whether the layer has an indexer of its own or not."""
    arch = _architecture("deepseek-ai/DeepSeek-V3.2")
    first, *rest = arch.layers
    (cache,) = first.caches
    assert isinstance(cache, SparseLatentAttention)
    reusing = replace(arch, layers=(replace(first, caches=(replace(cache, has_indexer=False),)), *rest))
    keys, latents = bench_plan(arch, Serving(context=5000)).shapes
    assert set(bench_plan(reusing, Serving(context=5000)).shapes) == {replace(keys, count=60, readers=60), latents}


def test_sinks_go_with_the_layers_that_have_them() -> None:
    """gpt-oss-20b: all 24 layers have sinks, every second one a window of 128; without the tensors of the full ones, 12."""
    arch = _architecture("openai/gpt-oss-20b")
    assert sink_layers(arch) == frozenset(range(24))
    found = {(s.window, s.count, s.sinks) for s in bench_plan(arch, Serving(context=4096)).shapes}
    assert found == {(128, 12, True), (None, 12, True)}
    windowed = [
        replace(spec, boxes=((range(0, 24, 2),),)) if spec.pattern.endswith(".sinks") else spec for spec in arch.tensors
    ]
    found = {
        (s.window, s.count, s.sinks)
        for s in bench_plan(replace(arch, tensors=tuple(windowed)), Serving(context=4096)).shapes
    }
    assert found == {(128, 12, True), (None, 12, False)}
    assert sink_layers(_architecture("google/gemma-3-27b-it")) == frozenset()


def test_layers_that_share_a_cache_read_it() -> None:
    """Gemma 3n E2B: 30 layers, every fifth full, 8 / 2 × 256, window 512. The last 10 keep nothing and read that of layer 18 (a
    window) or 19 (full): 16 caches and 8 readers more with a window, 4 and 2 without."""
    plan = bench_plan(_architecture("google/gemma-3n-E2B-it"), Serving(context=4096, num_seqs=2))
    token = 2 * 2 * 256 * 2
    found = {shape.kind: (shape.count, shape.readers, shape.cache_bytes) for shape in plan.shapes}
    assert found == {"window": (16, 24, 2 * 512 * token), "full": (4, 6, 2 * 4096 * token)}
    assert plan.cache_bytes == 2 * (16 * 512 + 4 * 4096) * token
    assert read_bytes(plan) == 2 * (24 * 512 + 6 * 4096) * token


def test_an_indexer_of_blocks() -> None:
    """MiniMax M3's sparse layers: 16 blocks of 128 tokens, all heads' keys and values; one key of 128 a token beside."""
    arch = _architecture("meta-llama/Meta-Llama-3-8B")
    picked = IndexedAttention(64, 4, 128, 128, 128, 16 * 128, 128)
    arch = replace(arch, layers=(Layer((picked,)), Layer((picked,))))
    plan = bench_plan(arch, Serving(context=10_000, num_seqs=3, page_size=16))
    row = 2 * 4 * 128 * 2
    assert plan.shapes == (
        AttentionShape(
            "paged_decode", "picked", 2, 2, 64, 4, 128, 128, None, 2048, 128, 16, 625, row, 3 * 10_000 * row
        ),
    )
    assert read_bytes(plan) == 2 * 3 * 2048 * row and plan.beside == (
        Beside("index keys", 2, 2 * 3 * 10_000 * 128 * 2),
    )
    unknown = replace(arch, layers=(Layer((replace(picked, index_topk=None),)),))
    plan = bench_plan(unknown, Serving(context=10_000))
    assert plan.shapes == () and [each.bytes for each in plan.beside] == [None, 10_000 * 128 * 2]


def test_rows_that_are_shared_without_their_window() -> None:
    """DeepSeek V4.1: a layer that shares the compressed rows of another has a window of its own, and does not read the other's."""
    arch = _architecture("meta-llama/Meta-Llama-3-8B")
    alone = CompressedAttention(16, 512, 128, 0)
    rows = CompressedAttention(16, 512, 128, 2, 128, keys_from_rows=True, index_topk=512)
    arch = replace(arch, layers=(Layer((rows,)), Layer((alone, SharedCache(0)))))
    plan = bench_plan(arch, Serving(context=4096, num_seqs=2))
    found = {shape.kind: (shape.count, shape.readers, shape.tokens) for shape in plan.shapes}
    assert found == {"window rows": (2, 2, 128), "1 of 2": (1, 2, 512)} and plan.layers == 2
    assert read_bytes(plan) == 2 * (128 + 512 + 128 + 512) * 512 * 2 and beside_bytes(plan, states=True) == 0
    assert plan.beside == (Beside("index keys", 1, 2 * 2048 * 128 * 2),)  # Llama's tensors have no indexer


def test_what_the_plan_reads_is_what_the_roofline_counts() -> None:
    """Two ways to the same bytes: the kernels' plan, and `cache_moved`, for models of each kind of cache at one rank."""
    for name in (
        "google/gemma-4-E2B-it", "google/gemma-3-27b-it", "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V3.2",
        "Qwen/Qwen3-Next-80B-A3B-Instruct", "ai21labs/AI21-Jamba-1.5-Mini", "google/flan-t5-large",
    ):  # fmt: skip
        arch = _architecture(name)
        serving = Serving(context=3000, num_seqs=5, engine="ideal", source_tokens=700)
        plan = bench_plan(arch, serving)
        told = read_bytes(plan) + beside_bytes(plan, states=False) + beside_bytes(plan, states=True)
        assert told == 5 * sum(cache_moved(arch, serving, plan.kv_dtype)), name


def test_kv_heads_that_no_rank_can_hold() -> None:
    arch = _architecture("meta-llama/Meta-Llama-3-8B")
    with pytest.raises(UnsupportedError, match="12 KV heads do not divide by 8 ranks"):
        odd = FullAttention(48, 12, 128, 128)
        bench_plan(replace(arch, layers=(Layer((odd,)),)), Serving(context=100, tp=8))
