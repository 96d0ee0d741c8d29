"""Logs of real servers against the prediction (numbers from public threads)."""

from __future__ import annotations

import pytest
from verified_logs import GIB, LLAMA_8B, OFFLINE, by_name, compare

from hfmem.server_logs.verify import verify_log


def test_weights_and_pool_of_an_h100() -> None:
    """vLLM 0.11, Llama 3.1 8B: 51.38 GiB are 51.38 × 2^30 / (128 × 131072) = 3288.3 pages of 128 tokens: 420,864 of them."""
    found = compare(LLAMA_8B.format(context=16000, kv="auto", available="51.38", tokens=420_864))
    weights = found["weights"]
    assert weights.difference is not None and abs(weights.difference) < 1e-4
    assert found["KV cache tokens"].predicted == 3288 * 128
    assert found["KV cache tokens"].verdict == "equal"


def test_a_v0_start() -> None:
    """vLLM 0.6 on an A100 40 GB, Llama 3 8B: 5,691 pages; 11.12 GiB / (16 × 131,072 B) = 5,693 by two printed digits."""
    found = compare(
        "INFO model_runner.py:1099] Loading model weights took 14.9595 GB\n"
        "INFO worker.py:241] model weights take 14.96GiB; the rest of the memory reserved for KV Cache is 11.12GiB.\n"
        "INFO gpu_executor.py:76] # GPU blocks: 5691, # CPU blocks: 2048\n"
        "INFO gpu_executor.py:80] Maximum concurrency for 8192 tokens per request: 11.12x\n",
        "meta-llama/Meta-Llama-3-8B",
    )
    assert found["GPU blocks"].predicted == 5693
    assert {found[name].verdict for name in ("GPU blocks", "maximum concurrency")} == {"equal"}
    assert abs(found["weights"].difference or 1) < 1e-3
    assert not [name for name in found if "activation" in name]  # V0 profiled in another way


def test_tensor_parallel_weights_and_memory_left() -> None:
    """A published table of vLLM 0.11 on H100s of 79.18 GiB at 0.9: Qwen3 32B, TP 2: 30.59 weights, 5.64, 0.54, 34.49 left."""
    text = (
        "vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2 --gpu-memory-utilization 0.9 --max-model-len 16000\n"
        "vLLM API server version 0.11.0\n"
        "Model loading took 30.59 GiB memory and 9.1 seconds\n"
        "total_gpu_memory (79.18GiB) Available KV cache memory: 34.49 GiB\n"
        "PyTorch activation peak memory takes 5.64GiB; non_torch_memory takes 0.54GiB\n"
    )
    found = by_name(verify_log(text, fetch=OFFLINE, device="h100").result)
    assert abs(found["weights"].difference or 1) < 0.01
    for name in ("peak activation", "non-torch memory", "memory left for the cache"):
        item = found[name]
        assert item.low is not None and item.high is not None and item.low <= item.logged <= item.high, name
    assert abs(found["memory left for the cache"].difference or 1) < 0.05


def test_a_cache_in_another_format_is_found_out() -> None:
    """The same memory with twice the tokens: an fp8 cache that the log does not mention."""
    pages = int(51.38 * GIB) // (128 * 65_536)
    text = LLAMA_8B.format(context=16000, kv="auto", available="51.38", tokens=pages * 128)
    found = verify_log(text, fetch=OFFLINE)
    item = by_name(found.result)["KV cache tokens"]
    assert item.verdict == "differs" and item.reason == "fits if the cache is fp8: --kv-dtype fp8"
    assert found.result.flags["--kv-dtype"] == "fp8"
    assert found.result.agrees


def test_ranks_that_the_log_does_not_name() -> None:
    """Weights of an eighth: the paste lost its `-tp 8`. Llama 3.1 8B: norms are whole on each rank, so a little above 1/8."""
    found = verify_log("Model loading took 1.91 GiB memory", "meta-llama/Llama-3.1-8B", fetch=OFFLINE).result
    item = by_name(found)["weights"]
    assert item.reason == "fits if it ran on 8 ranks: --tp 8"
    assert found.flags["--tp"] == "8"


def test_a_difference_without_reason_says_so() -> None:
    found = verify_log("Model loading took 99.9 GiB memory", "meta-llama/Llama-3.1-8B", fetch=OFFLINE).result
    assert by_name(found)["weights"].verdict == "differs" and by_name(found)["weights"].reason is None
    assert not found.agrees


