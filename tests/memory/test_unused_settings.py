"""A setting that an engine does not read changes no byte, and is said to change none; one that it reads is not."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from hfmem.api.estimates import Model, estimate, read_model
from hfmem.hub import FetchOptions
from hfmem.records import replace
from hfmem.report import Report

SETTINGS: dict[str, Any] = {
    "page_size": 64,
    "max_num_batched_tokens": 2048,
    "enable_prefix_caching": False,
    "kv_memory_bytes": 32 << 30,
    "eager": True,
    "source_tokens": 700,
}


@cache
def catalogued(name: str) -> Model:
    return read_model(name, fetch=FetchOptions(offline=True, no_cache=True))


def own_answer(report: Report) -> Report:
    """Without the other engines' columns, which read their own settings."""
    return replace(report, warnings=(), kv_cache=replace(report.kv_cache, engines={}))


@pytest.mark.parametrize("engine", ["ideal", "vllm", "sglang", "transformers", "llama.cpp"])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_said_to_change_nothing_changes_nothing(engine: str, name: str) -> None:
    """Of a model with windows and one with states: between them they feel every setting of the servers."""
    differs = told = False
    for model in ("google/gemma-3-1b-it", "Qwen/Qwen3-Next-80B-A3B-Instruct"):
        asked: dict[str, Any] = {"context": 5000, "engine": engine}
        without, given = (
            estimate(catalogued(model), **asked),
            estimate(catalogued(model), **asked, **{name: SETTINGS[name]}),
        )
        differs |= own_answer(without) != own_answer(given)
        told |= "setting_unused" in [warning.code for warning in given.warnings]
    assert told is not differs


def test_an_encoders_length_is_read_where_there_is_one() -> None:
    short, long = (estimate(catalogued("google/t5-v1_1-xxl"), context=64, source_tokens=n) for n in (10, 700))
    assert short.kv_cache.bytes < long.kv_cache.bytes
    assert "setting_unused" not in [warning.code for warning in long.warnings]
