"""XLNet, MusicGen, Moshi: sizes by hand from transformers' modules; caches as its classes held them after a decode step."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import bytes_per_token
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture


def cached(arch: Architecture, context: int, source: int | None = None) -> int:
    serving = Serving(context=context, num_seqs=1, engine="transformers", source_tokens=source)
    return engine("transformers").cache(arch, serving).bytes


XLNET: dict[str, Any] = {
    "model_type": "xlnet",
    "architectures": ["XLNetLMHeadModel"],
    "dtype": "float32",
    "vocab_size": 50,
    "d_model": 32,
    "n_layer": 3,
    "n_head": 4,
    "d_inner": 48,
}


@pytest.mark.parametrize(("mem_len", "kept"), [(None, 12), (5, 5), (40, 12)])
def test_xlnet_keeps_a_row_of_its_width_a_token(mem_len: int | None, kept: int) -> None:
    # XLNetLMHeadModel's `mems` after a prompt of 11 tokens and one more: 3 layers × rows × 32 × 4 B (4,608 and 1,920 B)
    assert cached(read_architecture(XLNET | {"mem_len": mem_len}), 12) == 3 * kept * 32 * 4


def test_xlnet_counts_its_five_projections() -> None:
    layer = 5 * 32 * 32 + 3 * 32 + 2 * 32 + 64 + 2 * 32 * 48 + 48 + 32 + 64
    assert read_architecture(XLNET).expected_parameters() == 50 * 32 + 32 + 3 * layer + 50
    untied = read_architecture(XLNET | {"tie_word_embeddings": False})
    assert untied.expected_parameters() == 2 * 50 * 32 + 32 + 3 * layer + 50
    bare = read_architecture(XLNET | {"architectures": ["XLNetModel"]})
    assert bare.expected_parameters() == 50 * 32 + 32 + 3 * layer
    assert bare.tensors[0].pattern == "word_embedding.weight"


def test_xlnet_base_cased() -> None:
    # the published config: 12 layers of 768, 32,000 words: 116,718,080 and the head's bias
    config = XLNET | {
        "vocab_size": 32000,
        "d_model": 768,
        "n_layer": 12,
        "n_head": 12,
        "d_inner": 3072,
        "mem_len": None,
    }
    arch = read_architecture(config)
    assert arch.expected_parameters() == 116_718_336 + 32_000
    assert bytes_per_token(arch) == 12 * 768 * 4
    for name in ("vllm", "sglang", "llama.cpp"):
        with pytest.raises(UnsupportedError):
            engine(name).cache(arch, Serving(context=100, num_seqs=1, engine=name))


DECODER: dict[str, Any] = {
    "model_type": "musicgen_decoder",
    "vocab_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "num_codebooks": 2,
}
BOOKS = 2 * (21 * 32 + 20 * 32) + 2 * 32


def test_musicgen_attends_over_the_text() -> None:
    config = {"model_type": "musicgen", "architectures": ["MusicgenForConditionalGeneration"], "dtype": "float32"}
    arch = read_architecture(config | {"decoder": DECODER})
    assert arch.expected_parameters() == BOOKS + 3 * (8 * 32 * 32 + 2 * 32 * 48 + 6 * 32)
    # MusicgenForCausalLM over 9 tokens of text, 11 and one tokens of sound: 16,128 B
    assert cached(arch, 12, 9) == 3 * (12 + 9) * 2 * 32 * 4 == 16_128
    assert arch.partial
    assert "decoder.model.decoder.embed_tokens.{}.weight" in {spec.pattern for spec in arch.tensors}


def test_musicgen_melody_reads_the_text_as_tokens() -> None:
    config = {"architectures": ["MusicgenMelodyForCausalLM"], "dtype": "float32"}
    arch = read_architecture(DECODER | config | {"model_type": "musicgen_melody_decoder"})
    assert arch.expected_parameters() == BOOKS + 3 * (4 * 32 * 32 + 2 * 32 * 48 + 4 * 32)
    assert cached(arch, 12) == 3 * 12 * 2 * 32 * 4 == 9_216
    assert not arch.partial


MOSHI: dict[str, Any] = {
    "model_type": "moshi",
    "dtype": "float32",
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "ffn_dim": 48,
    "sliding_window": 7,
    "audio_vocab_size": 20,
    "num_codebooks": 3,
    "depth_decoder_config": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24},
    "audio_encoder_config": {"model_type": "mimi", "num_quantizers": 8},
}
TEXT = 51 * 32 + 50 * 32 + 32 + 3 * (2 * 32 * 32 + 2 * 16 * 32 + 48 * 32 + 24 * 32 + 64)


def test_moshi_has_a_window() -> None:
    arch = read_architecture(MOSHI | {"architectures": ["MoshiForCausalLM"]})
    assert arch.expected_parameters() == TEXT
    assert cached(arch, 12) == 3 * 6 * 2 * 2 * 8 * 4 == 2_304  # what MoshiForCausalLM's cache held


def test_moshi_with_its_frame_decoder_and_codec() -> None:
    # MoshiForConditionalGeneration of transformers 5.23.0 on the meta device; its codec, MimiModel, alone: 79,308,609 parameters
    # with the rows of 8 instead of 32 quantizers, whose books are buffers
    frame = 51 * 16 + 2 * 21 * 16 + 3 * 16 * 32 + 3 * 20 * 16 + 2 * (3 * (4 * 16 * 16 + 24 * 16 + 12 * 16) + 2 * 16)
    arch = read_architecture(MOSHI | {"architectures": ["MoshiForConditionalGeneration"]})
    assert arch.expected_parameters() == 79_345_873
    assert arch.expected_parameters() - TEXT - 2 * 3 * 21 * 32 - frame == 79_308_609


@pytest.mark.parametrize("name", ["moonshine", "moonshine_streaming", "pix2struct", "pop2piano", "musicgen"])
def test_llama_cpp_has_none_of_them(name: str) -> None:
    arch = read_architecture({"model_type": name})
    with pytest.raises(UnsupportedError, match=f"has no {name} models"):
        engine("llama.cpp").cache(arch, Serving(context=100, num_seqs=1, engine="llama.cpp"))
