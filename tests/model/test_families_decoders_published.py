"""Text decoders with ordinary attention: parameters as published, from the memory-relevant keys of a published config."""

from __future__ import annotations

from typing import Any

import pytest
from decoder_configs import gpt_keys, llama_keys, read

#: name, model_type, keys, parameters as published (Hub's safetensors count or paper)
PUBLISHED: list[tuple[str, str, dict[str, Any], int]] = [
    (
        "bigscience/bloom-560m",
        "bloom",
        {"n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "vocab_size": 250880},
        559_214_592,
    ),
    (
        "bigscience/bloom",  # 176,247,271,424 in the model card
        "bloom",
        {"n_embed": 14336, "n_layer": 70, "num_attention_heads": 112, "vocab_size": 250880},
        176_247_271_424,
    ),
    ("internlm/internlm2-7b", "internlm2", llama_keys(4096, 32, 32, 8, 14336, 92544, bias=False), 7_737_708_544),
    ("internlm/internlm2-20b", "internlm2", llama_keys(6144, 48, 48, 8, 16384, 92544, bias=False), 19_861_149_696),
    (
        "internlm/internlm3-8b-instruct",
        "internlm3",
        llama_keys(4096, 48, 32, 2, 10240, 128512, head_dim=128, bias=False, qkv_bias=False),
        8_804_241_408,
    ),
    # tied because nothing says otherwise: 2,442,057,984 in the paper's table plus the embedding of 122,753 · 2304
    ("openbmb/MiniCPM-2B", "minicpm", llama_keys(2304, 40, 36, 36, 5760, 122753), 2_442_057_984 + 122_753 * 2304),
    ("allenai/OLMo-7B-hf", "olmo", llama_keys(4096, 32, 32, 32, 11008, 50304), 6_888_095_744),
    ("allenai/OLMo-2-1124-7B", "olmo2", llama_keys(4096, 32, 32, 32, 11008, 100352), 7_298_617_344),
    (
        "allenai/OLMoE-1B-7B-0924",
        "olmoe",
        llama_keys(2048, 16, 16, 16, 1024, 50304, num_experts=64, num_experts_per_tok=8),
        6_919_161_856,
    ),
    ("bigcode/starcoder2-3b", "starcoder2", llama_keys(3072, 30, 24, 2, 12288, 49152, use_bias=True), 3_030_371_328),
    (
        "bigcode/starcoder",
        "gpt_bigcode",
        gpt_keys(6144, 40, 48, 49152, n_inner=24576, n_positions=8192, multi_query=True),
        15_517_456_384,
    ),
    (
        "microsoft/Phi-3-small-8k-instruct",
        "phi3small",
        {k: v for k, v in llama_keys(4096, 32, 32, 8, 0, 100352, ff_intermediate_size=14336).items() if v},
        7_392_272_384,
    ),
    (
        "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct",
        "exaone",
        {
            "hidden_size": 4096,
            "num_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "vocab_size": 102400,
            "tie_word_embeddings": False,
        },
        7_818_448_896,
    ),
    (
        "stabilityai/stablelm-2-1_6b",
        "stablelm",
        llama_keys(2048, 24, 32, 32, 5632, 100352, use_qkv_bias=True),
        1_644_515_328,
    ),
    ("google/gemma-2-9b", "gemma2", llama_keys(3584, 42, 16, 8, 14336, 256000, head_dim=256), 9_241_705_984),
    (
        "Qwen/Qwen1.5-MoE-A2.7B",
        "qwen2_moe",
        llama_keys(
            2048,
            24,
            16,
            16,
            5632,
            151936,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
            num_experts=60,
            num_experts_per_tok=4,
        ),
        14_315_784_192,
    ),
    ("CohereForAI/c4ai-command-r-v01", "cohere", llama_keys(8192, 40, 64, 64, 22528, 256000), 34_980_831_232),
    ("baichuan-inc/Baichuan-7B", "baichuan", llama_keys(4096, 32, 32, 32, 11008, 64000), 7_000_559_616),
    ("baichuan-inc/Baichuan2-13B-Base", "baichuan", llama_keys(5120, 40, 40, 40, 13696, 125696), 13_896_668_160),
    (
        "Qwen/Qwen-14B",
        "qwen",
        llama_keys(5120, 40, 40, 40, 27392, 152064, kv_channels=128, no_bias=True),
        14_167_290_880,
    ),
    (
        "Qwen/Qwen-72B",
        "qwen",
        llama_keys(8192, 80, 64, 64, 49152, 152064, kv_channels=128, no_bias=True),
        72_287_920_128,
    ),
    (
        "facebook/xglm-564M",
        "xglm",
        {"d_model": 1024, "num_layers": 24, "attention_heads": 16, "ffn_dim": 4096, "vocab_size": 256008},
        564_463_616,
    ),
    ("openai-community/gpt2-xl", "gpt2", gpt_keys(1600, 48, 25, 50257, n_positions=1024), 1_557_611_200),
    (
        "EleutherAI/pythia-12b",
        "gpt_neox",
        {
            "hidden_size": 5120,
            "num_hidden_layers": 36,
            "num_attention_heads": 40,
            "intermediate_size": 20480,
            "vocab_size": 50688,
        },
        11_846_072_320,
    ),
    ("Salesforce/codegen-350M-mono", "codegen", gpt_keys(1024, 20, 16, 51200), 356_712_448),
    (
        "ibm-granite/granite-3.1-8b-base",
        "granite",
        llama_keys(4096, 40, 32, 8, 12800, 49155, tie_word_embeddings=True),
        8_170_848_256,
    ),
    (
        "tencent/Hunyuan-A13B-Instruct",  # counts written once a layer
        "hunyuan_v1_moe",
        llama_keys(
            4096, 32, 32, 8, 3072, 128167, head_dim=128, num_experts=64, moe_topk=[8] * 32, tie_word_embeddings=True
        ),
        80_393_183_232,
    ),
    (
        "openai/gpt-oss-120b",  # 116,829,156,672: 116.83B total in the model card's table
        "gpt_oss",
        llama_keys(2880, 36, 64, 8, 2880, 201088, head_dim=64, num_local_experts=128, num_experts_per_tok=4),
        116_829_156_672,
    ),
    (
        "microsoft/Phi-3.5-MoE-instruct",
        "phimoe",
        llama_keys(
            4096,
            32,
            32,
            8,
            6400,
            32064,
            num_local_experts=16,
            num_experts_per_tok=2,
            attention_bias=True,
            lm_head_bias=True,
        ),
        41_873_153_344,
    ),
    (
        "baidu/ERNIE-4.5-0.3B-PT",
        "ernie4_5",
        llama_keys(1024, 18, 16, 2, 3072, 103424, head_dim=128, tie_word_embeddings=True),
        360_748_032,
    ),
    (
        "baidu/ERNIE-4.5-21B-A3B-PT",
        "ernie4_5_moe",
        llama_keys(
            2560,
            28,
            20,
            4,
            12288,
            103424,
            moe_intermediate_size=1536,
            moe_num_experts=64,
            moe_k=6,
            moe_num_shared_experts=2,
            moe_layer_start_index=1,
            tie_word_embeddings=True,
        ),
        21_825_437_888,
    ),
    ("swiss-ai/Apertus-8B-2509", "apertus", llama_keys(4096, 32, 32, 8, 21504, 131072), 8_053_338_176),
    (
        "zai-org/GLM-4-9B-0414",
        "glm4",
        llama_keys(4096, 40, 32, 2, 13696, 151552, head_dim=128),
        9_400_279_040,
    ),
    ("kyutai/helium-1-preview-2b", "helium", llama_keys(2560, 24, 20, 20, 7040, 48000), 2_172_643_840),
    ("jetmoe/jetmoe-8b", "jetmoe", {"num_hidden_layers": 24}, 8_522_237_952),
    (
        "deepseek-ai/deepseek-moe-16b-base",
        "deepseek",
        llama_keys(
            2048,
            28,
            16,
            16,
            10944,
            102400,
            moe_intermediate_size=1408,
            n_routed_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            first_k_dense_replace=1,
            moe_layer_freq=1,
        ),
        16_375_728_128,
    ),
    (
        "inclusionAI/Ling-lite",
        "bailing_moe",
        llama_keys(
            2048,
            28,
            16,
            4,
            5632,
            126464,
            head_dim=128,
            moe_intermediate_size=1408,
            num_experts=64,
            num_shared_experts=2,
            num_experts_per_tok=6,
            first_k_dense_replace=0,
        ),
        16_801_974_272,
    ),
    (
        "apple/OpenELM-270M",
        "openelm",
        {
            "model_dim": 1280,
            "num_transformer_layers": 16,
            "head_dim": 64,
            "num_query_heads": [12] * 5 + [16] * 7 + [20] * 4,
            "num_kv_heads": [3] * 5 + [4] * 7 + [5] * 4,
            "ffn_multipliers": [
                0.5,
                0.73,
                0.97,
                1.2,
                1.43,
                1.67,
                1.9,
                2.13,
                2.37,
                2.6,
                2.83,
                3.07,
                3.3,
                3.53,
                3.77,
                4.0,
            ],
            "ffn_dim_divisor": 256,
            "normalize_qk_projections": True,
            "vocab_size": 32000,
        },
        271_527_168,
    ),
    (
        "allenai/OLMo-7B",  # the same model as OLMo-7B-hf
        "hf_olmo",
        {
            "d_model": 4096,
            "n_layers": 32,
            "n_heads": 32,
            "mlp_hidden_size": 22016,
            "vocab_size": 50280,
            "embedding_size": 50304,
            "weight_tying": False,
            "layer_norm_with_affine": False,
        },
        6_888_095_744,
    ),
]


@pytest.mark.parametrize(("name", "model_type", "keys", "parameters"), PUBLISHED, ids=[p[0] for p in PUBLISHED])
def test_published_parameters(name: str, model_type: str, keys: dict[str, Any], parameters: int) -> None:
    assert read(model_type, **keys).expected_parameters() == parameters
