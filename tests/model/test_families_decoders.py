"""Text decoders with ordinary attention: what each family's rule derives from the memory-relevant keys of a published config.

Expected parameters are the counts that the Hub shows for the published safetensors (or the model's paper), or the reference data's
measurement with transformers; none is this package's output. Windows and heads are the models' published facts.
"""

from __future__ import annotations

from typing import Any

import pytest
from decoder_configs import SMALL, kinds, llama_keys, read

from hfmem.errors import ContradictionError, HfmemError, MissingKeyError
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.nas import ffn_width
from hfmem.model.layers import FullAttention, SharedCache, ShortConvState, SlidingAttention


def test_dots_counts_its_correction_bias_as_a_buffer() -> None:
    """rednote-hilab/dots.llm1: the Hub counts 142,774,381,696 elements, 61 · 128 of them a buffer that only steers routing."""
    arch = read(
        "dots1",
        **llama_keys(4096, 62, 32, 32, 10944, 152064, head_dim=128, moe_intermediate_size=1408, sliding_window=None),
        n_routed_experts=128,
        n_shared_experts=2,
        num_experts_per_tok=6,
        first_k_dense_replace=1,
    )
    assert arch.expected_parameters() == 142_774_381_696 - 61 * 128
    buffers = [s for s in arch.tensors if s.buffer]
    assert [(s.pattern, s.count, s.shape) for s in buffers] == [
        ("model.layers.{}.mlp.gate.e_score_correction_bias", 61, (128,))
    ]


def test_active_parameters_count_the_routed_share() -> None:
    """Mixtral-8x7B: 46,702,792,704 parameters, 12,879,925,248 active (reference data; Mistral says 46.7B and 12.9B)."""
    arch = read("mixtral", **llama_keys(4096, 32, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2))
    assert (arch.expected_parameters(), arch.active_parameters()) == (46_702_792_704, 12_879_925_248)
    assert (arch.num_experts, arch.num_experts_per_tok) == (8, 2)
    # 6 of 8 experts rest: 32 layers · 6 · 3 matrices · 4096 · 14336
    assert arch.expected_parameters() - arch.active_parameters() == 32 * 6 * 3 * 4096 * 14336


def test_qwen1_halves_its_intermediate_size() -> None:
    arch = read("qwen", **llama_keys(64, 1, 4, 4, 256, 100, kv_channels=16))
    shapes = {s.pattern.split(".mlp.")[1]: s.shape for s in arch.tensors if ".mlp." in s.pattern}
    assert shapes == {"w2.weight": (128, 64), "w1.weight": (128, 64), "c_proj.weight": (64, 128)}


def nas_block(group: int | None, mult: float | None, **attention: Any) -> dict[str, Any]:
    return {
        "attention": {"n_heads_in_group": group, "no_op": group is None and not attention, **attention},
        "ffn": {"ffn_mult": mult, "no_op": mult is None},
    }


def test_nemotron_nas_reads_each_block() -> None:
    """Hidden 8192 and 64 heads as Llama-3.3-Nemotron-Super-49B, whose blocks mix these four forms."""
    arch = read(
        "nemotron-nas",
        hidden_size=8192,
        num_attention_heads=64,
        num_key_value_heads=None,
        num_hidden_layers=4,
        intermediate_size=None,
        vocab_size=128256,
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=False,
        block_configs=[
            nas_block(8, 2.625),
            nas_block(None, 0.5),
            nas_block(None, 1.0, replace_with_linear=True),
            nas_block(16, None),
        ],
    )
    assert kinds(arch) == "f--f"
    assert [c.num_kv_heads for c in arch.caches() if isinstance(c, FullAttention)] == [8, 4]
    hidden, head = 8192, 128
    attention = 2 * hidden * hidden + 2 * 8 * head * hidden
    narrow = 2 * hidden * hidden + 2 * 4 * head * hidden
    # int(2 · 2.625 · 8192 / 3) = 14,336; int(2 · 0.5 · 8192 / 3) = 2,730 → 2,816; int(2 · 8192 / 3) = 5,461 → 5,632
    ffn = 3 * hidden * (14336 + 2816 + 5632)
    norms = hidden * (2 + 1 + 2 + 1 + 1)
    assert arch.expected_parameters() == (2 * 128256 * hidden + attention + narrow + hidden * hidden + ffn + norms)


def test_ffn_width_rounds_up_to_256() -> None:
    assert [ffn_width(mult, 8192) for mult in (5.25, 2.625, 1.0, 0.375)] == [28672, 14336, 5632, 2048]


def test_hunyuan_shares_keys_and_values_between_layers() -> None:
    keys = llama_keys(64, 4, 4, 2, 128, 100, num_experts=4, moe_topk=1, use_cla=True, cla_share_factor=2)
    arch = read("hunyuan", **keys)
    assert [type(c).__name__ for c in arch.caches()] == ["FullAttention", "SharedCache"] * 2
    assert [c.source_layer for c in arch.caches() if isinstance(c, SharedCache)] == [0, 2]
    stored = {s.pattern.split(".")[-2]: s.count for s in arch.tensors if "self_attn" in s.pattern}
    assert stored["k_proj"] == stored["v_proj"] == 2
    assert sum(s.count for s in arch.tensors if s.pattern.endswith("q_proj.weight")) == 4


