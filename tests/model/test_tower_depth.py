"""Towers that vLLM builds as deep as the text model looks: LLaVA-NeXT's class of vLLM 0.33.0 on a rank of one and of two."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights, rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture

TEXT: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 9024,
}
CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "patch_size": 14,
    "image_size": 56,
}


def model(layer: int | list[int]) -> Architecture:
    facts: dict[str, Any] = {"text_config": TEXT, "vision_config": CLIP, "vision_feature_layer": layer}
    return read_architecture({"model_type": "llava_next", "dtype": "bfloat16", "tie_word_embeddings": False, **facts})


def served(layer: int | list[int], engine: str, tp: int = 1) -> RankWeights:
    arch = model(layer)
    return rank_weights(arch, synthesise(arch), Serving(512, engine=engine, tp=tp))


@pytest.mark.parametrize(
    ("layer", "parameters"),
    [(-1, (15_031_168, 7_558_208)), (-2, (14_898_688, 7_491_584)), ([-3, 2], (14_831_744, 7_457_728))],
    ids=str,
)
def test_vllm_builds_no_deeper_than_it_looks(layer: int | list[int], parameters: tuple[int, int]) -> None:
    assert tuple(served(layer, "vllm", tp).parameters for tp in (1, 2)) == parameters


def test_the_file_and_other_engines_hold_it_whole() -> None:
    block = 4 * (128 * 128 + 128) + 2 * 128 * 256 + 256 + 128 + 4 * 128
    whole = model(-2).expected_parameters()
    assert served(-2, "transformers").parameters == whole
    assert served(-2, "transformers").bytes - served(-2, "vllm").bytes == 2 * (block + 2 * 128)  # the last norm too
    assert model(-1).expected_parameters() == whole


@pytest.mark.parametrize("layer", [6, -7, [-2, 9]], ids=str)
def test_no_layer_beyond_the_tower(layer: int | list[int]) -> None:
    with pytest.raises(ContradictionError, match="vision_feature_layer"):
        model(layer)
