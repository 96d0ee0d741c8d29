"""Published configs of models with latent attention, compressed caches and many experts, with what is published of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

V3: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
V2_LITE = V3 | {
    "model_type": "deepseek_v2",
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": None,
    "vocab_size": 102400,
}
V32 = V3 | {"model_type": "deepseek_v32", "index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048}
K2 = V3 | {
    "model_type": "kimi_k2",
    "first_k_dense_replace": 1,
    "n_routed_experts": 384,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "num_nextn_predict_layers": 0,
    "vocab_size": 163840,
}
GLM5 = V32 | {
    "model_type": "glm_moe_dsa",
    "hidden_size": 6144,
    "index_n_heads": 32,
    "intermediate_size": 12288,
    "num_attention_heads": 64,
    "num_hidden_layers": 78,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "vocab_size": 154880,
}
GLM45_AIR: dict[str, Any] = {
    "model_type": "glm4_moe",
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_attention_heads": 96,
    "num_hidden_layers": 46,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "first_k_dense_replace": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "attention_bias": True,
    "use_qk_norm": False,
    "vocab_size": 151552,
    "num_nextn_predict_layers": 1,
    "dtype": "bfloat16",
}
V4_FLASH: dict[str, Any] = {
    "model_type": "deepseek_v4",
    "hc_mult": 4,
    "head_dim": 512,
    "hidden_size": 4096,
    "index_head_dim": 128,
    "index_n_heads": 64,
    "index_topk": 512,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 64,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 43,
    "num_hash_layers": 3,
    "num_nextn_predict_layers": 1,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "q_lora_rank": 1024,
    "sliding_window": 128,
    "vocab_size": 129280,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0],
    "torch_dtype": "bfloat16",
}
M1: dict[str, Any] = {
    "model_type": "minimax_m1",
    "attn_type_list": [*[0] * 7, 1] * 10,
    "head_dim": 128,
    "hidden_size": 6144,
    "intermediate_size": 9216,
    "num_attention_heads": 64,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "shared_intermediate_size": 0,
    "vocab_size": 200064,
    "torch_dtype": "bfloat16",
}
M25: dict[str, Any] = {
    "model_type": "minimax_m2",
    "num_hidden_layers": 62,
    "hidden_size": 3072,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 1536,
    "vocab_size": 200064,
    "num_experts_per_tok": 8,
    "num_local_experts": 256,
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "dtype": "bfloat16",
}
_SPARSE = [0, 0, 0, *[1] * 57]
M3: dict[str, Any] = {
    "model_type": "minimax_m3_vl",
    "projector_hidden_size": 6144,
    "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 6144,
        "intermediate_size": 3072,
        "num_hidden_layers": 60,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 200064,
        "dense_intermediate_size": 12288,
        "shared_intermediate_size": 3072,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "moe_layer_freq": _SPARSE,
        "sparse_attention_config": {
            "sparse_attention_freq": _SPARSE,
            "sparse_index_dim": 128,
            "sparse_num_index_heads": 4,
        },
    },
    "vision_config": {"model_type": "clip_vision_model", "num_channels": 3, "patch_size": 14},
}
K3: dict[str, Any] = {
    "model_type": "kimi_k3",
    "dtype": "bfloat16",
    "text_config": {
        "model_type": "kimi_linear",
        "attn_res_block_size": 12,
        "first_k_dense_replace": 1,
        "hidden_size": 7168,
        "intermediate_size": 33792,
        "kv_lora_rank": 512,
        "latent_moe_use_norm": True,
        "linear_attn_config": {
            "full_attn_layers": [*range(4, 93, 4), 93],
            "kda_layers": [i for i in range(1, 93) if i % 4],
            "head_dim": 128,
            "num_heads": 96,
            "short_conv_kernel_size": 4,
            "use_full_rank_gate": True,
        },
        "mla_use_output_gate": True,
        "moe_intermediate_size": 3072,
        "num_attention_heads": 96,
        "num_experts": 896,
        "num_experts_per_token": 16,
        "num_hidden_layers": 93,
        "num_shared_experts": 2,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "routed_expert_hidden_size": 3584,
        "v_head_dim": 128,
        "vocab_size": 163840,
    },
    "vision_config": {
        "attn_bias": False,
        "init_pos_emb_height": 64,
        "init_pos_emb_width": 64,
        "linear_bias": False,
        "merge_kernel_size": [2, 2],
        "mm_projector_type": "patchmergerv2",
        "norm_type": "rmsnorm",
        "patch_embed_proj_bias": False,
        "patch_size": 14,
        "qkv_hidden_size": 1536,
        "vt_hidden_size": 1024,
        "vt_intermediate_size": 4096,
        "vt_num_hidden_layers": 27,
    },
    "tie_word_embeddings": False,
}
MIMO_7B: dict[str, Any] = {
    "model_type": "mimo",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "vocab_size": 151680,
    "num_nextn_predict_layers": 1,
    "dtype": "bfloat16",
}
LONGCAT = {"model_type": "longcat_flash", "dtype": "bfloat16"}


@dataclass(frozen=True)
class Case:
    """A config and what it must give. None: no independent number."""

    config: dict[str, Any]
    total: int
    active: int | None
    stored: int | None = None
    slope: int | None = None


CASES = {
    # 684,489,845,504 in the headers of DeepSeek-R1, of which 59 · 256 are load-balancing biases (buffers)
    "deepseek_v3": Case(V3, 671_026_404_352, 37_552_282_624, 684_489_845_504 - 59 * 256, 70_272),
    "deepseek_v2-lite": Case(V2_LITE, 15_706_484_224, 2_661_150_208, None, 31_104),
    "deepseek_v32": Case(V32, 671_877_929_216, 38_403_807_488, None, 85_888),
    "kimi_k2": Case(K2, 1_026_408_209_408, 32_861_477_888, None, 70_272),
    "glm5": Case(GLM5, 743_911_199_232, 41_784_709_632, None, 109_824),
    # 110,468,824,832 published, of which 46 · 128 are load-balancing biases
    "glm45-air": Case(GLM45_AIR, 106_852_245_504, 13_424_123_904, 110_468_824_832 - 46 * 128, 188_416),
    "deepseek_v4": Case(V4_FLASH, 284_332_230_231, 13_799_622_231),
    "minimax_m1": Case(M1, 456_089_655_296, 48_403_306_496, None, 40_960),
    "minimax_m2": Case(M25, 228_689_748_992, 11_030_537_216, None, 253_952),
    "minimax_m3": Case(M3, 427_040_132_864, 26_828_033_792, None, 137_472),
    # class defaults alone: what transformers builds from an empty config
    "axk1": Case({"model_type": "axk1", "dtype": "bfloat16"}, 518_983_052_288, 32_779_332_608, None, 70_272),
    "axk2": Case({"model_type": "axk2", "dtype": "bfloat16"}, 20_314_494_976, 2_572_589_056, None, 27_648),
    "hy_v4": Case({"model_type": "hy_v4", "dtype": "bfloat16"}, 58_278_193_133, 5_179_877_357),
    "mistral_large4": Case({"model_type": "mistral_large4", "dtype": "bfloat16"}, 1_051_822_421_536, 54_802_806_304, None, 99_072),
    "glm4_moe_lite": Case({"model_type": "glm4_moe_lite", "dtype": "bfloat16"}, 29_943_390_976, 3_896_763_136, None, 54_144),
    "minicpm3": Case({"model_type": "minicpm3", "dtype": "bfloat16"}, 4_073_875_968, 4_073_875_968, None, 62 * 2 * (256 + 32)),
    "kimi_linear": Case({"model_type": "kimi_linear", "dtype": "bfloat16"}, 49_133_074_464, 3_494_852_640, None, 6_912),
    "muse_glimmer": Case({"model_type": "muse_glimmer", "dtype": "bfloat16"}, 29_776_626_688, 29_776_626_688, None, 13_312),
    "step3p7": Case({"model_type": "step3p7", "dtype": "bfloat16"}, 197_824_847_872, 12_856_041_472),
    # the class also allocates the 256 empty experts' gate and up: 28 · 256 · 2 · 2048 · 6144 = 180,388,626,432 less here
    "longcat_flash": Case(LONGCAT, 741_053_585_408 - 180_388_626_432, None, None, 56 * 1152),
    "mimo_v2": Case({"model_type": "mimo_v2_flash", "dtype": "bfloat16"}, 308_778_768_832, None),
}  # fmt: skip
