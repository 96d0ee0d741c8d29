"""Parameters on a rank of each pipeline stage as vLLM 0.33.0 allocates them.

The numbers are `sum(p.numel() for p in model.parameters())` of vLLM's own classes, built on the meta device from these made-up
configs as rank 0 of every stage (without a GPU: compiled modules stubbed, platform sm90). None: vLLM refuses the layout.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from hfmem.errors import UnsupportedError
from hfmem.memory.engines import engine
from hfmem.memory.padding import padded_share, refined_scales
from hfmem.memory.serving import Serving
from hfmem.memory.shares import Sharding
from hfmem.memory.weights import rank_weights
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Column, Component, ExpertSplit, Row, TensorSpec
from hfmem.records import replace

LAYOUTS = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (2, 2))
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}
TOWER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "patch_size": 14,
    "image_size": 56,
    "num_channels": 3,
}
SIGLIP, CLIP = {**TOWER, "model_type": "siglip_vision_model"}, {**TOWER, "model_type": "clip_vision_model"}
#: 25 heads, which no number of ranks divides: attention stays whole, the feed-forward is split
INTERN = {
    **TOWER,
    "hidden_size": 200,
    "intermediate_size": 512,
    "num_attention_heads": 25,
    "qkv_bias": False,
    "qk_normalization": True,
    "norm_type": "rms_norm",
}
ENCODER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 1000,
}
KIMI: dict[str, Any] = {
    "model_type": "kimi_linear",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_hidden_layers": 6,
    "vocab_size": 1000,
    "kv_lora_rank": 512,
    "q_lora_rank": 96,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "mla_use_output_gate": True,
    "num_experts": 16,
    "num_experts_per_token": 4,
    "num_shared_experts": 1,
    "moe_intermediate_size": 128,
    "routed_expert_hidden_size": 128,
    "latent_moe_use_norm": True,
    "first_k_dense_replace": 1,
    "attn_res_block_size": 2,
    "tie_word_embeddings": False,
    "linear_attn_config": {
        "kda_layers": [1, 2, 3, 5, 6],
        "full_attn_layers": [4],
        "num_heads": 8,
        "head_dim": 128,
        "short_conv_kernel_size": 4,
        "use_full_rank_gate": True,
        "gate_lower_bound": -5.0,
    },
}
MOONVIT: dict[str, Any] = {
    "patch_size": 14,
    "init_pos_emb_height": 8,
    "init_pos_emb_width": 8,
    "vt_num_attention_heads": 4,
    "vt_num_hidden_layers": 2,
    "vt_hidden_size": 128,
    "vt_intermediate_size": 256,
    "merge_kernel_size": [2, 2],
    "mm_projector_type": "patchmergerv2",
    "qkv_hidden_size": 192,
    "attn_bias": False,
    "linear_bias": False,
    "norm_type": "rmsnorm",
    "patch_embed_proj_bias": False,
}

CASES: dict[str, tuple[dict[str, Any], list[list[int] | None]]] = {
    "InternVL: tower as deep as select_layer, projector whole, InternLM2's tables on every stage": (
        {
            "model_type": "internvl_chat",
            "architectures": ["InternVLChatModel"],
            "select_layer": -2,
            "downsample_ratio": 0.5,
            "vision_config": INTERN,
            "llm_config": {**TEXT, "model_type": "internlm2", "bias": False},
        },
        [[4747384], [2894968], [1968760], [1538424], [3566712, 1705216], [2304120, 853248]],
    ),
    "Eagle 2.5": (
        {
            "model_type": "eagle_2_5_vl",
            "architectures": ["Eagle2_5_VLForConditionalGeneration"],
            "select_layer": -2,
            "downsample_ratio": 0.5,
            "vision_config": SIGLIP,
            "text_config": {**TEXT, "model_type": "qwen2"},
        },
        [[3693440], [1987200], [1134080], None, [2249344, 1444096], [1264512, 722688]],
    ),
    "Mistral 3": (
        {
            "model_type": "mistral3",
            "architectures": ["Mistral3ForConditionalGeneration"],
            "vision_feature_layer": -2,
            "spatial_merge_size": 2,
            "tie_word_embeddings": False,
            "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 32},
            "text_config": {**TEXT, "model_type": "mistral", "head_dim": 32},
        },
        [[3781632], [1963008], [1053696], None, [2338560, 1443072], [1240832, 722176]],
    ),
    "Gemma 3: no pooling head": (
        {
            "model_type": "gemma3",
            "architectures": ["Gemma3ForConditionalGeneration"],
            "mm_tokens_per_image": 4,
            "vision_config": SIGLIP,
            "text_config": {**TEXT, "model_type": "gemma3_text", "head_dim": 32, "sliding_window": 64}
            | {"tie_word_embeddings": True},
        },
        [[3399040], [1759040], [939040], None, [2217216, 1444224], [1167040, 723328]],
    ),
    "Phi-3-vision: two embeddings, projector whole": (
        {
            **TEXT,
            "model_type": "phi3_v",
            "architectures": ["Phi3VForCausalLM"],
            "max_position_embeddings": 4096,
            "img_processor": {
                "name": "clip_vision_model",
                "model_name": "openai/clip-vit-large-patch14-336",
                "image_dim_out": 1024,
            },
        },
        [[295180032], [148821248], [75641856], [39084928], [293736960, 1443072], [148099072, 722176]],
    ),
    "CLIP: positions in a padded table": (
        {
            "model_type": "clip",
            "architectures": ["CLIPModel"],
            "projection_dim": 64,
            "text_config": {**ENCODER, "model_type": "clip_text_model", "max_position_embeddings": 77},
            "vision_config": CLIP,
        },
        [[1302016], [701440], [401152], None, None, None],
    ),
    "SigLIP": (
        {
            "model_type": "siglip",
            "architectures": ["SiglipModel"],
            "text_config": {**ENCODER, "model_type": "siglip_text_model", "max_position_embeddings": 64},
            "vision_config": SIGLIP,
        },
        [[1425920], [796544], [481856], None, None, None],
    ),
    "Kimi K3: experts of at least 256 rows on a rank, a padded joint projection, a tower whole at TP 8": (
        {
            "model_type": "kimi_k3",
            "architectures": ["KimiK3ForConditionalGeneration"],
            "text_config": KIMI,
            "vision_config": MOONVIT,
        },
        [[15858776], [14424644], [11741498], [10686645], [7850552, 8008224], [6650924, 7773720]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_parameters_of_each_stage(name: str) -> None:
    config, expected = CASES[name]
    arch = read_architecture({"dtype": "bfloat16", **config})
    for (tp, pp), stages in zip(LAYOUTS, expected, strict=True):
        serving = Serving(512, engine="vllm", tp=tp, pp=pp)
        if stages is None:
            with pytest.raises(UnsupportedError):
                engine("vllm").cache(arch, serving)
            continue
        engine("vllm").cache(arch, serving)
        assert list(rank_weights(arch, synthesise(arch), serving).stage_parameters) == stages, (tp, pp)


def test_experts_dealt_out_whole_are_not_padded() -> None:
    # at TP 2 the ranks of cut experts hold 256 of 128 / 2 rows, those of whole ones 8 experts of 128 rows
    arch = read_architecture({"dtype": "bfloat16", **CASES[list(CASES)[-1]][0]})
    cut, dealt = (
        rank_weights(arch, synthesise(arch), Serving(512, tp=2, ep=ep)).stage_parameters[0] for ep in (False, True)
    )
    assert cut - dealt == 5 * 3 * 128 * (16 * 256 - 8 * 128)


def test_inklings_router_is_padded() -> None:
    # vLLM's class on the meta device: three layers' routers of 6144 columns have 4,866,048 elements, 264 rows for 258 experts
    arch = read_architecture({"model_type": "inkling_text", "dtype": "bfloat16"})
    (router,) = (spec for spec in arch.tensors if spec.pattern.endswith(".mlp.gate.weight"))
    assert router.shape == (258, 6144)
    share = padded_share(arch, router, Sharding(), Fraction(1))
    assert 3 * share * router.elements == 4_866_048


def test_experts_cut_through_their_blocks_of_fp8() -> None:
    # vLLM's class for four layers of Qwen3-235B-A22B-FP8 holds 1,562,332,192 bytes on a rank of TP 8 and 1,561,447,456 with experts
    # dealt out whole: their 192 rows cut blocks of 128, so the scales are of blocks of 64
    boxes = ((range(4), range(128)),)
    up = TensorSpec("e.{}.{}.gate_proj.weight", (1536, 4096), boxes, Component.EXPERTS, ExpertSplit(1, Column()))
    down = TensorSpec("e.{}.{}.down_proj.weight", (4096, 1536), boxes, Component.EXPERTS, ExpertSplit(1, Row()))
    finer = [
        refined_scales(spec, "weight_scale_inv", (spec.shape[0] // 128, spec.shape[1] // 128), 8) for spec in (up, down)
    ]
    assert finer == [Fraction(3 * 64, 12 * 32)] * 2
    assert 4 * 128 * 3 * (finer[0] - Fraction(1, 8)) * 12 * 32 * 4 == 1_562_332_192 - 1_561_447_456
    assert refined_scales(up, "weight_scale_inv", (12, 32), 4) is None  # 384 rows are three blocks
    small = replace(up, shape=(1280, 4096))  # 160 rows at TP 8: blocks of 32; 80 at TP 16: of 16, which are too small
    assert refined_scales(small, "weight_scale_inv", (10, 32), 8) == Fraction(5 * 128, 10 * 32)
    with pytest.raises(UnsupportedError, match="80 is not divisible by weight quantization block_n = 128"):
        refined_scales(small, "weight_scale_inv", (10, 32), 16)
