"""transformers' caches: shapes of their tensors as transformers allocates them, multiplied out."""

from __future__ import annotations

import pytest
from example_architectures import (
    build,
    deepseek_v3,
    deepseek_v4_flash,
    deepseek_v32,
    falcon_40b,
    gemma_3_27b,
    lfm2,
    llama_3_8b,
    llama_4_scout,
    mistral_7b,
    nemotron_3_nano,
    one,
    qwen3_5_27b,
    qwen3_next,
    whisper_large_v3,
)

from hfmem.errors import UnsupportedError, UsageError
from hfmem.memory.engines import engine
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, LinearAttentionState, RgLruState, RwkvState, SlidingAttention

transformers = engine("transformers")


def held(arch: Architecture, context: int, num_seqs: int = 1) -> int:
    return transformers.cache(arch, Serving(context, num_seqs)).bytes


@pytest.mark.parametrize(
    ("arch", "state"),
    [
        (qwen3_next(), 36 * (8192 * 4 * 2 + 32 * 128 * 128 * 4)),
        (qwen3_5_27b(), 154_927_104),
        (nemotron_3_nano(), 49_364_992),
        (lfm2(), 122_880),
        (whisper_large_v3(), 245_760_000),
        (build("rwkv", one(RwkvState(768, 5), 12), dtype="BF16"), 12 * 768 * (2 * 2 + 3 * 4)),
        # shifts of two tokens in the model's dtype, a matrix of 64 × 64 a head in fp32
        (build("rwkv7", one(RwkvState(2048, 2, 32, 64), 24)), 24 * (2 * 2048 * 2 + 32 * 64 * 64 * 4)),
        (build("recurrent_gemma", one(RgLruState(2560, 4), 18)), 18 * 2560 * (3 * 2 + 4)),
        (build("minimax", one(LinearAttentionState(64, 128), 70)), 146_800_640),
    ],
    ids=lambda value: value.family if isinstance(value, Architecture) else "",
)
def test_state(arch: Architecture, state: int) -> None:
    assert engine("transformers").cache(arch, Serving(8192)).state_bytes_per_seq == state


@pytest.mark.parametrize("context", [64, 512, 8192])
def test_dense_holds_every_token(context: int) -> None:
    assert held(llama_3_8b(), context) == 131_072 * context
    assert held(deepseek_v3(), context, 3) == 70_272 * context * 3
    assert held(deepseek_v32(), context) == 85_888 * context


def test_windows_keep_one_less() -> None:
    # gemma-3-27b: measured after a prefill of 64, 512 and 8192 tokens
    assert [held(gemma_3_27b(), n) for n in (64, 512, 8192)] == [32_505_856, 260_046_848, 1_106_870_272]
    assert held(gemma_3_27b(), 8192, 3) == 3_320_610_816
    assert held(mistral_7b(), 8192) == 131_072 * 4095
    assert held(mistral_7b(), 4095) == held(mistral_7b(), 4096)
    assert held(llama_4_scout(), 65536) == 4096 * (12 * 65536 + 36 * 8191)


def test_compressed_attention() -> None:
    # DeepSeek-V4-Flash: measured after a prefill of 64, 512 and 8192 tokens
    assert [held(deepseek_v4_flash(), n) for n in (64, 512, 8192)] == [6_215_680, 9_589_760, 62_428_160]
    assert held(deepseek_v4_flash(), 512, 3) == 28_769_280


def test_a_window_of_one_keeps_everything() -> None:
    arch = build("any", one(SlidingAttention(8, 8, 64, 64, 1), 1))
    assert held(arch, 100) == 8 * 128 * 2 * 100


def test_falcon_caches_broadcast_heads() -> None:
    assert held(falcon_40b(), 1) == 1_966_080
    multi_query = build("falcon", one(FullAttention(71, 1, 64, 64), 32))
    assert held(multi_query, 1) == 8_192


