"""What llama.cpp (as vendored in llama-cpp-python 0.3.36, built for the CPU) allocates for small models with these keys:
`llama_get_memory_breakdown(…).context` after `llama_init_from_model`, micro-batches of 512 tokens."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.checkpoint.grouping import group_facts
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.errors import UnsupportedError
from hfmem.memory.engines import engine
from hfmem.memory.serving import LlamaCpp, Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.gguf import read_gguf

STORED = Checkpoint(group_facts(["token_embd.weight"], [("F16", (128, 64))]), "gguf", 1, None)
HEADS = {
    "attention.head_count": 2,
    "attention.head_count_kv": 2,
    "attention.key_length": 128,
    "attention.value_length": 128,
}
MODELS: dict[str, dict[str, Any]] = {
    # one layer of each kind: Mamba 2, none of the two (feed-forward, though it has heads), attention
    "nemotron_h": {
        "block_count": 3, "embedding_length": 256, "feed_forward_length": [0, 0, 384], "attention.head_count": [2, 0, 2],
        "attention.head_count_kv": [2, 0, 2], "attention.key_length": 128, "attention.value_length": 128,
        "ssm.inner_size": 512, "ssm.conv_kernel": 4, "ssm.state_size": 128, "ssm.time_step_rank": 2, "ssm.group_count": 2,
    },
    # the second layer has no heads of its own: the first one's count for its state
    "kimi-linear": {
        "block_count": 2, "embedding_length": 128, "attention.head_count": [1, 0], "attention.head_count_kv": [1, 0],
        "attention.key_length": 576, "attention.value_length": 512, "attention.kv_lora_rank": 512,
        "attention.key_length_mla": 192, "attention.value_length_mla": 128, "rope.dimension_count": 64,
        "kda.head_dim": 128, "ssm.conv_kernel": 4,
    },
    "minimax-m3": {
        "block_count": 2, "embedding_length": 256, "leading_dense_block_count": 1, **HEADS,
        "attention.indexer.key_length": 128, "attention.indexer.top_k": 131072, "attention.indexer.block_size": 4,
    },
    "minimax-01": {"block_count": 2, "embedding_length": 256, **HEADS, "attention.recurrent_layers": [1, 0]},
    "pockettts": {"block_count": 2, "embedding_length": 256, **HEADS},
    # windows in every layer, in an architecture that knows them
    "granite_swa": {
        "block_count": 2, "embedding_length": 768, **HEADS, "attention.head_count": 6, "attention.head_count_kv": 6,
        "attention.sliding_window": 300, "attention.sliding_window_pattern": [1, 1],
    },
    "lfm2": {
        "block_count": 5, "embedding_length": 256, **HEADS, "attention.head_count": [2, 0, 2, 2, 0],
        "attention.head_count_kv": [2, 0, 2, 2, 0], "attention.sliding_window": 100, "shortconv.l_cache": 3,
    },
    "deepseek4": {
        "block_count": 4, "embedding_length": 512, "attention.head_count": 8, "attention.head_count_kv": 1,
        "attention.key_length": 64, "attention.value_length": 64, "attention.sliding_window": 16,
        "attention.compress_ratios": [0, 0, 4, 128], "attention.indexer.key_length": 128, "attention.indexer.top_k": 131072,
    },
}  # fmt: skip


def small(name: str) -> Architecture:
    keys = {f"{name}.{key}": value for key, value in MODELS[name].items()}
    return read_gguf({"general.architecture": name, **keys}, STORED, "m.gguf")


@pytest.mark.parametrize(
    ("name", "context", "seqs", "kv_dtype", "told", "size"),
    [
        ("nemotron_h", 4096, 1, "f16", {}, 4_468_736),
        ("nemotron_h", 1000, 1, "iq4_nl", {"value_dtype": "bf16"}, 946_176),
        ("nemotron_h", 2048, 3, "q5_1", {"value_dtype": "f16", "unified": True}, 5_148_672),
        ("kimi-linear", 4096, 1, "f16", {}, 4_788_736),
        ("kimi-linear", 1, 1, "f16", {}, 365_056),
        ("minimax-m3", 4096, 1, "f16", {}, 10_485_760),
        ("minimax-m3", 256, 4, "q8_0", {"value_dtype": "f16"}, 2_007_040),
        ("minimax-01", 4096, 1, "f16", {}, 4_325_376),
        ("granite_swa", 4096, 1, "f16", {}, 6_291_456),
        ("granite_swa", 4000, 1, "iq4_nl", {"value_dtype": "f16", "unified": True}, 4_030_464),
        ("lfm2", 4096, 1, "f16", {}, 2_363_392),
        ("lfm2", 257, 3, "f16", {"value_dtype": "f32"}, 7_090_176),
        ("deepseek4", 4096, 1, "f16", {}, 909_312),
        # a stream of the whole context for each sequence, whatever `--kv-unified` says
        ("deepseek4", 2048, 2, "f16", {"unified": True}, 1_818_624),
        ("deepseek4", 4096, 1, "f16", {"swa_full": True}, 2_613_248),
        ("deepseek4", 8192, 3, "f16", {"swa_full": True}, 15_310_848),
    ],
)
def test_contexts(name: str, context: int, seqs: int, kv_dtype: str, told: dict[str, Any], size: int) -> None:
    serving = Serving(context, seqs, engine="llama.cpp", kv_dtype=kv_dtype, llama_cpp=LlamaCpp(**told))
    assert engine("llama.cpp").cache(small(name), serving).bytes == size


def test_a_layer_a_head() -> None:
    """pocket-tts: keys and values of 2 × 128 in two layers, in f16."""
    assert (
        engine("llama.cpp").cache(small("pockettts"), Serving(256, engine="llama.cpp")).bytes == 256 * 2 * 2 * 256 * 2
    )


@pytest.mark.parametrize("name", ["kimi-linear", "deepseek4"])
def test_one_row_has_one_type(name: str) -> None:
    """`llama_init_from_model: model does not support different K (f16) and V (q8_0) cache types`."""
    serving = Serving(256, engine="llama.cpp", kv_dtype="f16", llama_cpp=LlamaCpp(value_dtype="q8_0"))
    with pytest.raises(UnsupportedError, match=r"different K \(fp16\) and V \(q8_0\) cache types"):
        engine("llama.cpp").cache(small(name), serving)
