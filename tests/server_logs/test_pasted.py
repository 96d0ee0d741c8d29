"""Logs as people paste them: broken lines, several programs, models named beside the settings, ranks told by labels alone."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from verified_logs import OFFLINE, by_name, compare

from hfmem.errors import UsageError
from hfmem.hub.logfile import read_log
from hfmem.server_logs.lines import clean, one_stream, relevant
from hfmem.server_logs.names import base_of, gguf_type, model_names, named_elsewhere
from hfmem.server_logs.parse import parse_log
from hfmem.server_logs.ranks import ranks_seen
from hfmem.server_logs.speculation import without_speculation
from hfmem.server_logs.verify import verify_log


def test_lines_that_a_writer_broke() -> None:
    """An engine's configuration, broken after its commas as pages of documentation have it."""
    text = (
        "INFO 05-01 10:00:00 [core.py:93] Initializing a V1 LLM engine (v0.19.0) with config:\n"
        "    model='Qwen/Qwen3-8B',\n"
        "    tensor_parallel_size=2, kv_cache_dtype=fp8,\n"
        "    max_seq_len=8192\n"
        "INFO 05-01 10:00:09 [gpu_worker.py:436] Available KV cache memory: 5.00 GiB\n"
    )
    told = parse_log(text).settings
    assert (told.model, told.tp, told.kv_dtype, told.context) == ("Qwen/Qwen3-8B", 2, "fp8", 8192)


def test_lines_that_a_terminal_broke() -> None:
    line = "INFO 05-01 10:00:09 [kv_cache_utils.py:1319] GPU KV cache size: 343,744 tokens, in a terminal of 70 columns"
    rows = [line[at : at + 70] for at in range(0, len(line), 70)]
    kept, numbers = relevant("\n".join(rows * 5))
    assert kept.split("\n") == [line] * 5
    assert numbers == [1, 3, 5, 7, 9]


def test_a_container_s_lines() -> None:
    """JSON objects of a container's log, and two servers in one file: the last counts, the other is said to be there."""
    kept, _ = relevant(
        '{"log":"INFO GPU KV cache size: 1,024 tokens\\n","stream":"stderr","time":"2026-05-01T10:00:00Z"}'
    )
    assert kept.strip() == "INFO GPU KV cache size: 1,024 tokens"
    text = "a-1  | INFO GPU KV cache size: 1,024 tokens\nb-1  | INFO GPU KV cache size: 2,048 tokens"
    text, numbers, others = one_stream(clean(text), [1, 2])
    assert "2,048" in text and "1,024" not in text
    assert numbers == [2] and others == ("a-1",)


@pytest.mark.parametrize(
    "path, name",
    [
        ("/kaggle/input/models/google/gemma-4/transformers/gemma-4-31b-it/1", "google/gemma-4-31b-it"),
        ("/data/hub/models--zai-org--GLM-5.1-FP8/snapshots/0a1b", "zai-org/GLM-5.1-FP8"),
        ("/models/Qwen/Qwen3-8B-AWQ/", "Qwen/Qwen3-8B-AWQ"),
        ("/root/Qwen/Qwen2___5-7B", "Qwen/Qwen2.5-7B"),
    ],
)
def test_names_in_paths(path: str, name: str) -> None:
    assert name in model_names(path)


