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

from hfmem.errors import UnsupportedError, UsageError
from hfmem.memory.engines import engine
from hfmem.memory.placement import placement
from hfmem.memory.serving import LlamaCpp, Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    Layer,
    RgLruState,
    RwkvState,
    SharedCache,
)
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


def test_replicas_hold_what_one_holds() -> None:
    # four sequences on two replicas: two of 256 cells on each
    found = engine("llama.cpp").cache(llama_3_8b(), Serving(256, 4, engine="llama.cpp", dp=2))
    assert (found.bytes, found.bytes_per_rank) == (4 * 131_072 * 256, 2 * 131_072 * 256)


def test_auto_is_f16_whatever_the_model() -> None:
    arch = build("any", one(FullAttention(8, 8, 64, 64), 1), dtype="F32")
    assert held(arch, 256) == 8 * 128 * 2 * 256
    assert held(arch, 256, kv_dtype="fp32") == 8 * 128 * 4 * 256


def test_block_types() -> None:
    elements = 32 * 2 * 1024 * 256  # layers × K and V × heads · size × cells
    for fmt, size in {"q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18, "iq4_nl": 18, "int4": 18}.items():
        assert held(llama_3_8b(), 256, kv_dtype=fmt) == elements // 32 * size
    odd = build("any", one(FullAttention(8, 1, 80, 80), 1))
    with pytest.raises(UnsupportedError, match="heads of whole blocks of 32"):
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


def settings(arch: Architecture, context: int, num_seqs: int = 1, **given: object) -> int:
    told = LlamaCpp(**given)  # type: ignore[arg-type]
    return engine("llama.cpp").cache(arch, Serving(context, num_seqs, engine="llama.cpp", llama_cpp=told)).bytes


def test_values_of_a_type_of_their_own() -> None:
    # K in f16, V in q4_0: 18 bytes for 32 elements
    assert settings(llama_3_8b(), 256, value_dtype="q4_0") == 32 * 256 * (1024 * 2 + 1024 // 32 * 18)


def test_one_cache_for_all_sequences() -> None:
    """As llama.cpp logs it for a small Gemma 4 (`-kvu`, four sequences of 1024): 4096 cells, and windows of 256 for each."""
    assert settings(llama_3_8b(), 1024, 4, unified=True) == 131_072 * 4096
    assert settings(llama_3_8b(), 1000, 4, unified=True) == 131_072 * 4096  # rounded once, not for each
    assert settings(gemma_3_27b(), 4096, 4, unified=True) == 8192 * (10 * 4 * 4096 + 52 * (4 * 1024 + 512))


def test_windows_held_whole() -> None:
    assert settings(gemma_3_27b(), 131072, swa_full=True) == 8192 * 62 * 131072


def test_compressed_rows() -> None:
    """The buffers that llama.cpp logs for a DeepSeek V4 of two layers of each kind, rows of 128 and index keys of 64, at 4096:
    raw rows 1.12 MiB, by 4 0.50, by 128 0.12 (256 cells), index keys 0.25, compressors 0.03, 0.25 and 0.02."""
    window, by_four = CompressedAttention(4, 128, 128, 0), CompressedAttention(4, 128, 128, 4, 64, True)
    by_many = CompressedAttention(4, 128, 128, 128)
    small = build("deepseek_v4", [Layer((c,)) for c in (window, window, by_four, by_many, by_four, by_many)])
    raw, csa, hca, index = 6 * 768 * 256, 2 * 1024 * 256, 2 * 256 * 256, 2 * 1024 * 128
    states = 2 * 2 * 8 * 256 * 4 + 2 * 2 * 128 * 128 * 4 + 2 * 2 * 8 * 128 * 4
    assert [round(size / MIB, 2) for size in (raw, csa, hca, index)] == [1.12, 0.5, 0.12, 0.25]
    assert held(small, 4096) == raw + csa + hca + index + states
    assert held(deepseek_v4_flash(), 4096) > 0


def test_index_keys_of_sparse_blocks_have_values_beside_them() -> None:
    arch = build("minimax_m3", one(IndexedAttention(64, 4, 128, 128, 128), 2))
    assert held(arch, 256) == 2 * 256 * 2 * (4 * 256 + 128 + 128)


def test_devices_hold_runs_of_layers() -> None:
    result = engine("llama.cpp").cache(llama_3_8b(), Serving(256, tp=3))
    assert result.bytes == 131_072 * 256
    assert result.bytes_per_rank == 11 * 4096 * 256


def test_the_output_counts_as_a_layer_more() -> None:
    """`layer_gpu = upper_bound(splits, (il - i_gpu_start) / act_gpu_layers)` with 33 of them."""

    def where(devices: int, layers: int | None) -> tuple[tuple[range, ...], range, int | None]:
        told = Serving(256, engine="llama.cpp", pp=devices, llama_cpp=LlamaCpp(gpu_layers=layers))
        found = placement("llama.cpp", 32, told)
        return found.stages, found.host, found.output

    assert where(2, None) == ((range(17), range(17, 32)), range(0), 1)
    assert where(2, 99) == where(2, None)
    assert where(1, 10) == ((range(23, 32),), range(23), 0)
    assert where(2, 1) == ((range(32, 32), range(32, 32)), range(32), 1)
    assert where(1, 0) == ((range(0),), range(32), None)


def test_layers_on_the_host_keep_their_cache_there() -> None:
    told = Serving(256, engine="llama.cpp", llama_cpp=LlamaCpp(gpu_layers=9))
    result = engine("llama.cpp").cache(llama_3_8b(), told)
    assert (result.bytes_per_rank, result.host_bytes) == (8 * 4096 * 256, 24 * 4096 * 256)
    assert result.bytes == 131_072 * 256


def test_other_engines_have_no_such_settings() -> None:
    with pytest.raises(UsageError, match=r"gpu_layers: only llama\.cpp"):
        Serving(256, engine="vllm", llama_cpp=LlamaCpp(gpu_layers=9))
    with pytest.raises(UsageError, match="at least 0"):
        LlamaCpp(gpu_layers=-1)


@pytest.mark.parametrize(
    "arch",
    [
        whisper_large_v3(),
        build("recurrent_gemma", one(RgLruState(2560, 4), 2)),
        build("rwkv", one(RwkvState(768, 5), 2)),
    ],
    ids=lambda arch: arch.family,
)
def test_refusals(arch: Architecture) -> None:
    with pytest.raises(UnsupportedError):
        held(arch, 256)


def test_no_more_sequences_than_a_context_has() -> None:
    """`LLAMA_MAX_SEQ` is 256: `llama_init_from_model` throws beyond; replicas have a context each."""
    arch, rules = llama_3_8b(), engine("llama.cpp")
    assert rules.cache(arch, Serving(256, 256, engine="llama.cpp")).bytes == 256 * 256 * 131_072
    assert rules.cache(arch, Serving(256, 512, engine="llama.cpp", dp=2)).bytes == 512 * 256 * 131_072
    for more in (Serving(256, 257, engine="llama.cpp"), Serving(256, 513, engine="llama.cpp", dp=2)):
        with pytest.raises(UnsupportedError, match="n_seq_max must be <= 256, not 257"):
            rules.cache(arch, more)
