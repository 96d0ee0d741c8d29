"""vLLM's lines on ROCm, with shared-out contexts, with a type of states, and two assumptions at once."""

from __future__ import annotations

import pytest
from verified_logs import compare

from hfmem.memory.serving import Serving
from hfmem.server_logs.parse import parse_log
from hfmem.server_logs.reasons import alternatives
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
    assert all(reasons[at].startswith("fits if the cache is ") for at in pairs)
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
