"""`hfmem bench` on a device that the CPU stands in for: what is allocated is what was planned, to the byte, and what is told of it.

The kernels run in the interpreter; replays and the ceiling are made up, and nothing is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from hfmem.api import bench as module
from hfmem.api.bench import bench, row_of
from hfmem.api.reading import Model, read_model
from hfmem.errors import DoesNotFitError, UnsupportedError, UsageError
from hfmem.hub import FetchOptions
from hfmem.memory.serving import Serving
from hfmem.plan.bench import bench_plan
from hfmem.plan.devices import find_device
from hfmem_kernels._launch import interpreting
from hfmem_kernels.benchmarks import ceiling, gate, inputs, timing
from hfmem_kernels.benchmarks.gate import Gate
from hfmem_kernels.benchmarks.summary import Timing

#: one of each kind of cache: full, windowed and full (with sinks, too), latent, latent of which an indexer picks, hybrid
MODELS = (
    "meta-llama/Llama-3.1-8B",
    "google/gemma-3-12b-it",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek-ai/DeepSeek-V3.2",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
)


def model(name: str) -> Model:
    return read_model(name, fetch=FetchOptions(offline=True, no_cache=True))


@pytest.mark.parametrize("kv_dtype", ["bf16", "fp16", "fp8", "fp8_e5m2", "int8", "fp8_per_token_head"])
@pytest.mark.parametrize("page_size", [16, 528])
@pytest.mark.parametrize("name", MODELS)
def test_allocated_is_planned_to_the_byte(name: str, page_size: int, kv_dtype: str) -> None:
    """On the meta device, which stores nothing; a context that no page divides, and for windows one beyond them."""
    plan = bench_plan(
        model(name).architecture, Serving(context=5001, num_seqs=3, kv_dtype=kv_dtype, page_size=page_size)
    )
    for shape in plan.shapes:
        if shape.op == "mla_decode" and kv_dtype in ("int8", "fp8_per_token_head"):
            with pytest.raises(UnsupportedError, match="latent rows"):
                row_of(shape, plan)
            continue
        row = row_of(shape, plan)
        each = inputs.allocate(row, "meta")
        assert inputs.stored_bytes(each) == row.cache_bytes == shape.cache_bytes
        assert row.traffic.kv_bytes * shape.count == shape.count * (
            shape.cache_bytes // shape.pages // page_size * shape.tokens
        )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The CPU as "the device": 1 TiB free, replays of 100 µs a call, a ceiling of 1 TB/s."""
    if not interpreting():
        pytest.skip(
            "the CPU stands in for a device, in Triton's interpreter; here Triton compiles, for the device there is"
        )
    seen: dict[str, Any] = {"captured": [], "outputs": []}

    class Properties:
        name, total_memory, L2_cache_size = "NVIDIA H200", 150109945856, 60 << 20

    def capture(launch: Any, sets: int) -> int:
        seen["captured"].append(sets)
        seen["outputs"].append(launch(sets - 1))
        return sets

    def interleave(replays: Mapping[str, int]) -> dict[str, Timing]:
        return {name: Timing(100.0, 99.0, 101.0, 11) for name in replays}

    limit = ceiling.Ceiling(1e12, 2 << 30, (4096, 8, 4), Timing(1.0, 1.0, 1.0, 3), 1.5)
    monkeypatch.setattr(module, "_device", lambda plan, named: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 40, 1 << 40))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(ceiling, "measure", lambda device: limit)
    monkeypatch.setattr(timing, "capture", capture)
    monkeypatch.setattr(timing, "interleave", interleave)
    yield seen


def test_a_run(stand_in: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 3's two kinds of layers at 24 tokens: 40 windowed layers and 8 full ones."""
    monkeypatch.setattr(gate, "check", lambda made: Gate(True, 0.5, 1e-3))
    found = bench(model("google/gemma-3-12b-it"), context=24, num_seqs=1)
    assert found.measured is not None and found.bound is not None
    assert stand_in["captured"] == [40, 8, 48]  # each kind, then the whole step
    assert [out.shape for out in stand_in["outputs"]] == [(1, 1, 16, 256)] * 3
    assert not any(bool(out.isnan().any()) for out in stand_in["outputs"])
    layer = 2 * 16 * 8 * 2 * 256 * 2  # two pages of 16 tokens, 8 heads of 256
    assert [kind.requested_bytes for kind in found.measured.kinds] == [40 * layer, 8 * layer]
    assert found.measured.requested_bytes == found.plan.cache_bytes == 48 * layer
    assert found.measured.step_seconds == pytest.approx(48 * 100e-6)
    assert found.read_bytes == 48 * 24 * 8 * 2 * 256 * 2
    assert found.bound.bytes_per_second == 1e12 and found.bound.source == "NVIDIA H200, measured"


def test_a_wrong_result_is_not_timed(stand_in: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "check", lambda made: Gate(False, 2.0, 0.1, "sequence 0: 2.00 of the bound"))
    with pytest.raises(UnsupportedError, match="nothing was timed: sequence 0"):
        bench(model("Qwen/Qwen3-Next-80B-A3B-Instruct"), context=16)
    assert stand_in["captured"] == []


def test_what_does_not_fit(stand_in: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 << 30, 1 << 40))
    with pytest.raises(
        DoesNotFitError, match=r"32\.00 GiB of cache and 3\.00 GiB beside it do not fit 20\.00 GiB"
    ) as refused:
        bench(model("meta-llama/Llama-3.1-8B"), context=32768, num_seqs=8)
    assert refused.value.exit_code == 1


