"""Logs as they are saved: encodings, lengths, containers and engines side by side, and releases that only the lines tell."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from hfmem.errors import UsageError
from hfmem.hub import FetchOptions, logfile
from hfmem.hub.logfile import read_log
from hfmem.memory.engines.vllm.releases import GraphSizes
from hfmem.server_logs.forms import release_told
from hfmem.server_logs.parse import parse_log
from hfmem.server_logs.verify import verify_log
from hfmem.server_logs.vllm_release import release_by_form

START = (
    "INFO 06-10 10:57:57 [gpu_model_runner.py:1801] Model loading took 15.2683 GiB and 3.617503 seconds\n"
    "INFO 06-10 10:58:13 [gpu_worker.py:232] Available KV cache memory: 18.69 GiB\n"
    "INFO 06-10 10:58:14 [kv_cache_utils.py:716] GPU KV cache size: 136,080 tokens\n"
)
TRAFFIC = "INFO [loggers.py:118] Engine 000: Avg prompt throughput: 1.0 tokens/s, GPU KV cache usage: 0.1%\n"
LLAMA = (
    "llama_model_loader: loaded meta data with 25 key-value pairs and 311 tensors from /m/Qwen3-0.6B-Q8_0.gguf (version GGUF V3)\n"
    "llama_context: n_ctx         = 4096\n"
    "llama_kv_cache: size =  448.00 MiB (  4096 cells,  28 layers,  1/1 seqs), K (f16):  224.00 MiB, V (f16):  224.00 MiB\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "server.log"
    path.write_bytes(START.replace("\n", end).encode(encoding))
    found = parse_log(read_log(str(path)))
    assert [item.value for item in found.readings["capacity_tokens"]] == [136_080]
    assert found.readings["capacity_tokens"][0].line == 3


def test_a_long_log_keeps_its_last_start_and_line_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start after so much traffic that the first part does not hold it; what is kept is little."""
    monkeypatch.setattr(logfile, "MAX_BYTES", 1 << 16)
    monkeypatch.setattr(logfile, "_BLOCK", 1 << 12)
    path = tmp_path / "long.log"
    path.write_text(START + TRAFFIC * 20_000 + START.replace("136,080", "90,000") + TRAFFIC * 20_000, encoding="utf-8")
    text = read_log(str(path))
    assert len(text) < 60_000 < path.stat().st_size // 50
    found = parse_log(text).readings["capacity_tokens"]
    assert [(item.value, item.line) for item in found] == [(136_080, 3), (90_000, 3 + 20_000 + 3)]


