"""A draft's cache lies in the engine's pool beside the target's: by hand, from the bytes of a page of both."""

from __future__ import annotations

import pytest

from hfmem.api.estimates import Model, estimate, read_model
from hfmem.hub import FetchOptions

GIB = 1 << 30
#: a token of one of four ranks: Llama 3.1 70B keeps 2 × 2 heads × 128 × 2 bytes in 80 layers, Llama 3.2 1B 2 × 2 × 64 × 2 in 16
TARGET, DRAFT = 80 * 2 * 2 * 128 * 2, 16 * 2 * 2 * 64 * 2


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Model]:
    names = ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.2-1B-Instruct")
    target, draft = (read_model(name, fetch=FetchOptions(offline=True, no_cache=True)) for name in names)
    return target, draft


def test_pages_of_a_given_pool_hold_both(pair: tuple[Model, Model]) -> None:
    for device in (None, "4xh100"):
        found = estimate(pair[0], draft=pair[1], context=32768, tp=4, kv_memory_bytes=10 * GIB, device=device)
        pool = found.engine_pool
        assert pool is not None
        assert pool.kv_memory_bytes_per_rank == 10 * GIB
        assert pool.num_pages == 10 * GIB // (16 * (TARGET + DRAFT))
        assert pool.max_concurrency == pool.num_pages * 16 / 32768


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_pool_holds_as_many_as_fit(pair: tuple[Model, Model], engine: str) -> None:
    found = estimate(pair[0], draft=pair[1], context=32768, device="4xh100", engine=engine)
    alone = estimate(pair[0], context=32768, device="4xh100", engine=engine)
    pool, fit = found.engine_pool, found.fit
    assert pool is not None and fit is not None and alone.fit is not None and alone.engine_pool is not None
    assert fit.max_num_seqs == int(pool.max_concurrency) < int(alone.engine_pool.max_concurrency)
    # what the draft's weights leave is pages of both; SGLang reckons with 16 more of the target's layers
    assert pool.num_pages * pool.page_size == pool.capacity_tokens
    each = (TARGET + (DRAFT if engine == "vllm" else TARGET * 16 // 80)) * pool.page_size
    assert 0 <= pool.kv_memory_bytes_per_rank - pool.num_pages * each < 2 * each


def test_three_sequences_need_the_drafts_room_too(pair: tuple[Model, Model]) -> None:
    asked = {"context": 32768, "tp": 4, "num_seqs": 3, "device": "4xh100"}
    need = 3 * 32768 * (TARGET + DRAFT) + 16 * (TARGET + DRAFT)  # and vLLM's empty page
    for pool, verdict in ((need, "tight"), (need - 1, "does-not-fit")):
        found = estimate(pair[0], draft=pair[1], kv_memory_bytes=pool, **asked).fit  # type: ignore[arg-type]
        assert found is not None and found.verdict == verdict


def test_the_report_tells_what_drafts(pair: tuple[Model, Model]) -> None:
    draft = estimate(pair[0], draft=pair[1], context=32768, tp=4).draft
    assert draft is not None
    assert (draft.id, draft.parameters) == ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400)  # its card: 1.24 B
    assert draft.kv_cache_bytes_per_rank == 32768 * DRAFT
    assert estimate(pair[0], context=32768, tp=4).draft is None
