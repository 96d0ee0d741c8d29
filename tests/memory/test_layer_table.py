"""The table by layer: runs in order, merged rows, and sums that agree with the engines' own totals."""

from __future__ import annotations

from dataclasses import replace

import pytest
from example_architectures import (
    build,
    deepseek_v3,
    deepseek_v32,
    falcon_40b,
    gemma_3_27b,
    lfm2,
    llama_3_8b,
    llama_4_scout,
    nemotron_3_nano,
    qwen3_next,
    whisper_large_v3,
)

from hfmem.memory.engines import engine
from hfmem.memory.layer_table import kind_of, layer_runs, merged
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    Layer,
    Mamba2State,
    NoCache,
    SharedCache,
    ShortConvState,
    SlidingAttention,
    SparseLatentAttention,
)

MODELS = [
    llama_3_8b(),
    gemma_3_27b(),
    llama_4_scout(),
    deepseek_v3(),
    deepseek_v32(),
    qwen3_next(),
    lfm2(),
    nemotron_3_nano(),
    whisper_large_v3(),
    falcon_40b(),
]


def name(arch: Architecture) -> str:
    return arch.family


@pytest.mark.parametrize("arch", MODELS, ids=name)
@pytest.mark.parametrize("context", [1, 4096, 131_072])
def test_rows_add_up_to_the_models_need(arch: Architecture, context: int) -> None:
    serving = Serving(context, 3)
    runs = layer_runs(arch, serving)
    assert sum(run.bytes for run in runs) == engine("ideal").cache(arch, serving).bytes
    assert sum(row.bytes for row in merged(runs)) == sum(run.bytes for run in runs)
    assert sum(row.count for row in merged(runs)) == sum(run.count for run in runs)


@pytest.mark.parametrize("arch", MODELS, ids=name)
def test_rows_add_up_to_an_engines_cache(arch: Architecture) -> None:
    serving = Serving(32_768, 2)
    held = engine("transformers").cache(arch, serving)
    runs = layer_runs(arch, serving, held)
    assert sum(run.engine_bytes or 0 for run in runs) == held.bytes
    assert sum(row.engine_bytes or 0 for row in merged(runs)) == held.bytes


def test_interleaved_layers_stay_in_order() -> None:
    # Gemma 3 27B: 62 layers, every sixth is full
    runs = layer_runs(gemma_3_27b(), Serving(32_768))
    assert [(run.kind, run.count) for run in runs] == [*([("sliding", 5), ("full", 1)] * 10), ("sliding", 2)]
    assert [layer for run in runs for layer in run.layers] == list(range(62))
    sliding, full = merged(runs)
    assert (sliding.kind, sliding.count, sliding.window, sliding.tokens) == ("sliding", 52, 1024, 1024)
    assert (full.kind, full.count, full.window, full.tokens) == ("full", 10, None, 32_768)
    assert full.bytes_per_token == 2 * 16 * 128 * 2
    assert full.bytes == 10 * 32_768 * full.bytes_per_token


def test_a_latent_row_is_one_head() -> None:
    (row,) = layer_runs(deepseek_v3(), Serving(1000))
    assert (row.kind, row.count, row.num_kv_heads, row.head_dim, row.v_head_dim) == ("latent", 61, 1, 576, 512)
    assert row.bytes == 61 * 1000 * 576 * 2


def test_two_things_in_one_layer_are_two_rows() -> None:
    both = Layer((FullAttention(8, 2, 64, 64), Mamba2State(4, 64, 16, 1, 4)))
    runs = layer_runs(build("parallel", [both] * 5), Serving(10))
    assert [(run.kind, run.count) for run in runs] == [("full", 5), ("recurrent", 5)]
    assert runs[1].state_bytes == ((4 * 64 + 2 * 16) * 3 + 4 * 64 * 16) * 2
    assert runs[1].bytes == 5 * runs[1].state_bytes


def test_layers_that_share_are_one_run_whoever_they_share_with() -> None:
    own = [Layer((SlidingAttention(8, 2, 64, 64, 512),)), Layer((FullAttention(8, 2, 64, 64),))]
    sharing = [Layer((SharedCache(0),)), Layer((SharedCache(0),)), Layer((SharedCache(1),))]
    runs = layer_runs(build("shared", own + sharing), Serving(2048))
    assert [(run.kind, run.count, run.bytes) for run in runs] == [
        ("sliding", 1, 512 * 512),
        ("full", 1, 2048 * 512),
        ("shared", 3, 0),
    ]


