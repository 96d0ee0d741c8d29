"""Multimodal models that only vLLM knows: parameters of the whole model and of a rank of two.

Expected parameters were counted on vLLM 0.33.0's own classes, built on the meta device from these configs at tensor parallel size 1
and 2 (its vocabulary padding does nothing at 9,024 rows). Where a checkpoint holds more than vLLM builds, the difference is written
out.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture

Facts = dict[str, Any]

QWEN3: Facts = {
    "model_type": "qwen3",
    "head_dim": 128,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "vocab_size": 9024,
    "tie_word_embeddings": False,
}
QWEN2: Facts = {**QWEN3, "model_type": "qwen2", "num_attention_heads": 4, "head_dim": None}
QWEN35: Facts = {
    "model_type": "qwen3_5_moe_text",
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_key_head_dim": 32,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 96,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 9024,
    "full_attention_interval": 4,
    "tie_word_embeddings": False,
}
SIGLIP: Facts = {
    "model_type": "siglip_vision_model",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "image_size": 384,
    "patch_size": 16,
    "vision_use_head": False,
}
TOWER: Facts = {
    "depth": 3,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_heads": 4,
    "out_hidden_size": 512,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
    "in_channels": 3,
    "deepstack_visual_indexes": [1, 2],
}
#: model_type → the rest of the config, parameters, parameters of a rank of two, what the file holds beside (SigLIP's last norm)
MODELS: dict[str, tuple[Facts, int, int, int]] = {
    "bee": ({"text_config": QWEN3, "vision_config": SIGLIP}, 22_664_192, 12_079_168, 2 * 128),
    "R": ({"text_config": QWEN3, "vision_config": SIGLIP}, 21_679_616, 11_094_592, 2 * 128),
    "llava_onevision2": (
        {
            "text_config": QWEN3,
            "vision_config": {
                "hidden_size": 256,
                "intermediate_size": 512,
                "num_attention_heads": 4,
                "num_hidden_layers": 3,
                "patch_size": 14,
                "spatial_merge_size": 2,
            },
        },
        24_087_808,
        12_125_056,
        0,
    ),
    "interns1_pro": (
        {
            "text_config": {
                **QWEN3,
                "num_experts": 8,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 64,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
                "rope_scaling": {"rope_type": "default", "fope_sep_head": True, "num_inv_freq": None},
            },
            "vision_config": TOWER,
        },
        20_134_912,
        10_327_360,
        0,
    ),
    "interns2_preview": ({"text_config": QWEN35, "vision_config": TOWER}, 28_720_416, 14_630_960, 0),
    "interns2_mobius": (
        {"text_config": {**QWEN35, "num_blocks": 2, "layer_scale": True}, "vision_config": TOWER},
        23_985_440,
        12_255_280,
        0,
    ),
    "opencua": (
        {
            "text_config": QWEN2,
            "vision_config": {**TOWER, "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]},
        },
        19_858_176,
        10_007_744,
        0,
    ),
    "step_robotics": (
        {
            "text_config": QWEN3,
            "vision_config": {
                "width": 128,
                "layers": 3,
                "heads": 4,
                "mlp_ratio": 4,
                "image_size": 728,
                "patch_size": 14,
            },
        },
        23_535_232,
        12_720_448,
        0,
    ),
}


@pytest.mark.parametrize("model_type", MODELS)
def test_parameters_of_a_whole_model_and_of_a_rank(model_type: str) -> None:
    facts, whole, rank, beside = MODELS[model_type]
    arch = read_architecture({"model_type": model_type, "dtype": "bfloat16", **facts})
    assert arch.expected_parameters() == whole + beside
    serving = Serving(context=512, num_seqs=1, engine="vllm", tp=2)
    assert rank_weights(arch, synthesise(arch), serving).parameters == rank + beside


def test_forced_aligner_gives_time_marks() -> None:
    """Qwen3-ASR's build whose head has `classify_num` rows: 19,340,864 parameters in vLLM's class."""
    heard = {
        "d_model": 128,
        "encoder_layers": 3,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 256,
        "downsample_hidden_size": 48,
        "num_mel_bins": 128,
        "output_dim": 512,
    }
    thinker = {"classify_num": 5000, "audio_config": heard, "text_config": QWEN3}
    arch = read_architecture({"model_type": "qwen3_asr", "thinker_config": thinker})
    assert arch.expected_parameters() == 19_340_864


def test_jinas_reranker_of_page_images_scores() -> None:
    """jinaai/jina-reranker-m0: Qwen2-VL-2B (2,208,985,600 parameters, tied) with a square layer and one output for a head."""
    text = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    }
    seen = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3}
    facts = {"model_type": "qwen2_vl", **text, "tie_word_embeddings": True, "vision_config": seen}
    scored = read_architecture({**facts, "architectures": ["JinaVLForRanking"]})
    assert scored.expected_parameters() == 2_208_985_600 + 1536 * 1536 + 1536 + 1536 + 1


@pytest.mark.parametrize(("model_type", "prefix"), [("colqwen3", "vlm.model."), ("ops_colqwen3", "")])
def test_retrievers_have_a_projection_and_no_head(model_type: str, prefix: str) -> None:
    """What Qwen3-VL of this size has without its head (9,024 × 512), and `embed_dim` rows of 512."""
    text = {**QWEN3, "model_type": "qwen3_vl_text"}
    base = read_architecture({"model_type": "qwen3_vl", "text_config": text, "vision_config": TOWER})
    arch = read_architecture({"model_type": model_type, "embed_dim": 320, "text_config": text, "vision_config": TOWER})
    assert arch.expected_parameters() == base.expected_parameters() - 9024 * 512 + 320 * 512
    assert any(s.pattern.startswith(f"{prefix}visual.") for s in arch.tensors)
