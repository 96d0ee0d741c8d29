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
