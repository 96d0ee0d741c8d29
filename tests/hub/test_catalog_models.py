"""Every model of the shipped catalogue is covered by a rule, agrees with its headers, and gives an estimate."""

from __future__ import annotations

import pytest

from hfmem.api.estimates import estimate, read_model
from hfmem.checkpoint.quantization import logical_groups
from hfmem.hub import FetchOptions
from hfmem.hub.catalog import catalog_names
from hfmem.model.crosscheck import check, contradictions

GATED = (
    "meta-llama/Llama-2-",
    "meta-llama/Meta-Llama-3-",
    "meta-llama/Llama-3.1-",
    "meta-llama/Llama-3.2-",
    "meta-llama/Llama-3.3-",
)


@pytest.mark.parametrize("name", catalog_names())
def test_model(name: str) -> None:
    read = read_model(name, fetch=FetchOptions(offline=True))
    if read.facts.checkpoint is not None:
        logical = logical_groups(read.facts.checkpoint, read.quantization)
        assert contradictions(check(read.architecture, read.facts.checkpoint, logical)) == ()
    report = estimate(read, context=4096)
    assert report.parameters.total > 0 and report.weights.bytes > 0
    assert report.total_bytes >= report.kv_cache.bytes
    assert report.model.notice and "catalogue" in report.model.notice


def test_gated_families_are_there() -> None:
    names = catalog_names()
    assert len(names) >= 60
    for prefix in (*GATED, "meta-llama/Llama-4-", "google/gemma-", "mistralai/Mistral"):
        assert any(name.startswith(prefix) for name in names), prefix


def test_kimi_k2_thinking_is_int4() -> None:
    """Its repository takes 594 GB: routed experts in int4 by groups of 32, all else in bf16."""
    read = read_model("moonshotai/Kimi-K2-Thinking", fetch=FetchOptions(offline=True))
    assert round(read.parameters.weights_bytes / 10**9) == 594


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("THUDM/glm-4-9b-chat", 131_072),
        ("01-ai/Yi-6B-Chat", 4_096),
        ("microsoft/Phi-3.5-mini-instruct", 131_072),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 128_000),
    ],
)
def test_contexts_are_the_publishers(name: str, tokens: int) -> None:
    """Lengths of the model cards: the copies at hand were changed for a compiler with short static shapes."""
    assert read_model(name, fetch=FetchOptions(offline=True)).architecture.max_position_embeddings == tokens
