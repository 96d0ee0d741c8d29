"""Mixtures and hybrids with code of their own: sizes written out from their classes; totals as the models' cards give them."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, MissingKeyError
from hfmem.memory.cache import bytes_per_token
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, LatentAttention, LinearAttentionState, ShortConvState, SlidingAttention

BF16 = {"dtype": "bfloat16", "tie_word_embeddings": False}


def config(model_type: str, hidden: int, layers: int, heads: int, kv: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": model_type, "num_key_value_heads": kv, **sizes, **BF16, **more}


#: xai-org/grok-2 calls itself `git`
GROK_2 = config(
    *("git", 8192, 64, 64, 8),
    architectures=["Grok1ForCausalLM"],
    head_dim=128,
    vocab_size=131072,
    residual_moe=True,
    num_local_experts=8,
    num_experts_per_tok=2,
    intermediate_size=32768,
    moe_intermediate_size=16384,
)


def test_grok_2_is_no_git() -> None:
    arch = read_architecture(GROK_2)
    attention = 2 * 8192 * 8192 + 2 * 8192 * 1024
    experts = 8 * 3 * 8192 * 16384 + 8 * 8192 + 3 * 8192 * 32768
    assert arch.expected_parameters() == 64 * (attention + experts + 4 * 8192) + 2 * 131072 * 8192 + 8192
    assert f"{arch.expected_parameters() / 1e9:.1f}" == "269.5"  # its files: about 500 GiB
    assert bytes_per_token(arch) == 64 * 2 * 8 * 128 * 2
    with pytest.raises(MissingKeyError, match="'num_hidden_layers'"):  # no default of GIT's
        read_architecture({k: v for k, v in GROK_2.items() if k != "num_hidden_layers"})


def test_smallthinker() -> None:
    # PowerInfer/SmallThinker-4BA0.6B-Instruct; the layout of the 21B alternates
    data = config(
        *("smallthinker", 1536, 32, 12, 2),
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=True,
        sliding_window_size=4096,
        moe_ffn_hidden_size=768,
        moe_num_primary_experts=32,
        moe_num_active_primary_experts=4,
    )
    layer = 2 * 1536 * 1536 + 2 * 1536 * 256 + 32 * 3 * 1536 * 768 + 32 * 1536 + 2 * 1536
    arch = read_architecture(data | {"sliding_window_layout": [0] * 32})
    assert arch.expected_parameters() == 32 * layer + 151936 * 1536 + 1536
    assert {type(c) for c in arch.caches()} == {FullAttention}
    mixed = read_architecture(data | {"sliding_window_layout": [0, 1] * 16})
    assert [c.window for c in mixed.caches() if isinstance(c, SlidingAttention)] == [4096] * 16
    with pytest.raises(ContradictionError, match="'sliding_window_layout' has 31 entries for 32 layers"):
        read_architecture(data | {"sliding_window_layout": [0] * 31})


MOE = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "intermediate_size": 512,
    "vocab_size": 1000,
}
EXPERTS = 8 * 3 * 256 * 96 + 8 * 256
ATTENTION = 2 * 256 * 256 + 2 * 256 * 128
TABLES = 2 * 1000 * 256 + 256


def test_grove_moe_and_klear() -> None:
    grove = read_architecture(config("grove_moe", 256, 3, 4, 2, head_dim=64, **MOE))
    layer = ATTENTION + 2 * 64 + EXPERTS + 4 * 3 * 256 * 128 + 2 * 256
    assert grove.expected_parameters() == 3 * layer + TABLES
    klear = read_architecture(
        config("Klear", 256, 3, 4, 2, head_dim=64, n_shared_experts=2, mlp_only_layers=[0], **MOE)
    )
    dense = ATTENTION + 2 * 64 + 3 * 256 * 512 + 2 * 256
    sparse = ATTENTION + 2 * 64 + EXPERTS + 3 * 256 * 192 + 2 * 256 + 2 + 2 * 256
    assert klear.expected_parameters() == dense + 2 * sparse + TABLES


def test_xverse_moe() -> None:
    # SGLang's class: experts of `intermediate_size`, shared ones as wide together
    data = config("xverse_moe", 256, 3, 4, 4, num_experts=8, moe_top_k=2, num_shared_experts=2, intermediate_size=96)
    arch = read_architecture(data | {"vocab_size": 1000})
    layer = 4 * 256 * 256 + EXPERTS + 3 * 256 * 192 + 2 * 256
    assert arch.expected_parameters() == 3 * layer + TABLES


def test_ring_2_linear() -> None:
    # inclusionAI/Ring-mini-linear-2.0: 16.4 B, four of twenty layers with a cache that grows
    data = config(
        *("bailing_moe_linear", 2048, 20, 16, 4),
        head_dim=128,
        vocab_size=157184,
        use_qk_norm=True,
        moe_router_enable_expert_bias=True,
        intermediate_size=5120,
        moe_intermediate_size=512,
        num_experts=256,
        num_shared_experts=1,
        num_experts_per_tok=8,
        first_k_dense_replace=1,
        layer_group_size=5,
        group_norm_size=4,
    )
    arch = read_architecture(data)
    assert f"{arch.expected_parameters() / 1e9:.1f}" == "16.4"
    assert bytes_per_token(arch) == 4 * 2 * 4 * 128 * 2
    kinds = [type(c) for c in arch.caches()]
    assert kinds == ([LinearAttentionState] * 4 + [FullAttention]) * 4
    # an unfinished last group is full attention
    assert [type(c) for c in read_architecture(data | {"num_hidden_layers": 7}).caches()][5:] == [FullAttention] * 2


def test_baichuan_m1() -> None:
    windows = {
        "sliding_window": 512,
        "sliding_window_layers": [1],
        "num_swa_attention_heads": 8,
        "num_swa_key_value_heads": 4,
    }
    data = config("baichuan_m1", 256, 2, 4, 2, intermediate_size=512, vocab_size=1000, conv_window=2, **windows)
    arch = read_architecture(data)
    full = 256 * (256 + 2 * 2 * 64) + 256 * 256 + 2 * 2 * 2
    slides = 256 * (256 + 2 * 4 * 32) + 256 * 256 + 2 * 4 * 2
    assert arch.expected_parameters() == full + slides + 2 * (3 * 256 * 512 + 2 * 256) + TABLES
    caches = arch.caches()
    assert [type(c) for c in caches] == [FullAttention, ShortConvState, SlidingAttention, ShortConvState]
    assert [c.hidden_size for c in caches if isinstance(c, ShortConvState)] == [2 * 2 * 64, 2 * 4 * 32]


def test_dense_with_other_names() -> None:
    sizes = {"intermediate_size": 512, "vocab_size": 1000, "head_dim": 64}
    layer = ATTENTION + 3 * 256 * 512 + 2 * 256
    kormo = read_architecture(config("kormo", 256, 3, 4, 2, **sizes))
    assert kormo.expected_parameters() == 3 * layer + TABLES
    assert "model.layers.{}.pre_mlp_layernorm.weight" in {spec.pattern for spec in kormo.tensors}
    assert (
        read_architecture(config("maincoder", 256, 3, 4, 2, **sizes)).expected_parameters()
        == 3 * (layer + 128) + TABLES
    )
    latent = {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "q_lora_rank": None}
    plm = read_architecture(config("plm", 256, 3, 4, 4, **sizes, **latent))
    attention = 4 * 24 * 256 + 40 * 256 + 32 + 4 * 32 * 32 + 256 * 64
    assert plm.expected_parameters() == 3 * (attention + 2 * 256 * 512 + 2 * 256) + TABLES
    assert [type(c) for c in plm.caches()] == [LatentAttention] * 3


def test_a_hybrid_of_ling_saved_by_transformers() -> None:
    # transformers' class keeps the published `head_dim` as `linear_head_dim` and writes the rotary part in its place
    latent = {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "q_lora_rank": None}
    more = {
        "intermediate_size": 512,
        "vocab_size": 1000,
        "num_experts": 0,
        "layer_group_size": 2,
        "short_conv_kernel_size": 4,
    }
    data = config("bailing_hybrid", 256, 2, 4, 4, head_dim=64, **latent, **more)
    saved = data | {"head_dim": 8, "linear_head_dim": 64, "linear_num_heads": 4, "linear_conv_kernel_dim": 4}
    assert read_architecture(saved).tensors == read_architecture(data).tensors
    assert read_architecture(saved).caches() == read_architecture(data).caches()


def test_iquest_q1() -> None:
    # the sizes of SGLang's config class
    data = config(
        *("iquest_q1", 3072, 88, 48, 8),
        head_dim=128,
        vocab_size=160000,
        dense_intermediate_size=12288,
        intermediate_size=1536,
        num_experts=256,
        num_experts_per_tok=8,
    )
    arch = read_architecture(data)
    attention = 2 * 3072 * 6144 + 2 * 3072 * 1024 + 2 * 128 + 8 * 128 + 3 * 3072
    experts = 256 * 3 * 3072 * 1536 + 256 * 3072
    total = 88 * attention + 3 * 3072 * 12288 + 87 * experts + 3072 + 2 * 160000 * 3072 + 3072
    assert arch.expected_parameters() == total
    windows = [isinstance(c, SlidingAttention) for c in arch.caches()]
    assert windows == [False, *[False, True, True, True] * 21, *[False] * 3]
    mtp = read_architecture(data | {"num_mtp_layers": 1}).expected_parameters() - total
    assert mtp == attention + experts + 3072 + 2 * 3072 * 3072 + 3 * 3072
    assert not any(
        isinstance(c, SlidingAttention) for c in read_architecture(data | {"use_sliding_window": False}).caches()
    )
    with pytest.raises(ContradictionError, match="make 87 layers of 88"):
        read_architecture(data | {"last_layers_types": ["full_attention"] * 2})


def test_hunyuan_image_3() -> None:
    # its class: q, k, v in one matrix, experts with gate and up in one, a shared one; lists say the same of every layer
    data = config(
        *("hunyuan", 256, 3, 4, 2),
        architectures=["HunyuanImage3ForCausalMM"],
        attention_head_dim=64,
        intermediate_size=96,
        moe_intermediate_size=[96] * 3,
        num_experts=8,
        moe_topk=[2] * 3,
        num_shared_expert=[1] * 3,
        use_mixed_mlp_moe=True,
        use_qk_norm=True,
        vocab_size=1000,
    )
    arch = read_architecture(data)
    layer = ATTENTION + 2 * 64 + EXPERTS + 3 * 256 * 96 + 2 * 256
    assert arch.expected_parameters() == 3 * layer + TABLES
    assert arch.active_parameters() == 3 * (layer - 6 * 3 * 256 * 96) + TABLES
    assert arch.partial and bytes_per_token(arch) == 3 * 2 * 2 * 64 * 2
    dense = read_architecture(data | {"moe_layer_num_skipped": 1, "intermediate_size": 512})
    first = ATTENTION + 2 * 64 + 3 * 256 * 512 + 2 * 256
    assert dense.expected_parameters() == first + 2 * layer + TABLES
