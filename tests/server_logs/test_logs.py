"""What is read from engines' logs: lines as vLLM, SGLang and llama.cpp print them (facts of public threads), and hostile input."""

from __future__ import annotations

import json
import random
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfmem.errors import UsageError
from hfmem.server_logs.lines import clean
from hfmem.server_logs.names import base_of, model_names
from hfmem.server_logs.parse import parse_log

GIB = 2**30
MIB = 2**20


def test_v0_profile_line() -> None:
    """vLLM 0.6 on one A100 40 GB, Llama 3 8B."""
    log = parse_log(
        "INFO 01-13 11:35:21 model_runner.py:1099] Loading model weights took 14.9595 GB\n"
        "INFO worker.py:241] the current vLLM instance can use total_gpu_memory (39.50GiB) x gpu_memory_utilization (0.90)"
        " = 35.55GiB\n"
        "INFO worker.py:241] model weights take 14.96GiB; non_torch_memory takes 0.10GiB; PyTorch activation peak memory"
        " takes 9.37GiB; the rest of the memory reserved for KV Cache is 11.12GiB.\n"
        "INFO gpu_executor.py:76] # GPU blocks: 5691, # CPU blocks: 2048\n"
        "INFO gpu_executor.py:80] Maximum concurrency for 8192 tokens per request: 11.12x\n"
    )
    assert log.engine == "vllm"
    first = log.first("weights_bytes")
    assert first is not None and (first.line, first.value, first.slack) == (1, round(14.9595 * GIB), round(5e-5 * GIB))
    expected = {"device_bytes": 39.5, "budget_bytes": 35.55, "activations_bytes": 9.37, "engine_bytes": 0.1}
    expected["available_bytes"] = 11.12
    for name, size in expected.items():
        assert [r.value for r in log.readings[name]] == [round(size * GIB)], name
    assert log.readings["num_blocks"][0].value == 5691
    assert log.readings["max_concurrency"][0].value == 11.12
    assert log.readings["concurrency_context"][0].value == 8192
    assert log.readings["max_concurrency"][0].line == 5


def test_v1_config_wins_over_the_command() -> None:
    log = parse_log(
        "$ vllm serve /data/org/Name --trust-remote-code --max-model-len 32k -tp=8 --gpu-memory-utilization 0.95\n"
        "INFO Initializing a V1 LLM engine (v0.11.0) with config: model='org/Name', dtype=torch.bfloat16,"
        " max_seq_len=16000, tensor_parallel_size=4, pipeline_parallel_size=2, quantization=None, enforce_eager=True,"
        " kv_cache_dtype=fp8_e4m3, enable_prefix_caching=False, speculative_config=None\n"
        "(Worker_TP0 pid=1) INFO Available KV cache memory: 8.11 GiB\n"
        "(Worker_TP1 pid=2) INFO Available KV cache memory: 8.05 GiB\n"
        "INFO GPU KV cache size: 178,880 tokens\n"
    )
    told = log.settings
    assert log.version == "0.11.0"
    assert (told.model, told.context, told.tp, told.pp) == ("org/Name", 16000, 4, 2)
    assert (told.kv_dtype, told.eager, told.prefix_caching, told.speculative) == ("fp8", True, False, False)
    assert told.utilization == Fraction(19, 20) and told.complete and told.quantization is None
    smallest = log.smallest("available_bytes")
    assert smallest is not None and smallest.value == round(8.05 * GIB)
    assert log.readings["capacity_tokens"][0].value == 178_880


def test_command_in_a_flattened_paste() -> None:
    """Issue texts lose their line ends; a flag without a value must not take the next flag for one."""
    log = parse_log(
        "Run: `vllm serve Qwen3.5-27B --trust-remote-code --max-model-len 32768 --enable-expert-parallel "
        "--max-num-seqs 16` The log as: `INFO [kv_cache_utils.py:1319] GPU KV cache size: 290,864 tokens`"
    )
    told = log.settings
    assert (told.model, told.context, told.max_num_seqs, told.ep) == ("Qwen3.5-27B", 32768, 16, True)