def test_concurrency_is_no_count() -> None:
    """0.2 of 4.3 is 5 %, not less than one page."""
    text = "GPU KV cache size: 4,300 tokens\nMaximum concurrency for 1,000 tokens per request: 4.30x\nAvailable KV cache memory: "
    size = 4_500 * 147_456 / GIB  # Qwen3 8B: 144 KiB a token
    found = compare(f"{text}{size:.2f} GiB\n", "Qwen/Qwen3-8B")
    assert found["maximum concurrency"].verdict == "differs"


def test_needed_cache_of_a_refusal() -> None:
    """Qwen3 8B at 40,960 tokens: 36 layers × 2 × 8 × 128 × 2 B = 144 KiB a token."""
    needed = 40_960 * 147_456 / GIB
    text = (
        f"ValueError: To serve at least one request with the models's max seq len (40960), ({needed:.2f} GiB KV cache is"
        " needed, which is larger than the available KV cache memory (4.00 GiB). Based on the available memory, the"
        " estimated maximum model length is 29120."
    )
    found = compare(text, "Qwen/Qwen3-8B")
    assert found["KV cache of 40,960 tokens"].verdict in ("equal", "near")
    # 4 GiB are 1820 pages of 16 × 144 KiB, one of them the null block: 1819 × 16 tokens
    assert found["longest context"].predicted == 1819 * 16


def test_sglang_token_pool() -> None:
    """46,611 tokens × 64 layers × 2 heads of 8 on each of 4 ranks × 128 × 2 B = 1.42 GiB (Qwen2.5 32B)."""
    found = compare(
        "python3 -m sglang.launch_server --model-path Qwen/Qwen2.5-32B-Instruct --tp 4\n"
        "Load weight end. type=Qwen2ForCausalLM, dtype=torch.bfloat16, avail mem=6.09 GB, mem usage=15.54 GB.\n"
        "KV Cache is allocated. #tokens: 46611, K size: 1.42 GB, V size: 1.42 GB\n"
    )
    assert found["K of the token pool"].verdict == found["V of the token pool"].verdict == "equal"
    assert found["K of the token pool"].predicted == (46_611 + 1) * 64 * 2 * 128 * 2
    assert abs(found["weights"].difference or 1) < 0.025


@pytest.mark.parametrize(
    ("name", "n_ctx", "line", "reason"),
    [
        ("Qwen3 235B A22B", 32768, "3196.00 MiB, K (q8_0): 1598.00 MiB, V (q8_0): 1598.00 MiB", None),
        ("Qwen3 235B A22B", 65536, "9212.00 MiB, K (q8_0): 3196.00 MiB, V (f16): 6016.00 MiB", None),
        ("DeepSeek R1 0528", 65536, "2333.25 MiB, c^KV (q8_0): 2333.25 MiB, kv^T: not used", None),
        ("DeepSeek R1 BF16", 2048, "9760.00 MiB, K (f16): 5856.00 MiB, V (f16): 3904.00 MiB", "no MLA"),
        ("Gemma 3 27b It Qat", 32768, "15872.00 MiB, K (f16): 7936.00 MiB, V (f16): 7936.00 MiB", "windowed layers"),
    ],
)
def test_llama_cpp_and_forks(name: str, n_ctx: int, line: str, reason: str | None) -> None:
    item = compare(
        f"llm_load_print_meta: general.name     = {name}\n"
        f"llama_new_context_with_model: n_ctx      = {n_ctx}\n"
        f"llama_new_context_with_model: KV self size  = {line}\n"
    )["KV cache"]
    if reason is None:
        assert item.verdict == "equal"
    else:
        assert item.verdict == "differs" and item.reason is not None and reason in item.reason
        assert item.met is not None and abs(item.met - item.logged) < 2**20


def test_quantized_copy_by_its_name() -> None:
    """`-FP8-dynamic` of a model in the catalogue: its linear layers in a byte, the rest as it was. Logged: 33.88 GiB at TP 2."""
    text = "vllm serve RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic -tp 2\nModel loading took 33.88 GiB memory\n"
    found = verify_log(text, fetch=OFFLINE)
    assert abs(by_name(found.result)["weights"].difference or 1) < 0.01
    assert "by its name" in found.notes[0]