@pytest.mark.parametrize(
    "name, base, quant",
    [
        ("kaitchup/Qwen3.5-2B-autoround-W4A16", "kaitchup/Qwen3.5-2B", "gptq"),
        ("qwen3.6-27b-autoround-int4", "qwen3.6-27b", "gptq"),
        ("RedHatAI/gemma-4-26B-A4B-it-NVFP4", "RedHatAI/gemma-4-26B-A4B-it", "nvfp4"),
        ("sakamakismile/Qwen3.6-27B-Text-NVFP4-MTP", "sakamakismile/Qwen3.6-27B", "nvfp4"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "nvidia/Llama-3.3-70B-Instruct", "nvfp4"),
        ("google/gemma-4-E2B-it-qat-w4a16-ct", "google/gemma-4-E2B-it", "gptq"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", None),
    ],
)
def test_copies_by_their_names(name: str, base: str, quant: str | None) -> None:
    assert base_of(name) == (base, quant)


@pytest.mark.parametrize(
    "line, name",
    [
        ("[gpu_model_runner.py:5092] Starting to load model /root/Qwen/Qwen3.5-4B...", "/root/Qwen/Qwen3.5-4B"),
        ("  █▄█▀ █     █     █     █  model   RedHatAI/Qwen3.6-35B-A3B-NVFP4", "RedHatAI/Qwen3.6-35B-A3B-NVFP4"),
        ("Found local HF snapshot for moonshotai/Kimi-K2.5 at /models/x; skipping", "moonshotai/Kimi-K2.5"),
    ],
)
def test_models_named_beside_the_settings(line: str, name: str) -> None:
    assert named_elsewhere(line)[0] == name


def test_ranks_by_labels() -> None:
    """No line of the settings is there, but the workers' labels count them."""
    seen = ranks_seen("(Worker_TP0_EP0 pid=1) INFO x\n(Worker_TP3_EP3 pid=4) INFO x\n", "vllm")
    assert (seen.tp, seen.ep) == (4, True)
    seen = ranks_seen(
        "[2026-02-26 16:31:00 TP7] Load weight begin.\n[2026-02-26 16:31:00 TP0] Load weight begin.\n", "sglang"
    )
    assert seen.tp == 8


def test_what_drafts_is_not_what_is_served() -> None:
    text = (
        "INFO [core.py:114] Initializing a V1 LLM engine (v0.25.0) with config: model='org/Target', speculative_config="
        "SpeculativeConfig(method='eagle3', model='org/Draft', num_spec_tokens=3), max_seq_len=8192\n"
    )
    rest, draft = without_speculation(text)
    assert draft is not None and (draft.method, draft.model, draft.tokens) == ("eagle3", "org/Draft", 3)
    assert "org/Draft" not in rest
    told = parse_log(text + "INFO GPU KV cache size: 1,024 tokens\n").settings
    assert told.model == "org/Target" and told.draft_model == "org/Draft"


@pytest.mark.parametrize(
    "form",
    [
        "2026-05-01T10:00:00.123456789Z stdout F {}",
        "May 01 10:00:00 host vllm[123]: {}",
        "[1;36m(EngineCore_0 pid=12)[0;0m {}",
        "\x1b[1;36m(EngineCore_DP0 pid=12)\x1b[0;0m {}",
        "(RayWorkerWrapper pid=123, ip=10.0.0.1) {}",
        "vllm-1  | {}",
        "> {}",
        "| {} |",
        '{{"log":"{}\\n","stream":"stderr"}}',
        'time="2026-05-01T10:00:00Z" level=info msg="{}"',
        "{}\\n",
        "{}\r",
        "^[[0;36m{}^[[0m",
        "\\x1b[0;36m{}\\x1b[0m",
        "\\u001b[36m{}\\u001b[0m",
        "\u241b[36m{}\u241b[0m",
        "`{}`",
    ],
)
def test_what_stands_around_lines(form: str) -> None:
    lines = (
        "INFO Initializing a V1 LLM engine (v0.19.0) with config: model='Qwen/Qwen3-VL-8B-Instruct', max_seq_len=4096",
        "INFO [gpu_worker.py:436] Available KV cache memory: 22.46 GiB",
        "INFO [kv_cache_utils.py:1319] GPU KV cache size: 163,568 tokens",
    )
    found = compare("\n".join(map(form.format, lines)))
    assert found["KV cache tokens"].verdict == "equal"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n", "\u23ce"),
        ("\n", " \u21b5 "),
        ("\n", "<br>"),
        ("\n", "<br/>\r\n"),
        ("\n", "\r"),
        ("\n", "\\n"),
        (" ", "\u00a0"),
        ("_", "\\_"),
    ],
)
def test_characters_that_a_page_put_in(old: str, new: str) -> None:
    lines = (
        "INFO Initializing a V1 LLM engine (v0.19.0) with config: model='Qwen/Qwen3-VL-8B-Instruct', max_seq_len=4096",
        "INFO [gpu_model_runner.py:1] Model loading took 16.7 GiB memory and 1 seconds",
        "INFO [gpu_worker.py:436] Available KV cache memory: 22.46 GiB",
        "INFO [kv_cache_utils.py:1319] GPU KV cache size: 163,568 tokens",
        "INFO ready",
    )
    found = compare("\n".join(lines).replace(old, new))
    assert found["KV cache tokens"].verdict == "equal"


def test_entities_of_a_page() -> None:
    text = "Initializing a V1 LLM engine (v0.19.0) with config: model=&#39;Qwen/Qwen3-8B&#39;\nINFO GPU KV cache size: 9 tokens"
    assert parse_log(text).settings.model == "Qwen/Qwen3-8B"


def test_a_rotated_log(tmp_path: Path) -> None:
    path = tmp_path / "server.log.1.gz"
    path.write_bytes(gzip.compress(b"INFO GPU KV cache size: 163,568 tokens\n"))
    assert read_log(str(path)) == "INFO GPU KV cache size: 163,568 tokens\n"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(UsageError, match="cannot be read"):
        read_log(str(path))


def test_the_graph_profile_s_own_pool() -> None:
    """From 0.19 on vLLM profiles graphs with a small pool of its own, and says `Overriding num_gpu_blocks=0 with
    num_gpu_blocks_override=512` of it: no override of the pool that is served. Qwen3-VL-8B, 0.19, TP 1: 163,568 tokens."""
    found = compare(
        "INFO Initializing a V1 LLM engine (v0.19.0) with config: model='Qwen/Qwen3-VL-8B-Instruct', max_seq_len=4096\n"
        "INFO [kv_cache_utils.py:100] Overriding num_gpu_blocks=0 with num_gpu_blocks_override=512\n"
        "INFO [gpu_worker.py:436] Available KV cache memory: 22.46 GiB\n"
        "INFO [kv_cache_utils.py:1319] GPU KV cache size: 163,568 tokens\n"
    )
    assert found["KV cache tokens"].verdict in ("equal", "near")