def test_ranks() -> None:
    result = engine("transformers").cache(llama_3_8b(), Serving(1000, tp=8))
    assert (result.bytes, result.bytes_per_rank) == (131_072_000, 131_072_000 // 8)
    stages = engine("transformers").cache(llama_3_8b(), Serving(1000, pp=3))
    assert stages.bytes_per_rank == 11 * 4096 * 1000  # 32 layers over three stages: 11, 11 and 10
    replicated = engine("transformers").cache(deepseek_v3(), Serving(1000, tp=8))
    assert replicated.bytes_per_rank == 70_272_000
    assert replicated.bytes == 8 * 70_272_000


def test_refusals() -> None:
    with pytest.raises(UnsupportedError, match="fp8"):
        engine("transformers").cache(llama_3_8b(), Serving(10, kv_dtype="fp8"))
    with pytest.raises(UnsupportedError, match="8 KV heads"):
        engine("transformers").cache(llama_3_8b(), Serving(10, tp=3))


def test_types_that_transformers_has_no_code_for() -> None:
    # InternLM 2 came with code of its own, and its type is not in transformers' CONFIG_MAPPING
    keys = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 100,
        "max_position_embeddings": 512,
    }
    serving = Serving(128, engine="transformers")
    own = engine("transformers").cache(read_architecture({"model_type": "llama", **keys}), serving)
    assert not own.notes
    with pytest.raises(UnsupportedError, match="no model of the type internlm2"):
        engine("transformers").cache(read_architecture({"model_type": "internlm2", "bias": False, **keys}), serving)
    remote = {"model_type": "internlm2", "bias": False, "auto_map": {"AutoConfig": "configuration.C"}, **keys}
    found = engine("transformers").cache(read_architecture(remote), serving)
    assert found.bytes == own.bytes
    assert [note.code for note in found.notes] == ["remote_code"]


def kept(arch: Architecture, name: str, context: int = 1000, **more: int) -> CacheBytes:
    return transformers.cache(arch, Serving(context, engine="transformers", cache_implementation=name, **more))  # type: ignore[arg-type]


def test_a_static_cache_holds_whole_windows() -> None:
    """Run through transformers 5.24's own `generate(…, cache_implementation="static")` with six layers, two KV heads of 16, fp32,
    two sequences of 40 tokens, of which 39 are kept: 119,808 bytes of a Llama, 60,928 of a Gemma 3 whose first five layers have
    windows of 16."""
    row = 2 * 2 * 16 * 4
    full, near = FullAttention(4, 2, 16, 16), SlidingAttention(4, 2, 16, 16, 16)
    llama = build("llama", one(full, 6), dtype="F32")
    gemma = build("gemma3_text", [*one(near, 5), *one(full, 1)], dtype="F32")
    assert kept(llama, "static", 39, num_seqs=2).bytes == 2 * 6 * 39 * row == 119_808
    assert kept(gemma, "static", 39, num_seqs=2).bytes == 2 * (5 * 16 + 39) * row == 60_928
    assert kept(gemma, "static", 12).bytes == 6 * 12 * row
    with pytest.raises(UnsupportedError, match="no static cache for deepseek_v4 models"):
        kept(deepseek_v4_flash(), "static")


def test_an_offloaded_cache_keeps_two_layers_on_the_device() -> None:
    layer = 1000 * 2 * 8 * 128 * 2
    found = kept(llama_3_8b(), "offloaded")
    assert (found.bytes, found.bytes_per_rank, found.host_bytes) == (32 * layer, 2 * layer, 30 * layer)
    over_two = kept(llama_3_8b(), "offloaded", tp=2)
    assert (over_two.bytes_per_rank, over_two.host_bytes) == (layer, 30 * layer)
    # a static one keeps windowed layers, a dynamic one moves them, too: the widest neighbours are a windowed and a full layer
    wide, near = FullAttention(8, 8, 64, 64), SlidingAttention(8, 8, 64, 64, 100)
    row = 2 * 8 * 64 * 2
    mixed = build("gemma3_text", [*one(near, 5), *one(wide, 1)] * 2)
    assert kept(mixed, "offloaded_static").bytes_per_rank == (10 * 100 + 2 * 1000) * row
    assert kept(mixed, "offloaded").bytes_per_rank == (99 + 1000) * row
    # states are not moved
    hybrid = qwen3_next()
    states = transformers.cache(hybrid, Serving(1000)).state_bytes_per_seq
    assert kept(hybrid, "offloaded").bytes_per_rank == states + 2 * 1000 * 2 * 2 * 256 * 2


def test_only_transformers_has_these_caches() -> None:
    with pytest.raises(UsageError, match="cache_implementation: only transformers has that setting, not vllm"):
        Serving(1, cache_implementation="static")
    with pytest.raises(UsageError, match="is one of dynamic, static, offloaded, offloaded_static, not 'quantized'"):
        Serving(1, engine="transformers", cache_implementation="quantized")
    assert (
        Serving(1, engine="transformers", cache_implementation="static").alone("vllm").cache_implementation == "dynamic"
    )