def test_what_has_zeros_and_no_line_is_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device, or a checkpoint of a terabyte, is told by its first part and not read on."""
    monkeypatch.setattr(logfile, "MAX_BYTES", 1 << 16)
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(b'{"a": 1}')
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match="zero bytes and no line"):
        read_log(str(path))


def test_a_long_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "MAX_BYTES", 1 << 12)
    monkeypatch.setattr(logfile, "_BLOCK", 1 << 10)
    monkeypatch.setattr(logfile, "_KEPT", 1 << 12)
    data = (TRAFFIC * 100 + START + START.replace("136,080", "é 1")).encode() * 40
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    text = read_log("-")
    assert text.count("\n") == data.count(b"\n")
    assert parse_log(text).largest("capacity_tokens") is not None


def test_containers_side_by_side() -> None:
    """Two models of one compose file: the last that printed its sizes counts, and the other is named."""
    first = "".join(f"embed-1  | {row}\n" for row in START.replace("136,080", "9,999").splitlines())
    second = "".join(f"chat-1   | {row}\n" for row in START.splitlines())
    mixed = "\n".join(row for pair in zip(first.splitlines(), second.splitlines(), strict=True) for row in pair)
    found = parse_log(mixed)
    assert [item.value for item in found.readings["capacity_tokens"]] == [136_080]
    assert found.readings["capacity_tokens"][0].line == 6
    assert found.others == ("embed-1",)
    pods = "\n".join(f"[pod/web-1/vllm] {row}" for row in START.splitlines())
    assert parse_log(pods).others == ()


def test_engines_side_by_side() -> None:
    """The engine of the last line that only one engine prints, and the other is named."""
    assert parse_log(START + LLAMA).engine == "llama.cpp"
    assert parse_log(LLAMA + START).engine == "vllm"
    assert parse_log(LLAMA + START).others == ("llama.cpp",)


@pytest.mark.parametrize(
    ("line", "minor"),
    [
        ("[gpu_model_runner.py:1347] Model loading took 14.2474 GiB", 8),  # 0.8.5
        ("[gpu_worker.py:306] Available KV cache memory: 109.86 GiB", 10),  # a build after 0.10.2
        ("[gpu_worker.py:436] Available KV cache memory: 26.87 GiB", 19),  # 0.19.1
        ("[kv_cache_utils.py:1286] GPU KV cache size: 1,470,588 tokens", 12),
        ("[kv_cache_utils.py:1291] GPU KV cache size: 1,470,588 tokens", 13),
        ("[kv_cache_utils.py:1316] GPU KV cache size: 1,470,588 tokens", 18),
        ("[kv_cache_utils.py:1733] GPU KV cache size: 1,470,588 tokens", 22),
        ("for consumed memory", 27),
        ("Available KV cache memory: 26.87 GiB", None),
    ],
)
def test_releases_by_the_lines_of_the_source(line: str, minor: int | None) -> None:
    assert release_told(line) == minor


def test_a_release_that_nothing_tells() -> None:
    """Tokens that are not concurrency × context: before 0.21. That they are: from then, and in one line with it from 0.28."""
    old = "GPU KV cache size: 136,080 tokens\nMaximum concurrency for 40,960 tokens per request: 3.31x\n"
    assert release_by_form(parse_log(old)).minor < 21
    new = "GPU KV cache size: 135,577 tokens\nMaximum concurrency for 40,960 tokens per request: 3.31x\n"
    assert 21 <= release_by_form(parse_log(new)).minor <= 27
    assert release_by_form(parse_log(new.replace("tokens\n", "tokens, "))).minor == 28


def test_graphs_that_a_log_says_it_captures() -> None:
    text = START + "Profiling CUDA graph memory: PIECEWISE=51 (largest=512), FULL=35 (largest=256)\n"
    assert parse_log(text).graphs == GraphSizes(51, 512, 35, 256)
    assert parse_log(START + "Profiling CUDA graph memory: FULL=50 (largest=512)\n").graphs == GraphSizes(0, 0, 50, 512)
    assert parse_log(START).graphs is None


def test_model_buffers_of_llama_cpp() -> None:
    """Llama 3 8B in q8_0, 34 bytes for 32 weights and norms in fp32: all layers and the head on two devices, the embedding on the
    host. Where tensors were moved by name only the sum is compared."""
    layer = (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14_336 * 4096) * 34 // 32 + 2 * 4096 * 4
    table = 128_256 * 4096 * 34 // 32
    devices = 32 * layer + table + 4096 * 4
    text = (
        "llama_model_loader: loaded meta data with 25 key-value pairs\n"
        "print_info: file type   = Q8_0\n"
        "load_tensors: offloaded 33/33 layers to GPU\n"
        f"load_tensors:   CPU_Mapped model buffer size = {table / 2**20:8.2f} MiB\n"
        f"load_tensors:        CUDA0 model buffer size = {17 * layer / 2**20:8.2f} MiB\n"
        f"load_tensors:        CUDA1 model buffer size = {(devices - 17 * layer) / 2**20:8.2f} MiB\n"
        "llama_context: n_ctx         = 4096\n"
        "llama_kv_cache: size =  512.00 MiB (  4096 cells,  32 layers,  1/1 seqs), K (f16):  256.00 MiB, V (f16):  256.00 MiB\n"
    )
    offline = FetchOptions(offline=True, no_cache=True)
    found = {item.what: item for item in verify_log(text, "meta-llama/Meta-Llama-3-8B", fetch=offline).result.checks}
    assert found["weights on the devices"].predicted == devices
    assert found["weights of the host"].predicted == table
    assert {item.verdict for item in found.values()} == {"equal"}
    moved = text.replace(
        "load_tensors: off", "tensor blk.3.ffn_up.weight buffer type overridden to CPU\nload_tensors: off"
    )
    (whole,) = (
        item
        for item in verify_log(moved, "meta-llama/Meta-Llama-3-8B", fetch=offline).result.checks
        if item.what.startswith("weights")
    )
    assert whole.predicted == devices + table and whole.verdict == "equal"


def test_a_peak_that_holds_the_estimate_of_graphs() -> None:
    """vLLM 0.27 and later print them together: Qwen3-4B of September 2026 at 256 sequences, "0.57 GiB for peak activation"."""
    text = (
        "Initializing a V1 LLM engine (v0.30.0) with config: model='Qwen/Qwen3-4B', max_seq_len=4096\n"
        "Chunked prefill is enabled with max_num_batched_tokens=2048\n"
        "vllm serve Qwen/Qwen3-4B --max-num-seqs 256\n"
        "Profiling CUDA graph memory: PIECEWISE=51 (largest=512), FULL=35 (largest=256)\n"
        "Actual usage is 7.56 GiB for consumed memory, 0.57 GiB for peak activation\n"
    )
    result = verify_log(text, fetch=FetchOptions(offline=True, no_cache=True), device="a100-80g").result
    item = next(item for item in result.checks if item.what == "peak activation")
    assert item.difference is not None and abs(item.difference) < 0.15


def test_weights_widened_to_fp32() -> None:
    """An H100 under 0.19, Llama 3.1 8B with --dtype float32: twice the bytes."""
    text = (
        "Initializing a V1 LLM engine (v0.19.0) with config: model='meta-llama/Llama-3.1-8B-Instruct', dtype=torch.float32,"
        " max_seq_len=8192\nModel loading took 29.98 GiB memory and 3.1 seconds\n"
    )
    result = verify_log(text, fetch=FetchOptions(offline=True, no_cache=True)).result
    (item,) = result.checks
    assert item.verdict == "equal" and item.reason is None