def test_sizes_of_keys_and_of_the_cache_are_told_apart() -> None:
    """`KV size` holds `V size`: latents of Kimi K2.5 on eight MI300X, 160.63 GiB for 2,454,421 tokens."""
    text = "[2026-02-26 16:41:18 TP6] KV Cache is allocated. #tokens: 2454421, KV size: 160.63 GB\n"
    readings = parse_log(text).readings
    assert "value_bytes" not in readings and readings["cache_bytes"][0].value == round(160.63 * 2**30)


def test_a_draft_s_context_of_llama_cpp() -> None:
    """The context of prediction layers comes after the model's own and is printed alike: 4,352 MiB and 272 MiB."""
    context = (
        "llama_context: constructing llama_context\nllama_context: n_ctx         = 131072\n"
        "llama_kv_cache: size = {} MiB (131072 cells, {} layers, 4/1 seqs), K (q8_0): {} MiB, V (q8_0): {} MiB\n"
    )
    text = (
        context.format("4352.00", 16, "2176.00", "2176.00")
        + "srv    load_model: creating MTP draft context against the target model '/models/Q.gguf'\n"
        + context.format("272.00", 1, "136.00", "136.00")
    )
    assert parse_log(text).readings["cache_bytes"][0].value == 4352 * 2**20


def test_lines_of_one_length_are_no_wrapped_line() -> None:
    """Four ranks print a line each, all of the same length: no terminal broke them, and the last is not lost."""
    line = "(VllmWorker rank={} pid=10{}) INFO 04-29 01:07:41 [gpu_model_runner.py:1347] Model loading took 14.2474 GiB and 5 s"
    rows = [line.format(rank, rank) for rank in range(4)]
    assert len(set(map(len, rows))) == 1
    kept, numbers = relevant("\n".join(rows))
    assert kept.split("\n") == rows and numbers == [1, 2, 3, 4]
    assert len(parse_log("\n".join(rows)).readings["weights_bytes"]) == 4


def test_the_end_of_a_wrapped_line_that_fills_the_terminal_is_kept() -> None:
    row = "Initializing a V1 LLM engine (v0.19.0) with config: model='Qwen/Qwen3-8B', max_seq_len=8192,"
    wide = "GPU KV cache size: 1,024 tokens ".ljust(len(row), ".")
    assert "1,024 tokens" in relevant("\n".join([row] * 4 + [wide]))[0]


def test_a_copy_that_only_the_text_names() -> None:
    """Figures of a published start: 1.66 GiB at 28 layers x 2 x 2 heads x 128 x 2 B a token are 62,16x tokens of 28,672 B."""
    text = (
        "Loading Qwen/Qwen2.5-1.5B-Instruct-AWQ with awq quantization...\nINFO: Model loading took 1.1 GiB memory\n"
        "INFO: Available KV cache memory: 1.66 GiB\nINFO: GPU KV cache size: 62,208 tokens\n"
    )
    found = verify_log(text, fetch=OFFLINE)
    tokens = by_name(found.result)["KV cache tokens"]
    assert found.model == "Qwen/Qwen2.5-1.5B-Instruct" and tokens.predicted == int(1.66 * 2**30) // (28_672 * 16) * 16
    with pytest.raises(UsageError, match="names no model"):  # two of them
        verify_log(f"Qwen/Qwen2.5-1.5B-Instruct\n{text}", fetch=OFFLINE)


def test_a_pool_that_was_set() -> None:
    """With `--kv-cache-memory-bytes` what is left for the cache is not the pool."""
    text = (
        "vllm serve Qwen/Qwen3-8B --gpu-memory-utilization 0.9 --max-model-len 16000{}\nvLLM API server version 0.24.0\n"
        "Model loading took 15.27 GiB memory\nAvailable KV cache memory: 5.68 GiB\n"
    )
    for flag, compared in ((" --kv-cache-memory-bytes 5820M", False), ("", True)):
        found = verify_log(text.format(flag), fetch=OFFLINE, device="h100").result
        assert ("memory left for the cache" in by_name(found)) == compared


def test_a_gguf_that_vllm_serves() -> None:
    """Figures of a published start of vLLM 0.8: a tied model, whose table vLLM keeps in the file's type too."""
    text = (
        "vllm serve /models/Llama-3.2-3B-Instruct-Q8_0.gguf --max-model-len 10000\n"
        "INFO [model_runner.py:1146] Model loading took 3.2637 GB and 18.052839 seconds\n"
    )
    found = verify_log(text, fetch=OFFLINE)
    assert abs(by_name(found.result)["weights"].difference or 1) < 0.005
    assert any("q8_0" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("unsloth/Qwen3-0.6B-GGUF:Q4_K_M", "q4_k_m"),
        ("/m/x-BF16.gguf", "bf16"),
        ("/m/x-UD-Q9_Z.gguf", None),
        ("org/Qwen3-8B-bf16", None),
    ],
)
def test_types_of_gguf_names(name: str, kind: str | None) -> None:
    assert gguf_type(name) == kind