def test_towers_are_apart_from_the_decoder() -> None:
    tower = [Layer((NoCache("vision"),), stack="vision")] * 24
    runs = layer_runs(build("vl", [*tower, *([Layer((FullAttention(8, 2, 64, 64),))] * 4)]), Serving(16))
    assert [(run.stack, run.kind, run.count, run.detail) for run in runs] == [
        ("vision", "none", 24, "vision"),
        ("decoder", "full", 4, "8 heads"),
    ]


def test_whose_caches_shared_layers_use() -> None:
    # Gemma 3n's sliding layers share one layer's cache and its full ones another's
    sliding, full = SlidingAttention(8, 2, 64, 64, 512), FullAttention(8, 2, 64, 64)
    own = [Layer((sliding,)), Layer((full,))]

    def said(*sources: int) -> list[str]:
        arch = build("shared", [*own * 5, *(Layer((SharedCache(source),)) for source in sources)])
        return [run.detail for run in layer_runs(arch, Serving(64)) if run.kind == "shared"]

    assert said(8, 8) == ["uses layer 8"]
    assert said(8, 9, 8) == ["use layers 8, 9"]
    assert said(9, 8, 7, 6) == ["use layers 6, 7, 8, 9"]
    assert said(9, 8, 7, 6, 5) == ["use the caches of several layers"]
    between = [own[0], Layer((SharedCache(0),)), own[1], Layer((SharedCache(2),))]
    rows = merged(layer_runs(build("shared", between), Serving(64)))
    assert [(row.kind, row.count, row.detail) for row in rows] == [
        ("sliding", 1, "8 heads"),
        ("shared", 2, "use the caches of several layers"),
        ("full", 1, "8 heads"),
    ]


SPARSE = SparseLatentAttention(128, 512, 64, 128, 128, 96, 2048)
WORDS = [
    (FullAttention(8, 2, 64, 64), "full", "8 heads"),
    (IndexedAttention(64, 4, 128, 128, 96), "full", "64 heads, indexer 96"),
    (SlidingAttention(8, 2, 64, 64, 512), "sliding", "8 heads"),
    (ChunkedAttention(8, 2, 64, 64, 512), "chunked", "8 heads"),
    (LatentAttention(128, 512, 64, 128, 128), "latent", "latent 512 + rope 64"),
    (SPARSE, "latent_sparse", "latent 512 + rope 64, indexer 96"),
    (replace(SPARSE, has_indexer=False), "latent_sparse", "latent 512 + rope 64, another layer's indexer"),
    (CompressedAttention(64, 512, 128, 0), "sliding", "64 heads, one row for K and V"),
    (CompressedAttention(64, 512, 128, 16), "latent", "one row for K and V, one for each 16 tokens before"),
    (
        CompressedAttention(64, 512, 128, 4, 96),
        "latent_sparse",
        "one row for K and V, one for each 4 tokens before, indexer 96",
    ),
    (ShortConvState(2048, 3), "recurrent", "short convolution, 2048 × 2"),  # the newest input is no state
    (Mamba2State(4, 64, 16, 1, 4), "recurrent", "Mamba 2, 4 × 64 × 16"),
    (CrossAttention(8, 8, 64, 1500), "cross", "1,500 encoder positions"),
    (CrossAttention(8, 8, 64, None), "cross", "as long as the encoder's input"),
    (SharedCache(3), "shared", "uses layer 3"),
    (NoCache("vision"), "none", "vision"),
]


@pytest.mark.parametrize(("cache", "kind", "detail"), WORDS, ids=lambda value: type(value).__name__)
def test_every_kind_has_the_contracts_word(cache: Cache, kind: str, detail: str) -> None:
    assert kind_of(cache) == kind
    (run,) = layer_runs(build("one", [Layer((cache,))]), Serving(64))
    assert (run.kind, run.detail) == (kind, detail)


def test_the_shape_of_a_compressed_row() -> None:
    (run,) = layer_runs(build("one", [Layer((CompressedAttention(64, 512, 128, 4),))]), Serving(64))
    assert (run.num_kv_heads, run.head_dim, run.v_head_dim, run.window) == (1, 512, 512, 128)


def test_what_no_engine_was_asked_for_is_unknown() -> None:
    assert [run.engine_bytes for run in merged(layer_runs(gemma_3_27b(), Serving(64)))] == [None, None]
