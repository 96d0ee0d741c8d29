"""`hfmem compare --gpu`: which of the rows fit, by the same numbers as `hfmem fit`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from commands import Run

LLAMA = "meta-llama/Meta-Llama-3-8B"
QWEN = "Qwen/Qwen3-8B"
OFF = "--offline --no-cache"
#: what `fit` adds to a report
_OF_FIT = {"remedies", "speed_of_light", "allocation"}


def _rows(run: Run, words: str) -> tuple[int, list[dict[str, Any]]]:
    status, out, _ = run("compare", *words.split(), *OFF.split(), "--json")
    return status, json.loads(out)


@pytest.mark.parametrize(
    "shared",
    [
        "--gpu rtx4090",
        "--gpu 4090 --num-gpus 2 --batch 4 --kv-dtype fp8",
        "--gpu 4090 --utilization 0.8 --max-num-seqs 16",
        "--gpu 4090 --draft Qwen/Qwen3-0.6B --draft-tokens 3",
        "--gpu 4090 --num-gpus min",
        "--gpu 4090 --batch max",
        "--gpu 2x4090 --pp 2 --enforce-eager --max-num-batched-tokens 4096",
        "--gpu 4090 --overhead 10%",
        "--gpu 4090 --page-size 32 --no-prefix-caching",
    ],
)
def test_rows_are_what_fit_says(run: Run, shared: str) -> None:
    status, rows = _rows(run, f"{QWEN} --quant bf16,int4 --ctx 8k,64k --engine vllm,sglang {shared}")
    asked = [(q, c, e) for q in ("bf16", "int4") for c in ("8k", "64k") for e in ("vllm", "sglang")]
    assert status == 0 and len(rows) == len(asked)
    for row, (quant, ctx, engine) in zip(rows, asked, strict=True):
        words = f"fit {QWEN} --quant {quant} --ctx {ctx} --engine {engine} {shared} {OFF} --json"
        alone = json.loads(run(*words.split())[1])
        assert row.pop("label") == quant
        assert row == {name: value for name, value in alone.items() if name not in _OF_FIT}


def test_what_settings_leave_on_the_host_has_a_column(run: Run) -> None:
    """Llama 3 8B in bf16: 32 layers of 2 × (41,943,040 + 176,160,768 + 8,192) bytes and 4,096 a token, and the embedding of 128,256
    × 4,096 that llama.cpp keeps on the host whatever is set. Half of the layers: 16."""
    layer, table = 2 * (41_943_040 + 176_160_768 + 8192), 2 * 128_256 * 4096
    words = f"compare {LLAMA} --ctx 4k,8k --engine llama.cpp --gpu 24GiB {OFF} --ngl"
    head, first, second, *_ = run(*words.split(), "17")[1].splitlines()
    assert "on host" in head
    for row, tokens in ((first, 4096), (second, 8192)):
        assert f" {(table + 16 * (layer + 4096 * tokens)) / 2**30:.2f} " in row
    assert "on host" not in run(*words.split(), "all")[1]


def test_the_verdicts_by_hand(run: Run) -> None:
    """8,030,261,248 parameters and 131,072 bytes a token on 20 GiB, with nothing but the model's own need."""
    room = 20 * 2**30
    status, rows = _rows(run, f"{LLAMA} --quant bf16,fp32 --ctx 8k --engine ideal --gpu 20GiB")
    half, full = (row["fit"] for row in rows)
    assert status == 0  # a row that does not fit is an answer
    assert (half["verdict"], full["verdict"]) == ("fits", "does-not-fit")
    assert half["headroom_bytes"] == room - 2 * 8_030_261_248 - 8192 * 131_072
    assert half["max_context"] == (room - 2 * 8_030_261_248) // 131_072
    assert full["headroom_bytes"] < 0 and full["max_context"] == 0


def test_the_table_says_verdict_room_and_length(run: Run) -> None:
    words = f"compare {LLAMA} --quant bf16,fp32 --ctx 8k --engine ideal --gpu 20GiB {OFF}"
    status, out, err = run(*words.split())
    head, half, full, *notes = out.splitlines()
    assert (status, err) == (0, "") and head.split()[-3:] == ["verdict", "left", "longest"]
    # 20 GiB − 14.96 − 1.00; 5,414,313,984 bytes for 131,072 a token
    assert half.split()[-3:] == ["fits", "4.04", "41,307"]
    # 20 GiB − 29.92 − 1.00
    assert "does not fit" in full and full.split()[-2:] == ["−10.92", "none"]
    assert max(map(len, (head, half, full))) <= 80
    assert any("20.00 GiB usable" in note for note in notes)


def test_engines_settings_are_one_for_all_rows(run: Run) -> None:
    """Decode context parallelism: DeepSeek V3's row of 576 × 2 bytes in 61 layers, of every eighth token on a rank."""
    model = "deepseek-ai/DeepSeek-V3"
    status, rows = _rows(run, f"{model} --ctx 16k,32k --tp 8 --dcp 8 --engine vllm")
    assert status == 0 and [row["per_rank"]["kv_cache_bytes"] for row in rows] == [61 * 1152 * n for n in (2048, 4096)]
    status, out, err = run(*f"compare {model} --engine vllm,llama.cpp --tp 8 --dcp 8 {OFF}".split())
    assert (status, out) == (2, "") and err == "error: dcp: only vLLM has that setting, not llama.cpp\n"


