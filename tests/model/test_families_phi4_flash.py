"""Phi-4-mini-flash: sizes worked out by hand from its published modeling code, with the values of its published config.json."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError
from hfmem.memory.cache import layer_bytes
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, Mamba1State, NoCache, SharedCache, SlidingAttention

PUBLISHED: dict[str, Any] = {
    "model_type": "phi4flash",
    "architectures": ["Phi4FlashForCausalLM"],
    "torch_dtype": "bfloat16",
    "hidden_size": 2560,
    "intermediate_size": 10_240,
    "num_hidden_layers": 32,
    "num_attention_heads": 40,
    "num_key_value_heads": 20,
    "mb_per_layer": 2,
    "sliding_window": 512,
    "max_position_embeddings": 262_144,
    "mlp_bias": False,
    "lm_head_bias": False,
    "vocab_size": 200_064,
}


def test_parameters() -> None:
    h, inner, rank = 2560, 5120, 160
    block = 3 * 10_240 * h + 2 * 2 * h  # feed-forward, two layer norms
    mamba = (
        2 * inner * h + 4 * inner + inner + (rank + 32) * inner + (rank + 1) * inner + 16 * inner + inner + h * inner
    )
    gated = 2 * inner * h
    differential = 4 * 64 + 128
    own = (h + 2 * 1280) * (h + 1) + h * (h + 1) + differential
    reading = 2 * h * (h + 1) + differential
    arch = read_architecture(PUBLISHED)
    # 16 Mamba layers, of which 7 gate; 16 of attention, of which 7 read: the layers behind the 18th
    expected = 200_064 * h + 32 * block + 9 * mamba + 7 * gated + 9 * own + 7 * reading + 2 * h
    assert arch.expected_parameters() == expected == 3_852_562_944
    assert arch.tie_word_embeddings


def test_the_second_half_keeps_nothing() -> None:
    kinds = [layer.caches[0] for layer in read_architecture(PUBLISHED).layers]
    state, window = Mamba1State(5120, 16, 4), SlidingAttention(40, 20, 64, 64, 512)
    assert kinds[:16] == [state, window] * 8
    assert kinds[16:18] == [state, FullAttention(40, 20, 64, 64)]
    assert kinds[18:] == [NoCache("gated memory"), SharedCache(17)] * 7
    # 9 states in bf16; 8 windows and one full layer of 2 × 20 × 64 values a token
    kept = 9 * 5120 * (16 + 3) * 2 + (8 * 512 + 32_768) * 2 * 20 * 64 * 2
    assert sum(layer_bytes(kind, 32_768, "bf16", "BF16") for kind in kinds) == kept


@pytest.mark.parametrize(("change", "word"), [({"num_hidden_layers": 30}, "4 does not"), ({"mb_per_layer": 1}, "17")])
def test_other_depths_and_steps_are_refused(change: dict[str, int], word: str) -> None:
    with pytest.raises(ContradictionError, match=word):
        read_architecture(PUBLISHED | change)
