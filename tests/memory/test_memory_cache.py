"""The model's own cache need, against published shapes multiplied out by hand and vectors measured elsewhere."""

from __future__ import annotations

import pytest
from example_architectures import (
    build,
    deepseek_v3,
    deepseek_v4_flash,
    deepseek_v32,
    gemma_3_27b,
    gpt_oss_120b,
    lfm2,
    llama_3_8b,
    llama_4_scout,
    minimax_m3,
    mistral_7b,
    nemotron_3_nano,
    one,
    qwen3_5_27b,
    qwen3_next,
    whisper_large_v3,
)
from hypothesis import given
from hypothesis import strategies as st

from hfmem.errors import UnsupportedError, UsageError
from hfmem.memory.cache import (
    bytes_per_token,
    held_tokens,
    layer_bytes,
    peak_contexts,
    state_bytes_per_seq,
    state_tensors,
)
from hfmem.memory.engines import engine, pooling_engine
from hfmem.memory.formats import GGML_BLOCKS, canonical_kv_dtype, resolve_kv_dtype, vector_bytes
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    KimiDeltaState,
    LatentAttention,
    Layer,
    LinearAttentionState,
    Mamba1State,
    NoCache,
    RgLruState,
    RwkvState,
    SharedCache,
    SlidingAttention,
)


def ideal(arch: Architecture, context: int, num_seqs: int = 1, kv_dtype: str = "auto") -> int:
    return engine("ideal").cache(arch, Serving(context, num_seqs, kv_dtype=kv_dtype)).bytes


@pytest.mark.parametrize(
    ("arch", "growth", "state"),
    [
        (llama_3_8b(), 131_072, 0),
        (mistral_7b(), 0, 0),
        (gemma_3_27b(), 81_920, 0),
        (gpt_oss_120b(), 36_864, 0),
        (llama_4_scout(), 49_152, 0),
        (deepseek_v3(), 70_272, 0),
        (deepseek_v32(), 85_888, 0),
        (deepseek_v4_flash(), 6_880, 215_040),
        (minimax_m3(), 60 * 4 * 256 * 2 + 57 * 128 * 2, 0),
        (qwen3_next(), 24_576, 39_518_208),
        (qwen3_5_27b(), 65_536, 153_944_064),
        (nemotron_3_nano(), 6_144, 49_082_368),
        (lfm2(), 12_288, 81_920),
        (whisper_large_v3(), 163_840, 245_760_000),
    ],
    ids=lambda value: value.family if isinstance(value, Architecture) else "",
)
def test_growth_and_state(arch: Architecture, growth: int, state: int) -> None:
    assert bytes_per_token(arch) == growth
    assert state_bytes_per_seq(arch) == state
    cached = engine("ideal").cache(arch, Serving(4096))
    assert cached.state_bytes_per_seq == state


def test_dense_model_at_128k_is_16_gib() -> None:
    assert ideal(llama_3_8b(), 131072) == 16 << 30


def test_windows_and_chunks_stop_growing() -> None:
    # 32 layers × 8 heads × (128 + 128) × 2 bytes × min(context, 4096)
    assert ideal(mistral_7b(), 32768) == 32 * 8 * 256 * 2 * 4096
    assert ideal(mistral_7b(), 100) == 32 * 8 * 256 * 2 * 100
    # 10 full and 52 sliding layers of 8192 bytes a token
    assert ideal(gemma_3_27b(), 131072) == 8192 * (10 * 131072 + 52 * 1024)
    # 12 full and 36 chunked layers of 4096 bytes a token
    assert ideal(llama_4_scout(), 131072) == 4096 * (12 * 131072 + 36 * 8192)


def test_an_unfinished_group_waits_to_be_compressed() -> None:
    """DeepSeek V4 (`modeling_deepseek_v4.py`): 7 tokens at 4 to 1 are a row and its key, and 3 tokens' values and gates, twice
    as wide where groups overlap; the overlapped group's are kept whole, in one half."""
    shape = {"num_heads": 64, "head_dim": 512, "window": 128, "ratio": 4, "index_head_dim": 128}
    window, row, pending = 7 * 512 * 2, (512 + 128) * 2, 3 * 2 * (512 + 128) * 2
    assert layer_bytes(CompressedAttention(**shape), 7, "bf16", "BF16") == window + row + pending
    overlapped = 4 * 2 * (512 + 128) * 2
    wide = CompressedAttention(**shape, overlap=True)
    assert layer_bytes(wide, 7, "bf16", "BF16") == window + row + 2 * pending + overlapped
    # keys that are made of the compressed rows wait for nothing
    keyed = CompressedAttention(**shape, keys_from_rows=True)
    assert layer_bytes(keyed, 7, "bf16", "BF16") == window + row + 3 * 2 * 512 * 2


