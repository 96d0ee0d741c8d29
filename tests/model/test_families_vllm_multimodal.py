"""Multimodal models that only vLLM knows: parameters of the whole model and of a rank of two.

Expected parameters were counted on vLLM 0.33.0's own classes, built on the meta device from these configs at tensor parallel size 1
and 2 (its vocabulary padding does nothing at 9,024 rows). Where a checkpoint holds more than vLLM builds, the difference is written
out: a router's correction is a parameter there and a buffer in the file, counted on a rank only.
"""

from __future__ import annotations

from typing import Any

import pytest
from vllm_multimodal_configs import LING, LLAMA, MIMO, QWEN2, QWEN3, QWEN35, SIGLIP, TOWER, WHISPER, Facts

from hfmem.errors import ContradictionError, MissingKeyError, UnknownArchitectureError
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture

#: model_type → the rest of the config, parameters, parameters of a rank of two, what the file holds beside (SigLIP's last norm)
MODELS: dict[str, tuple[Facts, int, int, int]] = {
    "bee": ({"text_config": QWEN3, "vision_config": SIGLIP}, 22_664_192, 12_079_168, 2 * 128),
    "R": ({"text_config": QWEN3, "vision_config": SIGLIP}, 21_679_616, 11_094_592, 2 * 128),
    "llava_onevision2": (
        {
            "text_config": QWEN3,
            "vision_config": {
                "hidden_size": 256,
                "intermediate_size": 512,
                "num_attention_heads": 4,
                "num_hidden_layers": 3,
                "patch_size": 14,
                "spatial_merge_size": 2,
            },
        },
        24_087_808,
        12_125_056,
        0,
    ),
    "interns1_pro": (
        {
            "text_config": {
                **QWEN3,
                "num_experts": 8,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 64,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
                "rope_scaling": {"rope_type": "default", "fope_sep_head": True, "num_inv_freq": None},
            },
            "vision_config": TOWER,
        },
        20_134_912,
        10_327_360,
        0,
    ),
    "interns2_preview": ({"text_config": QWEN35, "vision_config": TOWER}, 28_720_416, 14_630_960, 0),
    "interns2_mobius": (
        {"text_config": {**QWEN35, "num_blocks": 2, "layer_scale": True}, "vision_config": TOWER},
        23_985_440,
        12_255_280,
        0,
    ),
    "opencua": (
        {
            "text_config": QWEN2,
            "vision_config": {**TOWER, "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]},
        },
        19_858_176,
        10_007_744,
        0,
    ),
    "step_robotics": (
        {
            "text_config": QWEN3,
            "vision_config": {
                "width": 128,
                "layers": 3,
                "heads": 4,
                "mlp_ratio": 4,
                "image_size": 728,
                "patch_size": 14,
            },
        },
        23_535_232,
        12_720_448,
        0,
    ),
    "mimo_v2": (MIMO, 16_635_328 - 3 * 8, 8_425_528, 0),
    "midashenglm": (
        {
            "text_config": {**QWEN2, "model_type": "qwen2_5_omni_text"},
            "audio_encoder_config": {
                "embed_dim": 128,
                "depth": 3,
                "num_heads": 4,
                "target_length": 1008,
                "patch_size": [64, 4],
                "patch_stride": [64, 4],
            },
        },
        19_937_792,
        10_005_440,
        0,
    ),
    "bailing_moe_v3_vl": (
        {"text_config": LING, "vision_config": {**TOWER, "deepstack_visual_indexes": []}},
        56_010_192 - 9 * 16,
        28_393_712,
        0,
    ),
}


@pytest.mark.parametrize("model_type", MODELS)
def test_parameters_of_a_whole_model_and_of_a_rank(model_type: str) -> None:
    facts, whole, rank, beside = MODELS[model_type]
    arch = read_architecture({"model_type": model_type, "dtype": "bfloat16", **facts})
    assert arch.expected_parameters() == whole + beside
    serving = Serving(context=512, num_seqs=1, engine="vllm", tp=2)
    assert rank_weights(arch, synthesise(arch), serving).parameters == rank + beside


def test_forced_aligner_gives_time_marks() -> None:
    """Qwen3-ASR's build whose head has `classify_num` rows: 19,340,864 parameters in vLLM's class."""
    heard = {
        "d_model": 128,
        "encoder_layers": 3,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 256,
        "downsample_hidden_size": 48,
        "num_mel_bins": 128,
        "output_dim": 512,
    }
    thinker = {"classify_num": 5000, "audio_config": heard, "text_config": QWEN3}
    arch = read_architecture({"model_type": "qwen3_asr", "thinker_config": thinker})
    assert arch.expected_parameters() == 19_340_864


def test_jinas_reranker_of_page_images_scores() -> None:
    """jinaai/jina-reranker-m0: Qwen2-VL-2B (2,208,985,600 parameters, tied) with a square layer and one output for a head."""
    text = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    }
    seen = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3}
    facts = {"model_type": "qwen2_vl", **text, "tie_word_embeddings": True, "vision_config": seen}
    scored = read_architecture({**facts, "architectures": ["JinaVLForRanking"]})
    assert scored.expected_parameters() == 2_208_985_600 + 1536 * 1536 + 1536 + 1536 + 1


