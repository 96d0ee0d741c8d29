"""Heads that draft for another model. Sizes: published files, else the shapes of vLLM 0.33's classes written out."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, MissingKeyError, UnknownArchitectureError
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


BODY_4B = 5 * (2 * 2560 * 4096 + 2 * 2560 * 1024 + 3 * 2560 * 9728 + 2 * 128 + 2 * 2560) + 5 * 2560**2 + 2 * 2560


def block_head(name: str, **flash: object) -> int:
    """Parameters of a head of Qwen3 4B with these keys in its `dflash_config`."""
    part = {"target_layer_ids": [1, 9, 17, 25, 33], **flash}
    config = qwen3(2560, 9728, architectures=[name], dflash_config=part)
    return read_architecture(config).expected_parameters() - BODY_4B


def test_dspark_without_tables_of_its_own() -> None:
    # SpecForge's configs of qwen3-4b: every key of the heads in `dflash_config`
    said = {"projector_type": "dspark", "markov_rank": 256, "enable_confidence_head": True}
    markov = 2 * 151_936 * 256
    assert block_head("DSparkDraftModel", **said, confidence_head_with_markov=True) == markov + 2560 + 256 + 1
    assert block_head("Lfm2DSparkDraftModel", **said) == markov + 2560 + 1
    said["enable_confidence_head"] = False
    assert block_head("LingDSparkModel", **said, markov_head_type="gated") == markov + 256 * (2560 + 256 + 1)
    assert block_head("LingDSparkModel", **said, markov_head_type="rnn") == markov + 768 * (2560 + 512 + 1)
    with pytest.raises(UnknownArchitectureError, match="'markov_head_type' is 'tree'"):
        block_head("DSparkDraftModel", **said, markov_head_type="tree")
    with pytest.raises(MissingKeyError, match="'markov_rank' is missing, in 'dflash_config' as beside it"):
        block_head("DSparkDraftModel")


def test_domino_and_dflash_2() -> None:
    gates = 3 * 1024 * (2560 + 1024)
    projection = 256 * (2560 + 1024) + 151_936 * 256
    assert block_head("DominoDraftModel", emb_dim=256, gru_hidden_dim=1024) == gates + projection
    # SGLang builds Domino's parts for a DFlash class, too, where the config names them
    said = {"projector_type": "domino", "emb_dim": 256, "gru_hidden_dim": 1024}
    assert block_head("DFlashDraftModel", **said) == gates + projection
    selector = 2 * 151_936 * 64 + 64 * 2560
    convolutions = 5 * 2 * (2 * 4 * 2560 + 2 * 4 * (2560 // 128) * 2560)
    assert block_head("DFlash2DraftModel", selector_rank=64, selector_top_k=8) == selector
    said = {"selector_rank": 64, "conv_kernel_size": 4, "conv_group_size": 128}
    assert block_head("DFlash2DraftModel", **said) == selector + convolutions
    with pytest.raises(ContradictionError, match="'conv_group_size' 100 does not divide"):
        block_head("DFlash2DraftModel", **said | {"conv_group_size": 100})
    with pytest.raises(MissingKeyError, match="'conv_group_size'"):
        block_head("DFlashDraftModel", conv_kernel_size=4)


def test_other_heads_are_no_llama() -> None:
    for name in ("QwenDFlareDraftModel", "MuseSparkDSparkModel", "CosyVoice3Eagle3LlamaForCausalLM"):
        with pytest.raises(UnknownArchitectureError, match=f"{name} drafts for another model"):
            read_architecture(EAGLE3 | {"architectures": [name]})
    assert "LlamaForCausalLM" not in DRAFT_CLASSES
    assert read_architecture(EAGLE3 | {"architectures": ["LlamaForCausalLM"]}).model_type == "llama"