def test_without_a_device_nothing_is_said_of_fitting(run: Run) -> None:
    status, out, _ = run("compare", LLAMA, "--quant", "bf16,fp8", *OFF.split())
    assert status == 0 and "verdict" not in out and "longest" not in out
    assert all(row["fit"] is None for row in _rows(run, f"{LLAMA} --quant bf16,fp8")[1])
    status, out, err = run("compare", LLAMA, "--num-gpus", "2", *OFF.split())
    assert (status, out) == (2, "") and "--gpu" in err


def test_a_number_of_gpus_of_its_own_has_a_column(run: Run) -> None:
    """fp32 of 8.03 B parameters are 29.9 GiB: two of 24 GiB where bf16 takes one."""
    words = f"compare {LLAMA} --quant bf16,fp32 --ctx 8k --engine ideal --gpu 24GiB --gpus min {OFF}"
    head, half, full, *_ = run(*words.split())[1].splitlines()
    assert "GPUs" in head.split() and half.split()[-3] == full.split()[-3] == "fits"
    assert (half.split()[-4], full.split()[-4]) == ("1", "2")


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (f"{LLAMA} nobody/nothing", 3, "nobody/nothing"),
        ("facebook/bart-large-cnn --engine ideal,llama.cpp", 4, "llama.cpp"),
    ],
)
def test_a_row_that_cannot_be_told_says_why(run: Run, words: str, code: int, why: str) -> None:
    command = ["compare", *words.split(), "--ctx", "1k", "--gpu", "4090", *OFF.split()]
    status, out, err = run(*command)
    untold = [text for text in out.splitlines() if "cannot be told" in text]
    assert status == code and len(untold) == 1 and why in untold[0] and err.count("\n") == 1
    reason = err.removeprefix("error: ").rstrip("\n")
    status, out, _ = run(*command, "--format", "markdown")
    assert status == code and reason in out
    status, out, _ = run(*command, "--json")
    assert [row["fit"]["verdict"] for row in json.loads(out) if "error" not in row] == ["fits"]
    assert [row["error"]["message"] in reason for row in json.loads(out) if "error" in row] == [True]


def test_an_unknown_device_is_a_usage_error(run: Run) -> None:
    status, out, err = run("compare", LLAMA, "--quant", "bf16,fp8", "--gpu", "nothing9", *OFF.split())
    assert (status, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("formats", "require", "expected"),
    [  # 20 GiB hold 8.03 B parameters of 16 bits and 1 GiB of cache, and not those of 32
        ("bf16,fp32", "any", 0),
        ("bf16,fp32", "all", 1),
        ("bf16,fp16", "all", 0),
        ("fp32", "any", 1),
    ],
)
def test_a_pipeline_may_require_rows_to_fit(run: Run, formats: str, require: str, expected: int) -> None:
    words = f"compare {LLAMA} --quant {formats} --ctx 8k --engine ideal --gpu 20GiB {OFF}"
    plain = run(*words.split())
    status, out, err = run(*words.split(), "--require", require)
    assert plain[0] == 0 and (status, out, err) == (expected, plain[1], "")


def test_a_row_that_cannot_be_told_outweighs_one_that_does_not_fit(run: Run) -> None:
    words = f"compare {LLAMA} nobody/nothing --ctx 8k --engine ideal --gpu 8GiB --require all {OFF}"
    assert run(*words.split())[0] == 3


@pytest.mark.parametrize(
    ("words", "why"), [("--require any", "needs --gpu"), ("--gpu 4090 --require some", "any, all")]
)
def test_what_cannot_be_required(run: Run, words: str, why: str) -> None:
    status, out, err = run("compare", LLAMA, *words.split(), *OFF.split())
    assert (status, out, err.count("\n")) == (2, "", 1) and why in err


def test_a_star_stands_for_the_catalogues_names(run: Run) -> None:
    """Which models of the catalogue fit: rows by name, in order, with the verdicts that each has by itself."""
    status, rows = _rows(run, "Qwen/Qwen3-*b *bert-base* --ctx 2k --engine ideal --gpu 12GiB")
    names = [row["label"] for row in rows]
    assert status == 0 and names[-1] == "google-bert/bert-base-uncased" and names[:-1] == sorted(names[:-1])
    assert {"Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"} <= set(names)
    # the case is nobody's matter; what comes after the pattern's end is
    assert all(name.startswith("Qwen/Qwen3-") and name.endswith("B") for name in names[:-1])
    # 12 GiB hold 1.72 billion parameters of 16 bits, not 8.19 billion
    verdicts = {row["label"]: row["fit"]["verdict"] for row in rows}
    assert (verdicts["Qwen/Qwen3-1.7B"], verdicts["Qwen/Qwen3-8B"]) == ("fits", "does-not-fit")


def test_a_star_that_stands_for_nothing(run: Run) -> None:
    status, out, err = run("compare", "nobody/*", *OFF.split())
    assert (status, out, err.count("\n")) == (2, "", 1) and "'nobody/*'" in err