def test_a_compressor_without_an_indexer() -> None:
    # a row of 128 × 2 bytes for every 4 tokens, in 4 layers; overlapped: 4 tokens' values and gates, 128 wide, in bf16
    plain = CompressedAttention(4, 128, 16, 4)
    assert bytes_per_token(build("deepseek_v4", one(plain, 4))) == 4 * 128 * 2 // 4
    assert state_bytes_per_seq(build("deepseek_v4", one(plain, 4))) == 0
    wide = CompressedAttention(4, 128, 16, 4, overlap=True)
    assert state_bytes_per_seq(build("deepseek_v4", one(wide, 1))) == 4 * 2 * 128 * 2


def test_a_sequence_keeps_most_just_before_a_group_is_compressed() -> None:
    by_four, by_many = CompressedAttention(4, 128, 16, 4), CompressedAttention(4, 128, 16, 128)
    arch = build("deepseek_v4", [Layer((by_four,)), Layer((by_many,)), Layer((CompressedAttention(4, 128, 16, 0),))])
    assert peak_contexts(arch, 300) == (300, 255, 299)  # after 299 tokens 3 wait and after 255 127 do
    assert peak_contexts(arch, 3) == (3,)
    assert peak_contexts(arch, 2) == (2,)
    # 9 tokens: window, 2 rows, 1 waiting; 7 on the way there: 1 row, 3 waiting, which take values and gates each
    assert layer_bytes(by_four, 9, "bf16", "BF16") == 9 * 256 + 2 * 256 + 512
    assert layer_bytes(by_four, 7, "bf16", "BF16") == 7 * 256 + 256 + 3 * 512
    for cache in (by_four, by_many):
        alone = build("deepseek_v4", [Layer((cache,))])
        for context in range(1, 400):
            kept = [layer_bytes(cache, length, "bf16", "BF16") for length in range(1, context + 1)]
            assert max(kept) == max(kept[length - 1] for length in peak_contexts(alone, context))


def test_layers_that_predict_keep_nothing_in_plain_decoding() -> None:
    # K and V of 8 heads × 128 in two of three layers
    full = FullAttention(32, 8, 128, 128)
    arch = build("llama", [*one(full, 2), Layer((full,), stack="mtp")])
    assert bytes_per_token(arch) == 2 * 2 * 8 * 128 * 2
    assert ideal(arch, 100) == 100 * 2 * 2 * 8 * 128 * 2


def test_quantized_formats_carry_their_scales() -> None:
    dense = llama_3_8b()
    vectors = 32 * 8 * 2  # K and V of every head of every layer
    assert bytes_per_token(dense, "fp8") == vectors * 128
    assert bytes_per_token(dense, "int8") == vectors * (128 + 4)
    assert bytes_per_token(dense, "int4") == vectors * (64 + 4)
    assert bytes_per_token(dense, "nvfp4") == vectors * (64 + 8)
    assert bytes_per_token(dense, "fp32") == vectors * 512
    assert bytes_per_token(deepseek_v3(), "fp8") == 61 * 576
    # a latent row is two vectors, compressed and rotary, each with its scale
    assert bytes_per_token(deepseek_v3(), "int8") == 61 * (512 + 4 + 64 + 4)


