"""What one rank of several holds, by layer and as arithmetic: by hand from the shapes, and the estimate's numbers again."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest

from hfmem.api.estimates import LayerTable, Model, estimate, explain, layer_table, read_model
from hfmem.cli import main
from hfmem.errors import UnsupportedError
from hfmem.hub import FetchOptions
from hfmem.plan.explain import Explanation
from hfmem.plan.steps import Section, Step

LLAMA_8B, LLAMA_70B, DEEPSEEK = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-70B-Instruct",
    "deepseek-ai/DeepSeek-V3",
)
GEMMA, NEXT = "google/gemma-3-27b-it", "Qwen/Qwen3-Next-80B-A3B-Instruct"
CONTEXT, SEQS = 4096, 2


def read(name: str) -> Model:
    return read_model(name, fetch=FetchOptions(offline=True, no_cache=True))


def section(told: Explanation, title: str) -> Section:
    (found,) = (part for part in told.sections if part.title.startswith(title))
    return found


def step(part: Section, title: str) -> Step:
    (found,) = (one for one in part.steps if one.title.startswith(title))
    return found


@pytest.mark.parametrize(
    ("tp", "heads", "words"),
    [(2, 4, "4 of 8 K/V heads"), (8, 1, "1 of 8 K/V heads"), (16, 1, "8 K/V heads on 16 ranks: 2 hold each")],
)
def test_heads_are_split_and_then_copied(tp: int, heads: int, words: str) -> None:
    """Llama 70B: 80 layers, 8 K/V heads of 128, 2 bytes; a rank has its heads of K and V, one at least."""
    asked: dict[str, Any] = {"context": CONTEXT, "num_seqs": SEQS, "engine": "vllm", "tp": tp}
    model, size = read(LLAMA_70B), 80 * CONTEXT * SEQS * 2 * heads * 128 * 2
    (row,) = layer_table(model, **asked).runs
    assert (row.rank_bytes, row.engine_bytes) == (size, tp * size)
    cache = section(explain(model, **asked), "Cache on a rank")
    assert (cache.result, cache.steps[0].formula, cache.steps[0].note) == (size, f"80 × {size // 80:,}", words)


def test_a_latent_row_is_whole_on_every_rank_unless_tokens_are_shared_out() -> None:
    """DeepSeek V3: 61 layers, a row of 576 numbers of 2 bytes; with dcp 8 each rank has every eighth token."""
    asked: dict[str, Any] = {"context": 32_768, "engine": "vllm", "tp": 8}
    (row,) = layer_table(read(DEEPSEEK), **asked).runs
    assert (row.bytes, row.rank_bytes) == (61 * 32_768 * 1152,) * 2
    note = section(explain(read(DEEPSEEK), **asked), "Cache on a rank").steps[0].note
    assert note == "the latent row is whole on every rank"
    (shared,) = layer_table(read(DEEPSEEK), **asked, dcp=8).runs
    assert (shared.rank_bytes, shared.engine_bytes) == (61 * 4096 * 1152, 61 * 32_768 * 1152)


def test_weights_of_a_rank_by_component() -> None:
    """Llama 8B over 2 ranks, in bf16: halves of everything but the 65 norms of 4,096 (128,256 words are 2 × 64,128)."""
    told = explain(read(LLAMA_8B), context=CONTEXT, engine="vllm", tp=2)
    part = section(told, "Weights on a rank")
    attention, mlp = 2 * 4096 * 4096 + 2 * 1024 * 4096, 3 * 14336 * 4096
    assert step(part, "Attention").result == 32 * attention
    assert step(part, "Attention").formula == (
        "o_proj 32 × 16,777,216 + q_proj 32 × 16,777,216 + k_proj 32 × 4,194,304 + v_proj 32 × 4,194,304"
    )
    assert step(part, "MLP").result == 32 * mlp
    assert step(part, "Embedding").result == step(part, "Output head").result == 128_256 * 4096
    assert step(part, "Norms").result == 65 * 4096 * 2
    assert part.result == 8_030_261_248 + 65 * 4096


def test_stages_have_their_own_layers() -> None:
    """Gemma 3 27B on vLLM: 62 layers over two stages, every sixth of them full, 16 heads × 128 × K and V × 2 bytes; rows and what
    groups leave unused are the stage's."""
    table = layer_table(read(GEMMA), context=32_768, engine="vllm", pp=2)
    kept = [(row.stage, row.kind, row.count) for row in table.runs if row.kind != "none"]
    assert kept == [(0, "sliding", 26), (0, "full", 5), (1, "sliding", 26), (1, "full", 5)]
    full = [row.rank_bytes for row in table.runs if row.kind == "full"]
    assert full == [5 * 32_768 * 2 * 16 * 128 * 2] * 2
    assert _held(table) == list(table.engine.stage_bytes)


def test_a_part_on_the_host() -> None:
    """Llama 8B with 10 of 33 on the device: 9 layers and the output; 4 KiB a token and layer, as many cells as tokens."""
    table = layer_table(read(LLAMA_8B), context=CONTEXT, engine="llama.cpp", gpu_layers=10)
    assert [(row.stage, row.layers[0], row.count, row.rank_bytes) for row in table.runs] == [
        (None, 0, 23, 23 * 4096 * CONTEXT),
        (0, 23, 9, 9 * 4096 * CONTEXT),
    ]
    assert table.report.host is not None and table.report.host.kv_cache_bytes == 23 * 4096 * CONTEXT
    told = explain(read(LLAMA_8B), context=CONTEXT, engine="llama.cpp", gpu_layers=10)
    assert section(told, "Cache on the device").result == 9 * 4096 * CONTEXT


