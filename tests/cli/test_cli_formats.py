"""Every table in every format, and what is said where words are nearly right."""

from __future__ import annotations

import csv
import io
import json

import pytest
from commands import Run

LLAMA, QWEN = "meta-llama/Meta-Llama-3-8B", "Qwen/Qwen3-8B"
TABLES = {
    "estimate": f"{LLAMA} --offline",
    "fit": f"fit {LLAMA} --gpu h100 --ctx 8k --offline",
    "plan": f"plan {LLAMA} --users 2 --gpu h100,4090 --offline",
    "compare": f"compare {LLAMA} {QWEN} --offline",
    "layers": f"layers {LLAMA} --ctx 8k --offline",
    "devices": "devices h100",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_each_command_in_each_format(run: Run, name: str) -> None:
    words = TABLES[name].split()
    for kind, start in (("markdown", "|"), ("csv", ""), ("html", "<!doctype html>")):
        status, out, err = run(*words, "--format", kind)
        assert (status, err) == (0, "")
        assert any(text.startswith(start) for text in out.splitlines())
    rows = list(csv.DictReader(io.StringIO(run(*words, "--format", "csv")[1])))
    found = json.loads(run(*words, "--json")[1])
    listed = found if isinstance(found, list) else found.get("layouts" if name == "plan" else "layers")
    assert len(rows) == (1 if name in ("estimate", "fit") else len(listed))
    assert run(*words, "--format", "json")[1] == run(*words, "--json")[1]
    assert run(*words, "--json", "--format", "csv")[0] == 2
    assert run(*words, "--format", "docx")[0] == 2


def test_csv_of_layers_holds_the_bytes(run: Run) -> None:
    """32 layers × 2 (K and V) × 8 heads × 128 × 2 B × 8192 tokens are 1 GiB."""
    _, out, _ = run("layers", LLAMA, "--ctx", "8k", "--format", "csv", "--offline")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["kind"], row["count"], row["bytes"]) == ("full", "32", str(2**30))


def test_compare_says_the_length_of_each_row(run: Run) -> None:
    """Without --ctx each model has its own positions: 8,192 of Llama 3, 40,960 of Qwen3."""
    _, out, _ = run("compare", LLAMA, QWEN, "--offline")
    head, llama, qwen, note, *_ = out.splitlines()
    assert "tokens" in head.split() and "8,192" in llama.split() and "40,960" in qwen.split()
    assert "8,192" not in note and "40,960" not in note
    _, out, _ = run("compare", LLAMA, QWEN, "--ctx", "4k", "--offline")
    head, *_, note, _ = out.splitlines()
    assert "tokens" not in head.split() and "1 sequence of 4,096 tokens" in note


@pytest.mark.parametrize(
    ("ctx", "lengths"),
    [
        ("8k,32k,128k", [8192, 32768, 131_072]),
        ("131,072", [131_072]),
        ("1k, 4096,", [1024, 4096]),
        ("8k", [8192]),
        ("1.6e3,1.6e5,1E6", [1600, 160_000, 10**6]),
    ],
)
def test_memory_by_context(run: Run, ctx: str, lengths: list[int]) -> None:
    """Llama 3 8B keeps 2 × 8 × 128 × 2 B × 32 layers = 128 KiB a token."""
    status, out, _ = run("compare", LLAMA, "--ctx", ctx, "--json", "--offline")
    caches = [row["kv_cache"] for row in json.loads(out)]
    assert status == 0 and [cache["context"] for cache in caches] == lengths
    assert [cache["bytes"] for cache in caches] == [131_072 * length for length in lengths]


@pytest.mark.parametrize("ctx", [",", "8k,x", "0,8k"])
def test_lengths_that_are_none(run: Run, ctx: str) -> None:
    status, out, err = run("compare", LLAMA, "--ctx", ctx, "--offline")
    assert (status, out, err.count("\n")) == (2, "", 1) and "--ctx" in err


@pytest.mark.parametrize(
    ("word", "meant"), [("fitt", "fit"), ("fti", "fit"), ("layer", "layers"), ("Compare", "compare")]
)
def test_a_command_that_is_nearly_right_is_named(run: Run, word: str, meant: str) -> None:
    status, _, err = run(word, LLAMA, "--offline")
    assert status == 3 and err.startswith("error: ") and f"(the command {meant}?)" in err.splitlines()[0]


def test_a_model_that_is_not_found_is_no_command(run: Run) -> None:
    assert "the command" not in run("nobody/layers-of-it", "--offline")[2]


@pytest.mark.parametrize(
    ("words", "flag"),
    [(f"plan {LLAMA} --users 0", "--users"), (f"{LLAMA} --batch 0", "--batch"), (f"{LLAMA} --ctx 0", "--ctx")],
)
def test_messages_name_the_flag_of_the_command(run: Run, words: str, flag: str) -> None:
    status, _, err = run(*words.split(), "--offline")
    assert (status, err) == (2, f"error: {flag} must be at least 1, not '0'\n")


