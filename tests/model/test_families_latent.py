"""Latent attention, compressed caches and the mixture-of-experts families around them.

Expected totals: transformers 5.23.0 models on the meta device (tied once), prediction layers excepted; `stored` adds those and is
the checkpoint's own count. Cache bytes are bf16.
"""

from __future__ import annotations

from typing import Any

import pytest
from latent_configs import CASES, GLM5, K3, M1, M3, MIMO_7B, V3, V4_FLASH

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
        5 * h * inner + h * 128 + 128 * inner + h * 96 + 3 * 4 * inner + inner + 128 + 128
    )  # q k v g o, f_a f_b, b, conv, dt, 128 decays as published …
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
    # the Hub counts the biases of the routers, too
    assert arch.expected_parameters() + 92 * 896 == 2_779_931_837_184
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
    sparse = CompressedAttention(64, 512, 128, 4, 128, overlap=True, index_topk=512)
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
    assert caches[3:60] == (IndexedAttention(64, 4, 128, 128, 128, 16 * 128, 128),) * 57  # 16 blocks of 128
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
        "num_nextn_predict_layers": 0,
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
    decoder, predicting = ([c for x in arch.layers if x.stack == name for c in x.caches] for name in ("decoder", "mtp"))
    assert (decoder, predicting) == ([full, slide, slide], [slide])
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


def test_minimax_m3_without_its_tower() -> None:
    # a copy of the text model alone has neither part in its config
    whole = read_architecture(dict(M3))
    text = read_architecture({"model_type": "minimax_m3", "torch_dtype": "bfloat16", **M3["text_config"]})
    assert text.expected_parameters() == whole.expected_parameters() - whole.parameters_by_component()[Component.VISION]
    assert bytes_per_token(text) == bytes_per_token(whole)
