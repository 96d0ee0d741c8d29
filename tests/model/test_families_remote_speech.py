"""Models that speak and hear with code of their own: sizes counted on their published classes, built on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, UnknownArchitectureError
from hfmem.memory.cache import bytes_per_token
from hfmem.model.families.registry import read_architecture


def qwen3_tts(hidden: int, inner: int, kind: str) -> dict[str, Any]:
    codes = {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 5,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 2048,
        "num_code_groups": 16,
    }
    talker = codes | {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 28,
        "vocab_size": 3072,
        "text_hidden_size": 2048,
        "text_vocab_size": 151936,
        "code_predictor_config": codes,
    }
    speaker = {"enc_dim": hidden, "sample_rate": 24000}
    named = {"model_type": "qwen3_tts", "tts_model_type": kind, "dtype": "bfloat16"}
    return named | {"talker_config": talker, "speaker_encoder_config": speaker}


@pytest.mark.parametrize(
    ("hidden", "inner", "kind", "parameters"),
    [
        (2048, 6144, "base", 1_928_677_440),
        (2048, 6144, "custom_voice", 1_916_676_352),
        (1024, 3072, "base", 914_643_008),
        (1024, 3072, "custom_voice", 905_788_672),
    ],
)
def test_qwen3_tts(hidden: int, inner: int, kind: str, parameters: int) -> None:
    # QwenLM/Qwen3-TTS `Qwen3TTSForConditionalGeneration` with these sizes
    arch = read_architecture(qwen3_tts(hidden, inner, kind))
    assert arch.expected_parameters() == parameters
    assert bytes_per_token(arch) == 28 * 2 * 8 * 128 * 2
    assert [note.code for note in arch.notes] == ["second_decoder"]


def test_qwen3_tts_says_of_which_kind_it_is() -> None:
    data = qwen3_tts(1024, 3072, "base")
    with pytest.raises(UnknownArchitectureError, match="'tts_model_type' is 'song'"):
        read_architecture(data | {"tts_model_type": "song"})
    with pytest.raises(ContradictionError, match="'enc_channels' and 'enc_kernel_sizes' differ"):
        read_architecture(data | {"speaker_encoder_config": {"enc_channels": [512, 512, 1536]}})
    with pytest.raises(ContradictionError, match="'use_sliding_window' is true"):
        read_architecture(data | {"talker_config": data["talker_config"] | {"use_sliding_window": True}})


def test_lfm2_audio_is_lfm2_under_a_name_of_its_own() -> None:
    # LiquidAI/LFM2-Audio: its config has no model_type; ten short convolutions and six attention layers, as LFM2-1.2B
    lfm = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
        "conv_L_cache": 3,
    }
    data = {"architectures": ["Lfm2AudioForConditionalGeneration"], "codebooks": 8, "lfm": lfm, "dtype": "bfloat16"}
    arch = read_architecture(data)
    assert arch.partial and arch.model_type == "lfm2_audio"
    assert {spec.pattern.split(".")[0] for spec in arch.tensors} == {"lfm"}
    conv = 3 * 64 * 64 + 64 * 3 + 64 * 64
    attention = 2 * 64 * 64 + 2 * 32 * 64 + 2 * 16
    assert arch.expected_parameters() == 6400 + conv + attention + 2 * (3 * 64 * 128 + 2 * 64) + 64
    assert bytes_per_token(arch) == 2 * 2 * 16 * 2


def test_voxcpm_keeps_the_cache_of_two_models() -> None:
    # openbmb/VoxCPM-0.5B: 24 layers and six more of the same kind, whose cache grows with them
    lm = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 73448,
        "max_position_embeddings": 32768,
    }
    arch = read_architecture(
        {"architecture": "voxcpm", "lm_config": lm, "residual_lm_num_layers": 6, "dtype": "bfloat16"}
    )
    layer = 2 * 1024 * 1024 + 2 * 128 * 1024 + 3 * 1024 * 4096 + 2 * 1024
    assert arch.expected_parameters() == 73448 * 1024 + 30 * layer + 2 * 1024
    assert bytes_per_token(arch) == 30 * 2 * 2 * 64 * 2
    assert arch.partial and arch.dtype == "BF16"
    wide = read_architecture(
        {
            "architecture": "voxcpm2",
            "lm_config": lm | {"kv_channels": 128},
            "residual_lm_num_layers": 8,
            "dtype": "bfloat16",
        }
    )
    assert bytes_per_token(wide) == 32 * 2 * 2 * 128 * 2
