"""What a vision encoder's profiling run holds, against the processors of vLLM 0.33.0 and what a server logged."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.memory.encoder import encoder_profile
from hfmem.units import GIB

CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "image_size": 336, "patch_size": 14, "hidden_act": "quick_gelu"}


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
    found = encoder_profile(config, 2048)
    assert found is not None and found.known
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
    deep = encoder_profile(
        {"model_type": "qwen3_vl_moe", "vision_config": vision | {"deepstack_visual_indexes": [8, 16, 24]}}, 8192
    )
    flat = encoder_profile({"model_type": "qwen3_vl_moe", "vision_config": vision}, 8192)
    assert deep is not None and flat is not None
    assert flat.live_bytes(1) == 65_536 * (2 * 1152 + 2 * 4304) * 2
    assert 0.85 * 4.4 * GIB < deep.live_bytes(1) < 1.15 * 4.4 * GIB
