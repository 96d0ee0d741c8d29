"""`hfmem bench` without a device: the plan by hand arithmetic, the bounds, the messages and their exit codes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from math import prod

import pytest

from hfmem.api import bench_run as module
from hfmem.api.bench import BenchAnswer, bench
from hfmem.api.bench_run import Kind, Measurement
from hfmem.api.reading import Model, read_model
from hfmem.cli import main
from hfmem.errors import UsageError
from hfmem.hub import FetchOptions
from hfmem.model.inventory import Component
from hfmem.plan.bench import read_bytes
from hfmem.render.bench import render_bench
from hfmem.render.lines import wrap
from hfmem.units import format_bytes

LLAMA = "meta-llama/Llama-3.1-8B"
#: K and V of 8 heads × 128 in bf16, one layer
TOKEN = 2 * 8 * 128 * 2
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def llama() -> Model:
    """From the shipped catalogue."""
    return read_model(LLAMA, fetch=FetchOptions(offline=True, no_cache=True))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; its status, stdout and stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["bench", *words, "--offline"])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


def test_the_plan_in_json(run: Run) -> None:
    status, out, err = run(LLAMA, "--ctx", "1000", "--batch", "3", "--dry-run", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["plan"]["shapes"] == [
        {
            "op": "paged_decode", "kind": "full", "count": 32, "readers": 32, "num_heads": 32, "num_kv_heads": 8,
            "head_dim": 128, "v_head_dim": 128, "window": None, "tokens": 1000, "block": 0, "page_size": 16,
            "pages": 63, "token_bytes": TOKEN, "cache_bytes": 3 * 63 * 16 * TOKEN, "sinks": False, "rows": "", "merged": False,
        }
    ]  # fmt: skip
    assert found["read_bytes"] == 32 * 3 * 1000 * TOKEN
    assert found["bound"] is None and found["measured"] is None


def test_bounds_are_bytes_over_bandwidth(llama: Model) -> None:
    found = bench(llama, context=32768, num_seqs=8, device="h200", dry_run=True)
    cache = 32 * 8 * 32768 * TOKEN
    weights = 2 * (8_030_261_248 - 128_256 * 4096)  # every matrix but the input embedding, in bf16
    assert found.bound is not None and read_bytes(found.plan) == cache
    assert abs(found.weights_bytes_read - weights) <= 1
    assert found.bound.attention_seconds == pytest.approx(cache / 4.8e12)
    assert found.bound.tokens_per_second == pytest.approx(8 / ((cache + weights) / 4.8e12))
    assert found.bound.attention_tokens_per_second == pytest.approx(8 / (cache / 4.8e12))
    assert bench(llama, context=1024, device="24GiB", dry_run=True).bound is None  # a size has no bandwidth


def test_one_rank_of_several(llama: Model) -> None:
    whole, rank = (bench(llama, context=4096, tp=tp, device="h200", dry_run=True) for tp in (1, 4))
    assert rank.plan.cache_bytes * 4 == whole.plan.cache_bytes
    assert rank.weights_bytes_read < whole.weights_bytes_read / 3.9


@pytest.mark.parametrize(
    "words",
    [
        (LLAMA, "--ctx", "128k", "--batch", "256", "--gpu", "h200"),
        ("google/gemma-3-27b-it", "--ctx", "128k", "--batch", "64"),
        ("deepseek-ai/DeepSeek-V3", "--tp", "8", "--ctx", "128k", "--batch", "64", "--gpu", "h200"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "--page-size", "528", "--kv-dtype", "fp8"),
    ],
    ids=lambda words: words[0].partition("/")[2],
)
def test_the_table_fits_a_terminal(run: Run, words: tuple[str, ...]) -> None:
    status, out, _ = run(*words, "--dry-run")
    lines = out.splitlines()
    assert status == 0
    assert all(len(line) <= 80 for line in lines[2:]), [line for line in lines[2:] if len(line) > 80]
    assert "dry run: nothing was allocated" in out and "µs" not in out


def test_what_is_shown_of_windows_and_recurrent_layers(run: Run) -> None:
    _, out, _ = run("Qwen/Qwen3-Next-80B-A3B-Instruct", "--ctx", "32k", "--dry-run")
    # in each 32 value heads of 128 × 128 and 3 columns of 2 · 16 · 128 + 32 · 128 channels in bf16, read and written
    state = 36 * 2 * 2 * (32 * 128 * 128 + 3 * 8192)
    assert f"left out: recurrent states (36 layers, {format_bytes(state)} a step)" in out
    _, out, _ = run("google/gemma-3-27b-it", "--ctx", "8k", "--dry-run")
    # 52 layers with a window of 1,024 and 10 full ones: 16 heads × 128, 2 · 2 B · 128 · 16 = 8 KiB a token
    assert "left out" not in out  # its 27 vision blocks run before the first token
    rows = [line.split() for line in out.splitlines()[3:5]]
    assert rows == [
        ["window", "52", "32", "/", "16", "×", "128", "1,024", "tokens", "64", "416", "MiB"],
        ["full", "10", "32", "/", "16", "×", "128", "8,192", "tokens", "512", "640", "MiB"],
    ]


def test_without_a_gpu_it_says_what_it_would_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, out, err = run(LLAMA, "--ctx", "32k", "--batch", "8")
    assert (status, out) == (2, "")
    assert err == (
        "error: hfmem bench needs a GPU, and torch sees none on this machine; it would allocate 32.00 GiB of cache for 32 layers, "
        "run one decode step's attention over them and time it (--dry-run prints the plan)\n"
    )


def test_without_the_kernels_it_says_how_to_get_them(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    with pytest.raises(UsageError, match=r"needs torch \(pip install 'hfmem\[kernels\]'\)"):
        bench(llama, context=128)
    assert bench(llama, context=128, dry_run=True).plan.cache_bytes == 32 * 128 * TOKEN


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--kv-dtype", "int4"), 4, "no kernel reads a int4 cache"),
        (("--tp", "3"), 4, "32 attention heads do not divide by 3 ranks"),
        (("--gpu", "nosuch", "--dry-run"), 2, "is not a known device"),
        (("--ctx", "none"), 2, "--ctx"),
    ],
)
def test_errors(run: Run, words: tuple[str, ...], status: int, message: str) -> None:
    found, out, err = run(LLAMA, *words)
    assert (found, out) == (status, "") and message in err and err.count("\n") == 1


def test_an_encoder_has_nothing_to_bench(run: Run) -> None:
    status, _, err = run("sentence-transformers/all-MiniLM-L6-v2", "--dry-run")
    assert status == 4 and "no attention cache" in err


def test_latent_rows_with_token_scales(run: Run) -> None:
    pytest.importorskip("torch")
    status, _, err = run("deepseek-ai/DeepSeek-V3", "--kv-dtype", "int8")
    assert status == 4 and "no kernel reads latent rows in int8" in err


def measured(plan_bytes: int, step: float, allocated: int) -> Measurement:
    """A made-up measurement: a device that reads 4 TB/s."""
    kinds = (Kind(plan_bytes, allocated, step / 32, plan_bytes // 32),)
    return Measurement("a made-up device", 4e12, kinds, plan_bytes, allocated, step, 0.01, 50 << 20)


def test_what_a_run_shows(llama: Model) -> None:
    """32 GiB read in 9.5 ms: 3,617 GB/s, 90.4 % of 4 TB/s; 8 tokens a step: 842 a second, 604 with 13.98 GiB of weights."""
    plan = bench(llama, context=32768, num_seqs=8, device="h200", dry_run=True)
    size = plan.plan.cache_bytes
    assert size == 32 << 30 and plan.bound is not None
    bound = replace(plan.bound, weights_seconds=plan.weights_bytes_read / 4e12)
    answer = replace(plan, bound=bound, measured=measured(size, 9.5e-3, size + (2 << 20)))
    text = "\n".join(line.text for line in render_bench(answer))
    assert "32.00 GiB, as predicted, to the byte" in text
    assert "the allocator takes 2 MiB more in rounding" in text
    assert "9.5 ms a step ± 1.0%, 3,617 GB/s, 90.4% of the ceiling" in text
    assert "842 tokens/s by attention alone" in text
    weights = plan.weights_bytes_read / 4e12
    assert f"{8 / (9.5e-3 + weights):,.0f} tokens/s with 13.98 GiB of weights" in text
    small: BenchAnswer = replace(answer, plan=bench(llama, context=64, dry_run=True).plan)
    shown = "\n".join(line.text for line in render_bench(small))
    assert "part of them stays in it" in shown and "bytes more than predicted" in shown
    for width in (40, 60, 80, 100):
        narrow = [piece for item in render_bench(answer, width) for piece in wrap(item, width)]
        assert max(len(item.text) for item in narrow) <= width


def test_deepseek_v4_is_planned(run: Run) -> None:
    """V4 Flash at 32,768 tokens, rows of 512 in bf16: a window of 128 in 43 layers, beside it 512 of the 8,192 rows that stand for
    4 tokens in 21 of them, and the 256 rows that stand for 128 tokens in 20; keys of 128 for each of the 8,192 rows."""
    words = ("deepseek-ai/DeepSeek-V4-Flash", "--ctx", "32k", "--batch", "8")
    status, out, err = run(*words, "--dry-run", "--gpu", "h200")
    rows, keys = 8 * (43 * 128 + 21 * 512 + 20 * 256) * 1024, 8 * 21 * 8192 * 256
    kept = 8 * (43 * 128 + 21 * 8192 + 20 * 256) * 1024 + keys
    assert (status, err) == (0, "")
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines() if line}
    assert lines["index keys"][2:] == [
        "21",
        "64",
        "/",
        "1",
        "×",
        "128",
        "8,192",
        "keys",
        "1,024",
        *format_bytes(keys).split(),
    ]
    assert "512 rows" in out and "256 rows" in out and "128 tokens" in out and "left out" not in out
    assert lines["total"][1:] == format_bytes(kept).split()
    assert f"A step reads {format_bytes(rows + keys)} of cache" in out
    assert f"{8 / ((rows + keys) / 4.8e12):,.0f} tokens/s" in out
    status, out, err = run(*words)
    assert (status, out) == (2, "") and "needs a GPU" in err and "of cache for 43 layers" in err and "--dry-run" in err


def test_what_no_kernel_reads_is_named_with_its_bytes(run: Run) -> None:
    """Latent rows with a scale a token: said in a dry run, an error in a run."""
    words = ("deepseek-ai/DeepSeek-V4-Flash", "--ctx", "32k", "--kv-dtype", "int8")
    status, out, err = run(*words, "--dry-run")
    assert (status, err) == (0, "") and "no kernel reads latent rows in int8: this could not be run" in out
    status, out, err = run(*words)
    assert (status, out) == (4, "") and "no kernel reads latent rows in int8" in err and "--dry-run" in err


def test_states_and_index_keys_are_in_the_bounds() -> None:
    """Qwen3-Next: 75.375 MiB of states a sequence beside 12 layers of 2 · 2 heads of 256; DeepSeek V3.2: 61 layers of keys."""
    options = FetchOptions(offline=True, no_cache=True)
    found = bench(
        read_model("Qwen/Qwen3-Next-80B-A3B-Instruct", fetch=options), context=4096, device="h200", dry_run=True
    )
    assert found.bound is not None
    states, cache = 36 * 2 * 2 * (32 * 128 * 128 + 3 * 8192), 12 * 4096 * 2 * 2 * 256 * 2
    assert found.bound.attention_tokens_per_second == pytest.approx(4.8e12 / cache)
    assert found.bound.tokens_per_second == pytest.approx(4.8e12 / (cache + states + found.weights_bytes_read))
    found = bench(
        read_model("deepseek-ai/DeepSeek-V3.2", fetch=options),
        context=4096,
        kv_dtype="bf16",
        device="h200",
        dry_run=True,
    )
    assert found.bound is not None and found.read_bytes == 61 * (2048 * 576 + 4096 * 128) * 2
    assert found.bound.attention_tokens_per_second == pytest.approx(4.8e12 / (61 * (2048 * 576 + 4096 * 128) * 2))


def test_an_encoder_decoder_reads_both_of_its_caches(run: Run) -> None:
    """Flan-T5 large: 24 layers, 16 heads of 64; the source of 100 tokens is read beside the 50 tokens so far."""
    status, out, _ = run(
        "google/flan-t5-large", "--ctx", "50", "--source-tokens", "100", "--kv-dtype", "bf16", "--dry-run", "--json"
    )
    found = json.loads(out)
    assert status == 0 and found["read_bytes"] == 24 * (50 + 100) * 2 * 16 * 64 * 2
    kinds = {shape["kind"]: (shape["tokens"], shape["pages"]) for shape in found["plan"]["shapes"]}
    assert kinds == {"full": (50, 4), "cross": (100, 7)}


def test_a_dry_run_says_that_no_kernel_reads_the_format(run: Run) -> None:
    status, out, _ = run("google/flan-t5-large", "--ctx", "50", "--dry-run")
    assert status == 0 and "! no kernel reads a fp32 cache (--kv-dtype bf16" in out


def test_tables_that_are_looked_up_are_not_read() -> None:
    """Gemma 4 E2B ties its words to the head, and looks up inputs of each layer in a table of 262,144 rows of 35 × 256."""
    read = read_model("google/gemma-4-E2B-it", fetch=FetchOptions(offline=True, no_cache=True))
    found = bench(read, context=1024, dry_run=True)
    table, head = 262_144 * 35 * 256 * 2, 262_144 * 1536 * 2
    text = 2 * sum(
        prod(spec.shape) * spec.count for spec in read.architecture.tensors if spec.component is not Component.VISION
    )
    assert head < found.weights_bytes_read <= text - table
