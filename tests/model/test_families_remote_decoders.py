"""Decoders and encoders with code of their own: sizes written out from their classes, totals as the Hub gives them."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, UnknownArchitectureError
from hfmem.memory.cache import bytes_per_token
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, NoCache, SlidingAttention

#: the sizes of Motif 3
MOTIF_3: dict[str, Any] = {
    "model_type": "Motif",
    "architectures": ["MotifForCausalLM"],
    "dtype": "bfloat16",
    "attention_cls": "gdla",
    "vocab_size": 220160,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1280,
    "num_hidden_layers": 53,
    "num_attention_heads": 80,
    "num_key_value_heads": 16,
    "num_noise_heads": 16,
    "head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "q_lora_rank": 1024,
    "kv_lora_rank": 512,
    "num_experts": 384,
    "experts_top_k": 8,
    "num_shared_experts": 1,
    "n_dense_first_layers": 2,
    "interleave_moe_layer_step": 1,
    "use_sliding_window": True,
    "sliding_window": 128,
    "sliding_window_pattern": "interleave",
    "sliding_window_period": 4,
    "mhc_enabled": True,
    "mhc_expansion_rate": 4,
    "elementwise_attn_output_gate": True,
    "tie_word_embeddings": False,
}
#: 64 signal heads and 16 of noise; a latent of 512 and 64 turning channels
GDLA = (
    1024 * 4096
    + 1024
    + 80 * 192 * 1024
    + 64 * 128 * 1024
    + 576 * 4096
    + 512
    + 16 * 256 * 512
    + 64 * 4096
    + 4096 * 64 * 128
)


def test_motif_3() -> None:
    arch = read_architecture(MOTIF_3)
    streams = 2 * (4 * 4096 + 24 * 4 * 4096 + 24 + 3)  # four streams: what reads, writes (4 + 4) and mixes (16) them
    layer = GDLA + 2 * 4096 + streams
    dense = 3 * 4096 * 12288 + 4
    experts = 384 * (3 * 4096 * 1280 + 4) + 384 * 4096 + 3 * 4096 * 1280 + 4
    total = 2 * 220160 * 4096 + 53 * layer + 2 * dense + 51 * experts + 4096
    assert arch.expected_parameters() == total
    assert arch.active_parameters() == total - 51 * 376 * 3 * 4096 * 1280
    # layers 0, 4, …, 52 keep everything, the others a token and the 128 before it; keys are wider than values
    full, near = FullAttention(80, 16, 192, 128), SlidingAttention(80, 16, 192, 128, 129)
    assert arch.caches() == (full, near, near, near) * 13 + (full,)
    assert bytes_per_token(arch) == 14 * 16 * (192 + 128) * 2
    mtp = read_architecture(MOTIF_3 | {"num_nextn_predict_layers": 1})
    assert mtp.expected_parameters() - total == GDLA + 2 * 4096 * 4096 + 4 * 4096 + dense


def test_motif_2_6b() -> None:
    # Motif-Technologies/Motif-2.6B: 16 heads of 128, two by two
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 32, "vocab_size": 219520}
    data = {"model_type": "Motif", "num_attention_heads": 16, "num_key_value_heads": 16, **sizes, "dtype": "bfloat16"}
    arch = read_architecture(data)
    layer = 4 * 2048 * 2048 + 4 * 128 + 256 + 3 * 2048 * 8192 + 4 + 2 * 2048
    assert arch.expected_parameters() == 219520 * 2048 + 32 * layer + 2048
    assert f"{arch.expected_parameters() / 1e9:.1f}" == "2.6"
    assert bytes_per_token(arch) == 32 * 2 * 2048 * 2
    with pytest.raises(UnknownArchitectureError, match="'num_noise_heads' without 'attention_cls'"):
        read_architecture(data | {"num_noise_heads": 8})
    with pytest.raises(UnknownArchitectureError, match="'attention_cls' is 'mla'"):
        read_architecture(data | {"attention_cls": "mla"})


def test_ouro_keeps_keys_of_every_round() -> None:
    # ByteDance/Ouro-1.4B and 2.6B: 24 and 48 layers of 16 heads, four rounds
    data = {
        "model_type": "ouro",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "vocab_size": 49152,
        "total_ut_steps": 4,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    layer = 4 * 2048 * 2048 + 3 * 2048 * 5632 + 4 * 2048
    arch = read_architecture(data)
    assert arch.expected_parameters() == 2 * 49152 * 2048 + 48 * layer + 2048 + 2049
    assert f"{arch.expected_parameters() / 1e9:.1f}" == "2.7"
    assert bytes_per_token(arch) == 4 * 48 * 2 * 2048 * 2
    with pytest.raises(ContradictionError, match="no published Ouro has windows"):
        read_architecture(data | {"use_sliding_window": True})


def test_codeshell_and_refact() -> None:
    # WisdomShell/CodeShell-7B and smallcloudai/Refact-1_6B-fim
    shell = {
        "model_type": "codeshell",
        "n_embd": 4096,
        "n_head": 32,
        "n_layer": 42,
        "num_query_groups": 8,
        "vocab_size": 70144,
        "n_positions": 8192,
        "position_embedding_type": "rope",
        "dtype": "bfloat16",
    }
    layer = 6144 * 4096 + 6144 + 4096 * 4096 + 4096 + 2 * 4096 * 16384 + 16384 + 4096 + 4 * 4096
    arch = read_architecture(shell)
    assert arch.expected_parameters() == 70144 * 4096 + 42 * layer + 2 * 4096
    assert bytes_per_token(arch) == 42 * 2 * 8 * 128 * 2
    refact = {"model_type": "gpt_refact", "n_embd": 2048, "n_head": 32, "n_layer": 32, "vocab_size": 49216}
    one = read_architecture(refact | {"dtype": "bfloat16"})
    block = 2 * 2048 * 2048 + 128 * 2048 + 3 * 2048 * 5632 + 2 * 2048
    assert one.expected_parameters() == 2 * 49216 * 2048 + 32 * block + 2048
    assert f"{one.expected_parameters() / 1e9:.2f}" == "1.59"
    assert bytes_per_token(one) == 32 * 2 * 64 * 2


def test_cogvlm_2_shares_keys_and_1_does_not() -> None:
    # THUDM/cogvlm2-llama3-chat-19B: Llama 3 8B twice, in every layer; its config has no model_type
    data = {
        "architectures": ["CogVLMForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_multi_query_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    arch = read_architecture(data)
    expert = 6144 * 4096 + 4096 * 4096 + 3 * 4096 * 14336
    assert arch.expected_parameters() == 2 * 128256 * 4096 + 32 * (2 * expert + 6144 + 2 * 4096) + 4096
    assert arch.partial and bytes_per_token(arch) == 32 * 2 * 8 * 128 * 2
    first = read_architecture({key: value for key, value in data.items() if key != "num_multi_query_heads"})
    assert bytes_per_token(first) == 32 * 2 * 4096 * 2
    assert not any(spec.pattern.endswith("value.bias") for spec in first.tensors)
    with pytest.raises(ContradictionError, match="32 attention heads cannot share 5"):
        read_architecture(data | {"num_multi_query_heads": 5})


JINA: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["JinaBertForMaskedLM"],
    "auto_map": {"AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"},
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 30528,
    "type_vocab_size": 2,
    "feed_forward_type": "geglu",
}


def test_jina_embeddings_2_is_no_bert() -> None:
    arch = read_architecture(JINA)
    assert arch.expected_parameters() == 137_368_320  # jinaai/jina-embeddings-v2-base-en, by the Hub
    assert bytes_per_token(arch) == 0
    code = {"AutoModel": "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel"}
    block = 4 * (768 * 768 + 768) + 4 * 2 * 768 + 2 * 768 * 3072 + 3072 * 768 + 768
    total = 61056 * 768 + 2 * 768 + 2 * 768 + 12 * block + 768 * 768 + 768
    assert read_architecture(JINA | {"auto_map": code, "vocab_size": 61056}).expected_parameters() == total
    with pytest.raises(UnknownArchitectureError, match="'feed_forward_type' is 'original'"):
        read_architecture(JINA | {"feed_forward_type": "original"})


def test_neobert() -> None:
    data = {"model_type": "neobert", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 28}
    arch = read_architecture(data | {"num_attention_heads": 12, "vocab_size": 30522})
    layer = 4 * 768 * 768 + 3 * 768 * 2048 + 2 * 768
    assert arch.expected_parameters() == 30522 * 768 + 28 * layer + 768
    assert f"{arch.expected_parameters() / 1e6:.0f}" == "222"
    assert bytes_per_token(arch) == 0


def test_kimi2_pcl_of_a_trillion_is_not_guessed() -> None:
    with pytest.raises(UnknownArchitectureError, match="'group_query_attention' is true beside 'kv_lora_rank'"):
        read_architecture({"model_type": "kimi_k2", "group_query_attention": True, "kv_lora_rank": 512})


SMALL: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 9024,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("llama", {"architectures": ["LlamaBidirectionalModel"]}),
        ("llama_bidirec", {"architectures": ["LlamaBidirectionalForSequenceClassification"]}),
        ("qwen3", {"architectures": ["VoyageQwen3BidirectionalEmbedModel"]}),
        ("bidirectional_pplx_qwen3", {"architectures": ["PPLXQwen3Model"]}),
        ("qwen2", {"architectures": ["Qwen2ForCausalLM"], "is_causal": False}),
        ("lfm2", {"architectures": ["Lfm2BidirectionalModel"], "layer_types": ["conv", "full_attention"] * 2}),
    ],
)
def test_decoders_used_as_encoders_keep_nothing(model_type: str, said: dict[str, Any]) -> None:
    # vLLM 0.33.0 gives these classes, and configs with `is_causal` false, attention of encoders only
    arch = read_architecture(SMALL | {"model_type": model_type, "conv_L_cache": 3} | said)
    assert bytes_per_token(arch) == 0 and arch.num_hidden_layers == 4
    assert {cache.role for cache in arch.caches() if isinstance(cache, NoCache)} == {"encoder"}
    assert len(arch.caches()) == 4


def test_causal_ones_keep_theirs() -> None:
    for said in ({}, {"is_causal": True}):
        assert bytes_per_token(read_architecture(SMALL | {"model_type": "qwen2"} | said)) == 4 * 2 * 4 * 64 * 2