@pytest.mark.parametrize(("model_type", "prefix"), [("colqwen3", "vlm.model."), ("ops_colqwen3", "")])
def test_retrievers_have_a_projection_and_no_head(model_type: str, prefix: str) -> None:
    """What Qwen3-VL of this size has without its head (9,024 × 512), and `embed_dim` rows of 512."""
    text = {**QWEN3, "model_type": "qwen3_vl_text"}
    base = read_architecture({"model_type": "qwen3_vl", "text_config": text, "vision_config": TOWER})
    arch = read_architecture({"model_type": model_type, "embed_dim": 320, "text_config": text, "vision_config": TOWER})
    assert arch.expected_parameters() == base.expected_parameters() - 9024 * 512 + 320 * 512
    assert any(s.pattern.startswith(f"{prefix}visual.") for s in arch.tensors)


def test_mimo_hears() -> None:
    """vLLM's class counts 38,870,848 parameters; an embedding of 151,936 words that no file holds is not ours."""
    heard = {
        "input_local_layers": 2,
        "input_local_dim": 128,
        "input_local_intermediate_size": 256,
        "out_hidden_size": 512,
        "projection_layers": 2,
        "add_post_norm": True,
    }
    arch = read_architecture({"model_type": "mimo_v2", **MIMO, "audio_config": heard})
    assert arch.expected_parameters() == 38_870_848 - 3 * 8 - 151_936 * 128
    assert [note.code for note in arch.notes] == ["tower_not_counted"]


@pytest.mark.parametrize(
    ("projector", "counted", "blocks"),
    [
        ({"projector_act": "swiglu", "projector_ln_mid": True}, 19_681_024, 3),
        ({"projector_act": "gelu", "num_projector_layers": 2}, 20_007_552, 5),
    ],
)
def test_ultravox(projector: Facts, counted: int, blocks: int) -> None:
    """vLLM's class joins q, k and v with a bias for each; Whisper's k has none in the file."""
    facts = {"model_type": "ultravox", "text_config": LLAMA, "audio_config": WHISPER, "hidden_size": 256, **projector}
    assert read_architecture(facts).expected_parameters() == counted - blocks * 128


def test_ultravox_that_names_its_text_model_only() -> None:
    facts = {"model_type": "ultravox", "text_model_id": "meta-llama/Llama-3.1-8B-Instruct", "audio_config": WHISPER}
    with pytest.raises(MissingKeyError, match=r"'text_config' is missing: 'text_model_id' is 'meta-llama/Llama-3.1-8B"):
        read_architecture(facts)


PARSE: Facts = {
    "model_type": "nemotron_parse",
    "dtype": "bfloat16",
    "encoder": {
        "patch_size": 16,
        "args": {
            "model": "vit_huge_patch16_224",
            "cpe_max_size": 2048,
            "cls_token_per_teacher": True,
            "register_multiple": 16,
            "teachers": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        },
    },
    "decoder": {
        "d_model": 1024,
        "decoder_layers": 3,
        "decoder_attention_heads": 16,
        "decoder_ffn_dim": 4096,
        "encoder_ffn_dim": 4096,
        "vocab_size": 9024,
    },
}


