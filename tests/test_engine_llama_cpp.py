"""llama.cpp's cells, rounded and multiplied out by hand; sizes that llama.cpp's logs print."""

from __future__ import annotations

import pytest
from example_architectures import (
    build,
    deepseek_v3,
    deepseek_v4_flash,
    deepseek_v32,
    gemma_3_27b,
    lfm2,
    llama_3_8b,
    llama_4_scout,
    mistral_7b,
    one,
    qwen3_next,
    whisper_large_v3,
)

from hfmem.errors import UnsupportedError
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import CrossAttention, FullAttention, Layer, RgLruState, RwkvState, SharedCache
from hfmem.units import MIB


def held(arch: Architecture, context: int, num_seqs: int = 1, kv_dtype: str = "auto") -> int:
    return engine("llama.cpp").cache(arch, Serving(context, num_seqs, kv_dtype=kv_dtype, engine="llama.cpp")).bytes


def test_a_logged_cache() -> None:
    # "llama_kv_cache_init: CUDA0 KV buffer size = 144.00 MiB": Qwen2.5-3B, 36 layers of 256, 4096 cells in f16
    qwen = build("qwen2", one(FullAttention(16, 2, 128, 128), 36))
    assert held(qwen, 4096) == 144 * MIB


def test_a_logged_latent_cache() -> None:
    # "KV self size = 72.91 MiB, c^KV (q8_0): 72.91 MiB": DeepSeek-R1, 61 layers of 576, 2048 cells in q8_0
    assert round(held(deepseek_v3(), 2048, kv_dtype="q8_0") / MIB, 2) == 72.91
    assert held(deepseek_v3(), 2048, kv_dtype="int8") == held(deepseek_v3(), 2048, kv_dtype="q8_0")


def test_contexts_are_rounded_to_256_cells() -> None:
    assert held(llama_3_8b(), 1) == held(llama_3_8b(), 256) == 131_072 * 256
    assert held(llama_3_8b(), 257) == 131_072 * 512
    assert held(llama_3_8b(), 257, 3) == 3 * 131_072 * 512


def test_auto_is_f16_whatever_the_model() -> None:
    arch = build("any", one(FullAttention(8, 8, 64, 64), 1), dtype="F32")
    assert held(arch, 256) == 8 * 128 * 2 * 256
    assert held(arch, 256, kv_dtype="fp32") == 8 * 128 * 4 * 256


def test_block_types() -> None:
    elements = 32 * 2 * 1024 * 256  # layers × K and V × heads · size × cells
    for fmt, size in {"q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18, "iq4_nl": 18, "int4": 18}.items():
        assert held(llama_3_8b(), 256, kv_dtype=fmt) == elements // 32 * size
    odd = build("any", one(FullAttention(8, 1, 80, 80), 1))
    with pytest.raises(UnsupportedError, match="whole blocks of 32"):
        held(odd, 256, kv_dtype="q8_0")
    with pytest.raises(UnsupportedError, match="no fp8 cache"):
        held(llama_3_8b(), 256, kv_dtype="fp8")


def test_windowed_layers_hold_the_window_and_a_micro_batch() -> None:
    # 1024 + 512 = 1536 cells, a multiple of 256; before that, what the context has
    assert held(gemma_3_27b(), 131072) == 8192 * (10 * 131072 + 52 * 1536)
    assert held(gemma_3_27b(), 1000) == 8192 * 62 * 1024
    # 8192 + 512 = 8704 cells of the chunk
    assert held(llama_4_scout(), 65536) == 4096 * (12 * 65536 + 36 * 8704)


def test_models_windowed_throughout_keep_every_token() -> None:
    assert held(mistral_7b(), 32768) == 131_072 * 32768


def test_latents_have_no_values_and_indexers_their_keys() -> None:
    assert held(deepseek_v3(), 4096) == 61 * 576 * 2 * 4096
    assert held(deepseek_v32(), 4096) == 61 * (576 + 128) * 2 * 4096


def test_states_are_fp32() -> None:
    state = 36 * 4 * (8192 * 3 + 32 * 128 * 128)
    assert held(qwen3_next(), 4096) == 24_576 * 4096 + state
    assert held(qwen3_next(), 4096, 2) == 2 * held(qwen3_next(), 4096)
    assert engine("llama.cpp").cache(lfm2(), Serving(256)).state_bytes_per_seq == 10 * 2048 * 2 * 4


def test_cross_attention_is_not_kept() -> None:
    arch = build("t5", [Layer((FullAttention(8, 8, 64, 64), CrossAttention(8, 8, 64, 512)))] * 6)
    assert held(arch, 256) == 6 * 8 * 128 * 2 * 256


def test_shared_layers_have_no_cells() -> None:
    dense = one(FullAttention(8, 8, 64, 64), 2)
    assert held(build("a", dense + [Layer((SharedCache(1),))] * 2), 256) == held(build("a", dense), 256)


def test_devices_hold_runs_of_layers() -> None:
    result = engine("llama.cpp").cache(llama_3_8b(), Serving(256, tp=3))
    assert result.bytes == 131_072 * 256
    assert result.bytes_per_rank == 11 * 4096 * 256


@pytest.mark.parametrize(
    "arch",
    [
        whisper_large_v3(),
        deepseek_v4_flash(),
        build("recurrent_gemma", one(RgLruState(2560, 4), 2)),
        build("rwkv", one(RwkvState(768, 5), 2)),
    ],
    ids=lambda arch: arch.family,
)
def test_refusals(arch: Architecture) -> None:
    with pytest.raises(UnsupportedError):
        held(arch, 256)
