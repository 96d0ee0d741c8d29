"""DeepSeek V4.1 against vLLM 0.33.0: its class on the meta device, its KV-cache specs, groups and one request's bytes, on Hopper.

Batches of 8,192 tokens.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, UnknownArchitectureError, UnsupportedError
from hfmem.memory.cache import bytes_per_token, layer_bytes
from hfmem.memory.engines import engine
from hfmem.memory.engines.vllm import layout
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import CompressedAttention, SharedCache

TEXT: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "q_lora_rank": 256,
    "o_lora_rank": 256,
    "o_groups": 8,
    "qk_rope_head_dim": 64,
    "sliding_window": 128,
    "vocab_size": 4096,
    "index_n_heads": 32,
    "index_head_dim": 128,
    "index_topk": 512,
    "hc_mult": 4,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 512,
    "max_position_embeddings": 65536,
    "compress_ratios": [0, 0, 2, 2, 1, 1, 1, 2, 0],
    "kv_source_layer_ids": [2, 4, 7],
    "index_source_layer_ids": [2, 4, 6, 7],
    "engram_layer_ids": [1, 3],
    "engram_num_embeddings": [41000, 43000],
    "engram_max_ngram_size": 3,
    "engram_n_heads": 8,
    "engram_head_dim": 256,
    "engram_vocab_size": 2400,
}
SEEN = {
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "patch_size": 14,
    "downsample_ratio": 3,
}
#: sources from the first layer on, no n-grams
EARLY = {
    "num_hidden_layers": 12,
    "compress_ratios": [1, 1, 0, 2, 2, 2, 2, 2, 2, 0, 1, 1, 0],
    "kv_source_layer_ids": [0, 3, 5, 7, 10],
    "index_source_layer_ids": [0, 3, 5, 6, 7, 8, 10],
    "engram_layer_ids": [],
}
#: more layers, a wider window
DEEP = {
    "num_hidden_layers": 22,
    "compress_ratios": [0, 0, *[2] * 18, 1, 1, 0],
    "kv_source_layer_ids": [2, 6, 10, 14, 20],
    "index_source_layer_ids": [2, 6, 10, 14, 18, 20],
    "engram_layer_ids": [0, 4],
    "sliding_window": 256,
}
#: the first 32 primes beyond 2,399: rows of the 16 hash heads of each table
PRIMES = [n for n in range(2400, 2700) if all(n % d for d in range(2, 52))][:32]
#: bytes of a row in vLLM, which keeps the tables in the host's memory: 256 values and 8 scales, a parameter each
ROW = 256 + 8
TABLES = (39_638 + 42_008) * ROW


def model(**keys: Any) -> Architecture:
    config = {"model_type": "deepseek_v41", "dtype": "bfloat16", "architectures": ["DeepseekV41ForCausalLM"]}
    return read_architecture(config | {"text_config": TEXT | keys, "vision_config": SEEN})


@pytest.mark.parametrize(
    ("keys", "groups", "block", "requests", "parameters"),
    [
        ({}, [4, 4, 6, 2], 93_312, (4_012_416, 59_999_616, 144_353_664), 356_187_040 - TABLES),
        (EARLY, [10, 6, 6, 3], 163_008, (7_009_344, 104_814_144, 252_173_376), 433_752_456),
        (DEEP, [6, 6, 5, 5, 10, 4], 140_544, (10_821_888, 162_609_408, 364_992_768), 837_034_708 - TABLES),
    ],
    ids=("base", "early", "deep"),
)
def test_as_vllm_holds_it(
    keys: dict[str, Any], groups: list[int], block: int, requests: tuple[int, ...], parameters: int
) -> None:
    arch = model(**keys)
    found = layout(arch, Serving(32768, engine="vllm"))
    assert [len(group.members) for group in found.groups] == groups
    assert found.stage_block_bytes == (block,)
    held = [engine("vllm").cache(arch, Serving(n, engine="vllm")).bytes_per_rank for n in (512, 8192, 32768)]
    assert tuple(held) == requests
    assert rank_weights(arch, synthesise(arch), Serving(512, engine="vllm")).parameters == parameters


@pytest.mark.parametrize(("tp", "parameters"), [(2, 185_603_600), (4, 100_433_056)])
def test_ranks_share_all_but_the_cache(tp: int, parameters: int) -> None:
    assert (sum(PRIMES[:16]), sum(PRIMES[16:])) == (39_638, 42_008)  # as vLLM's tables
    heads = 16 // tp  # the first rank's of either table
    arch, rows = model(), sum(PRIMES[:heads]) + sum(PRIMES[16 : 16 + heads])
    serving = Serving(8192, engine="vllm", tp=tp)
    assert rank_weights(arch, synthesise(arch), serving).parameters == parameters - rows * ROW
    assert engine("vllm").cache(arch, serving).bytes_per_rank == 59_999_616


def test_tables_are_the_hosts_in_vllm_only() -> None:
    arch = model()
    stored = (41_000 + 43_000) * 256 * 2  # as bf16, and once whatever the ranks
    for tp in (1, 4):
        assert rank_weights(arch, synthesise(arch), Serving(512, engine="vllm", tp=tp)).host_bytes == stored
    # `resolve_dp_shared_memory`: the replicas on a machine, of eight devices each, share one copy
    for tp, dp, copies in ((1, 8, 1), (4, 2, 1), (4, 4, 2), (8, 3, 3)):
        assert rank_weights(arch, synthesise(arch), Serving(512, tp=tp, dp=dp, ep=True)).host_bytes == copies * stored
    ideal = rank_weights(arch, synthesise(arch), Serving(512, engine="ideal"))
    assert ideal.host_bytes == 0
    served = rank_weights(arch, synthesise(arch), Serving(512, engine="vllm"))
    assert served.all_ranks_bytes == served.bytes + stored


@pytest.mark.parametrize(
    ("capability", "page", "what"), [(100, None, "Hopper"), (80, None, "Hopper"), (90, 32, "pages of 64")]
)
def test_other_devices_and_pages_are_refused(capability: int, page: int | None, what: str) -> None:
    with pytest.raises(UnsupportedError, match=what):
        engine("vllm").cache(model(), Serving(512, engine="vllm", compute_capability=capability, page_size=page))


def test_sources_keep_rows_for_the_layers_after_them() -> None:
    window = CompressedAttention(16, 512, 128, 0)
    pairs = CompressedAttention(16, 512, 128, 2, 128, keys_from_rows=True, index_topk=512)
    every = CompressedAttention(16, 512, 128, 1, 128, keys_from_rows=True, index_topk=512)
    caches = [layer.caches for layer in model().layers[:8]]
    second, fourth = (window, SharedCache(2)), (window, SharedCache(4))
    assert caches == [(window,), (window,), (pairs,), second, (every,), fourth, fourth, (pairs,)]
    # two sources keep a row and a key for two tokens, one for each
    assert bytes_per_token(model()) == (512 + 128) * 2 * 2
    # 129 tokens: 128 rows of the window, 64 of pairs with keys, one token's values and gates (no key's)
    assert layer_bytes(pairs, 129, "bf16", "BF16") == 128 * 1024 + 64 * (1024 + 256) + 2 * 1024
    assert layer_bytes(every, 129, "bf16", "BF16") == 128 * 1024 + 129 * (1024 + 256)


def test_draft_layers_by_hand() -> None:
    plain = model().expected_parameters()
    keys = {
        "n_mtp_layers": 2,
        "dspark_n_routed_experts": 4,
        "dspark_target_layer_ids": [3, 5],
        "dspark_markov_rank": 64,
    }
    attention = 16 + 768 * 1024 + 256 + 512 + 8192 * 256 + 2048 * 1024 * 2
    mixers = 2 * (24 * 4096 + 24 + 3)
    block = attention + 4 * 1024 + (4 + 1) * 3 * 512 * 1024 + 2 * 1024 + mixers
    heads = 2 * 1024 * 1024 + 1024 + 1024 + 2 * 4096 * 64 + 1024 + 64
    assert model(**keys).expected_parameters() - plain == 2 * block + heads


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"compress_ratios": [0, 0, 2]}, "compress_ratios"),
        ({"kv_source_layer_ids": [4, 7]}, "layer 2 compresses"),
        ({"kv_source_layer_ids": [1, 2, 4, 7]}, "layer 1 is a source"),
        ({"kv_source_layer_ids": [2, 4, 9]}, "kv_source_layer_ids"),
        ({"kv_source_layer_ids": [2, 4, 5, 7]}, "its source 5 makes no keys"),
        ({"engram_num_embeddings": [41000]}, "engram_num_embeddings"),
    ],
)
def test_contradictions_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ContradictionError, match=message):
        model(**keys)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(UnknownArchitectureError, match="expected 0, 1 or 2"):
        model(compress_ratios=[0, 0, 4, 4, 1, 1, 1, 2])
    with pytest.raises(UnsupportedError, match="Hopper"):
        layout(model(), Serving(512, engine="vllm", compute_capability=100))
    with pytest.raises(UnsupportedError, match="pages of 64"):
        layout(model(), Serving(512, engine="vllm", page_size=128))
