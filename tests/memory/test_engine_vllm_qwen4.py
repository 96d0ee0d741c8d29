"""Qwen4-Exp under vLLM: what vLLM 0.33's own code answered without a GPU, of its model classes, specs and planner, as on Hopper."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.api.configuring import configure
from hfmem.api.reading import Model, read_model
from hfmem.errors import UnsupportedError
from hfmem.hub import FetchOptions

MEMORY = 55_233_279_427
LOGGED = {"ep": True, "language_model_only": True, "max_num_batched_tokens": 8192, "max_num_seqs": 64}

#: context, settings; then vLLM's blocks, tokens, concurrency
ROWS: list[tuple[int, dict[str, Any], int, int, float]] = [
    (262_144, {"tp": 8, "enable_prefix_caching": False, **LOGGED}, 10_576, 4_194_304, 16.0),  # as 0.31.1rc1 logged it
    (262_144, {"tp": 8, **LOGGED}, 9443, 4_132_597, 15.764607679),
    (32_768, {"tp": 2}, 2644, 2_548_193, 77.764705882),
    (32_768, {"tp": 4, "enable_prefix_caching": False}, 5396, 3_762_045, 114.808510638),
    (65_536, {"tp": 4, "draft": "mtp", "draft_tokens": 2}, 4693, 3_075_604, 46.93),
    (65_536, {"tp": 4, "draft": "mtp", "draft_tokens": 1, "enable_prefix_caching": False}, 4881, 3_515_178, 53.637362637),
    (65_536, {"tp": 4, "kv_dtype": "fp8"}, 4994, 6_060_866, 92.481481481),
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Model:
    return read_model("Qwen/Qwen3.8-Flash-Next", fetch=FetchOptions(offline=True, no_cache=True))


@pytest.mark.parametrize(("context", "settings", "blocks", "tokens", "concurrency"), ROWS)
def test_pool(
    model: Model, context: int, settings: dict[str, Any], blocks: int, tokens: int, concurrency: float
) -> None:
    held = configure(model, engine="vllm", context=context, kv_memory_bytes=MEMORY, **settings).report().engine_pool
    assert held is not None
    assert (held.num_pages, held.capacity_tokens) == (blocks, tokens)
    assert held.max_concurrency == pytest.approx(concurrency, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pp": 2}, "one pipeline stage only"),
        # a state of 8 × 2560 × 2 + 12 × 128 × 128 × 4 bytes in tokens of 1024, rounded up to 64
        ({"tp": 4, "draft": "mtp", "draft_tokens": 5}, r"ring of 12 keys .* pages of 832"),
    ],
)
def test_refused(model: Model, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        configure(model, engine="vllm", context=65_536, **settings).report()
