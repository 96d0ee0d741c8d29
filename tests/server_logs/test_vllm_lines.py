"""vLLM's lines on ROCm, with shared-out contexts, with a type of states, and two assumptions at once."""

from __future__ import annotations

from fractions import Fraction

import pytest
from verified_logs import OFFLINE, compare

from hfmem.memory.serving import Serving
from hfmem.server_logs.parse import parse_log
from hfmem.server_logs.reasons import alternatives
from hfmem.server_logs.verify import verify_log
from hfmem.units import GIB, MIB

_START = (
    "INFO Initializing a V1 LLM engine (v0.{minor}.0) with config: "
    "model='Qwen/Qwen3-8B', dtype=torch.bfloat16, max_seq_len=16384, "
)


def test_weights_on_rocm_by_free_memory() -> None:
    """Until 0.20 vLLM took there what the device had less: segments, and 64 MiB of HIP's own."""

    def weights(minor: int, more: str) -> float:
        text = _START.format(minor=minor) + f"\n{more}INFO Model loading took 15.2683 GiB memory\n"
        return compare(text)["weights"].predicted or 0

    rocm = "INFO [rocm.py:100] ROCm\n"
    assert 64 * MIB <= weights(19, rocm) - weights(19, "") < 96 * MIB
    assert weights(21, rocm) == weights(21, "")


def test_a_context_shared_out_by_decode_ranks() -> None:
    """Each of two ranks of decode holds half of a request's tokens, so that the pool holds twice as many."""

    def tokens(tp: int, dcp: int) -> float:
        text = (
            f"{_START.format(minor=19)}tensor_parallel_size={tp}, decode_context_parallel_size={dcp}\n"
            "INFO Available KV cache memory: 22.46 GiB\nINFO GPU KV cache size: 1,308,528 tokens\n"
        )
        return compare(text)["KV cache tokens"].predicted or 0

    assert tokens(16, 2) == 2 * tokens(8, 1)


@pytest.mark.parametrize(
    ("line", "dtype"),
    [
        ("vllm serve org/Hybrid --mamba-ssm-cache-dtype float32", "F32"),
        ("non-default args: {'model': 'org/Hybrid', 'mamba_ssm_cache_dtype': 'bfloat16'}", "BF16"),
        ("INFO [config.py:1] Updating mamba_ssm_cache_dtype to 'float32' for NemotronH model", "F32"),
        ("vllm serve org/Hybrid", None),
    ],
)
def test_the_type_of_states(line: str, dtype: str | None) -> None:
    text = f"{_START.format(minor=19)}\n{line}\nINFO GPU KV cache size: 9 tokens\n"
    assert parse_log(text).settings.state_dtype == dtype


def test_a_format_and_a_schedule_together_come_last() -> None:
    log = parse_log(_START.format(minor=19) + "\nINFO GPU KV cache size: 9 tokens\n")
    reasons = [reason for reason, _ in alternatives(log, Serving(context=16384, engine="vllm"))]
    pairs = [at for at, reason in enumerate(reasons) if "; " in reason]
    assert pairs == list(range(pairs[0], len(reasons))) and len(set(reasons)) == len(reasons)
    assert all(reasons[at].startswith(("fits if the cache is ", "fits with the windows ")) for at in pairs)
    assert not any("--tp" in reasons[at] or "--page-size" in reasons[at] for at in pairs)


def test_the_first_engine_tells_blocks_that_hold_less_than_one_request() -> None:
    """Llama 3.1 8B on an L4 under V0: 2356 blocks of 16 tokens in 4.60 GiB, 0.29 of a request; its profile is another's."""
    text = (
        "INFO 03-25 21:32:47 model_runner.py:1116] Loading model weights took 14.9888 GB\n"
        "INFO worker.py:266] model weights take 14.99GiB; non_torch_memory takes 0.05GiB; PyTorch activation peak memory "
        "takes 0.22GiB; the rest of the memory reserved for KV Cache is 4.60GiB.\n"
        "INFO executor_base.py:108] # CUDA blocks: 2356, # CPU blocks: 2048\n"
        "INFO executor_base.py:113] Maximum concurrency for 131072 tokens per request: 0.29x\n"
        "ERROR The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV cache (37696)."
    )
    found = compare(text, "meta-llama/Llama-3.1-8B")
    for name in ("weights", "GPU blocks", "KV cache tokens", "maximum concurrency"):
        assert found[name].verdict == "equal", name
    assert not {"peak activation", "non-torch memory", "memory left for the cache"} & set(found)


