"""Multimodal, encoder-decoder and encoder families: parameters and caches from config facts.

Expected parameters are what transformers 5.23.0 counts on a meta model of the same config (tied weights once), or, where said, the
sum over a published checkpoint's safetensors header; cache sizes are what its cache holds. None was taken from this package.
"""

from __future__ import annotations

from collections import Counter

import pytest
from multimodal_configs import (
    FLAN_LARGE,
    GEMMA4_26B,
    LLAMA_VISION_11B,
    MODELS,
    QWEN2_7B,
    QWEN3_VL_2B,
    QWEN25_VL_3B,
    SCOUT,
    Facts,
    saved,
)

from hfmem.errors import ContradictionError, MissingKeyError, UnknownArchitectureError
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import (
    ChunkedAttention,
    CrossAttention,
    FullAttention,
    NoCache,
    SharedCache,
    SlidingAttention,
)


def kinds(architecture: Architecture) -> dict[str, int]:
    """How many caches of each kind the decoder's layers keep."""
    return dict(
        Counter(type(c).__name__ for layer in architecture.layers if layer.stack == "decoder" for c in layer.caches)
    )


def bytes_per_token(architecture: Architecture) -> int:
    """BF16 bytes that grow with every token."""
    return sum(
        2 * c.num_kv_heads * (c.head_dim + c.v_head_dim) for c in architecture.caches() if isinstance(c, FullAttention)
    )


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_cache(name: str) -> None:
    facts, total, active, growing = MODELS[name]
    architecture = read_architecture(facts)
    assert architecture.expected_parameters() == total
    assert architecture.active_parameters() == active
    assert bytes_per_token(architecture) == growing


def test_no_two_specs_name_one_tensor() -> None:
    for facts, *_ in MODELS.values():
        names: Counter[tuple[str, tuple[int, ...]]] = Counter()
        for spec in read_architecture(facts).tensors:
            for box in spec.boxes:
                ends = [(spec.pattern, tuple(r[0] for r in box)), (spec.pattern, tuple(r[-1] for r in box))]
                names.update(set(ends))
        assert max(names.values()) == 1, [n for n, count in names.items() if count > 1]


def test_towers_come_after_the_decoder_and_keep_nothing() -> None:
    architecture = read_architecture(QWEN3_VL_2B)
    assert architecture.num_hidden_layers == 28
    assert [layer.stack for layer in architecture.layers] == ["decoder"] * 28 + ["vision"] * 24
    assert all(layer.caches == (NoCache("vision"),) for layer in architecture.layers[28:])
    # patch embedding, positions, 24 blocks, 4 mergers: the difference between 2,127,532,032 and Qwen3-1.7B's 1,720,574,976
    assert architecture.parameters_by_component()[Component.VISION] == 2127532032 - 1720574976


def test_text_tensors_stand_where_the_wrapper_puts_them() -> None:
    patterns = {spec.pattern for spec in read_architecture(QWEN3_VL_2B).tensors}
    assert {
        "model.language_model.layers.{}.self_attn.q_norm.weight",
        "lm_head.weight",
        "model.visual.pos_embed.weight",
    } <= patterns
    flat = {spec.pattern for spec in read_architecture(QWEN25_VL_3B).tensors}
    assert {"model.layers.{}.self_attn.q_proj.bias", "visual.merger.ln_q.weight"} <= flat


def test_ties_follow_the_renaming() -> None:
    tied = {s.pattern: s.tied_to for s in read_architecture(saved("paligemma", "X")).tensors if s.tied_to}
    assert tied == {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}


def test_a_tower_takes_the_defaults_of_its_fixed_class() -> None:
    """Qwen2-VL's published vision_config calls itself `qwen2_vl`, the outer type, and names three numbers."""
    text = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    }
    seen = {"hidden_size": 1536, "in_chans": 3, "model_type": "qwen2_vl", "spatial_patch_size": 14}
    architecture = read_architecture(saved("qwen2_vl", "Qwen2VLForConditionalGeneration", vision_config=seen, **text))
    assert architecture.expected_parameters() == 2208985600  # Qwen/Qwen2-VL-2B-Instruct
    assert "depth" in architecture.class_defaults


def test_llama4_chunks_and_nope_layers() -> None:
    architecture = read_architecture(SCOUT)
    own = architecture.layers[:48]
    chunked = ChunkedAttention(40, 8, 128, 128, 8192)
    assert [i for i, layer in enumerate(own) if layer.caches == (chunked,)] == [i for i in range(48) if (i + 1) % 4]
    assert own[3].caches == (FullAttention(40, 8, 128, 128),)


def test_mllama_layers_that_attend_over_the_image() -> None:
    architecture = read_architecture(LLAMA_VISION_11B)
    cross = [i for i, layer in enumerate(architecture.layers) if isinstance(layer.caches[0], CrossAttention)]
    assert cross == [3, 8, 13, 18, 23, 28, 33, 38]
    assert architecture.layers[3].caches == (CrossAttention(32, 8, 128, None),)


def test_gemma4_heads_by_layer() -> None:
    architecture = read_architecture(GEMMA4_26B)
    assert architecture.layers[0].caches == (SlidingAttention(16, 8, 256, 256, 1024),)
    assert architecture.layers[5].caches == (FullAttention(16, 2, 512, 512),)
    assert kinds(architecture) == {"SlidingAttention": 25, "FullAttention": 5}
    # where K is also V there is no v projection: layers 5, 11, 17, 23, 29 store none
    stored = [b for s in architecture.tensors if s.pattern.endswith("self_attn.v_proj.weight") for b in s.boxes]
    assert sorted(i for (r,) in stored for i in r) == [i for i in range(30) if (i + 1) % 6]


