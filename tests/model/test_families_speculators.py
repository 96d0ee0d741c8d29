"""Heads that draft for another model. Sizes: published files, else the shapes of vLLM 0.33's classes written out."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import UnknownArchitectureError
from hfmem.memory.cache import bytes_per_token
from hfmem.model.families.draft_types import DRAFT_CLASSES
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, LatentAttention, SlidingAttention

#: Llama 3.1 8B's EAGLE-3 head: a layer over [embedding, hidden], a projection of three hidden states, 32,000 tokens
EAGLE3 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLMEagle3"],
    "torch_dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "draft_vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
MLP = 3 * 4096 * 14336
FIRST = (4096 + 2 * 1024) * 2 * 4096 + 4096 * 4096  # q, k and v over twice the width
LAYER = (4096 + 2 * 1024) * 4096 + 4096 * 4096


def qwen3(hidden: int, intermediate: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 5, "vocab_size": 151936}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    return {"model_type": "qwen3", "dtype": "bfloat16", "max_position_embeddings": 40960, **sizes, **heads, **more}


def test_eagle3() -> None:
    arch = read_architecture(EAGLE3)
    assert arch.expected_parameters() == FIRST + MLP + 3 * 4096**2 + 32000 * 4096 + 4 * 4096
    assert bytes_per_token(arch) == 2 * 8 * 128 * 2
    assert {s.pattern for s in arch.tensors if s.buffer} == {"d2t", "t2d"}
    assert any(s.pattern == "midlayer.hidden_norm.weight" for s in arch.tensors)


def test_eagle3_keys() -> None:
    five = {"target_hidden_size": 5120, "fc_norm": True, "num_aux_hidden_states": 5}
    arch = read_architecture(EAGLE3 | five)  # of another width than its target: an embedding of its own
    own = 128256 * 4096 + 32000 * 4096
    assert arch.expected_parameters() == own + FIRST + MLP + 5 * 5120 * 4096 + 5 * 5120 + 4 * 4096
    two = {"num_hidden_layers": 2, "eagle_config": {"use_aux_hidden_state": False}}
    arch = read_architecture(EAGLE3 | two)
    assert arch.expected_parameters() == FIRST + LAYER + 2 * MLP + 32000 * 4096 + 6 * 4096
    listed = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2], "norm_before_fc": True}}
    arch = read_architecture(EAGLE3 | listed)
    assert arch.expected_parameters() == FIRST + MLP + 2 * 4096**2 + 2 * 4096 + 32000 * 4096 + 4 * 4096


def test_format_of_speculators() -> None:
    # RedHatAI's heads: the layer's config nested, embedding and output table stored
    layer = {k: v for k, v in EAGLE3.items() if k not in ("architectures", "torch_dtype", "draft_vocab_size")}
    config = {
        "speculators_model_type": "eagle3",
        "architectures": ["Eagle3Speculator"],
        "torch_dtype": "bfloat16",
        "draft_vocab_size": 32000,
        "norm_before_fc": False,
        "target_hidden_size": None,
        "transformer_layer_config": layer,
    }
    arch = read_architecture(config)
    own = 128256 * 4096 + 32000 * 4096
    assert arch.expected_parameters() == own + FIRST + MLP + 3 * 4096**2 + 4 * 4096
    assert any(s.pattern == "layers.{}.hidden_norm.weight" for s in arch.tensors)
    with pytest.raises(UnknownArchitectureError, match='speculators_model_type "medusa"'):
        read_architecture(config | {"speculators_model_type": "medusa"})


def test_eagle1() -> None:
    # the target's embedding and output table; no norm before the first layer
    arch = read_architecture(EAGLE3 | {"architectures": ["EagleLlamaForCausalLM"]})
    assert arch.expected_parameters() == LAYER + MLP + 2 * 4096**2 + 4096


def test_eagle3_with_latent_attention() -> None:
    # Kimi K2's shape: 64 heads of 128 + 64, ranks 1536 and 512, a dense feed-forward
    config = {
        "model_type": "kimi_k2",
        "architectures": ["Eagle3DeepseekV2ForCausalLM"],
        "torch_dtype": "bfloat16",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "num_hidden_layers": 1,
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "vocab_size": 163840,
        "draft_vocab_size": 163840,
    }
    arch = read_architecture(config)
    down = (1536 + 576) * 2 * 7168 + 1536 + 512
    up = 64 * 192 * 1536 + 64 * 256 * 512 + 7168 * 64 * 128
    assert arch.expected_parameters() == down + up + 3 * 7168 * 18432 + 3 * 7168**2 + 163840 * 7168 + 4 * 7168
    assert [type(c) for c in arch.caches()] == [LatentAttention]


@pytest.mark.parametrize(
    ("hidden", "intermediate", "gigabytes"),
    [(2560, 9728, "2.79"), (4096, 12288, "4.74")],
    ids=["deepseek-ai/dspark_qwen3_4b_block7", "deepseek-ai/dspark_qwen3_8b_block7"],
)
def test_dspark(hidden: int, intermediate: int, gigabytes: str) -> None:
    # sizes of the files as the Hub gives them (GB)
    markov = {"markov_rank": 256, "enable_confidence_head": True, "confidence_head_with_markov": True}
    states = {"target_layer_ids": [1, 9, 17, 25, 33], "architectures": ["Qwen3DSparkModel"]}
    arch = read_architecture(qwen3(hidden, intermediate, **markov, **states))
    assert f"{arch.expected_parameters() * 2 / 1e9:.2f}" == gigabytes
    assert bytes_per_token(arch) == 5 * 2 * 8 * 128 * 2


def test_dflash() -> None:
    # z-lab's head of Qwen3 4B: five layers and the projection of five hidden states, no tables
    states = {"architectures": ["DFlashDraftModel"], "dflash_config": {"target_layer_ids": [1, 9, 17, 25, 33]}}
    arch = read_architecture(qwen3(2560, 9728, **states))
    layer = 2 * 2560 * 4096 + 2 * 2560 * 1024 + 3 * 2560 * 9728 + 2 * 128 + 2 * 2560
    assert arch.expected_parameters() == 5 * layer + 5 * 2560**2 + 2 * 2560
    assert [type(c) for c in arch.caches()] == [FullAttention] * 5
    states["dflash_config"] |= {"use_swa": True, "swa_window_size": 1024}  # type: ignore[operator]
    caches = read_architecture(qwen3(2560, 9728, **states)).caches()
    assert [c.window for c in caches if isinstance(c, SlidingAttention)] == [1024] * 5


def test_other_heads_are_no_llama() -> None:
    for name in ("QwenDFlareDraftModel", "DFlash2DraftModel", "LiLiCorrDraftModel", "CosyVoice3Eagle3LlamaForCausalLM"):
        with pytest.raises(UnknownArchitectureError, match=f"{name} drafts for another model"):
            read_architecture(EAGLE3 | {"architectures": [name]})
    assert "LlamaForCausalLM" not in DRAFT_CLASSES
    assert read_architecture(EAGLE3 | {"architectures": ["LlamaForCausalLM"]}).model_type == "llama"