SETTINGS: list[dict[str, Any]] = [
    {},
    {"tp": 2, "pp": 3},
    {"tp": 4, "dp": 2, "ep": True},
    {"tp": 4, "pp": 2, "overhead": Fraction(1, 8)},
    {"device": "8xh100"},
    {"tp": 2, "pp": 2, "device": "4xa100-80g", "quant": "fp8"},
]
MODELS: list[tuple[str, str | None]] = [
    *((name, None) for name in (LLAMA_8B, GEMMA, DEEPSEEK, NEXT, "google/gemma-3n-E2B-it", "openai/whisper-large-v3")),
    (DEEPSEEK, "mtp"),
    (NEXT, "mtp"),
]
OWN: list[tuple[str, dict[str, Any]]] = [
    ("vllm", {"tp": 8, "dcp": 2}),
    ("vllm", {"pp": 2, "cpu_offload_gb": 2.5}),
    ("vllm", {"tp": 2, "one_kind_of_page": True}),
    ("sglang", {"tp": 8, "attn_dp": 4}),
    ("llama.cpp", {"pp": 3, "gpu_layers": 12}),
]


@pytest.mark.parametrize(("model", "draft"), MODELS)
@pytest.mark.parametrize(
    ("engine", "settings"),
    [*((name, s) for name in ("ideal", "vllm", "sglang", "transformers", "llama.cpp") for s in SETTINGS), *OWN],
)
def test_every_rank_adds_up_to_the_estimates(
    model: str, draft: str | None, engine: str, settings: dict[str, Any]
) -> None:
    target = read(model)
    asked = {"context": 5000, "num_seqs": 3, "engine": engine, "draft": draft, **settings}
    try:
        report = estimate(target, **asked)
    except UnsupportedError as refusal:
        for other in (layer_table, explain):
            with pytest.raises(UnsupportedError) as raised:
                other(target, **asked)
            assert raised.value.message == refusal.message
        return
    table, told = layer_table(target, **asked), explain(target, **asked)
    assert table.report == report
    assert sum(row.bytes for row in table.runs) == report.kv_cache.ideal_bytes
    assert _held(table) == list(table.engine.stage_bytes or (report.kv_cache.bytes_per_rank,))
    if table.engine.stage_bytes:
        assert _held(table)[report.per_rank.stage] == report.per_rank.kv_cache_bytes
    assert engine == "vllm" or not any(table.unused_bytes)
    if not any(table.unused_bytes):
        assert sum(row.engine_bytes or 0 for row in table.runs) == report.kv_cache.bytes
    assert told.total_bytes == report.total_bytes == sum(one.result for one in told.sections[-1].steps)
    rank = report.per_rank
    parts = [
        part for part in told.sections if part.title.partition(" on ")[2].startswith(("a rank", "the device", "device"))
    ]
    sums = [part for part in told.sections if part.title.startswith("Total of")]
    assert len(parts) + len(sums) == (0 if rank.total_bytes == report.total_bytes else 3)
    for part, number in zip([*parts, *sums], (rank.weights_bytes, rank.kv_cache_bytes, rank.total_bytes), strict=False):
        assert part.result == number == sum(one.result for one in part.steps)


def _held(table: LayerTable) -> list[int]:
    """By stage, the rows' bytes on a rank and what is unused."""
    return [
        left + sum(row.rank_bytes or 0 for row in table.runs if row.stage == stage)
        for stage, left in enumerate(table.unused_bytes)
    ]


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    asked = "--ctx 32k --tp 2 --pp 2 --engine vllm --offline"

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            main([*words, GEMMA, *asked.split()])
        assert left.value.code == 0
        return capsys.readouterr().out

    told, report = json.loads(run("layers", "--json")), json.loads(run("--json"))
    for key in ("kv_cache", "parallelism", "per_rank"):
        assert told[key] == report[key]
    for rank in told["ranks"]:
        rows = [row["rank_bytes"] for row in told["layers"] if row["stage"] == rank["stage"]]
        assert sum(rows) + rank["unused_bytes"] == rank["kv_cache_bytes"]
    assert told["ranks"][report["per_rank"]["stage"]]["kv_cache_bytes"] == report["per_rank"]["kv_cache_bytes"]
    lines = run("layers").splitlines()
    assert lines[0].split()[-2:] == ["a", "rank"]
    assert [line.split()[:4] for line in lines if line.startswith("stage")] == [
        ["stage", "1", "of", "2"],
        ["stage", "2", "of", "2"],
    ]
    assert "a rank: one of 4 (tp 2, pp 2); most loaded: stage 1 of 2" in lines[-1]
    text = run("explain")
    assert f"→ {report['per_rank']['total_bytes']:,} bytes" in text and f"→ {report['total_bytes']:,} bytes" in text


def test_ranks_of_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """--gpu 4xh100 is --tp 4 of what the estimate says on it, its steps of 16,384 tokens included."""
    words = f"{NEXT} --gpu 4xh100 --ctx 32k --offline --json".split()
    told = {}
    for command in (["layers"], ["explain"], []):
        with pytest.raises(SystemExit):
            main([*command, *words])
        told["".join(command)] = json.loads(capsys.readouterr().out)
    assert told["layers"]["per_rank"] == told[""]["per_rank"] and told["layers"]["parallelism"]["tp"] == 4
    assert told["explain"]["total_bytes"] == told[""]["total_bytes"]