def test_another_device_than_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory = "NVIDIA H200", 150109945856

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    plan = bench_plan(model("meta-llama/Llama-3.1-8B").architecture, Serving(context=16))
    assert module._device(plan, find_device("h200").device) == torch.device("cuda", 0)
    assert module._device(plan, replace(find_device("h100").device, memory_reading="nvml")).type == "cuda"
    with pytest.raises(UsageError, match="--gpu H100 SXM 80GB: this machine has NVIDIA H200"):
        module._device(plan, find_device("h100").device)


@pytest.mark.parametrize(("kv_dtype", "row_bytes"), [("bf16", 576 * 2), ("fp8", 512 + 4 * 4 + 64 * 2)])
def test_picked_tokens_lie_anywhere_in_the_cache(kv_dtype: str, row_bytes: int) -> None:
    """DeepSeek-V3.2 at 3,000 tokens reads 2,048 rows of each sequence, each once, out of 47 pages of 64 of each, and rightly."""
    plan = bench_plan(
        model("deepseek-ai/DeepSeek-V3.2").architecture, Serving(context=3000, num_seqs=2, kv_dtype=kv_dtype, tp=8)
    )
    row = row_of(plan.shapes[0], plan)
    made = inputs.build(row, "cpu")
    assert made.sets[0].latent is not None and made.sets[0].latent.shape[:2] == (2 * 47, 64)
    assert inputs.stored_bytes(made.sets[0]) == plan.shapes[0].cache_bytes == 2 * 47 * 64 * row_bytes
    assert made.page_table.shape == (2, 2048) and made.seq_lens.tolist() == [2048, 2048]
    picked = made.page_table.flatten().tolist()
    assert len(set(picked)) == len(picked) and 2 * 2048 < max(picked) < 2 * 47 * 64
    if interpreting():
        assert gate.check(made, repeats=0).passed


def test_sinks_are_passed(stand_in: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """gpt-oss: the rows of both kinds of layers hold a sink for each query head."""
    seen = []
    monkeypatch.setattr(gate, "check", lambda made: seen.append(made.sinks) or Gate(True, 0.5, 1e-3))
    bench(model("openai/gpt-oss-20b"), context=24, num_seqs=1)
    assert [None if sinks is None else sinks.shape for sinks in seen] == [(64,), (64,)]


def test_latent_rows_may_have_sinks() -> None:
    """Each of the 16 query heads of DeepSeek V2 Lite its own, if it had any, and the oracle counts them as the kernel does."""
    plan = bench_plan(model("deepseek-ai/DeepSeek-V2-Lite").architecture, Serving(context=16))
    shape = replace(plan.shapes[0], sinks=True)
    made = inputs.build(row_of(shape, replace(plan, shapes=(shape,))), "cpu")
    assert made.sinks is not None and made.sinks.shape == (16,)
    assert gate.check(made, repeats=0).passed


def test_blocks_that_an_indexer_picks_lie_anywhere() -> None:
    """Two blocks of 128 tokens of 1,000 kept, read in the pages that divide a block: of 16 tokens, of 528 in 16s as well."""
    plan = bench_plan(model("meta-llama/Llama-3.1-8B").architecture, Serving(context=1000, num_seqs=3))
    for page, pages in ((16, 63), (528, 2)):
        shape = replace(plan.shapes[0], kind="picked", tokens=256, block=128, pages=pages)
        row = row_of(shape, replace(plan, page_size=page, shapes=(shape,)))
        assert row.page_size == 16 and row.cache_bytes == 3 * pages * page * 2 * 8 * 128 * 2
        assert row.traffic.kv_bytes == 3 * 256 * 2 * 8 * 128 * 2
        table = inputs.build(row, "cpu").page_table
        assert table.shape == (3, 16) and len(set(table.flatten().tolist())) == 48
        assert int(table.max()) < 3 * pages * page // 16


def test_layers_that_share_a_cache_run_too(stand_in: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 3n E2B: 20 caches, and 30 layers in the step."""
    monkeypatch.setattr(gate, "check", lambda made: Gate(True, 0.5, 1e-3))
    found = bench(model("google/gemma-3n-E2B-it"), context=24, num_seqs=1)
    assert found.measured is not None and stand_in["captured"] == [16, 4, 30]
    assert found.measured.requested_bytes == found.plan.cache_bytes == 20 * 32 * 2 * 2 * 256 * 2
    assert found.measured.step_seconds == pytest.approx(30 * 100e-6)
    assert found.read_bytes == 30 * 24 * 2 * 2 * 256 * 2
