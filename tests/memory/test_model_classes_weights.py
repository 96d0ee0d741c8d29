"""What the engines' own model classes hold of a model's weights: parts they leave out, build apart, or share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component, Replicated, TensorSpec


def groups(arch: Architecture) -> list[TensorGroup]:
    """What a checkpoint of this architecture stores, in BF16."""
    return [TensorGroup(s.pattern, "BF16", s.shape, s.boxes) for s in arch.tensors if not s.tied_to]


def test_minimax_m2_norms_are_a_ranks_own() -> None:
    """vLLM 0.33 builds MiniMax-M2.7 (62 layers, 48 heads and 8 KV heads × 128) with 28,629,234,432 parameters on a rank of eight
    with whole experts: its norms over all heads of q and k are cut like the heads."""
    config = {
        "model_type": "minimax_m2", "architectures": ["MiniMaxM2ForCausalLM"], "dtype": "bfloat16", "hidden_size": 3072,
        "intermediate_size": 1536, "num_hidden_layers": 62, "num_attention_heads": 48, "num_key_value_heads": 8,
        "head_dim": 128, "num_local_experts": 256, "num_experts_per_tok": 8, "vocab_size": 200064, "use_qk_norm": True,
        "qk_norm_type": "per_layer", "tie_word_embeddings": False, "max_position_embeddings": 196608,
    }  # fmt: skip
    arch = read_architecture(config)
    found = rank_weights(arch, groups(arch), Serving(10, tp=8, ep=True))
    assert found.parameters == 28_629_234_432


def test_vllm_embeds_without_berts_pooler() -> None:
    """vLLM 0.33 holds 559,015,936 parameters of multilingual-e5-large, whose file has 1024 × 1024 + 1024 more for a pooler."""
    config = {
        "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "dtype": "bfloat16", "hidden_size": 1024,
        "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 250002,
        "max_position_embeddings": 514, "type_vocab_size": 1,
    }  # fmt: skip
    arch = read_architecture(config)
    found = [rank_weights(arch, groups(arch), Serving(10, engine=engine)) for engine in ("vllm", "transformers")]
    assert found[0].parameters == 559_015_936
    # vLLM pads words, positions and types to multiples of 64: 46, 62 and 63 rows
    assert found[1].bytes - found[0].bytes == 2 * (1024 * 1024 + 1024 - (46 + 62 + 63) * 1024)


def test_vllm_embeds_without_robertas_head() -> None:
    """vLLM 0.33 builds `RobertaEmbeddingModel` of a masked-LM copy: 708,956,160 bytes of all-roberta-large-v1's."""
    config = {
        "model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "dtype": "float16", "hidden_size": 1024,
        "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 50265,
        "max_position_embeddings": 514, "type_vocab_size": 1,
    }  # fmt: skip
    arch = read_architecture(config)
    found = [rank_weights(arch, groups(arch), Serving(10, engine=engine)) for engine in ("vllm", "transformers")]
    assert found[0].parameters * 2 == 708_956_160
    # words, positions and types are padded to multiples of 64: 39, 62 and 63 rows; the head's dense layer, norm and bias
    assert found[1].bytes - found[0].bytes == 2 * (1024 * 1024 + 3 * 1024 + 50_265 - (39 + 62 + 63) * 1024)


def test_sglang_holds_projections_of_layers_that_share_a_cache() -> None:
    """SGLang 0.5.23's `gemma4_causal.py` makes queries, keys and values one projection in every layer; vLLM makes queries alone
    where a layer attends over another's cache."""
    config = {
        "model_type": "gemma4_text", "architectures": ["Gemma4ForCausalLM"], "dtype": "bfloat16", "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "global_head_dim": 128, "vocab_size": 1024, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 3,
        "sliding_window": 128, "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2,
    }  # fmt: skip
    arch = read_architecture(config)
    vllm, sglang = (rank_weights(arch, groups(arch), Serving(10, engine=engine)) for engine in ("vllm", "sglang"))
    # keys and values of two layers of 2 × 64 and one of 2 × 128, and a norm of each layer's keys
    shared = 2 * 256 * (2 * 2 * 64 + 2 * 128) + 2 * 64 + 128
    assert sglang.parameters - vllm.parameters == shared
    assert sglang.bytes - vllm.bytes == 2 * shared


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        ({"dp": 8}, 1),  # eight replicas on one machine share the host's table
        ({"dp": 9}, 2),
        ({"tp": 2, "dp": 8}, 2),  # four replicas of two ranks on each machine
        ({"tp": 2, "pp": 2, "dp": 8}, 4),
        ({"tp": 16, "dp": 3}, 3),  # a replica is larger than a machine
    ],
)
def test_replicas_of_a_machine_share_a_table_of_the_host(settings: dict[str, Any], copies: int) -> None:
    """vLLM's `resolve_dp_shared_memory`: machines are taken to have eight devices. A table of 1,000 × 64 in 16 bits."""
    config = {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4, "vocab_size": 512,
              "num_attention_heads": 16, "num_key_value_heads": 16, "dtype": "bfloat16"}  # fmt: skip
    plain = read_architecture(config)
    pattern = "model.layers.{}.engram.embed.weight"
    table = TensorSpec(
        pattern, (1000, 64), ((range(1, 2),),), Component.EMBEDDING, Replicated(), optional=True, layer_axis=0
    )
    arch = replace(plain, tensors=(*plain.tensors, table))
    found = rank_weights(arch, tuple(synthesise(arch)), Serving(64, **settings))
    assert found.host_bytes == copies * 1000 * 64 * 2