def test_gemma3n_shared_caches_point_at_the_last_owner_of_their_kind() -> None:
    architecture = read_architecture(saved("gemma3n", "Gemma3nForConditionalGeneration"))
    # layers 0…19 own caches, full ones at 4, 9, 14, 19; 18 is the last sliding owner
    assert architecture.layers[20].caches == (SharedCache(18),)
    assert architecture.layers[24].caches == (SharedCache(19),)
    assert kinds(architecture) == {"SlidingAttention": 16, "FullAttention": 4, "SharedCache": 15}


def test_gemma3_saved_as_text_model_alone() -> None:
    """google/gemma-3-1b-it as first published: flat, with its window under an early name; 999,885,952 parameters."""
    facts = saved(
        "gemma3",
        "Gemma3ForCausalLM",
        head_dim=256,
        hidden_size=1152,
        intermediate_size=6912,
        num_attention_heads=4,
        num_hidden_layers=26,
        num_key_value_heads=1,
        sliding_window_attention_size=512,
        sliding_window_pattern=6,
        vocab_size=262144,
    )
    architecture = read_architecture(facts)
    assert architecture.expected_parameters() == 999885952
    assert architecture.layers[0].caches == (SlidingAttention(4, 1, 256, 256, 512),)
    assert kinds(architecture) == {"SlidingAttention": 22, "FullAttention": 4}


def test_encoder_decoders_keep_their_own_and_the_encoders_keys() -> None:
    whisper = read_architecture(saved("whisper", "WhisperForConditionalGeneration"))
    assert whisper.layers[0].caches == (FullAttention(6, 6, 64, 64), CrossAttention(6, 6, 64, 1500))
    assert [layer.stack for layer in whisper.layers] == ["decoder"] * 4 + ["encoder"] * 4
    flan = read_architecture(FLAN_LARGE)
    assert flan.layers[0].caches == (FullAttention(16, 16, 64, 64), CrossAttention(16, 16, 64, None))


def test_t5_encoder_alone_keeps_nothing() -> None:
    architecture = read_architecture(saved("t5", "T5EncoderModel"))
    assert architecture.expected_parameters() == 35330816
    assert {type(c) for c in architecture.caches()} == {NoCache}


def test_switch_uses_one_expert_a_token() -> None:
    architecture = read_architecture(saved("switch_transformers", "SwitchTransformersForConditionalGeneration"))
    assert architecture.expected_parameters() == 317312256
    # 3 sparse layers a side, 8 experts of 2 · 768 · 2,048; seven of each eight rest
    assert architecture.active_parameters() == 317312256 - 6 * 7 * 2 * 768 * 2048


def test_longt5_with_global_tokens() -> None:
    facts = saved(
        "longt5",
        "LongT5ForConditionalGeneration",
        encoder_attention_type="transient-global",
        feed_forward_proj="gated-gelu",
    )
    assert read_architecture(facts).expected_parameters() == 73092864


def test_labels_of_a_classifier() -> None:
    base = read_architecture(saved("bert", "BertForSequenceClassification")).expected_parameters()
    five = saved("bert", "BertForSequenceClassification", id2label={str(i): f"L{i}" for i in range(5)})
    assert read_architecture(five).expected_parameters() == base + 3 * (768 + 1)


def test_qwen3_asr_reads_the_published_nesting() -> None:
    """The published layout nests everything under `thinker_config`, which transformers' class does not read."""
    heard = {
        "d_model": 896,
        "encoder_layers": 18,
        "encoder_attention_heads": 14,
        "encoder_ffn_dim": 3584,
        "downsample_hidden_size": 480,
        "num_mel_bins": 128,
        "output_dim": 1024,
    }
    text = {
        "head_dim": 128,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
        "vocab_size": 151936,
    }
    architecture = read_architecture(
        saved("qwen3_asr", "X", thinker_config={"audio_config": heard, "text_config": text})
    )
    assert architecture.hidden_size == 1024
    # the text model is Qwen3-0.6B: 596,049,920 parameters
    vision = architecture.parameters_by_component()[Component.VISION]
    assert architecture.expected_parameters() - vision == 596049920
    block = 4 * (896 * 896 + 896) + 2 * 896 * 3584 + 3584 + 896 + 4 * 896
    stem = 480 * 9 + 480 + 2 * (480 * 480 * 9 + 480) + 896 * 480 * 16
    assert vision == 18 * block + stem + 2 * 896 + (896 * 896 + 896) + (1024 * 896 + 1024)


@pytest.mark.parametrize(
    ("facts", "error", "named"),
    [
        (saved("llava", "X", vision_config={"model_type": "dinov2"}), UnknownArchitectureError, "dinov2"),
        (saved("llava", "X", text_config={"model_type": "made_up"}), UnknownArchitectureError, "made_up"),
        (saved("bert", "BertForNothing"), UnknownArchitectureError, "BertForNothing"),
        (saved("minicpmv", "MiniCPMV", version=9.9, **QWEN2_7B), UnknownArchitectureError, "9.9"),
        (
            saved("minicpmv", "MiniCPMV", version=2.6, vocab_size=8, query_num=64, **QWEN2_7B),
            MissingKeyError,
            "vision_config",
        ),
        (saved("longt5", "LongT5Model", encoder_attention_type="other"), UnknownArchitectureError, "other"),
        (saved("gemma4", "X", text_config={"num_kv_shared_layers": 99}), ContradictionError, "num_kv_shared_layers"),
        (saved("gemma4", "X", text_config={"layer_types": ["full_attention"]}), ContradictionError, "layer_types"),
        (saved("llama4", "X", text_config={"moe_layers": [48]}), ContradictionError, "moe_layers"),
        (saved("switch_transformers", "X", num_sparse_encoder_layers=99), UnknownArchitectureError, "X"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(facts: Facts, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        read_architecture(facts)
