"""vLLM's settings that users rarely give, against what vLLM 0.33.0's own planner answered on a machine without a GPU.

Its model classes were built without memory for every pipeline stage; groups, blocks and capacity are those of
`get_kv_cache_configs` and `get_kv_cache_capacity` for a pool of 8 GiB on each rank and 32,768 tokens.
"""

from __future__ import annotations

from typing import Any

import pytest

import hfmem
from hfmem.api.estimates import read_model
from hfmem.errors import UnsupportedError, UsageError
from hfmem.hub import FetchOptions
from hfmem.memory.engines import given_pools
from hfmem.memory.engines.vllm import cache, layout, pool
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture

CONTEXT = 32_768
POOL = 8 << 30


def catalogued(name: str) -> Architecture:
    return read_model(name, fetch=FetchOptions(offline=True, no_cache=True)).architecture


def next_80b(num_layers: int) -> Architecture:
    """Qwen3-Next with its published sizes and few layers, of which every fourth attends."""
    return read_architecture(
        {
            "model_type": "qwen3_next",
            "architectures": ["Qwen3NextForCausalLM"],
            "num_hidden_layers": num_layers,
            "hidden_size": 2048,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "full_attention_interval": 4,
            "vocab_size": 151_936,
            "dtype": "bfloat16",
            "max_position_embeddings": 262_144,
        }
    )


@pytest.mark.parametrize(
    ("told", "groups", "block_bytes", "answer"),
    [
        ({}, 2, 393_216, (21_845, 232_332, 7.090230445)),
        ({"one_kind_of_page": True}, 1, 786_432, (10_922, 174_752, 5.333007812)),
        ({"synchronous": True}, 2, 393_216, (21_845, 278_636, 8.50330868)),
    ],
)
def test_windows_of_gpt_oss(
    told: dict[str, Any], groups: int, block_bytes: int, answer: tuple[int, int, float]
) -> None:
    arch, serving = catalogued("openai/gpt-oss-20b"), Serving(CONTEXT, max_num_batched_tokens=8192, **told)
    found, held = layout(arch, serving), pool(arch, serving, POOL)
    assert (len(found.groups), found.stage_block_bytes) == (groups, (block_bytes,))
    assert (held.num_pages, held.capacity_tokens, round(held.max_concurrency, 9)) == answer


@pytest.mark.parametrize(
    ("prefixes", "pp", "state", "block", "answer"),
    [
        (None, 4, [16, 576], 1_179_648, (7281, 3_614_906, 110.318181818)),
        (None, 1, [576], 2_359_296, (3640, 1_807_204, 55.151515152)),
        (False, 4, [32_768], 1_114_112, (7710, 3_947_520, 120.46875)),
    ],
)
def test_stages_without_attention_keep_their_states_as_they_are(
    prefixes: bool | None, pp: int, state: list[int], block: int, answer: tuple[int, int, float]
) -> None:
    # layers 3 and 7 attend: of four stages the first and the third have none, and no page to fit their states to
    arch, serving = next_80b(8), Serving(CONTEXT, pp=pp, enable_prefix_caching=prefixes, max_num_batched_tokens=8192)
    found, held = layout(arch, serving), pool(arch, serving, POOL)
    assert found.stage_block_bytes == (block,) * pp
    spans = {m.spec.block_size for group in found.groups for m in group.members if m.spec.kind.value == "MambaSpec"}
    assert sorted(spans) == state
    assert (held.num_pages, held.capacity_tokens, round(held.max_concurrency, 9)) == answer