def test_inkling_keeps_four_convolutions_a_layer() -> None:
    """Reference data (class defaults): 55 windowed layers of 16 KV heads, 11 full ones of 8, convolutions over k, v and hidden."""
    arch = read("inkling_text")
    first, sixth = arch.layers[0].caches, arch.layers[5].caches
    assert first[0] == SlidingAttention(64, 16, 128, 128, 512)
    assert sixth[0] == FullAttention(64, 8, 128, 128)
    assert [c.hidden_size for c in first[1:] if isinstance(c, ShortConvState)] == [2048, 2048, 6144, 6144]
    assert [c.hidden_size for c in sixth[1:] if isinstance(c, ShortConvState)] == [1024, 1024, 6144, 6144]
    assert sum(isinstance(layer.caches[0], FullAttention) for layer in arch.layers) == 11


def test_openelm_widths_round_to_the_divisor() -> None:
    """`make_divisible`: 0.73 · 1280 = 934.4 → 1024, as 3.65 times 256 rounds to 4; 100 of 256 is 256, never less."""
    keys = {"model_dim": 1280, "num_transformer_layers": 2, "head_dim": 64, "vocab_size": 100, "ffn_dim_divisor": 256}
    arch = read("openelm", **keys, num_query_heads=[12, 12], num_kv_heads=[3, 3], ffn_multipliers=[0.73, 0.078])
    widths = [s.shape[1] for s in arch.tensors if s.pattern.endswith("proj_2.weight")]
    assert widths == [1024, 256]


def test_a_tower_beside_chatglm_and_qwen_has_no_cache() -> None:
    """zai-org/glm-4v-9b: 13.9B parameters with 63 vision layers; Qwen-VL's tower is in the reference headers."""
    arch = read(
        "chatglm",
        hidden_size=4096,
        num_layers=40,
        num_attention_heads=32,
        kv_channels=128,
        multi_query_attention=True,
        multi_query_group_num=2,
        ffn_hidden_size=13696,
        padded_vocab_size=151552,
        add_qkv_bias=True,
        vision_config={
            "hidden_size": 1792,
            "num_hidden_layers": 63,
            "num_heads": 16,
            "intermediate_size": 15360,
            "patch_size": 14,
            "num_positions": 6401,
            "in_channels": 3,
        },
    )
    assert round(arch.expected_parameters() / 1e9, 1) == 13.9
    assert (arch.num_hidden_layers, len(arch.layers)) == (40, 103)
    assert [layer.stack for layer in arch.layers] == ["decoder"] * 40 + ["vision"] * 63


def test_too_many_layers_are_an_error_not_a_list() -> None:
    with pytest.raises(ContradictionError, match="beyond any real model"):
        read("llama", **{**SMALL, "num_hidden_layers": 10**9})


def test_opt_350m_projects_its_embedding_and_has_no_last_norm() -> None:
    """facebook/opt-350m: 331,196,416 parameters (reference data, measured with transformers)."""
    small = read(
        "opt",
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        ffn_dim=4096,
        vocab_size=50272,
        word_embed_proj_dim=512,
        do_layer_norm_before=False,
        max_position_embeddings=2048,
    )
    assert small.expected_parameters() == 331_196_416
    names = {s.pattern for s in small.tensors}
    assert "model.decoder.project_in.weight" in names
    assert "model.decoder.final_layer_norm.weight" not in names


def test_ernie_places_its_experts() -> None:
    keys = llama_keys(64, 6, 4, 2, 128, 100, head_dim=16, moe_num_experts=4, moe_k=2, moe_intermediate_size=32)
    arch = read("ernie4_5_moe", **keys, moe_layer_start_index=1, moe_layer_end_index=4, moe_layer_interval=2)
    routed = next(s for s in arch.tensors if s.pattern.endswith("experts.{}.gate_proj.weight"))
    assert {layer for box in routed.boxes for layer in box[0]} == {1, 3}


@pytest.mark.parametrize(
    ("model_type", "published", "heads"),
    [
        ("qwen2", "Qwen2ForTokenClassification", {"score.weight": (3, 64), "score.bias": (3,)}),
        ("gpt_neox", "GPTNeoXForTokenClassification", {"classifier.weight": (3, 64), "classifier.bias": (3,)}),
        ("llama", "LlamaForSequenceClassification", {"score.weight": (3, 64)}),
        (
            "qwen2",
            "Qwen2ForProcessRewardModel",
            {"score.0.weight": (64, 64), "score.0.bias": (64,), "score.2.weight": (3, 64), "score.2.bias": (3,)},
        ),
        ("internlm2", "InternLM2ForRewardModel", {"v_head.weight": (1, 64)}),
    ],
)
def test_task_heads(model_type: str, published: str, heads: dict[str, tuple[int, ...]]) -> None:
    arch = read(model_type, **SMALL, architectures=[published], id2label={"0": "a", "1": "b", "2": "c"})
    assert {s.pattern: s.shape for s in arch.tensors if s.component == "other" and not s.buffer} == heads
    assert not [s for s in arch.tensors if s.component == "lm_head"]


@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("qwen", {"hidden_size": 64}),
        ("internlm2", {"hidden_size": 64, "num_attention_heads": 4}),
        ("baichuan", llama_keys(64, 2, 4, 4, 128, 100) | {"intermediate_size": None}),
        ("minicpm", {}),
        ("nemotron-nas", {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}),
    ],
)
def test_a_missing_key_is_named(model_type: str, keys: dict[str, Any]) -> None:
    with pytest.raises(MissingKeyError, match=r"config\.json: '\w+'"):
        read(model_type, **keys)


def test_too_many_experts_per_token() -> None:
    with pytest.raises(HfmemError, match="9 experts per token cannot be picked from 8"):
        read("mixtral", num_local_experts=8, num_experts_per_tok=9)


def test_a_builder_wants_one_cache_a_layer() -> None:
    builder = DecoderBuilder(Config({"model_type": "llama", **SMALL}))
    with pytest.raises(ContradictionError, match="0 layers described for 6"):
        builder.close("llama", [])
