"""Draft heads with more than DFlash's body: parameters counted on vLLM 0.33.0's classes, built on the meta device beside a small
target from these configs, and on transformers 5.23.0's for Muse Glimmer's assistant.

vLLM's count has what the file does not hold: the target's two tables, a vector for masked positions.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, MissingKeyError
from hfmem.memory.cache import bytes_per_token
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, LatentAttention, SlidingAttention

QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "dtype": "bfloat16",
    "hidden_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 768,
    "vocab_size": 9024,
    "tie_word_embeddings": False,
    "block_size": 8,
}
TABLES = 2 * 9024 * 512
JOINED = {"mask_token_id": 5, "target_layer_ids": [1, 2]}
XPRESS = QWEN3 | {
    "architectures": ["Qwen3XPressModel"],
    "xpress_rank": 16,
    "xpress_mlp_hidden": 32,
    "xpress_block_size": 8,
    "dflash_config": JOINED,
}
CORRECTOR = {
    "block_size": 8,
    "lilicorr_hidden_size": 128,
    "lilicorr_candidate_topk": 4,
    "lilicorr_num_heads": 4,
    "lilicorr_mlp_ratio": 2.0,
    "lilicorr_factor_dim": 16,
    "lilicorr_num_layers": 3,
}
LILICORR = QWEN3 | {"architectures": ["LiLiCorrDraftModel"], "dflash_config": JOINED | CORRECTOR}
LAGUNA = QWEN3 | {
    "model_type": "laguna",
    "architectures": ["DFlashLagunaForCausalLM"],
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "gating": True,
    "layer_types": ["sliding_attention"] * 2,
    "sliding_window": 512,
    "mlp_layer_types": ["dense"] * 2,
    "draft_vocab_size": 9024,
    "dflash_config": JOINED,
}
SPARK = {"markov_rank": 16, "target_layer_ids": [1, 2], "enable_confidence_head": True}
GEMMA4 = QWEN3 | {
    "model_type": "gemma4_text",
    "architectures": ["Gemma4DSparkModel"],
    "global_head_dim": 128,
    "num_global_key_value_heads": 2,
    "attention_k_eq_v": True,
    "layer_types": ["full_attention"] * 2,
    "sliding_window": 512,
    "confidence_head_with_markov": True,
    **SPARK,
}
K3 = {
    "model_type": "k3_dspark",
    "architectures": ["K3DSparkModel"],
    "dtype": "bfloat16",
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,
    "q_lora_rank": 96,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 384,
    "vocab_size": 9024,
    "target_hidden_size": 512,
    "num_target_layers": 2,
    **SPARK,
}


@pytest.mark.parametrize(
    ("config", "built", "beside"),
    [
        (XPRESS, 14_009_344, TABLES + 512),
        (LILICORR, 14_369_018, TABLES + 512),
        (LAGUNA, 13_709_568, TABLES),
        (GEMMA4, 14_778_385, 0),
        (K3, 3_240_897, 2 * (512 + 64) * 256),  # vLLM keeps the down-projections of all layers once more, joined
    ],
    ids=["xpress", "lilicorr", "laguna", "gemma4", "k3"],
)
def test_as_vllm_builds_it(config: dict[str, Any], built: int, beside: int) -> None:
    assert read_architecture(config).expected_parameters() == built - beside


def test_what_each_keeps_for_a_token() -> None:
    for config in (XPRESS, LILICORR, LAGUNA):
        assert read_architecture(config).caches() == (FullAttention(8, 4, 64, 64),) * 2
    assert bytes_per_token(read_architecture(GEMMA4)) == 2 * 2 * 2 * 128 * 2
    assert [type(cache) for cache in read_architecture(K3).caches()] == [LatentAttention] * 2
    assert bytes_per_token(read_architecture(K3)) == 2 * (512 + 64) * 2


def test_muse_glimmer_assistant() -> None:
    said = {"model_type": "muse_glimmer_assistant", "architectures": ["MuseGlimmerAssistantModel"]}
    assert read_architecture(said).expected_parameters() == 2_555_985_152  # the class's own sizes
    small = {key: QWEN3[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")}
    small |= {"intermediate_size": 768, "num_hidden_layers": 3, "sliding_window": 256, "target_layer_ids": [1, 2, 5]}
    arch = read_architecture(said | small)
    assert arch.expected_parameters() == 6_689_152
    assert arch.caches() == (SlidingAttention(8, 4, 64, 64, 256),) * 3
    assert "encoder.output_norm_enc.weight" in {spec.pattern for spec in arch.tensors}


def test_sizes_that_a_corrector_needs() -> None:
    said = LILICORR["dflash_config"]
    with pytest.raises(MissingKeyError, match="'lilicorr_num_layers' is missing"):
        read_architecture(LILICORR | {"dflash_config": {k: v for k, v in said.items() if k != "lilicorr_num_layers"}})
    with pytest.raises(ContradictionError, match="cannot cut 128 channels into 3 heads"):
        read_architecture(LILICORR | {"dflash_config": said | {"lilicorr_num_heads": 3}})
    # the width of the model itself: no projection of the tokens
    same = read_architecture(LILICORR | {"dflash_config": said | {"lilicorr_hidden_size": None}})
    assert not any("token_proj" in spec.pattern for spec in same.tensors)
    # XPress's class takes 256 channels, 512 inside and blocks of 16 where nothing is said
    silent = {key: value for key, value in XPRESS.items() if not key.startswith("xpress_")}
    head = 2 * 9024 * 256 + 2 * 256 * 512 + 3 * 256 * 256 + 3 * 512 * 256 + 256 * 16 * 16
    small = 2 * 9024 * 16 + 2 * 16 * 512 + 3 * 16 * 16 + 3 * 32 * 16 + 16 * 8 * 8
    assert (
        read_architecture(silent).expected_parameters() - read_architecture(XPRESS).expected_parameters()
        == head - small
    )