@pytest.mark.parametrize(
    ("words", "help"),
    [("fit", "hfmem fit --help"), ("plan x --nope", "hfmem plan --help"), ("x --nope", "estimate --help")],
)
def test_usage_errors_name_the_help_of_their_command(run: Run, words: str, help: str) -> None:
    status, _, err = run(*words.split())
    assert status == 2 and err.count("\n") == 1 and f"{help})" in err


def test_memory_beside_the_weights_is_said_where_there_is_some(run: Run) -> None:
    """GPT-2 has no rotary embedding: nothing is said of its table, which would be of 0 MiB."""
    for model, tables in ((LLAMA, True), ("openai-community/gpt2", False)):
        _, out, _ = run(model, "--json", "--offline")
        words = json.loads(out)["runtime"]["loading_bytes"]["source"]
        assert ("rotary tables" in words) is tables and " 0 " not in words


def test_rows_of_several_ranks_say_so(run: Run) -> None:
    _, out, _ = run(LLAMA, "--tp", "4", "--offline")
    rows = [text for text in out.splitlines() if text.startswith(("  loading", "  activations", "  CUDA context"))]
    assert len(rows) == 3 and all("4 ranks" in text for text in rows)


def test_compare_counts_what_is_loaded(run: Run) -> None:
    """vLLM loads fp32 in 16 bits: weights and total are of that, and a line says so. 8,030,261,248 × 2 bytes are 14.96 GiB."""
    status, out, _ = run("compare", LLAMA, "--quant", "bf16,fp32", "--ctx", "8k", "--offline")
    half, full = (line.split() for line in out.splitlines() if line.startswith(("bf16", "fp32")))
    assert status == 0 and half[1:3] == full[1:3] == ["14.96", "≈"] and (half[3], full[3]) == ("16.00", "32.00")
    assert half[-1] == full[-1] and "8.03 B parameters" in out and "params" not in out  # one for all rows
    assert "params" in run("compare", LLAMA, "Qwen/Qwen3-8B", "--ctx", "8k", "--offline")[1]
    assert "weights: as they are loaded; bits each: as they are stored" in out
    assert "as they are loaded" not in run("compare", LLAMA, "--ctx", "8k", "--offline")[1]


def test_a_table_too_wide_for_a_terminal() -> None:
    from hfmem.render.grid import Grid, grid_lines

    grid = Grid(
        ("", "size", "", "length"),
        (
            ("org/a-model", "1.00", "=", "8,192"),
            ("org/a-model", "12.00", "≈", "32,768"),
            ("org/b", "3.00", "=", "8,192"),
        ),
        left=frozenset({0, 2}),
    )
    texts = {width: [line.text for line in grid_lines(grid, width)] for width in (31, 24, 12)}
    assert texts[31][1] == "org/a-model   1.00  =   8,192"
    # the names above the rows that they are of, and once
    assert texts[24] == [
        "   size     length",
        "org/a-model",
        "   1.00  =   8,192",
        "  12.00  ≈  32,768",
        "org/b",
        "   3.00  =   8,192",
    ]
    assert texts[12][:3] == ["org/a-model", "  size    1.00  =", "  length  8,192"]


def test_the_verdict_is_found_at_a_glance(run: Run) -> None:
    """A line of its own in a terminal, bold in a page; what is below the table is a list, which no Markdown runs together."""
    words = ["fit", LLAMA, "--gpu", "8GiB", "--ctx", "8k", "--engine", "ideal", "--offline"]
    status, out, _ = run(*words)
    missing = f"{(2 * 8_030_261_248 + 8192 * 131_072 - 8 * 2**30) / 2**30:.2f} GiB missing"
    assert status == 1 and f"\n  does not fit · {missing}\n" in out
    _, out, _ = run(*words, "--format", "markdown")
    table, verdict, notes = out.rstrip("\n").split("\n\n")[1:]
    assert verdict == f"**does not fit · {missing}**"
    assert all(text.startswith("|") for text in table.splitlines())
    assert len(notes.splitlines()) > 2 and all(text.startswith("- ") for text in notes.splitlines())
    _, out, _ = run(*words, "--format", "html")
    assert f"<strong>does not fit · {missing}</strong>" in out
    assert "<th scope=col class=number>GiB</th>" in out  # above its numbers


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (8_030_261_248, "8.03 B"),
        (999_885_952, "1 B"),  # google/gemma-3-1b-it: three digits of it are no thousand million
        (999_499_999, "999 M"),
        (999_500_000, "1 B"),
        (1_000_000_000_000, "1 T"),
        (134_515_008, "135 M"),
        (7, "7"),
    ],
)
def test_counts_in_three_digits(count: int, words: str) -> None:
    from hfmem.units import format_count

    assert format_count(count) == words
