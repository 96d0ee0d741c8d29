"""Published configs of state-space models, hybrids and other recurrent families, with what is published of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NANO: dict[str, Any] = {
    "model_type": "nemotron_h",
    "conv_kernel": 4,
    "head_dim": 128,
    "hidden_size": 2688,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "mamba_head_dim": 64,
    "mamba_num_heads": 64,
    "mamba_ssm_cache_dtype": "float32",
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
    "n_groups": 8,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_attention_heads": 32,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 52,
    "num_key_value_heads": 2,
    "ssm_state_size": 128,
    "vocab_size": 131072,
    "torch_dtype": "bfloat16",
}
NEMOTRON_56B = {
    "model_type": "nemotron_h",
    "attention_head_dim": 128,
    "conv_kernel": 4,
    "hidden_size": 8192,
    "hybrid_override_pattern": "M-M-M-M*-" + "M-M-M-M-M*-" * 9 + "M-M-M-M-M-",
    "intermediate_size": 32768,
    "mamba_head_dim": 64,
    "mamba_num_heads": 256,
    "n_groups": 8,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "ssm_state_size": 256,
    "vocab_size": 131072,
    "torch_dtype": "bfloat16",
}
QWEN3_NEXT: dict[str, Any] = {
    "model_type": "qwen3_next",
    "decoder_sparse_step": 1,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_size": 2048,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "mlp_only_layers": [],
    "moe_intermediate_size": 512,
    "num_attention_heads": 16,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "shared_expert_intermediate_size": 512,
    "vocab_size": 151936,
    "torch_dtype": "bfloat16",
}
TEXT_27B = {
    "model_type": "qwen3_5_text",
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "linear_num_value_heads": 48,
    "mamba_ssm_dtype": "float32",
    "mtp_num_hidden_layers": 1,
    "num_attention_heads": 24,
    "num_hidden_layers": 64,
    "num_key_value_heads": 4,
    "vocab_size": 248320,
    "dtype": "bfloat16",
}
QWEN35_27B = {
    "model_type": "qwen3_5",
    "text_config": TEXT_27B,
    "vision_config": {"model_type": "qwen3_5", "out_hidden_size": 5120},
    "tie_word_embeddings": False,
}
QWEN35_35B = {
    "model_type": "qwen3_5_moe",
    "text_config": {"model_type": "qwen3_5_moe_text", "mtp_num_hidden_layers": 1, "dtype": "bfloat16"},
    "vision_config": {"model_type": "qwen3_5_moe", "out_hidden_size": 2048},
}
#: a pruned Qwen3.5-35B-A3B, text only, under the wrapper's class
REAP_18B = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "model_type": "qwen3_5_moe_text",
    "num_experts": 128,
    "dtype": "float16",
}
JAMBA_LARGE: dict[str, Any] = {
    "model_type": "jamba",
    "attn_layer_offset": 4,
    "attn_layer_period": 8,
    "expert_layer_offset": 1,
    "expert_layer_period": 2,
    "hidden_size": 8192,
    "intermediate_size": 24576,
    "mamba_dt_rank": 512,
    "num_attention_heads": 64,
    "num_hidden_layers": 72,
    "num_key_value_heads": 8,
    "vocab_size": 65536,
    "torch_dtype": "bfloat16",
}
BAMBA = {
    "model_type": "bamba",
    "attn_layer_indices": [9, 18, 27],
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}
GRANITE_TINY = {
    "model_type": "granitemoehybrid",
    "hidden_size": 1536,
    "num_hidden_layers": 40,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "mamba_n_heads": 48,
    "mamba_d_state": 128,
    "intermediate_size": 512,
    "shared_intermediate_size": 1024,
    "num_local_experts": 64,
    "num_experts_per_tok": 6,
    "layer_types": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)],
    "vocab_size": 100352,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
FALCON_H1 = {
    "model_type": "falcon_h1",
    "hidden_size": 1024,
    "num_hidden_layers": 36,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 2048,
    "mamba_d_ssm": 1536,
    "mamba_n_heads": 24,
    "mamba_d_state": 128,
    "vocab_size": 32784,
    "torch_dtype": "bfloat16",
}
LFM2: dict[str, Any] = {
    "model_type": "lfm2",
    "block_ff_dim": 12288,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "vocab_size": 65536,
    "torch_dtype": "bfloat16",
}
FALCON_MAMBA = {
    "model_type": "falcon_mamba",
    "expand": 16,
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "num_hidden_layers": 64,
    "time_step_rank": 256,
    "vocab_size": 65024,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def default(model_type: str) -> dict[str, Any]:
    """The class defaults alone."""
    return {"model_type": model_type, "dtype": "bfloat16"}


@dataclass(frozen=True)
class Case:
    """A config and what it must give; None: no independent number."""

    config: dict[str, Any]
    total: int
    active: int | None
    growth: int
    state: int | None
    stored: int | None = None


CASES = {
    "nemotron-nano": Case(NANO, 31_577_937_344, 3_580_073_408, 6_144, 49_364_992),
    "nemotron-56b": Case(NEMOTRON_56B, 56_324_350_464, 56_324_350_464, 40_960, 914_817_024),
    # 81,324,862,720 is the checkpoint's own count, prediction layer and all
    "qwen3-next": Case(QWEN3_NEXT, 79_674_391_296, 3_874_929_408, 24_576, 77_856_768, 81_324_862_720),
    # the prediction layer: attention, MLP, a 2:1 projection and seven norms, by hand
    "qwen3.5-27b": Case(QWEN35_27B, 27_356_728_560, 27_356_728_560, 65_536, 154_927_104, 27_356_728_560 + 424_699_392),
    "qwen3.5-35b": Case(QWEN35_35B, 35_107_181_936, 3_901_560_176, 20_480, 64_880_640),
    "reap-18b": Case(REAP_18B, 37_087_995_136 // 2, None, 20_480, 64_880_640),  # half the bytes of its files, all F16
    "jamba-large": Case(JAMBA_LARGE, 398_555_145_696, 94_149_338_592, 36_864, 74_317_824),
    "bamba": Case(BAMBA, 9_780_235_392, 9_780_235_392, 12_288, 123_594_752),
    "granite-h-tiny": Case(GRANITE_TINY, 6_939_037_248, 1_465_470_528, 8_192, 57_581_568),
    "falcon-h1": Case(FALCON_H1, 521_411_104, 521_411_104, 18_432, 28_827_648),
    "lfm2": Case(LFM2, 1_170_340_608, 1_170_340_608, 12_288, 122_880),
    "falcon-mamba": Case(FALCON_MAMBA, 7_272_665_088, 7_272_665_088, 0, 37_748_736),
    "mamba-130m": Case(default("mamba") | {"num_hidden_layers": 24}, 129_135_360, 129_135_360, 0, 2_654_208),
    "mamba-codestral": Case(default("mamba2"), 7_285_403_648, 7_285_403_648, 0, 273_678_336),
    "zaya": Case(default("zaya"), 8_840_488_784, 1_290_741_584, 40_960, 215_040),
    "olmo_hybrid": Case(default("olmo_hybrid"), 7_430_870_688, 7_430_870_688, 122_880, 55_296_000),
    "zamba": Case(default("zamba"), 7_232_490_496, 7_232_490_496, 13 * 2 * 16 * 464 * 2, None),
    "zamba2": Case(default("zamba2"), 2_481_848_336, 2_481_848_336, 9 * 2 * 32 * 160 * 2, None),
    "recurrent_gemma": Case(default("recurrent_gemma"), 2_010_263_040, 2_010_263_040, 0, None),
    "rwkv": Case(default("rwkv"), 7_392_649_216, 7_392_649_216, 0, None),
    "bailing_hybrid": Case(default("bailing_hybrid"), 124_414_191_072, None, 7 * 1152, None),
    "glm5_next": Case(default("glm5_next"), 313_786_889_214, None, 11 * 2 * (512 + 2 * 128 + 1), None),
    "lfm2_vl": Case(default("lfm2_vl"), 2_812_857_088, 2_812_857_088, 32 * 2 * 8 * 80 * 2, 0),
    "lfm3": Case(default("lfm3"), 1_728_801_536, 1_728_801_536, 6 * 2 * 4 * 128 * 2, 13 * 2048 * 7 * 2),
    # the published count of RWKV-5-World-1B5
    "rwkv5": Case(
        {
            "model_type": "rwkv5",
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "head_size": 64,
            "vocab_size": 65536,
            "torch_dtype": "bfloat16",
        },
        1_577_754_624,
        1_577_754_624,
        0,
        None,
    ),
    # the published count of RWKV7-Goose-World3-1.5B
    "rwkv7": Case(
        {
            "model_type": "rwkv7",
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "head_dim": 64,
            "vocab_size": 65536,
            "decay_low_rank_dim": 96,
            "gate_low_rank_dim": 256,
            "a_low_rank_dim": 96,
            "v_low_rank_dim": 64,
            "hidden_ratio": 4.0,
            "torch_dtype": "bfloat16",
        },
        1_527_404_544,
        1_527_404_544,
        0,
        None,
    ),
}