def test_the_first_engines_profile_of_06_on_one_line() -> None:
    """Llama 3.1 70B: 80 layers of 8 × 128 keys and values of 2 bytes are 327,680 bytes a token; 16 of them a block."""
    text = (
        'vllm serve -tp 1 org/Llama-70B --gpu_memory_utilization=0.98 --quantization="fp8" --max-model-len 32768\n'
        "INFO 12-25 14:00:28 worker.py:265] Memory profiling results: duration=18.41 seconds, total_gpu_memory=191.98GiB, "
        "initial_memory_usage=71.40GiB, peak_torch_memory=86.79GiB, kv_cache_size=95.28GiB, gpu_memory_utilization=0.98.\n"
        "INFO 12-25 14:00:28 gpu_executor.py:76] # GPU blocks: 19513, # CPU blocks: 819\n"
    )
    log = parse_log(text)
    assert log.settings.model == "org/Llama-70B" and log.settings.utilization == Fraction(98, 100)
    pool, device = log.first("available_bytes"), log.first("device_bytes")
    assert pool is not None and device is not None
    assert pool.value // (16 * 80 * 2 * 8 * 128 * 2) == 19513 and device.value == round(191.98 * GIB)


def test_the_first_engine_names_itself_from_08() -> None:
    text = "INFO Initializing a V0 LLM engine (v0.10.0) with config: model='org/Small', max_seq_len=32768, "
    log = parse_log(f"{text}\nINFO # cuda blocks: 190100, # CPU blocks: 0\n")
    assert (log.settings.model, log.settings.context, log.version) == ("org/Small", 32768, "0.10.0")


def test_of_two_lines_that_say_the_same_the_longer_number_counts() -> None:
    text = "INFO Model loading took 0.5151 GiB\nINFO model weights take 0.52GiB; non_torch_memory takes 0.08GiB;\n"
    weights = parse_log(text).largest("weights_bytes")
    assert weights is not None and weights.value == round(0.5151 * GIB)


def test_weights_without_the_encoder_are_told() -> None:
    """What is missing is the tower of Qwen2.5-VL-3B, 668,684,288 parameters by hand, which the paste does not say was left out."""
    model = "Qwen/Qwen2.5-VL-3B-Instruct"
    block = 3 * 1280 * 1281 + 1280 * 1281 + 3 * 1280 * 3420 + 2 * 3420 + 1280 + 2 * 1280
    merger = 1280 + 5120 * 5121 + 2048 * 5121
    tower = 3 * 2 * 14 * 14 * 1280 + 32 * block + merger
    whole = compare("vllm: Model loading took 7.16 GiB", model)["weights"]
    assert whole.reason is None and whole.predicted is not None
    less = compare(f"vllm: Model loading took {(whole.predicted - tower * 2) / GIB:.2f} GiB", model)["weights"]
    assert less.reason == "fits without the encoder: --language-model-only"


_FILES = "INFO [weight_utils.py:895] Filesystem type for checkpoints: EXT4. Checkpoint size: {size} GiB. Available RAM: 88 GiB.\n"


def test_the_files_bytes() -> None:
    """Qwen2.5-7B, whose files hold 15,231,233,024 bytes of tensors; another copy's size is told as that."""
    found = compare(_START.format(minor=24) + "\n" + _FILES.format(size="14.19"), "Qwen/Qwen2.5-7B-Instruct")["files"]
    assert (found.verdict, found.predicted) == ("equal", 15_231_233_024)
    other = compare(_START.format(minor=24) + "\n" + _FILES.format(size="8.19"), "Qwen/Qwen2.5-7B-Instruct")["files"]
    assert other.verdict == "differs" and "another copy" in (other.reason or "")