def test_advice_names_no_settings() -> None:
    """vLLM ends its start with flags one could give: they were not given."""
    log = parse_log(
        "INFO Free memory on device (46.99/47.37 GiB) on startup. Desired GPU memory utilization is (0.85, 40.27 GiB)."
        " Actual usage is 2.81 GiB for consumed memory (weights + non-torch), 0.57 GiB for peak activation, and 0.22 GiB"
        " for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=39207879578` (36.52 GiB) to"
        " fit into requested memory, or `--kv-cache-memory=46423534080` (43.24 GiB) to fully utilize gpu memory."
        " Current kv cache memory in use is 36.88 GiB."
    )
    assert log.settings.kv_memory_bytes is None
    found = {name: rows[0].value for name, rows in log.readings.items()}
    assert found["device_bytes"] == round(47.37 * GIB)
    assert found["budget_bytes"] == round(40.27 * GIB)
    assert found["activations_bytes"] == round(0.57 * GIB)
    assert found["cuda_graph_bytes"] == round(0.22 * GIB)
    assert found["available_bytes"] == round(36.88 * GIB)


@pytest.mark.parametrize(
    ("text", "needed", "context"),
    [
        (
            "ValueError: To serve at least one request with the models's max seq len (204800), (48.44 GiB KV cache is needed,"
            " which is larger than the available KV cache memory (24.85 GiB). Based on the available memory, the estimated"
            " maximum model length is 105056.",
            48.44,
            204800,
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (262144), 27.45 GiB KV cache is needed,"
            " but only 23.43 GiB is available.",
            27.45,
            262144,
        ),
    ],
)
def test_refusals(text: str, needed: float, context: int) -> None:
    log = parse_log(text)
    assert log.readings["needed_bytes"][0].value == round(needed * GIB)
    assert log.readings["needed_context"][0].value == context
    assert log.smallest("available_bytes") is not None


def test_sglang() -> None:
    log = parse_log(
        "python3 -m sglang.launch_server --model-path org/Name --tp 4 --mem-fraction-static 0.93\n"
        "[2025-03-08 12:29:21 TP1] Load weight end. type=Qwen2ForCausalLM, dtype=torch.bfloat16, avail mem=6.09 GB,"
        " mem usage=15.54 GB.\n"
        "[2025-03-08 12:29:21 TP0] KV Cache is allocated. #tokens: 46611, K size: 1.42 GB, V size: 1.42 GB\n"
        "[TP0] max_total_num_tokens=46611, chunked_prefill_size=8192, max_running_requests=50, context_len=163840\n"
    )
    assert log.engine == "sglang"
    assert (log.settings.model, log.settings.tp, log.settings.context) == ("org/Name", 4, 163840)
    assert log.settings.utilization == Fraction(93, 100)
    assert log.readings["weights_bytes"][0].value == round(15.54 * GIB)
    assert {r.value for r in log.readings["pool_tokens"]} == {46611}
    assert log.readings["key_bytes"][0].value == round(1.42 * GIB)


def test_llama_cpp_takes_the_last_start() -> None:
    """Two runs in one terminal; the context is the engine's own line, not `-c`, which slots share and pads round."""
    run = (
        "llama_model_loader: loaded meta data with 42 key-value pairs and 377 tensors from /models/x.gguf (version GGUF V3)\n"
        "llm_load_print_meta: general.name     = Some Model 8B\n"
        "llama_new_context_with_model: n_ctx      = {n_ctx}\n"
        "llama_new_context_with_model: n_ubatch   = 512\n"
        "llama_new_context_with_model: KV self size  = {size} MiB, K (q8_0): 3196.00 MiB, V (f16): 6016.00 MiB\n"
    )
    text = "./llama-server -m /models/x.gguf -c 1000\n" + run.format(n_ctx=1024, size="1.00")
    log = parse_log(text + run.format(n_ctx=65536, size="9212,00"))
    assert log.engine == "llama.cpp" and log.starts == 2
    told = log.settings
    assert (told.model, told.context, told.ubatch) == ("Some Model 8B", 65536, 512)
    assert (told.key_type, told.value_type, told.latent) == ("q8_0", "f16", None)
    assert [r.value for r in log.readings["cache_bytes"]] == [9212 * MIB]


def test_latent_cache_of_forks() -> None:
    head = "llama_new_context_with_model: KV self size  =   64.81 MiB, "
    both = parse_log(head + "c^KV (f16):   34.31 MiB, kv^T (f16):   30.50 MiB")
    one = parse_log(head + "c^KV (q8_0):   64.81 MiB, kv^T: not used")
    assert (both.settings.latent, both.settings.key_type) == ("transposed", "f16")
    assert (one.settings.latent, one.settings.key_type) == ("compressed", "q8_0")


