"""`hfmem bench` on a device that the CPU stands in for: what is allocated is what was planned, to the byte, and what is told of it.

The kernels run in the interpreter; replays and the ceiling are made up, and nothing is measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hfmem.api import bench_run as module
from hfmem.api.bench import bench
from hfmem.api.bench_run import index_row_of, row_of
from hfmem.api.reading import Model, read_model
from hfmem.errors import DoesNotFitError, UnsupportedError, UsageError
from hfmem.hub import FetchOptions
from hfmem.memory.serving import Serving
from hfmem.plan.bench import bench_plan
from hfmem.plan.devices import find_device
from hfmem_kernels import index_logits
from hfmem_kernels._launch import interpreting
from hfmem_kernels.benchmarks import ceiling, gate, index_keys, inputs, joined, timing
from hfmem_kernels.benchmarks.gate import Gate
from hfmem_kernels.benchmarks.summary import Timing

#: one of each kind of cache: full, windowed and full (with sinks, too), latent, latent of which an indexer picks, hybrid
MODELS = (
    "meta-llama/Llama-3.1-8B",
    "google/gemma-3-12b-it",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek-ai/DeepSeek-V3.2",
    "deepseek-ai/DeepSeek-V4-Flash",
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
        if shape.op == "index_logits":
            keys = index_row_of(shape, plan)
            assert index_keys.stored_bytes(index_keys.allocate(keys, "meta")) == shape.cache_bytes
            assert keys.traffic.kv_bytes == 3 * shape.tokens * shape.token_bytes
            continue
        if shape.op == "mla_decode" and kv_dtype in ("int8", "fp8_per_token_head"):
            with pytest.raises(UnsupportedError, match="latent rows"):
                row_of(shape, plan)
            continue
        row = row_of(shape, plan)
        each = inputs.allocate(row, "meta")
        assert inputs.stored_bytes(each) == row.cache_bytes == shape.cache_bytes
        assert row.traffic.kv_bytes == 3 * shape.tokens * shape.token_bytes


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
    monkeypatch.setattr(module, "device_of", lambda plan, named: torch.device("cpu"))
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
    assert module.device_of(plan, find_device("h200").device) == torch.device("cuda", 0)
    assert module.device_of(plan, replace(find_device("h100").device, memory_reading="nvml")).type == "cuda"
    with pytest.raises(UsageError, match="--gpu H100 SXM 80GB: this machine has NVIDIA H200"):
        module.device_of(plan, find_device("h100").device)


@pytest.mark.parametrize(("kv_dtype", "row_bytes"), [("bf16", 576 * 2), ("fp8", 512 + 4 * 4 + 64 * 2)])
def test_picked_tokens_lie_anywhere_in_the_cache(kv_dtype: str, row_bytes: int) -> None:
    """DeepSeek-V3.2 at 3,000 tokens reads 2,048 rows of each sequence, each once, out of 47 pages of 64 of each, and rightly."""
    plan = bench_plan(
        model("deepseek-ai/DeepSeek-V3.2").architecture, Serving(context=3000, num_seqs=2, kv_dtype=kv_dtype, tp=8)
    )
    _, latents = plan.shapes
    row = row_of(latents, plan)
    made = inputs.build(row, "cpu")
    assert made.sets[0].latent is not None and made.sets[0].latent.shape[:2] == (2 * 47, 64)
    assert inputs.stored_bytes(made.sets[0]) == latents.cache_bytes == 2 * 47 * 64 * row_bytes
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
        shape = replace(plan.shapes[0], kind="picked", tokens=256, block=128, page_size=page, pages=pages)
        row = row_of(shape, replace(plan, shapes=(shape,)))
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


#: DeepSeek V4 in little: a layer of the window alone, one of rows for 4 tokens each with an indexer, one of rows for 128
TINY_V4 = {
    "model_type": "deepseek_v4", "architectures": ["DeepseekV4ForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 256,
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 512,
    "qk_rope_head_dim": 64, "q_lora_rank": 32, "o_lora_rank": 32, "o_groups": 2, "sliding_window": 40,
    "compress_ratios": [0, 4, 128], "index_n_heads": 3, "index_head_dim": 32, "index_topk": 24, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_hash_layers": 1, "hc_mult": 2,
    "hc_sinkhorn_iters": 2, "max_position_embeddings": 4096, "intermediate_size": 32,
}  # fmt: skip


@pytest.mark.parametrize(("kv_dtype", "row_bytes", "key_bytes"), [("bf16", 1024, 64), ("fp8", 584, 36)])
def test_deepseek_v4_runs(
    stand_in: dict[str, Any], tmp_path: Path, kv_dtype: str, row_bytes: int, key_bytes: int
) -> None:
    """Three layers at 200 tokens, checked against the oracle: windows of 40 in a page; 24 of 50 rows in a page of 64, and their
    keys; 1 row of a page of 2. Pages in fp8 are whole 576 bytes. A step launches the keys, the layers that merge two caches and the
    one that has a window alone."""
    (tmp_path / "config.json").write_text(json.dumps(TINY_V4))
    found = bench(model(str(tmp_path)), context=200, num_seqs=2, kv_dtype=kv_dtype)
    assert found.measured is not None and found.plan.layers == 3
    assert stand_in["captured"] == [3, 1, 1, 1, 4]

    def pages(count: int, size: int) -> int:
        return 2 * count * (-(-size // 576) * 576 if kv_dtype == "fp8" else size)

    expected = {
        "window rows": 3 * pages(1, 64 * row_bytes), "1 of 4": pages(1, 64 * row_bytes), "1 of 128": pages(1, 2 * row_bytes),
        "index keys": pages(1, 64 * key_bytes),
    }  # fmt: skip
    kinds = zip(found.plan.shapes, found.measured.kinds, strict=True)
    assert {shape.kind: kind.requested_bytes for shape, kind in kinds} == expected
    assert found.measured.requested_bytes == found.plan.cache_bytes == sum(expected.values())
    assert found.read_bytes == 2 * ((3 * 40 + 24 + 1) * row_bytes + 50 * key_bytes)
    assert stand_in["outputs"][-1].shape == (2, 1, 4, 512)
    assert not any(bool(out[:, :1].isnan().any()) for out in stand_in["outputs"])


@pytest.mark.parametrize("broken", ["sparse_mla_decode_attention", "merge_attention"])
def test_two_caches_are_checked_together(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A decode that leaves its lse as it was, and a merge that leaves out a part, are found; each op alone passes."""
    whole = getattr(joined, broken)

    def without_lse(*arguments: Any, **keywords: Any) -> Any:
        return whole(*arguments, **{**keywords, "lse": keywords["lse"].clone()})

    def first_alone(outs: torch.Tensor, lses: torch.Tensor, **keywords: Any) -> Any:
        return whole(outs[:1], lses[:1], **keywords)

    monkeypatch.setattr(joined, broken, first_alone if broken == "merge_attention" else without_lse)
    (tmp_path / "config.json").write_text(json.dumps(TINY_V4))
    with pytest.raises(UnsupportedError, match="nothing was timed: two caches"):
        bench(model(str(tmp_path)), context=60, num_seqs=1, kv_dtype="bf16")


def test_wrong_scores_are_not_timed(stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        index_keys,
        "index_logits",
        lambda q, keys, weights, *rest, **more: index_logits(q, keys, -weights, *rest, **more),
    )
    (tmp_path / "config.json").write_text(json.dumps(TINY_V4))
    with pytest.raises(UnsupportedError, match="nothing was timed: index keys"):
        bench(model(str(tmp_path)), context=60, num_seqs=1, kv_dtype="fp8")
