"""What a vision encoder's profiling run holds, against the processors of vLLM 0.33.0 and what a server logged."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError
from hfmem.memory.encoder import EncoderProfile, encoder_profile
from hfmem.model.vision_facts import vision_tower
from hfmem.units import GIB

CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "image_size": 336, "patch_size": 14, "hidden_act": "quick_gelu"}


def profile(config: dict[str, Any], budget: int) -> EncoderProfile:
    tower = vision_tower(config, "config.json")
    assert tower is not None
    return encoder_profile(tower, budget)


@pytest.mark.parametrize(
    ("config", "tokens", "patches"),
    [
        # LLaVA-NeXT's largest image: 24 × 24 patches of the whole and of four tiles, and 48 ends of rows: 2,928 tokens
        ({"model_type": "llava_next", "vision_config": CLIP}, 2928, 5 * 577),
        # LLaVA 1.5: the patches without the class token
        ({"model_type": "llava", "vision_config": CLIP}, 3 * 576, 3 * 577),
        # Gemma 4's largest item is a video: 32 frames of 70 tokens, 2 around them and 6 of the time (`gemma4_mm.py`)
        ({"model_type": "gemma4", "vision_config": {"hidden_size": 1152}}, 32 * (70 + 2 + 6), 32 * (70 + 2 + 6) * 4),
    ],
)
def test_the_largest_item(config: dict[str, Any], tokens: int, patches: int) -> None:
    """As many of it as a step of 2,048 tokens holds, and one where it is larger."""
    found = profile(config, 2048)
    assert found.known
    assert (found.tokens, found.patches) == (tokens, patches)


def test_towers_whose_inner_layers_are_read_too() -> None:
    """Qwen3-VL-30B-A3B, bf16, one H100: a peak of 4.4 GiB. 65,536 patches, 1152 wide, 4304 inside, three inner layers kept."""
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "hidden_act": "gelu_pytorch_tanh",
        "spatial_merge_size": 2,
        "patch_size": 16,
    }
    deep = profile(
        {"model_type": "qwen3_vl_moe", "vision_config": vision | {"deepstack_visual_indexes": [8, 16, 24]}}, 8192
    )
    flat = profile({"model_type": "qwen3_vl_moe", "vision_config": vision}, 8192)
    assert flat.live_bytes(1) == 65_536 * (2 * 1152 + 2 * 4304) * 2
    assert 0.85 * 4.4 * GIB < deep.live_bytes(1) < 1.15 * 4.4 * GIB


def test_the_encoders_largest_image() -> None:
    """Qwen2-VL-2B on 16 GB: peaks of 2.36 and 2.65 GiB. 16,384 tokens are 65,536 patches; 1280 wide, 4 × 1280 inside."""
    vision = {
        "embed_dim": 1280,
        "hidden_size": 1536,
        "mlp_ratio": 4,
        "hidden_act": "quick_gelu",
        "spatial_merge_size": 2,
    }
    found = profile({"model_type": "qwen2_vl", "vision_config": vision}, 2048)
    assert (found.tokens, found.patches) == (16_384, 65_536)
    assert found.live_bytes(1) == 65_536 * (2 * 1280 + 3 * 5120) * 2
    assert 0.85 * 2.36 * GIB < found.live_bytes(1) < 2.65 * GIB


@pytest.mark.parametrize(
    ("config", "budget", "tokens", "patches"),
    [
        # Gemma 3 at 8,192 tokens: as many images of 256 tokens, 896 / 14 patches a side
        (
            {"mm_tokens_per_image": 256, "vision_config": {"hidden_size": 1152, "image_size": 896, "patch_size": 14}},
            8192,
            8192,
            32 * 4096,
        ),
        # Mistral Small 3.1: 1540 / 14 a side, four patches a token
        (
            {
                "model_type": "mistral3",
                "spatial_merge_size": 2,
                "vision_config": {"hidden_size": 1024, "image_size": 1540, "patch_size": 14},
            },
            8192,
            2 * 3025,
            2 * 12_100,
        ),
        # InternVL: 12 tiles and the whole, 32 × 32 patches and 256 tokens each
        (
            {
                "model_type": "internvl_chat",
                "vision_config": {"hidden_size": 1024, "image_size": 448, "patch_size": 14},
            },
            2048,
            3328,
            13_312,
        ),
        ({"model_type": "unheard_of", "vision_config": {"hidden_size": 1024}}, 2048, 2048, 8192),
    ],
)
def test_encoder_budgets(config: dict[str, Any], budget: int, tokens: int, patches: int) -> None:
    found = profile(config, budget)
    assert (found.tokens, found.patches) == (tokens, patches)
    assert found.known == (config.get("model_type") != "unheard_of")


def test_no_encoder() -> None:
    assert vision_tower({"model_type": "llama"}, "config.json") is None
    assert vision_tower({"model_type": "clip", "vision_config": {"patch_size": 14}}, "config.json") is None


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), -4, 0])
def test_a_ratio_that_no_model_has_is_refused(ratio: float) -> None:
    with pytest.raises(ContradictionError, match="'mlp_ratio'"):
        vision_tower({"vision_config": {"hidden_size": 1280, "mlp_ratio": ratio}}, "config.json")