def test_states_of_an_earlier_release() -> None:
    """vLLM 0.24 on an RTX 5090, Qwen3.6 35B-A3B in nvfp4 with an fp8 cache: two pages of states a request, not three.
    Its arguments ask for the cache of prefixes."""
    text = (
        "vLLM API server version 0.24.0\n"
        "(EngineCore pid=107) INFO [gpu_worker.py:508] Available KV cache memory: 5.98 GiB\n"
        "(EngineCore pid=107) INFO [kv_cache_utils.py:2146] GPU KV cache size: 567,978 tokens\n"
        "(EngineCore pid=107) INFO [kv_cache_utils.py:2147] Maximum concurrency for 131,072 tokens per request: 4.33x\n"
    )
    found = compare(text, "Qwen/Qwen3.6-35B-A3B", kv_dtype="fp8", max_num_batched_tokens=8192, prefix_caching=True)
    assert found["KV cache tokens"].verdict == found["maximum concurrency"].verdict == "equal"
    told = text.partition("\n")[2]  # by the lines of 0.24's source
    by_lines = compare(told, "Qwen/Qwen3.6-35B-A3B", kv_dtype="fp8", max_num_batched_tokens=8192, prefix_caching=True)
    assert {item.verdict for item in by_lines.values()} == {"equal"}
    bare = "\n".join(row.partition("] ")[2] for row in told.splitlines())
    unnamed = compare(bare, "Qwen/Qwen3.6-35B-A3B", kv_dtype="fp8", max_num_batched_tokens=8192, prefix_caching=True)
    assert {item.verdict for item in unnamed.values()} == {"equal"}  # two lines: until 0.27


@pytest.mark.parametrize("size", ["5.18", "-1.44", "0.00"])
def test_a_pool_for_a_model_without_cache(size: str) -> None:
    """The wrong model for a log, or no memory left: an answer, not a traceback."""
    text = f"Available KV cache memory: {size} GiB\nGPU KV cache size: 134,144 tokens\n"
    result = verify_log(text, "google-bert/bert-base-uncased", fetch=OFFLINE).result
    assert all(item.predicted is None and item.reason for item in result.checks)


