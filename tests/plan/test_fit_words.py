"""What the table of an answer says beside its numbers, where these do not add up by themselves."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from hfmem.api.estimates import Model, estimate, read_model
from hfmem.hub import FetchOptions
from hfmem.render.table import parts, render_report


@cache
def catalogued(name: str) -> Model:
    return read_model(name, fetch=FetchOptions(offline=True, no_cache=True))


def text(name: str, **settings: Any) -> str:
    return "\n".join(item.text for item in render_report(estimate(catalogued(name), **settings)))


LLAMA = "meta-llama/Meta-Llama-3-8B"


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("vllm", "(0.92 of 79.18; the CUDA context lies outside)"),
        ("sglang", "of 79.18; for weights and cache alone)"),
        ("llama.cpp", "79.18 GiB usable (79.18)"),
        ("transformers", "79.18 GiB usable (79.18)"),
    ],
)
def test_what_the_share_is_not_asked_to_hold(engine: str, words: str) -> None:
    assert words in text(LLAMA, context=8192, device="h100", engine=engine)


def test_a_flat_overhead_has_no_context_outside() -> None:
    assert "(0.92 of 79.18)" in text(LLAMA, context=8192, device="h100", overhead=0.1)


def test_one_device_has_no_most_loaded_rank() -> None:
    assert "rank" not in text(LLAMA, context=8192, device="h100").replace("a rank: ", "")
    assert "usable on each" in (two := text(LLAMA, context=8192, device="2xh100")) and "on the most loaded rank" in two


def test_an_empty_page_is_missing_not_zero_bytes() -> None:
    # 8,192 tokens of 128 KiB fill 1 GiB, and vLLM keeps one page more
    found = text(LLAMA, context=8192, device="h100", kv_memory_bytes=1 << 30)
    assert "does not fit · one page is missing, which the engine keeps empty" in found


def test_states_that_run_out_are_named() -> None:
    # SGLang's pool of a model without attention has the tokens of its context: one sequence of them
    found = text("state-spaces/mamba-130m-hf", context=8192, num_seqs=2, device="h100", engine="sglang")
    assert "does not fit · the pool holds 1.00 sequences at once, not 2" in found
    assert "longest context none for 2 sequences · at most 1 sequence of 8,192 tokens" in found
    assert "pages of 1 token, 8,192 tokens" in found


@pytest.mark.parametrize(
    ("name", "ranks", "copies"),
    [
        ("Qwen/Qwen3-30B-A3B", 8, "2 copies over 8 ranks"),  # four KV heads on eight ranks
        ("deepseek-ai/DeepSeek-V2-Lite", 4, "4 copies over 4 ranks"),  # a latent on every rank
        ("Qwen/Qwen3-30B-A3B", 4, ""),
    ],
)
def test_a_cache_that_ranks_hold_more_than_once(name: str, ranks: int, copies: str) -> None:
    found = text(name, context=8192, tp=ranks)
    assert (copies in found) if copies else ("copies" not in found)


def test_weights_are_exact_only_as_they_are_stored() -> None:
    def grade(**settings: Any) -> str:
        return parts(estimate(catalogued("openai/whisper-tiny"), **settings))[0][2]

    assert grade(engine="transformers") == "exact"  # fp32, as stored
    assert grade(engine="vllm") == "derived"  # loaded in half of it


def test_ranks_share_a_draft() -> None:
    found = text("meta-llama/Llama-3.1-8B", context=8192, tp=2, draft=catalogued("meta-llama/Llama-3.2-1B-Instruct"))
    # of 16 layers 2 × 8 heads × 64 × 2 bytes a token, 8,192 of them
    row = next(line for line in found.splitlines() if "meta-llama/Llama-3.2-1B-Instruct drafts" in line)
    assert "a rank's weights and 256 MiB of the cache" in row
    row = next(line for line in found.splitlines() if "rotary tables" in line)
    assert "rotary tables 32 MiB" in row and row.endswith(
        "on each of 2 ranks"
    )  # 131,072 positions × 128 × 2 bytes, twice


@pytest.mark.parametrize(
    ("engine", "outside"),
    [
        ("vllm", {"context_bytes"}),
        ("sglang", {"activations_bytes", "cuda_graph_bytes", "engine_bytes", "context_bytes"}),
        ("transformers", set()),
    ],
)
def test_headroom_is_what_the_parts_leave_of_the_share(engine: str, outside: set[str]) -> None:
    """vLLM's share holds all but the context, SGLang's the weights, what loading adds and the cache; others take it all."""
    found = estimate(catalogued(LLAMA), context=8192, device="h100", engine=engine)
    assert found.fit is not None
    inside = sum(item.bytes for name, item in found.runtime.items() if name not in outside)
    left = found.fit.usable_bytes_per_device - found.per_rank.weights_bytes - found.kv_cache.bytes - inside
    assert found.fit.headroom_bytes == left


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"pp": 2},
            "on the most loaded rank (stage 2 of 2)",
        ),  # sixteen layers each; the last has the final norm beside its table
        (
            {"pp": 2, "engine": "llama.cpp"},
            "on the most loaded rank (device 2 of 2)",
        ),  # the first leaves its table to the host
        ({"tp": 2, "device": "2xl40s"}, "NCCL and library buffers over PCIe"),
        ({"tp": 2, "device": "2xh100"}, "NCCL and library buffers over NVLink"),
    ],
)
def test_what_ranks_are_told_apart_by(settings: dict[str, Any], words: str) -> None:
    assert words in text(LLAMA, context=8192, **settings)


def test_what_is_loaded_and_what_is_stored() -> None:
    assert "0.07 GiB  ≈  0.14 stored: " in text("openai/whisper-tiny")  # 37,760,640 in fp32
    assert "205.76 stored: " in text(
        "zai-org/GLM-4.5-Air", context=8192
    )  # 3 % are a prediction layer that is not loaded
    assert "stored" not in text(LLAMA, context=8192)


def test_ranks_that_hold_the_same_make_up_the_total() -> None:
    found = estimate(catalogued(LLAMA), context=8192, tp=2)
    assert found.total_bytes == 2 * found.per_rank.total_bytes
    assert (
        found.per_rank.total_bytes - found.per_rank.weights_bytes - found.kv_cache.bytes // 2 > 1 << 30
    )  # the engine's own