def test_a_pool_of_blocks_that_the_command_asks_for() -> None:
    """`--num-gpu-blocks-override` leaves memory unused, or asks for more than there is: 129 blocks of 16 tokens hold 2064."""
    text = (
        _START.format(minor=19)
        + "\nINFO Overriding num_gpu_blocks=9000 with num_gpu_blocks_override=129\n"
        + "INFO Available KV cache memory: 22.46 GiB\nINFO GPU KV cache size: 2,064 tokens\n"
        + "INFO Maximum concurrency for 16,384 tokens per request: 0.13x\n"
    )
    found = compare(text)
    assert found["KV cache tokens"].verdict == "equal"
    assert found["maximum concurrency"].verdict == "equal"
    asked = (
        _START.format(minor=19)
        + "\nvllm serve Qwen/Qwen3-8B --num-gpu-blocks-override 129\nINFO Available KV cache memory: 22.46 GiB\n"
    )
    assert compare(asked + "INFO GPU KV cache size: 2,064 tokens\n")["KV cache tokens"].verdict == "equal"


def test_windows_kept_whole() -> None:
    """Without the manager of several kinds of cache all 24 layers of gpt-oss-20b keep every token: 24 of 2 x 8 x 64 in bf16."""
    lines = (
        "INFO Initializing a V1 LLM engine (v0.11.0) with config: model='openai/gpt-oss-20b', max_seq_len=16384\n{more}"
        "INFO Available KV cache memory: 24.00 GiB\nINFO GPU KV cache size: 524,288 tokens\n"
        "INFO Maximum concurrency for 16,384 tokens per request: 32.00x\n"
    )
    assert 24 * GIB // (24 * 2 * 8 * 64 * 2) == 524_288
    for more in (
        "vllm serve openai/gpt-oss-20b --disable-hybrid-kv-cache-manager\n",
        "WARNING Turning off hybrid kv cache manager because `--kv-transfer-config` is set.\n",
    ):
        assert compare(lines.format(more=more))["maximum concurrency"].verdict == "equal"
    assert compare(lines.format(more=""))["maximum concurrency"].verdict == "differs"
    one = parse_log(lines.format(more="")).settings
    assert not one.hybrid_off


def test_what_is_no_size() -> None:
    """Numbers with two points, of logs broken in the middle."""
    for memory in ("137.1/3.5.8", "1..2/80.0", "./."):
        parse_log(f"{_START.format(minor=19)}\nINFO Free memory on device ({memory} GiB) on startup.\n")


@pytest.mark.parametrize(
    "told", ["vllm serve Qwen/Qwen3-8B --cpu-offload-gb 6", "non-default args: {'cpu_offload_gb': 6.0}"]
)
def test_weights_left_on_the_host(told: str) -> None:
    """Qwen3-8B in bf16: 6 GiB end in the 17th layer, with its gate and up projections; the rest is loaded."""
    qkv, out, gate_up, down = 6144 * 4096 * 2, 4096 * 4096 * 2, 2 * 12288 * 4096 * 2, 12288 * 4096 * 2
    layer = qkv + out + gate_up + down + (2 * 4096 + 2 * 128) * 2
    moved = 16 * layer + qkv + out + 2 * 128 * 2
    assert moved < 6 * GIB < moved + gate_up
    line = _START.format(minor=33) + "\nINFO Model loading took 11.10 GiB memory\n"
    whole, less = compare(line)["weights"].predicted, compare(f"{told}\n{line}")["weights"].predicted
    assert whole is not None and less is not None
    assert whole - less == pytest.approx(moved + gate_up, rel=0.001)  # what the allocator adds is less, too


def test_the_flags_of_a_pool_in_blocks() -> None:
    text = (
        f"{_START.format(minor=33)}\nvllm serve Qwen/Qwen3-8B --num-gpu-blocks-override 1200 --cpu-offload-gb 2.5\n"
        "INFO Available KV cache memory: 22.46 GiB\nINFO GPU KV cache size: 19,200 tokens\n"
    )
    flags = verify_log(text, None, given={}, fetch=OFFLINE).result.flags
    assert (flags["--num-gpu-blocks-override"], flags["--cpu-offload-gb"]) == ("1200", "2.5")
    assert "--kv-memory" not in flags


@pytest.mark.parametrize(("version", "explained"), [("0.19.0", True), ("0.21.0", False)])
def test_what_the_allocator_keeps_on_rocm(version: str, explained: bool) -> None:
    """0.8 GiB beyond the weights of Llama 3.1 8B (14.99 GiB), by free memory until 0.20; PyTorch's own count has no such rest."""
    found = compare(
        f"vLLM API server version {version}\n[rocm.py:100] ROCm\nModel loading took 15.79 GiB memory\n",
        "meta-llama/Llama-3.1-8B",
    )
    assert (found["weights"].reason is not None and "ROCm" in found["weights"].reason) == explained