def test_ranks_share_out_the_tokens_of_latents() -> None:
    # DeepSeek V3: 61 latents of (512 + 64) × 2 bytes; eight ranks hold 40,000 / 8 = 5,000 tokens of it each, 313 pages of 16
    arch = catalogued("deepseek-ai/DeepSeek-V3")
    whole, shared = (cache(arch, Serving(40_000, tp=8, dcp=n, page_size=16)) for n in (1, 8))
    page = 61 * 16 * 576 * 2
    assert (whole.bytes_per_rank, shared.bytes_per_rank) == (2500 * page, 313 * page)
    assert shared.bytes == 8 * 313 * page
    (kept,) = shared.layer_groups
    assert (kept.tokens, kept.bytes_per_token) == (40_000, 61 * 576 * 2 // 61)


@pytest.mark.parametrize(
    ("model", "told", "words"),
    [
        ("openai/gpt-oss-20b", {"tp": 8, "dcp": 2}, "sliding windows"),
        ("meta-llama/Meta-Llama-3-8B", {"tp": 8, "dcp": 2}, "KV heads"),
        ("deepseek-ai/DeepSeek-V3", {"tp": 8, "dcp": 3}, "divisible by dcp_size=3"),
        ("tiiuae/falcon-mamba-7b", {"tp": 8, "dcp": 2}, "needs attention layers"),
        ("deepseek-ai/DeepSeek-V3.2", {"tp": 8, "dcp": 2}, "needs an fp8 cache"),
        ("deepseek-ai/DeepSeek-V3.2", {"compute_capability": 89}, "9.0 or later"),
        ("deepseek-ai/DeepSeek-V3", {"kv_dtype": "fp8", "compute_capability": 80}, "8.9 or later"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", {"one_kind_of_page": True}, "hybrid cache manager"),
    ],
)
def test_what_vllm_refuses(model: str, told: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        layout(catalogued(model), Serving(8192, **told))


def test_settings_of_vllm_alone() -> None:
    for told in ({"dcp": 2}, {"one_kind_of_page": True}, {"synchronous": True}):
        with pytest.raises(UsageError, match="only vLLM"):
            Serving(1, engine="sglang", tp=2, **told)
    with pytest.raises(UsageError, match="state dtype 'fp8'"):
        Serving(1, state_dtype="fp8")


def test_states_in_another_type() -> None:
    # a state of 32 × 128 × 128 in fp32 beside 3 × (2 · 16 · 128 + 32 · 128) convolution inputs in bf16 fills ⌈2,146,304 / 2048⌉
    # tokens' keys and values, in whole 16 where prefixes are not cached
    found = layout(next_80b(4), Serving(CONTEXT, state_dtype="float32", enable_prefix_caching=False))
    assert found.plan.block_size == -(-(4 * 32 * 128 * 128 + 2 * 3 * 8192) // (16 * 2048)) * 16


@pytest.mark.parametrize(
    ("blocks", "tokens"),
    # 8,192 tokens are 512 blocks of 16, beside which one stays empty; 128 KiB a token
    [(600, 9_600), (513, 8_208), (512, None)],
)
def test_a_pool_in_blocks(blocks: int, tokens: int | None) -> None:
    offline = FetchOptions(offline=True, no_cache=True)
    told = {"context": 8192, "num_gpu_blocks": blocks, "kv_memory_bytes": 40 << 30, "fetch": offline}  # blocks win
    report = hfmem.estimate("meta-llama/Meta-Llama-3-8B", **told)  # type: ignore[arg-type]
    held = report.engine_pool
    assert (None if held is None else held.capacity_tokens) == tokens
    if held is not None:
        assert (held.num_pages, held.kv_memory_bytes_per_rank) == (blocks, blocks * 16 * 128 * 1024)
    else:
        assert any(warning.code == "pool_too_small" for warning in report.warnings)


def test_a_pool_in_blocks_is_on_every_stage() -> None:
    # 24 layers of gpt-oss-20b in two stages: as many blocks on each, of half the bytes; tokens are the planner's for 5,000 blocks
    arch = catalogued("openai/gpt-oss-20b")
    for pp, size, tokens in ((1, 393_216, 53_177), (2, 196_608, 45_599)):
        serving = Serving(CONTEXT, pp=pp, max_num_batched_tokens=8192, num_gpu_blocks=5000)
        given = given_pools(arch, serving, pp)
        assert given == [5000 * size] * pp
        held = pool(arch, serving, [size or 0 for size in given or ()])
        assert (held.num_pages, held.capacity_tokens) == (5000, tokens)


def test_blocks_that_a_device_does_not_have() -> None:
    # 2 MiB each: 60,000 are 117.19 GiB, 20,000 are 39.06
    offline = FetchOptions(offline=True, no_cache=True)
    many, few = (
        hfmem.estimate("meta-llama/Meta-Llama-3-8B", context=8192, device="h100", num_gpu_blocks=n, fetch=offline)
        for n in (60_000, 20_000)
    )
    assert many.fit is not None and few.fit is not None
    assert (many.fit.verdict, few.fit.verdict) == ("does-not-fit", "fits")
    assert any("the pool is to be 117.19 GiB" in warning.message for warning in many.warnings)
    assert few.fit.max_num_seqs == (20_000 - 1) // 512


def test_blocks_are_vllms() -> None:
    with pytest.raises(UsageError, match="only vLLM"):
        Serving(1, engine="sglang", num_gpu_blocks=600)
    with pytest.raises(UsageError, match="num_gpu_blocks must be at least 1"):
        Serving(1, num_gpu_blocks=0)