def test_crash_after_the_numbers_does_not_hide_them() -> None:
    """A supervisor starts the server again, and the last start prints nothing yet."""
    start = "Initializing a V1 LLM engine (v0.12.0) with config: model='a/b', max_seq_len=4096\n"
    log = parse_log(start + "Available KV cache memory: 5.00 GiB\n" + start)
    assert log.readings["available_bytes"][0].value == 5 * GIB
    assert log.starts == 2


@pytest.mark.parametrize("text", ["", "hello", "\x00\x01\x02", "GET /v1/models 200", "GPU memory 5 GiB"])
def test_no_engine_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no line of"):
        parse_log(text)


def test_colours_and_control_characters() -> None:
    text = "\x1b[1;36m(EngineCore_DP0 pid=117)\x1b[0;0m INFO Model loading took \x1b[32m6.5936 GiB\x1b[0m and 19 seconds\r\n"
    assert parse_log(text).readings["weights_bytes"][0].value == round(6.5936 * GIB)
    assert "\x1b" not in clean("a\x1b]0;title\x07b\x9b31m")


@given(st.text(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    for wrapped in (text, f"vLLM version 0.1 {text} Available KV cache memory: 1.00 GiB"):
        try:
            parse_log(wrapped)
        except UsageError:
            assert "Available" not in wrapped


@pytest.mark.parametrize(
    "unit",
    ["x" * 64, "--a ", "KV cache ", "1,111", "K (f16): ", "max_seq_len=", "model='", "[1;31m", "Load weight end."],
)
def test_time_grows_with_length_only(unit: str) -> None:
    """Repetition of what patterns begin with must not make them search again and again."""
    text = "vLLM " + unit * (400_000 // len(unit))
    begin = time.process_time()
    parse_log(text)
    assert time.process_time() - begin < 5


def test_binary_noise() -> None:
    noise = random.Random(7).randbytes(200_000).decode("utf-8", errors="replace")
    with pytest.raises(UsageError):
        parse_log(noise)


def test_names() -> None:
    assert "deepseek-ai/DeepSeek-R1" in model_names("/data/deepseek-ai/DeepSeek-R1/")
    assert "org/name" in model_names("/root/.cache/hub/models--org--name/snapshots/0123abc")
    assert "Qwen2.5-7B" in model_names("/root/Qwen2___5-7B")
    assert base_of("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic") == ("RedHatAI/Llama-3.3-70B-Instruct", "fp8")
    assert base_of("x/Y-quantized.w8a8") == ("x/Y", "int8")
    assert base_of("Qwen/Qwen3-8B") == ("Qwen/Qwen3-8B", None)
    assert base_of("ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g") == ("ISTA-DASLab/gemma-3-27b-it", "gptq")
    assert base_of("x/Qwen3-8B-GPTQ-Int8") == ("x/Qwen3-8B", "gptq-int8")
    assert base_of("amd/Llama-3.3-70B-Instruct-FP8-KV") == ("amd/Llama-3.3-70B-Instruct", "fp8")
    assert base_of("amd/Llama-3.3-70B-Instruct-MXFP4-Preview") == ("amd/Llama-3.3-70B-Instruct", "mxfp4")


def test_what_a_default_became() -> None:
    """vLLM says the tokens of a step that it chose; FlashInfer's sampler is named by it as well."""
    text = (
        "(APIServer pid=1) INFO [scheduler.py:226] Chunked prefill is enabled with max_num_batched_tokens=8192.\n"
        "(Worker pid=2) INFO [topk_topp_sampler.py:50] Using FlashInfer for top-p & top-k sampling.\n"
        "(Worker pid=2) INFO [gpu_worker.py:276] Available KV cache memory: 12.02 GiB\n"
    )
    told = parse_log(text).settings
    assert told.max_num_batched_tokens == 8192 and told.flashinfer


def test_each_start_has_its_own_settings() -> None:
    """The next start's arguments come before its engine's first line; it printed no sizes."""
    start = (
        "INFO vLLM API server version 0.11.0\nINFO non-default args: {{'model': 'org/Name', 'max_model_len': {context}}}\n"
        "INFO Initializing a V1 LLM engine (v0.11.0) with config: model='org/Name', max_seq_len={context},\n"
    )
    text = start.format(context=4096) + "INFO Available KV cache memory: 5.00 GiB\n" + start.format(context=8192)
    log = parse_log(text)
    assert (log.settings.context, log.starts) == (4096, 2)


@pytest.mark.parametrize("key", ["log", "message", "textPayload"])
def test_lines_in_objects(key: str) -> None:
    """Container logs: an object a line, colours escaped by JSON."""
    plain = "\x1b[36m(EngineCore pid=1)\x1b[0;0m INFO Model loading took 14.9889 GiB and 2.7 seconds\n"
    text = "\n".join(
        json.dumps({key: row, "stream": "stderr"}) for row in ("INFO vLLM API server version 0.11.0", plain)
    )
    log = parse_log(text)
    assert log.version == "0.11.0"
    assert log.readings["weights_bytes"][0].value == round(14.9889 * GIB)
    assert log.readings["weights_bytes"][0].line == 2


@pytest.mark.parametrize(
    ("line", "form"),
    [
        ("config: kernel_config=KernelConfig(", 20),
        ("config: dcp_comm_backend=ag_rs,", 19),
        ("config: structured_outputs_config=StructuredOutputsConfig(", 11),
        ("INFO nothing that tells", None),
    ],
)
def test_form_of_a_build_without_release(line: str, form: int | None) -> None:
    text = f"Initializing a V1 LLM engine (v0.1.dev1+g9759e3b06) with {line}\nModel loading took 1.00 GiB\n"
    assert parse_log(text).form == form


def test_windowed_layers_have_a_cache_of_their_own() -> None:
    """gpt-oss-20b in two slots, as a llama.cpp server printed it; the encoder's buffer is not the model's."""
    text = (
        "llama_model_loader: loaded meta data with 37 key-value pairs and 459 tensors from gpt-oss-20b.gguf (version GGUF V3)\n"
        "llama_context: n_seq_max     = 2\nllama_context: n_ctx         = 49152\nllama_context: n_ubatch      = 512\n"
        "llama_context: flash_attn    = auto\nllama_context: kv_unified    = false\n"
        "llama_kv_cache_iswa: creating non-SWA KV cache, size = 24576 cells\n"
        "llama_kv_cache: size = 1152.00 MiB ( 24576 cells,  12 layers,  2/2 seqs), K (f16):  576.00 MiB, V (f16):  576.00 MiB\n"
        "llama_kv_cache_iswa: creating     SWA KV cache, size = 768 cells\n"
        "llama_kv_cache: size =   36.00 MiB (   768 cells,  12 layers,  2/2 seqs), K (f16):   18.00 MiB, V (f16):   18.00 MiB\n"
        "sched_reserve:      CUDA0 compute buffer size =   398.38 MiB\n"
        "alloc_compute_meta:      CUDA0 compute buffer size =   948.10 MiB\n"
        "slot   load_model: id  0 | task -1 | new slot, n_ctx = 24576\n"
    )
    log = parse_log(text)
    assert (log.settings.context, log.settings.slots, log.settings.unified) == (49152, 2, False)
    assert [r.value for r in log.readings["cache_bytes"]] == [1188 * MIB]
    assert [r.value for r in log.readings["compute_buffer_bytes"]] == [round(398.38 * MIB)]


def test_sglang_ratios_and_pools() -> None:
    text = (
        "server_args=ServerArgs(model_path='org/Name', swa_full_tokens_ratio=0.25, mamba_full_memory_ratio=0.5)\n"
        "KV Cache is allocated. dtype: torch.float8_e4m3fn, #tokens: 61107, K size: 6.06 GB, V size: 6.06 GB\n"
        "KV Cache is allocated. dtype: torch.float8_e4m3fn, #tokens: 76384, K size: 1.46 GB, V size: 1.46 GB\n"
        "SWAKVPool mem usage: 15.04 GB, swa size: 61107, full size: 76384\nmax_total_num_tokens=76384, chunked\n"
    )
    log = parse_log(text)
    assert (log.settings.swa_ratio, log.settings.mamba_ratio) == (0.25, 0.5)
    assert [r.value for r in log.readings["pool_tokens"]] == [61107, 76384]
    assert {r.value for r in log.readings["capacity_tokens"]} == {76384}