def test_windows_before_two_steps_were_in_flight() -> None:
    """gpt-oss-20b: 12 layers of 16 tokens × 2 × 8 × 64 × 2 bytes a block; windows are kept beside the tokens of one step, of two
    from 0.26 on."""
    text = (
        "vLLM API server version 0.15.1\nChunked prefill is enabled with max_num_batched_tokens=8192.\n"
        "Initializing a V1 LLM engine with config: model='openai/gpt-oss-20b', max_seq_len=131072\n"
        "Available KV cache memory: 50.00 GiB\nMaximum concurrency for 131,072 tokens per request: {:.2f}x\n"
    )
    blocks = 50 * GIB // (12 * 16 * 2 * 8 * 64 * 2)
    one, two = (blocks / (8192 + -(-(127 + steps * 8192) // 16) + 1) for steps in (1, 2))
    assert compare(text.format(one))["maximum concurrency"].verdict == "equal"
    later = compare(text.format(two).replace("0.15.1", "0.33.0"))["maximum concurrency"]
    assert later.verdict == "equal"
    unnamed = compare(text.format(one).partition("\n")[2])["maximum concurrency"]
    assert unnamed.verdict == "differs" and unnamed.reason is not None and "releases before 0.26" in unnamed.reason


def test_ranks_that_explain_the_weights_hold_for_the_cache() -> None:
    """Qwen2-7B on two ranks that the log does not name: half the weights, and a cache of half the heads."""
    text = (
        "Initializing a V1 LLM engine (v0.10.1.1) with config: model='Qwen/Qwen2-7B-Instruct', max_seq_len=16384\n"
        "Model loading took 7.1217 GiB and 4.4 seconds\nAvailable KV cache memory: 11.03 GiB\n"
        "GPU KV cache size: 412,944 tokens\n"
    )
    found = compare(text, "Qwen/Qwen2.5-7B-Instruct")
    assert found["weights"].reason is not None and "--tp 2" in found["weights"].reason
    assert found["KV cache tokens"].verdict == "equal"


def test_tokens_of_an_unnamed_release() -> None:
    """From 0.21 on the line is concurrency × context; without a version or a concurrency, the form that meets it counts."""
    text = (
        "Available KV cache memory: 5.98 GiB\nGPU KV cache size: 567,978 tokens\n"
        "config: model='Qwen/Qwen3.6-35B-A3B', max_seq_len=131072\n"
    )
    found = compare(text, "Qwen/Qwen3.6-35B-A3B", kv_dtype="fp8", context=131072, max_num_batched_tokens=8192)
    assert found["KV cache tokens"].met == 567_978 or found["KV cache tokens"].verdict == "equal"


def test_memory_that_another_process_gave_back() -> None:
    text = LLAMA_8B.format(context=16000, kv="auto", available="21.38", tokens=175_104)
    text += "INFO total_gpu_memory (79.20GiB) x gpu_memory_utilization (0.90) = 71.28GiB\n"
    text += "INFO [gpu_model_runner.py:5051] Graph capturing finished in 7 secs, took -2.69 GiB\n"
    found = compare(text)
    assert "CUDA graphs" not in found
    left = found["memory left for the cache"]
    assert left.verdict == "differs" and left.reason is not None and "another process" in left.reason


def test_llama_cpp_two_slots_with_windows() -> None:
    """gpt-oss-20b: 24,576 cells of 12 layers and 768 of 12, twice, 2 KiB each; logits and hidden states of 512 tokens."""
    text = (
        "llm_load_print_meta: general.name     = Gpt-Oss-20B\n"
        "llama_context: n_seq_max     = 2\nllama_context: n_ctx         = 49152\nllama_context: n_ubatch      = 512\n"
        "llama_context: kv_unified    = false\nllama_kv_cache_iswa: creating non-SWA KV cache, size = 24576 cells\n"
        "llama_kv_cache: size = 1152.00 MiB ( 24576 cells,  12 layers,  2/2 seqs), K (f16):  576.00 MiB, V (f16):  576.00 MiB\n"
        "llama_kv_cache_iswa: creating     SWA KV cache, size = 768 cells\n"
        "llama_kv_cache: size =   36.00 MiB (   768 cells,  12 layers,  2/2 seqs), K (f16):   18.00 MiB, V (f16):   18.00 MiB\n"
        "sched_reserve:      CUDA0 compute buffer size =   398.38 MiB\n"
    )
    found = compare(text, "openai/gpt-oss-20b")
    assert found["KV cache"].predicted == 2 * 12 * (24576 + 768) * 2048
    assert found["KV cache"].verdict == found["compute buffer"].verdict == "equal"


def test_sglang_ratio_of_pools_and_a_draft_model() -> None:
    """gemma-3-1b: no pool of its own for windows; the draft model that is loaded after it does not shrink the pool."""
    text = (
        "server_args=ServerArgs(model_path='Qwen/Qwen2.5-1.5B-Instruct', mem_fraction_static=0.85, context_length=8192)\n"
        "Load weight begin. avail mem=44.01 GB\n"
        "Load weight end. type=Qwen2ForCausalLM, dtype=torch.bfloat16, avail mem=40.98 GB, mem usage=3.03 GB.\n"
        "max_total_num_tokens=1287482, chunked_prefill_size=8192, context_len=32768\n"
        "Load weight begin. avail mem=3.00 GB\nLoad weight end. avail mem=1.00 GB, mem usage=2.00 GB.\n"
    )
    item = compare(text, "Qwen/Qwen2.5-1.5B-Instruct")["KV cache tokens"]
    assert abs(item.difference or 1) < 0.001 and item.logged == 1_287_482


@pytest.mark.parametrize(("available", "zeros"), [("0.58", 1), ("50.0", 4)])
def test_a_device_too_small_for_hopper(available: str, zeros: int) -> None:
    """A log of Qwen2.5 32B AWQ on 24 GB: 18.14 GiB. Machete (Hopper's, >= 68 GiB in use) holds zero points as halves, not as codes.

    Each layer has 2 x 5120² + 2 x 5120 x 1024 + 3 x 5120 x 27648 entries; 64 layers, groups of 128, four bits a zero point.
    """
    text = (
        "Initializing a V1 LLM engine (v0.19.0) with config: model='Qwen/Qwen2.5-32B-Instruct-AWQ'\n"
        f"Model loading took 18.14 GiB memory and 8.8 seconds\nAvailable KV cache memory: {available} GiB\n"
    )
    points = 64 * (2 * 5120**2 + 2 * 5120 * 1024 + 3 * 5120 * 27648) // 128 // 2
    item = by_name(verify_log(text, fetch=OFFLINE).result)["weights"]
    assert abs(item.predicted - (18.14 * GIB + (zeros - 1) * points)) < 0.01 * GIB


def test_memory_left_by_what_the_log_prints_itself() -> None:
    """Another server starting on the device is in vLLM's estimate of CUDA graphs, by free memory, and so in what is left."""
    text = (
        "vllm serve Qwen/Qwen3-8B --gpu-memory-utilization 0.5 --max-model-len 16000\nvLLM API server version 0.24.0\n"
        "Model loading took 15.27 GiB memory and 9.1 seconds\nEstimated CUDA graph memory: {graphs:.2f} GiB total\n"
        "Available KV cache memory: {left:.2f} GiB\n"
    )
    plain = by_name(verify_log(text.format(graphs=0.5, left=20), fetch=OFFLINE, device="h100").result)
    left, graphs = (
        float(plain[name].predicted or 0) / GIB for name in ("memory left for the cache", "estimate of CUDA graphs")
    )
    item = by_name(verify_log(text.format(graphs=7, left=left + graphs - 7), fetch=OFFLINE, device="h100").result)[
        "memory left for the cache"
    ]
    assert item.reason == "follows from what the log itself prints of estimate of CUDA graphs"
    assert item.met is not None and abs(item.met - item.logged) < 0.05 * GIB
    other = verify_log(text.format(graphs=graphs, left=left + graphs - 7), fetch=OFFLINE, device="h100").result
    assert by_name(other)["memory left for the cache"].reason is None


def _start(model: str, context: int, weights: str, left: str, tokens: int) -> str:
    return (
        f"Initializing a V1 LLM engine (v0.19.0) with config: model='{model}', max_seq_len={context}\n"
        f"Model loading took {weights} GiB memory\nAvailable KV cache memory: {left} GiB\nGPU KV cache size: {tokens:,} tokens\n"
    )


@pytest.mark.parametrize("prefixes", [("", ""), ("vllm-a-1  | ", "vllm-b-1  | ")])
def test_the_start_of_the_model_that_is_asked_for(prefixes: tuple[str, str]) -> None:
    """Two servers in one file. Qwen3 8B: 36 layers x 2 x 8 heads x 128 x 2 B = 147,456 B a token; Llama 3.1 8B: 131,072 B."""
    starts = (
        _start("Qwen/Qwen3-8B", 16384, "15.27", "9.00", 9 * GIB // (16 * 147_456) * 16),
        _start("meta-llama/Llama-3.1-8B-Instruct", 8192, "14.99", "10.00", 10 * GIB // 131_072),
    )
    text = "".join(
        prefix + line
        for prefix, start in zip(prefixes, starts, strict=True)
        for line in start.splitlines(keepends=True)
    )
    for model, context in (("Qwen/Qwen3-8B", 16384), ("meta-llama/Llama-3.1-8B-Instruct", 8192), (None, 8192)):
        found = verify_log(text, model, fetch=OFFLINE).result
        assert found.agrees and found.flags["--ctx"] == str(context), model


@pytest.mark.parametrize(
    ("name", "model", "billions"),
    [
        ("lmsys/gpt-oss-20b-bf16", "openai/gpt-oss-20b", 20.915),  # the model's own files are MXFP4
        ("/models/Qwen3-8B/snapshot-123", "Qwen/Qwen3-8B", 8.191),
        ("/models/Qwen_Qwen3-8B-bf16.gguf", "Qwen/Qwen3-8B", 8.191),
    ],
)
def test_a_copy_in_16_bit_and_a_folder_above(name: str, model: str, billions: float) -> None:
    """Parameters as the models' cards have them, two bytes each."""
    found = verify_log(
        f"Initializing a V1 LLM engine (v0.19.0) with config: model='{name}'\nModel loading took 9 GiB memory\n",
        fetch=OFFLINE,
    )
    predicted = by_name(found.result)["weights"].predicted
    assert found.model == model and predicted is not None
    assert abs(predicted / (2e9 * billions) - 1) < 0.005


def test_a_spark_that_no_line_names() -> None:
    """Figures of two logs of vLLM 0.20 (dev) on 119.7 GiB at 0.72: steps are of 2048 tokens there, and fp8 pages of 16."""
    text = (
        "Initializing a V1 LLM engine (v0.1.dev1+g9759e3b06) with config: model='{model}', dtype=torch.bfloat16,"
        " max_seq_len=8192, tensor_parallel_size=1, kv_cache_dtype={kv}, enable_prefix_caching=True\n"
        "non-default args: {{'model': '{model}', 'gpu_memory_utilization': 0.72, 'language_model_only': True}}\n"
        "CUDA graph memory profiling is enabled\nModel loading took {weights} GiB memory\n"
        "Available KV cache memory: {left} GiB\nGPU KV cache size: {tokens} tokens\n"
        "Maximum concurrency for 8,192 tokens per request: {times}x\n"
    )
    for model, kv, weights, left, tokens, times in (
        ("google/gemma-4-26B-A4B-it", "auto", "47.47", "34.95", "384,185", "46.90"),
        ("google/gemma-4-31B-it", "fp8", "57.91", "22.61", "124,255", "15.17"),
    ):
        log = text.format(model=model, kv=kv, weights=weights, left=left, tokens=tokens, times=times)
        found = verify_log(log, fetch=OFFLINE).result
        item = by_name(found)["KV cache tokens"]
        assert item.verdict in ("equal", "near") and abs(item.difference or 0) < 0.001, model
        assert any("DGX Spark" in words for words in found.assumptions)
        assert not any(
            "DGX Spark" in words for words in verify_log(log, fetch=OFFLINE, device="h200").result.assumptions
        )


@pytest.mark.parametrize(
    ("device", "start", "left", "inside"),
    [  # figures of published starts on DGX Sparks, the second as if it were of another device
        (
            "gb10",
            "vLLM API server version 0.27.1\nvllm serve Qwen/Qwen3-0.6B --gpu-memory-utilization 0.6",
            "69.4",
            True,
        ),
        (
            "121.69GiB",
            "vLLM API server version 0.27.1\nvllm serve Qwen/Qwen3-0.6B --gpu-memory-utilization 0.6",
            "69.4",
            False,
        ),
        (
            "gb10",
            "vLLM API server version 0.13.0\n"
            "vllm serve Qwen/Qwen3-30B-A3B-FP8 --gpu-memory-utilization 0.3 --max-num-batched-tokens 2048",
            "4.04",
            True,
        ),
    ],
)
def test_memory_that_is_the_hosts(device: str, start: str, left: str, inside: bool) -> None:
    """vLLM takes the host's free memory there, which falls by 1 to 3 GiB more than what it allocates."""
    text = f"{start}\ntotal_gpu_memory (121.69GiB)\nAvailable KV cache memory: {left} GiB\n"
    item = by_name(verify_log(text, fetch=OFFLINE, device=device).result)["memory left for the cache"]
    assert item.low is not None and item.high is not None
    assert (item.low <= item.logged <= item.high) == inside


def test_fp8_blocks_on_a_device_without_fp8() -> None:
    """Qwen3 8B FP8: 36 layers of 2 x 4096² + 2 x 4096 x 1024 + 3 x 4096 x 12288 weights, two bytes for 128 of them on an A100."""
    weights = 36 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 12288)
    more = weights * 2 / 128 - weights * 4 / 128**2
    logged = (8.80 * GIB + more) / GIB  # 8.80 GiB: a published start on a device that has it
    text = f"vllm serve Qwen/Qwen3-8B-FP8\nvLLM API server version 0.19.0\nModel loading took {logged:.2f} GiB memory\n"
    found = {
        name: by_name(verify_log(text, fetch=OFFLINE, device=name).result)["weights"]
        for name in ("a100-sxm-80gb", "h100")
    }
    assert abs(found["a100-sxm-80gb"].difference or 1) < 0.003  # the allocator rounds up
    assert abs(float(found["h100"].predicted or 0) / GIB - 8.80) < 0.01
    assert "before Ada" not in (found["h100"].reason or "")  # it is known that it is none
    untold = by_name(verify_log(text, fetch=OFFLINE).result)["weights"]
    assert untold.reason is not None and "before Ada" in untold.reason
