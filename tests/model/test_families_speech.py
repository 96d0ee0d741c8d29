"""Speech, omni and remote-code families: parameters and caches from config facts.

Expected parameters: transformers 5.23.0 on a meta model of the same config, or the sum over a published header, as said at each.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import CrossAttention, FullAttention, NoCache

Facts = dict[str, Any]


def decoder_bytes(architecture: Architecture) -> int:
    """BF16 bytes that a token adds."""
    return sum(
        2 * c.num_kv_heads * (c.head_dim + c.v_head_dim) for c in architecture.caches() if isinstance(c, FullAttention)
    )


QWEN3_OMNI: Facts = {  # Qwen3-Omni-30B-A3B's sizes
    "model_type": "qwen3_omni_moe",
    "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
    "thinker_config": {
        "audio_config": {"output_dim": 2048},
        "vision_config": {"out_hidden_size": 2048},
        "text_config": {
            "vocab_size": 152064,
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "intermediate_size": 768,
        },
    },
    "talker_config": {
        "thinker_hidden_size": 2048,
        "num_code_groups": 16,
        "text_config": {
            "shared_expert_intermediate_size": 768,
            "head_dim": 128,
            "num_attention_heads": 16,
            "num_experts_per_tok": 6,
        },
        "code_predictor_config": {"num_code_groups": 16},
    },
    "code2wav_config": {
        "codebook_size": 2048,
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "intermediate_size": 3072,
        "num_hidden_layers": 8,
        "num_quantizers": 16,
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
        "decoder_dim": 1536,
    },
}
S2_PRO: Facts = {
    "model_type": "fish_qwen3_omni",
    "text_config": {
        "dim": 2560,
        "head_dim": 128,
        "intermediate_size": 9728,
        "n_head": 32,
        "n_layer": 36,
        "n_local_heads": 8,
        "attention_qk_norm": True,
        "tie_word_embeddings": True,
        "vocab_size": 155776,
        "model_type": "fish_qwen3",
    },
    "audio_decoder_config": {
        "dim": 2560,
        "head_dim": 128,
        "intermediate_size": 9728,
        "n_head": 32,
        "n_layer": 4,
        "n_local_heads": 8,
        "num_codebooks": 10,
        "text_dim": 2560,
        "vocab_size": 4096,
        "model_type": "fish_qwen3_audio_decoder",
    },
}
MOLMO_7B: Facts = {
    "model_type": "molmo",
    "architectures": ["MolmoForCausalLM"],
    "embedding_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 37888,
    "layer_norm_type": "rms",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "qkv_bias": True,
    "vocab_size": 152064,
    "weight_tying": False,
}
PHI3_VISION: Facts = {
    "model_type": "phi3_v",
    "architectures": ["Phi3VForCausalLM"],
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
    "sliding_window": None,
    "img_processor": {
        "image_dim_out": 1024,
        "model_name": "openai/clip-vit-large-patch14-336",
        "name": "clip_vision_model",
    },
}
LLAMA3_V: Facts = {
    "model_type": "llama3v",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "query_num": 96,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
NV_EMBED: Facts = {
    "model_type": "nvembed",
    "architectures": ["NVEmbedModel"],
    "latent_attention_config": {"model_type": "latent_attention"},
    "text_config": {
        "model_type": "bidir_mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
}
_SAM_B = {
    "downsample_channels": [512, 1024],
    "global_attn_indexes": [2, 5, 8, 11],
    "heads": 12,
    "layers": 12,
    "width": 768,
}
_CLIP_L = {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": 1024}
DEEPSEEK_OCR: Facts = {
    "model_type": "deepseek_vl_v2",
    "architectures": ["DeepseekOCRForCausalLM"],
    "language_config": {
        "first_k_dense_replace": 1,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "moe_intermediate_size": 896,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 10,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 12,
        "num_key_value_heads": 10,
        "use_mla": False,
        "vocab_size": 129280,
    },
    "projector_config": {"input_dim": 2048, "n_embed": 1280, "projector_type": "linear"},
    "vision_config": {
        "image_size": 1024,
        "model_name": "deeplip_b_l",
        "width": {"clip-l-14-224": _CLIP_L, "sam_vit_b": _SAM_B},
    },
}
#: deepseek-vl2-tiny as published: its tower's section names neither heads nor an image's side
DEEPSEEK_VL2: Facts = {
    "model_type": "deepseek_vl_v2",
    "language_config": DEEPSEEK_OCR["language_config"] | {"model_type": "deepseek_v2"},
    "projector_config": {"model_type": "mlp_projector", "n_embed": 1280},
    "vision_config": {
        "layers": 27,
        "mlp_ratio": 3.7362,
        "model_name": "siglip_so400m_patch14_384",
        "model_type": "vision",
        "patch_size": 14,
        "width": 1152,
    },
}


def _vl2_tiny() -> int:
    """ "3.37 B" on its card: a mixture of 12 layers, SigLIP so400m with an unread pooling head, 2 × 2 patches merged."""
    h, w, inner, vocab = 1280, 1152, int(1152 * 3.7362), 129_280
    text = 2 * vocab * h + 12 * 4 * h * h + 25 * h + 3 * h * 6848
    text += 11 * (64 * h + (64 + 2) * 3 * h * 896)
    mlp = 2 * w * inner + inner + w
    block = 4 * (w * w + w) + mlp + 2 * 2 * w
    pooling = w + 4 * (w * w + w) + 2 * w + mlp
    tower = 3 * 14 * 14 * w + w + (384 // 14) ** 2 * w + 27 * block + 2 * w + pooling
    projector = 4 * w * h + h + h * h + h + 2 * h
    return text + tower + projector


LLAVA_16: Facts = {  # as its authors publish LLaVA 1.6 7B
    "model_type": "llava_llama",
    "architectures": ["LlavaLlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_patch_merge_type": "spatial_unpad",
    "unfreeze_mm_vision_tower": True,
}
MINICPM_V_2: Facts = {
    "model_type": "minicpmv",
    "architectures": ["MiniCPMV"],
    "drop_vision_last_layer": True,
    "hidden_size": 2304,
    "intermediate_size": 5760,
    "num_attention_heads": 36,
    "num_hidden_layers": 40,
    "num_key_value_heads": 36,
    "query_num": 64,
    "tie_word_embeddings": False,
    "vision_encoder": "vit_so400m_patch14_siglip_384.webli",
    "vocab_size": 122753,
}

#: name → config, parameters, bytes a token adds (BF16)
MODELS: dict[str, tuple[Facts, int, int]] = {
    "Qwen3-Omni-30B": (QWEN3_OMNI, 35259818545, 98304),  # meta model
    "Qwen2.5-Omni": ({"model_type": "qwen2_5_omni"}, 18386365824, 57344),  # meta model of the class defaults
    "seamless": ({"model_type": "seamless_m4t_v2"}, 2309249669, 98304),  # header of facebook/seamless-m4t-v2-large
    "csm": ({"model_type": "csm"}, 1632100161, 32768),  # meta model of the class defaults
    "s2-pro": (S2_PRO, 4561852416, 147456),  # header of fishaudio/s2-pro
    "Molmo-7B-D": (MOLMO_7B, 8021025280, 57344),  # total_parameters in a published index
    "Phi-3-vision": (PHI3_VISION, 4146621440, 393216),  # published parameter count
    "llama3v": (LLAMA3_V, 8537092336, 131072),  # header of mustafaaljadery/llama3v
    "NV-Embed-v2": (NV_EMBED, 7851016192, 0),  # header of nvidia/NV-Embed-v2
    "MiniCPM-V-2": (MINICPM_V_2, 3434965792, 368640),  # header of openbmb/MiniCPM-V-2
    "DeepSeek-OCR": (DEEPSEEK_OCR, 3336106240, 61440),  # published parameter count
    "DeepSeek-VL2-Tiny": (DEEPSEEK_VL2, _vl2_tiny(), 61440),
    "LLaVA-1.6-7B": (LLAVA_16, 7062906880, 524288),  # as transformers' llava_next, whose defaults are this model
    "lfm2_vl": (
        {"model_type": "lfm2_vl"},
        2812857088,
        0,
    ),  # meta model; LFM2's class default is checked in its own tests
    "ovis2": ({"model_type": "ovis2"}, 11778684918, 524288),  # meta model of the class defaults
    "got_ocr2": ({"model_type": "got_ocr2"}, 560528640, 98304),  # meta model of the class defaults
    "vit": ({"model_type": "vit", "architectures": ["ViTModel"]}, 86389248, 0),  # google/vit-base-patch16-224
    "dinov2": ({"model_type": "dinov2", "architectures": ["Dinov2Model"]}, 85725696, 0),  # meta model
}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_cache(name: str) -> None:
    facts, total, growing = MODELS[name]
    architecture = read_architecture(facts)
    assert architecture.expected_parameters() == total
    if name != "lfm2_vl":
        assert decoder_bytes(architecture) == growing


def test_omni_talker_is_part_of_the_file_and_said_not_to_be_counted_in_the_cache() -> None:
    whole = read_architecture(QWEN3_OMNI)
    silent = read_architecture({**QWEN3_OMNI, "enable_audio_output": False})
    assert [note.code for note in whole.notes] == ["second_decoder"]
    assert silent.notes == ()
    # talker and vocoder aside the two are one: the towers' layers too
    assert whole.layers == silent.layers
    assert not [s for s in silent.tensors if s.pattern.startswith(("talker.", "code2wav."))]
    experts = sum(
        s.count * s.elements for s in whole.tensors if s.pattern.startswith("thinker.model.layers.{}.mlp.experts.")
    )
    assert experts == 48 * 128 * 3 * 2048 * 768


def test_seamless_text_decoder_is_the_stack_that_keeps() -> None:
    architecture = read_architecture({"model_type": "seamless_m4t_v2"})
    kept = [layer for layer in architecture.layers if layer.caches[0] != NoCache(layer.stack)]
    assert len(kept) == 24
    assert kept[0].caches == (FullAttention(16, 16, 64, 64), CrossAttention(16, 16, 64, None))


def test_nv_embed_is_an_encoder_without_head() -> None:
    architecture = read_architecture(NV_EMBED)
    assert {type(cache) for cache in architecture.caches()} == {NoCache}
    assert Component.LM_HEAD not in architecture.parameters_by_component()
    assert any(s.pattern == "embedding_model.layers.{}.self_attn.q_proj.weight" for s in architecture.tensors)


def test_nested_configs_take_the_outer_class_word_over_their_own() -> None:
    """transformers reads GLM-4.5V's tower by one class although it calls itself `glm4v_moe`, and LLaVA's tower by its own name."""
    fixed = Config({"model_type": "glm4v_moe", "vision_config": {"model_type": "glm4v_moe"}}).sub("vision_config")
    assert fixed.model_type == "glm4v_moe_vision"
    free = Config({"model_type": "llava", "vision_config": {"model_type": "pixtral"}}).sub("vision_config")
    assert free.model_type == "pixtral"


def test_an_absent_nested_config_holds_what_the_class_puts_there() -> None:
    """LlavaConfig makes CLIP ViT-L/14-336 where `vision_config` is absent, CLIP's own defaults (ViT-B/32) where it is empty."""
    cfg = Config({"model_type": "llava"})
    assert cfg.sub("vision_config").positive("hidden_size") == 1024
    assert "vision_config.hidden_size" in cfg.used_defaults
    assert Config({"model_type": "llava", "vision_config": {}}).sub("vision_config").positive("hidden_size") == 768


def test_llava_1_5_leaves_its_tower_to_another_repository() -> None:
    """Without `unfreeze_mm_vision_tower` the tower (303,507,456 parameters of CLIP ViT-L/14-336) is not in the file."""
    facts = {**LLAVA_16, "model_type": "llava", "unfreeze_mm_vision_tower": False, "mm_patch_merge_type": "flat"}
    architecture = read_architecture(facts)
    assert architecture.expected_parameters() == 7062906880 - 303507456 - 4096
    assert [note.code for note in architecture.notes] == ["tower_elsewhere"]


def test_every_stage_of_qwen3_omni_holds_both_tables() -> None:
    # vLLM 0.33's `Qwen3MoeLLMForCausalLM` built for two stages: they differ by the thinker's towers alone
    arch = read_architecture(dict(QWEN3_OMNI))
    first, last = rank_weights(arch, synthesise(arch), Serving(10, pp=2)).stage_parameters
    towers = sum(
        spec.count * spec.elements
        for spec in arch.tensors
        if spec.pattern.startswith(("thinker.visual.", "thinker.audio_tower."))
    )
    assert first - last == towers > 0