@pytest.mark.parametrize(
    ("name", "halves", "bits", "high_bits"),
    [
        ("q8_0", 1, 8, 0),
        ("q5_1", 2, 4, 1),
        ("q5_0", 1, 4, 1),
        ("q4_1", 2, 4, 0),
        ("q4_0", 1, 4, 0),
        ("iq4_nl", 1, 4, 0),
    ],
)
def test_llama_cpps_blocks(name: str, halves: int, bits: int, high_bits: int) -> None:
    """`ggml-common.h`: 32 elements behind a scale, and a minimum in the `_1` types, of two bytes each; fifth bits apart."""
    assert GGML_BLOCKS[name] == (32, 2 * halves + 32 * bits // 8 + 32 * high_bits // 8)


def test_state_does_not_follow_the_kv_dtype() -> None:
    assert state_bytes_per_seq(qwen3_next(), "fp8") == state_bytes_per_seq(qwen3_next())


def test_auto_is_the_models_dtype_unless_the_checkpoint_declares_its_cache() -> None:
    assert resolve_kv_dtype("BF16", "auto", None) == "bf16"
    assert resolve_kv_dtype("F16", "auto", None) == "fp16"
    assert resolve_kv_dtype("BF16", "auto", "fp8") == "fp8"
    assert resolve_kv_dtype("BF16", "bf16", "fp8") == "bf16"
    with pytest.raises(UnsupportedError):
        resolve_kv_dtype("U8", "auto", None)


def test_state_shapes() -> None:
    def elements(cache: Cache) -> list[int]:
        return [t.elements for t in state_tensors(cache)]  # type: ignore[arg-type]

    assert elements(Mamba1State(5120, 16, 4)) == [5120 * 3, 5120 * 16]
    assert elements(KimiDeltaState(32, 128, 128, 4)) == [4096 * 3] * 3 + [32 * 128 * 128]
    assert elements(LinearAttentionState(64, 128)) == [64 * 128 * 128]
    assert elements(RgLruState(2560, 4)) == [2560 * 3, 2560]
    assert elements(RwkvState(2560, 5)) == [5 * 2560]
    assert elements(RwkvState(2560, 2, 40, 64)) == [2 * 2560, 40 * 64 * 64]


def test_layers_without_a_cache_take_nothing() -> None:
    for cache in (SharedCache(3), NoCache("encoder")):
        assert layer_bytes(cache, 8192, "bf16", "BF16") == 0


def test_cross_attention_over_an_input_of_unknown_length() -> None:
    arch = build("t5", [Layer((FullAttention(8, 8, 64, 64), CrossAttention(8, 8, 64, None)))] * 6)
    silent = engine("ideal").cache(arch, Serving(128))
    assert silent.state_bytes_per_seq == 0
    assert [note.code for note in silent.notes] == ["cross_attention_input_unknown"]
    told = engine("ideal").cache(arch, Serving(128, source_tokens=512))
    assert told.state_bytes_per_seq == 6 * 8 * 2 * 64 * 2 * 512
    assert told.notes == ()


def test_ranks_share_the_ideal_cache() -> None:
    result = engine("ideal").cache(llama_3_8b(), Serving(1000, 3, tp=8))
    assert result.bytes == 131_072 * 1000 * 3
    assert result.bytes_per_rank == result.bytes // 8


def test_layer_groups_name_their_layers() -> None:
    groups = engine("ideal").cache(gemma_3_27b(), Serving(8192)).layer_groups
    assert [group.count for group in groups] == [52, 10]
    assert groups[1].layers == tuple(range(5, 62, 6))
    assert [group.tokens for group in groups] == [1024, 8192]
    assert sum(group.bytes for group in groups) == ideal(gemma_3_27b(), 8192)


def test_bad_serving_is_refused() -> None:
    with pytest.raises(UsageError, match="context"):
        Serving(0)
    with pytest.raises(UsageError, match="num_seqs"):
        Serving(1, num_seqs=0)
    with pytest.raises(UsageError, match="engine"):
        Serving(1, engine="tgi")
    with pytest.raises(UsageError, match="KV dtype"):
        Serving(1, kv_dtype="int3")
    with pytest.raises(UsageError):
        engine("tgi")
    assert canonical_kv_dtype("FP8_E4M3") == "fp8"
    assert canonical_kv_dtype("bfloat16") == "bf16"


caches = st.one_of(
    st.builds(FullAttention, st.just(8), st.integers(1, 8), st.sampled_from([64, 128]), st.sampled_from([64, 128])),
    st.builds(SlidingAttention, st.just(8), st.integers(1, 8), st.just(64), st.just(64), st.integers(1, 5000)),
    st.builds(ChunkedAttention, st.just(8), st.integers(1, 8), st.just(64), st.just(64), st.integers(1, 5000)),
    st.builds(LatentAttention, st.just(8), st.just(512), st.just(64), st.just(128), st.just(128)),
    st.builds(Mamba1State, st.integers(1, 4096), st.just(16), st.just(4)),
    st.builds(CrossAttention, st.just(8), st.integers(1, 8), st.just(64), st.integers(1, 2000)),
    st.builds(SharedCache, st.just(0)),
)
formats = st.sampled_from(["bf16", "fp32", "fp8", "int8", "int4", "nvfp4"])


@given(st.lists(caches, min_size=1, max_size=6), st.integers(1, 1 << 20), st.integers(0, 4096), formats)
def test_bytes_never_fall_with_context_or_batch(kinds: list[Cache], context: int, more: int, fmt: str) -> None:
    arch = build("any", [Layer((kind,)) for kind in kinds])
    base = ideal(arch, context, 2, fmt)
    assert base <= ideal(arch, context + more, 2, fmt)
    assert base <= ideal(arch, context, 3, fmt)
    assert base == 2 * ideal(arch, context, 1, fmt)
    held = engine("transformers").cache(arch, Serving(context)).bytes
    assert held <= engine("transformers").cache(arch, Serving(context + more)).bytes


@given(caches, st.integers(1, 1 << 20))
def test_no_layer_holds_more_than_the_context(cache: Cache, context: int) -> None:
    assert held_tokens(cache, context) <= context


@given(formats, st.integers(1, 64))
def test_a_vector_never_takes_less_than_its_bits(fmt: str, sixteens: int) -> None:
    bits = {"bf16": 16, "fp32": 32, "fp8": 8, "int8": 8, "int4": 4, "nvfp4": 4}[fmt]
    assert vector_bytes(fmt, 16 * sixteens) >= 16 * sixteens * bits // 8


def test_an_engine_without_a_pool() -> None:
    assert pooling_engine("ideal") is None