def test_nemotron_parse() -> None:
    """vLLM's class counts 720,815,104 parameters with two layer scales for each of the encoder's 32 blocks, which no file has. Its
    planning asks 201,326,592 bytes for a request of 8,192 tokens, the encoder's output within."""
    arch = read_architecture(PARSE)
    assert arch.expected_parameters() == 720_815_104 - 32 * 2 * 1280
    assert engine("vllm").cache(arch, Serving(8192)).bytes_per_rank == 201_326_592


def test_moondream3() -> None:
    """vLLM deals its experts out whole, which is as much on a rank. Its class counts 9,260,750,704 parameters where the config says
    nothing, and its planning asks 131,072 bytes a layer for 16 tokens."""
    whole = read_architecture({"model_type": "moondream3", "dtype": "bfloat16"})
    assert whole.expected_parameters() == 9_260_750_704
    assert engine("vllm").cache(whole, Serving(4096)).bytes_per_rank == 805_306_368
    moe = {"start_layer": 2, "n_experts": 8, "n_experts_per_tok": 2, "expert_inner_dim": 256}
    text = {"dim": 512, "ff_dim": 1024, "n_layers": 6, "vocab_size": 9024, "n_heads": 8, "n_kv_heads": 8, "moe": moe}
    seen = {"enc_dim": 256, "enc_n_layers": 3, "enc_ff_dim": 768, "enc_n_heads": 4, "proj_inner_dim": 1024}
    arch = read_architecture(
        {"model_type": "moondream3", "dtype": "bfloat16", "config": {"text": text, "vision": seen}}
    )
    for tp, parameters, request in ((1, 33_770_896, 50_331_648), (2, 17_070_808, 25_165_824)):
        serving = Serving(4096, engine="vllm", tp=tp)
        assert rank_weights(arch, synthesise(arch), serving).parameters == parameters
        assert engine("vllm").cache(arch, serving).bytes_per_rank == request
    # six of eight experts are idle in each of four layers
    assert arch.expected_parameters() - arch.active_parameters() == 4 * 6 * 3 * 256 * 512
    with pytest.raises(ContradictionError, match="16 of 8 experts"):
        read_architecture(
            {"model_type": "moondream3", "config": {"text": text | {"moe": moe | {"n_experts_per_tok": 16}}}}
        )


def test_qwen3_asrs_tower_splits_where_ranks_divide_its_heads() -> None:
    """vLLM's class on a rank of one, two and four; four ranks do not divide six heads, and each holds the tower's blocks whole."""
    heard = {
        "d_model": 192,
        "encoder_layers": 3,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 256,
        "downsample_hidden_size": 48,
        "num_mel_bins": 128,
        "output_dim": 512,
    }
    arch = read_architecture(
        {"model_type": "qwen3_asr", "thinker_config": {"audio_config": heard, "text_config": QWEN3}}
    )
    for tp, parameters in ((1, 21_849_536), (2, 11_092_192), (4, 6_530_496)):
        assert rank_weights(arch, synthesise(arch), Serving(512, engine="vllm", tp=tp)).parameters == parameters


def test_gates_of_lings_latent_attention() -> None:
    """`BailingMoeV3MLAAttention`: one row of a gate for a head, one for each of its values, or no gate."""
    key = "gated_attention_proj_granularity_type"

    def rows(said: dict[str, Any]) -> list[int]:
        facts = {k: v for k, v in LING.items() if k != key}
        arch = read_architecture({"dtype": "bfloat16", **facts, **said})
        shapes = {s.shape[0] for s in arch.tensors if s.pattern.endswith("attention.g_proj.weight")}
        return sorted(shapes - {LING["num_attention_heads"] * LING["head_dim"]})  # but for those of the delta layers

    heads = LING["num_attention_heads"]
    assert rows({}) == rows({key: "head_wise"}) == [heads]
    assert rows({key: None}) == []
    with pytest.raises(UnknownArchitectureError, match=key):
        rows({key: "layer_wise"})
