"""Latent attention, compressed caches and the mixture-of-experts families around them.

Expected totals: transformers 5.23.0 models on the meta device (tied once), prediction layers excepted; `stored` adds those and is
the checkpoint's own count. Cache bytes are bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from hfmem.errors import ContradictionError, HfmemError, MissingKeyError, UnknownArchitectureError
from hfmem.memory.cache import bytes_per_token, layer_bytes
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import (
    CompressedAttention,
    FullAttention,
    IndexedAttention,
    KimiDeltaState,
    LatentAttention,
    LinearAttentionState,
    SharedCache,
    SlidingAttention,
    SparseLatentAttention,
)

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
    "mistral_large4": Case({"model_type": "mistral_large4", "dtype": "bfloat16"}, 1_051_822_421_504, 54_802_806_272, None, 99_072),
    "glm4_moe_lite": Case({"model_type": "glm4_moe_lite", "dtype": "bfloat16"}, 29_943_390_976, 3_896_763_136, None, 54_144),
    "minicpm3": Case({"model_type": "minicpm3", "dtype": "bfloat16"}, 4_073_875_968, 4_073_875_968, None, 62 * 2 * (256 + 32)),
    "kimi_linear": Case({"model_type": "kimi_linear", "dtype": "bfloat16"}, 49_133_074_464, 3_494_852_640, None, 6_912),
    "muse_glimmer": Case({"model_type": "muse_glimmer", "dtype": "bfloat16"}, 29_776_626_688, 29_776_626_688, None, 13_312),
    "step3p7": Case({"model_type": "step3p7", "dtype": "bfloat16"}, 197_824_847_872, 12_856_041_472),
    # the class also allocates the 256 empty experts' gate and up: 28 · 256 · 2 · 2048 · 6144 = 180,388,626,432 less here
    "longcat_flash": Case(LONGCAT, 741_053_585_408 - 180_388_626_432, None, None, 56 * 1152),
    "mimo_v2": Case({"model_type": "mimo_v2_flash", "dtype": "bfloat16"}, 308_778_768_832, None),
}  # fmt: skip


def without_mtp(arch: Architecture) -> int:
    """Parameters that run in plain decoding."""
    return arch.expected_parameters() - arch.parameters_by_component().get(Component.MTP, 0)


@pytest.mark.parametrize("name", CASES)
def test_parameters(name: str) -> None:
    case = CASES[name]
    arch = read_architecture(dict(case.config))
    assert without_mtp(arch) == case.total
    if case.active is not None:
        assert arch.active_parameters() == case.active
    if case.stored is not None:
        assert arch.expected_parameters() == case.stored
    if case.slope is not None:
        assert bytes_per_token(arch) == case.slope


def test_mimo_prediction_layer() -> None:
    # 210,790,400 measured: a Qwen2 block, a 2:1 projection and three norms
    arch = read_architecture(dict(MIMO_7B))
    assert arch.parameters_by_component()[Component.MTP] == 210_790_400
    assert arch.active_parameters() == without_mtp(arch)


def test_kimi_k3_by_hand() -> None:
    arch = read_architecture(dict(K3))
    h, inner = 7168, 96 * 128
    kda = (
        5 * h * inner + h * 128 + 128 * inner + h * 96 + 3 * 4 * inner + inner + 96 + 128
    )  # q k v g o, f_a f_b, b, conv …
    mla = h * 1536 + 1536 * 96 * 192 + h * 576 + 512 * 96 * 256 + 2 * inner * h + 1536 + 512
    dense = 3 * h * 33792
    routed = 896 * 3 * 3072 * 3584 + 896 * h + 2 * 3584 * h + 3584
    shared = 3 * 6144 * h
    layer = 4 * h + 2 * h  # four norms, two residual projections
    text = 69 * kda + 24 * mla + dense + 92 * (routed + shared) + 93 * layer + 2 * 163840 * h + h + 2 * h
    w, q = 1024, 1536
    block = 3 * w * q + q * w + 2 * w * 4096 + 2 * w
    vision = 27 * block + 3 * 14 * 14 * w + 64 * 64 * w + w + 4096 * 4096 + 4096 * h + h
    assert arch.expected_parameters() == text + vision
    kinds = [layer.caches[0] for layer in arch.layers if layer.stack == "decoder"]
    assert [i for i, kind in enumerate(kinds) if isinstance(kind, LatentAttention)] == [*range(3, 92, 4), 92]
    assert kinds[0] == KimiDeltaState(96, 128, 128, 4)
    assert sum(layer.stack == "vision" for layer in arch.layers) == 27


def test_wrapped_text_keeps_its_names_below_the_wrapper() -> None:
    names = {spec.pattern for spec in read_architecture(dict(K3)).tensors}
    assert "language_model.model.layers.{}.self_attn.kv_b_proj.weight" in names
    assert "language_model.lm_head.weight" in names
    assert "vision_tower.encoder.blocks.{}.wqkv.weight" in names
    names = {spec.pattern for spec in read_architecture(dict(M3)).tensors}
    assert "language_model.model.layers.{}.block_sparse_moe.experts.{}.w1.weight" in names
    assert "vision_tower.vision_model.encoder.layers.{}.self_attn.q_proj.weight" in names


def test_mla_keeps_one_row_whatever_the_kv_heads() -> None:
    arch = read_architecture(V3 | {"num_key_value_heads": 7})
    assert set(arch.caches()) == {LatentAttention(128, 512, 64, 128, 128)}
    assert bytes_per_token(arch) == 61 * (512 + 64) * 2


def test_prediction_layer_is_optional_and_idle() -> None:
    arch = read_architecture(dict(V3))
    extra = [s for s in arch.tensors if s.component is Component.MTP]
    assert extra and all(s.optional and s.active == 0 for s in extra)
    assert {b[0] for s in extra for b in s.boxes} == {range(61, 62)}
    assert len(arch.layers) == 61
    silent = {k: v for k, v in V3.items() if k != "num_nextn_predict_layers"}
    assert not any(s.component is Component.MTP for s in read_architecture(silent).tensors)


def test_dense_layers_first_and_between() -> None:
    def routers(**keys: Any) -> set[int]:
        arch = read_architecture(V3 | {"num_hidden_layers": 6, "num_nextn_predict_layers": 0} | keys)
        (spec,) = [s for s in arch.tensors if s.pattern.endswith("mlp.gate.weight")]
        return {i for box in spec.boxes for i in box[0]}

    assert routers() == {3, 4, 5}
    assert routers(moe_layer_freq=2) == {4}
    assert routers(moe_layer_freq=[0, 1, 0, 1, 1, 0]) == {1, 3, 4}
    assert routers(mlp_layer_types=["sparse", "dense", "sparse", "dense", "dense", "dense"]) == {0, 2}


@pytest.mark.parametrize(
    ("keys", "own"),
    [
        ({}, set(range(9))),
        ({"index_topk_freq": 4, "index_skip_topk_offset": 3}, {0, 1, 2, 6}),
        ({"index_topk_pattern": "FFSSFSSSF"}, {0, 1, 4, 8}),
        ({"indexer_types": ["full", *["shared"] * 8]}, {0}),
        # a published list may be too short beside the rule that made it
        ({"indexer_types": ["full"] * 5, "index_topk_freq": 4, "index_skip_topk_offset": 3}, {0, 1, 2, 6}),
    ],
)
def test_layers_with_an_indexer_of_their_own(keys: dict[str, Any], own: set[int]) -> None:
    arch = read_architecture(GLM5 | {"num_hidden_layers": 9, "num_nextn_predict_layers": 0} | keys)
    caches = arch.caches()
    assert all(isinstance(c, SparseLatentAttention) for c in caches)
    assert {i for i, c in enumerate(caches) if isinstance(c, SparseLatentAttention) and c.has_indexer} == own
    assert bytes_per_token(arch) == 9 * 1152 + len(own) * 256
    (spec,) = [s for s in arch.tensors if s.pattern.endswith("indexer.wk.weight")]
    assert {i for box in spec.boxes for i in box[0]} == own


def test_deepseek_v4_layers_and_bytes() -> None:
    arch = read_architecture(dict(V4_FLASH))
    window = CompressedAttention(64, 512, 128, 0)
    sparse = CompressedAttention(64, 512, 128, 4, 128, overlap=True)
    heavy = CompressedAttention(64, 512, 128, 128)
    assert arch.caches() == (window, window, *[sparse, heavy] * 20, sparse)
    # 8192 tokens: 128 rows of the window, one compressed row (and index key) for 4, or for 128 tokens; the overlapped group's
    # values and gates beside
    assert layer_bytes(window, 8192, "bf16", "BF16") == 128 * 1024
    assert layer_bytes(heavy, 8192, "bf16", "BF16") == 128 * 1024 + 64 * 1024
    assert layer_bytes(sparse, 8192, "bf16", "BF16") == 128 * 1024 + 2048 * (1024 + 256) + 2 * 4 * (512 + 128) * 2
    # 65 more tokens than a multiple of 128 wait, as values and gates, in a heavy layer
    assert layer_bytes(heavy, 8257, "bf16", "BF16") == 128 * 1024 + 64 * 1024 + 65 * 2 * 1024


def test_deepseek_v4_ratios_must_be_known_and_enough() -> None:
    with pytest.raises(UnknownArchitectureError, match="compress_ratios"):
        read_architecture(V4_FLASH | {"compress_ratios": [0, 0, *[4, 64] * 20, 4, 0]})
    with pytest.raises(ContradictionError, match="compress_ratios"):
        read_architecture(V4_FLASH | {"compress_ratios": [0, 4]})


def test_minimax_layers() -> None:
    caches = read_architecture(dict(M1)).caches()
    lightning, softmax = LinearAttentionState(64, 128), FullAttention(64, 8, 128, 128)
    assert caches == tuple([*[lightning] * 7, softmax] * 10)
    caches = read_architecture(dict(M3)).caches()
    assert caches[:3] == (FullAttention(64, 4, 128, 128),) * 3
    assert caches[3:60] == (IndexedAttention(64, 4, 128, 128, 128),) * 57
    with pytest.raises(UnknownArchitectureError, match="attn_type_list"):
        read_architecture(M1 | {"attn_type_list": [2] * 80})
    with pytest.raises(ContradictionError, match="79 entries for 80 layers"):
        read_architecture(M1 | {"attn_type_list": [0] * 79})


def test_mimo_v2_keys_wider_than_values() -> None:
    config = {
        "model_type": "mimo_v2_flash",
        "hybrid_layer_pattern": [0, 1, 1, 0],
        "num_hidden_layers": 4,
        "moe_layer_freq": [0, 1, 1, 1],
        "sliding_window_size": 128,
        "swa_num_key_value_heads": 8,
        "swa_num_attention_heads": 64,
        "swa_head_dim": 192,
        "swa_v_head_dim": 128,
        "add_swa_attention_sink_bias": True,
        "dtype": "bfloat16",
    }
    arch = read_architecture(config)
    full, slide = FullAttention(64, 4, 192, 128), SlidingAttention(64, 8, 192, 128, 129)
    assert arch.caches() == (full, slide, slide, full)
    assert bytes_per_token(arch) == 2 * 4 * (192 + 128) * 2


def test_mistral_large4_shares_latents_and_drops_rope() -> None:
    config = {
        "model_type": "mistral_large4_text",
        "num_hidden_layers": 4,
        "kv_source_layers": [0, 0, 2, 3],
        "dtype": "bfloat16",
    }
    arch = read_architecture(config | {"no_rope_layer_interval": 2})
    first, shared, third, last = arch.caches()
    assert first == third == SparseLatentAttention(64, 512, 64, 64, 128, 128, 2048)
    assert shared == SharedCache(0)
    assert last == SparseLatentAttention(64, 512, 0, 128, 128, 128, 2048)
    with pytest.raises(ContradictionError, match="kv_source_layers"):
        read_architecture(config | {"kv_source_layers": [0, 2, 2, 3]})


def test_longcat_layer_has_two_latents() -> None:
    arch = read_architecture({"model_type": "longcat_flash", "num_layers": 3})
    assert arch.num_hidden_layers == 3
    assert [len(layer.caches) for layer in arch.layers] == [2, 2, 2]
    (down,) = [s for s in arch.tensors if s.pattern.endswith("experts.{}.down_proj.weight")]
    assert down.count == 3 * 512 and down.active.limit_denominator(1000) == down.active == 12 / (512 + 256)


def test_step_sliding_layers_may_have_more_heads() -> None:
    config = {
        "model_type": "step3p5",
        "num_hidden_layers": 3,
        "num_nextn_predict_layers": 1,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"],
        "sliding_window": 512,
        "attention_other_setting": {"num_attention_heads": 96},
        "moe_layers_enum": "1,2",
    }
    arch = read_architecture(config)
    full, slide = FullAttention(64, 8, 128, 128), SlidingAttention(96, 8, 128, 128, 512)
    assert arch.caches() == (full, slide, slide)
    shapes = {s.shape: s.count for s in arch.tensors if s.pattern.endswith("self_attn.q_proj.weight") and s.active}
    assert shapes == {(64 * 128, 4096): 1, (96 * 128, 4096): 2}


@pytest.mark.parametrize(
    "model_type", ["deepseek_v3", "kimi_k2", "glm_moe_dsa", "deepseek_v4", "minimax_m1", "step3_text", "mimo"]
)
def test_a_missing_key_is_named(model_type: str) -> None:
    with pytest.raises(MissingKeyError, match=r"config\.json: '\w+'"):
        read_architecture(
            {"model_type": model_type, "vocab_size": None, "hidden_size": None, "num_hidden_layers": None}
        )


@pytest.mark.parametrize("name", CASES)
def test_garbage_is_refused_not_crashed_on(name: str) -> None:
    config = CASES[name].config
    for key in [k for k in config if k not in ("model_type", "torch_dtype", "dtype", "architectures")]:
        for junk in ("x", -1, [], {}, 10**20, 0, [None]):
            try:
                read_architecture(config | {key: junk})
            except HfmemError:
                continue


def test_youtu_llm() -> None:
    # tencent/Youtu-LLM-2B, sizes from its config: 32 layers of latent attention (16 heads of 128 + 64) and a dense feed-forward
    arch = read_architecture({"model_type": "youtu", "dtype": "bfloat16"})
    attention = 1536 * 2048 + 16 * 192 * 1536 + 576 * 2048 + 16 * 256 * 512 + 2048 * 2048
    layer = attention + 3 * 6144 * 2048 + 1536 + 512 + 2 * 2048
    assert arch.expected_parameters() == 128_256 * 2048 + 32 * layer + 2048
    assert bytes_per_token(arch) == 32 * (512 + 64) * 2
