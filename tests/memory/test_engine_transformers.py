"""transformers' dynamic cache: shapes of its tensors as transformers 5.23.0 allocates them, multiplied out."""

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

from hfmem.errors import UnsupportedError
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, LinearAttentionState, RgLruState, RwkvState, SlidingAttention


def held(arch: Architecture, context: int, num_seqs: int = 1) -> int:
    return engine("transformers").cache(arch, Serving(context, num_seqs)).bytes


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
