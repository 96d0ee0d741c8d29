"""Starts of vLLM whose own prediction layers draft, and what a release keeps beside the weights: figures of public logs."""

from __future__ import annotations

import pytest
from example_architectures import deepseek_v32
from verified_logs import OFFLINE, compare

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.memory.beside import kept_beside
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.serving import Serving
from hfmem.server_logs.verify import verify_log

MIB = 2**20
DRAFTS = "speculative_config=SpeculativeConfig(method='mtp', model='{model}', num_spec_tokens={tokens}), "
START = (
    "(EngineCore pid=1) INFO [core.py:114] Initializing a V1 LLM engine (v{release}) with config: model='{model}', {drafts}"
    "dtype=torch.bfloat16, max_seq_len={context}, tensor_parallel_size={tp}, kv_cache_dtype={kv}, enable_prefix_caching={cached}\n"
)


def start(
    model: str, release: str, context: int, *, tp: int = 1, kv: str = "auto", cached: bool = True, ahead: int = 0
) -> str:
    drafts = DRAFTS.format(model=model, tokens=ahead) if ahead else ""
    return START.format(release=release, model=model, drafts=drafts, context=context, tp=tp, kv=kv, cached=cached)


def test_prediction_layers_of_qwen() -> None:
    """Qwen3.6 35B-A3B, vLLM 0.25.1 on a DGX Spark: three tokens ahead, 11 layers of attention, states in blocks of 1,072 tokens
    that are 1 + 3 to a request without the cache of prefixes; the log says that three layers are padding."""
    model = "Qwen/Qwen3.6-35B-A3B"
    lines = (
        "(EngineCore pid=1) INFO [gpu_worker.py:538] Available KV cache memory: 74.22 GiB\n"
        "(EngineCore pid=1) INFO [kv_cache_utils.py:2146] GPU KV cache size: 3,366,051 tokens\n"
        "(EngineCore pid=1) INFO [kv_cache_utils.py:2147] Maximum concurrency for 262,144 tokens per request: 12.84x\n"
    )
    found = compare(start(model, "0.25.1", 262144, cached=False, ahead=3) + lines)
    assert found["maximum concurrency"].verdict == "equal"
    assert abs(found["KV cache tokens"].difference or 1) < 0.001
    plain = compare(start(model, "0.25.1", 262144, cached=False) + lines)
    assert (plain["KV cache tokens"].difference or 0) > 0.1


def test_prediction_layers_with_the_cache_of_prefixes() -> None:
    """A log that was first compared when the rule stood: vLLM 0.20.2 on a DGX Spark, three tokens ahead, an fp8 cache in blocks of
    2,144 tokens, 2 + 3 states a request. That patch counts tokens as 0.21 does, 0.20.0 does not."""
    lines = (
        "(EngineCore pid=1) INFO [gpu_worker.py:440] Available KV cache memory: 64.69 GiB\n"
        "(EngineCore pid=1) INFO [kv_cache_utils.py:1708] GPU KV cache size: 5,463,232 tokens\n"
        "(EngineCore pid=1) INFO [kv_cache_utils.py:1709] Maximum concurrency for 262,144 tokens per request: 20.84x\n"
    )
    found = compare(start("Qwen/Qwen3.6-35B-A3B", "0.20.2", 262144, kv="fp8", ahead=3) + lines)
    assert found["KV cache tokens"].predicted == 5_463_232
    assert found["maximum concurrency"].verdict == "equal"
    earlier = compare(start("Qwen/Qwen3.6-35B-A3B", "0.20.0", 262144, kv="fp8", ahead=3) + lines)
    assert earlier["KV cache tokens"].predicted == 719 * 2144


def test_prediction_layers_of_deepseek_v4_keep_a_window_alone() -> None:
    """DeepSeek V4 Flash, vLLM 0.25 at TP 2 on a device 12.0, two tokens ahead: 1,993,100 tokens and 75.64 GiB."""
    model = "deepseek-ai/DeepSeek-V4-Flash"
    text = start(model, "0.25.0", 1048576, tp=2, kv="fp8", ahead=2) + (
        "(Worker_TP0 pid=1) INFO [gpu_model_runner.py:5306] Model loading took 75.64 GiB memory and 20.2 seconds\n"
        "(Worker_TP0 pid=1) INFO [gpu_worker.py:538] Available KV cache memory: 10.29 GiB\n"
        "(EngineCore pid=1) INFO [kv_cache_utils.py:2146] GPU KV cache size: 1,993,100 tokens\n"
    )
    found = compare(text, max_num_batched_tokens=4096)
    assert abs(found["weights"].difference or 1) < 0.01
    assert abs(found["KV cache tokens"].difference or 1) < 0.005


def test_what_another_model_drafts_is_not_computed() -> None:
    own, other = "method='mtp', model='Qwen/Qwen3-8B'", "method='eagle3', model='a/b'"
    text = start("Qwen/Qwen3-8B", "0.25.0", 8192, ahead=2).replace(own, other)
    found = verify_log(text + "INFO Model loading took 17.00 GiB memory and 3 seconds\n", fetch=OFFLINE).result
    assert any("not in the prediction" in words for words in found.assumptions)


@pytest.mark.parametrize(
    "release, model, lines, weights",
    [
        # one buffer of 8192 × 4096 × 2 bytes for each of three inner layers, and rotations of four times the positions
        (
            "0.19.0",
            "Qwen/Qwen3-VL-8B-Instruct",
            "Chunked prefill is enabled with max_num_batched_tokens=8192.",
            "16.78",
        ),
        # the workspace of 128 MiB that a module makes where it is imported
        ("0.19.0", "deepseek-ai/DeepSeek-V2-Lite-Chat", "", "29.43"),
    ],
)
def test_weights_and_what_is_beside_them(release: str, model: str, lines: str, weights: str) -> None:
    text = f"{start(model, release, 8192)}INFO {lines}\nINFO Model loading took {weights} GiB memory and 3 seconds\n"
    assert compare(text)["weights"].verdict == "equal"


@pytest.mark.parametrize(
    "model, usage",
    [("Qwen/Qwen2.5-3B-Instruct", "5.88"), ("Qwen/Qwen2.5-1.5B-Instruct", "3.03"), ("Qwen/Qwen3-32B", "61.07")],
)
def test_sglang_s_fall_of_free_memory(model: str, usage: str) -> None:
    """Segments that PyTorch asked for, and tables of rotations in fp32."""
    text = (
        f"[2026-02-26 16:31:00] server_args=ServerArgs(model_path='{model}', tp_size=1)\n"
        f"[2026-02-26 16:41:05] Load weight end. elapsed=6.0 s, type=Qwen, avail mem=9.00 GB, mem usage={usage} GB.\n"
    )
    assert abs(compare(text)["weights"].difference or 1) < 0.002


def test_a_quantized_projection_of_latents_is_kept_twice() -> None:
    """`process_weights_after_loading`: W_UK and W_UV in 16 bit beside codes; nothing beside weights that are multiplied as stored.
    Sparse latents have a row of 2,048 chosen tokens for each token of a step."""
    arch, serving = deepseek_v32(), Serving(8192, tp=4, max_num_batched_tokens=8192)
    chosen = 8192 * 2048 * 4

    def beside(dtype: str, minor: int) -> int:
        group = TensorGroup("model.layers.{}.self_attn.kv_b_proj.weight", dtype, (32768, 512), ((range(61),),))
        return kept_beside(arch, [group], serving, Release(minor))

    assert beside("BF16", 26) == chosen
    assert beside("F8_E4M3", 26) == chosen + 61 * 32768 * 512 * 2 // 4
    assert beside("BF16", 24) == chosen + 128 * MIB


def test_states_of_a_release_before_prefixes_were_cached() -> None:
    """vLLM 0.23 keeps one state a request unless the cache of prefixes is asked for, whether the command is whole or not."""
    lines = "INFO Available KV cache memory: 10.21 GiB\nINFO GPU KV cache size: 235,706 tokens\n"
    head = "INFO [core.py:113] Initializing a V1 LLM engine (v0.23.0) ...\nINFO Using max model len 4096\n"
    cut = compare(head + lines, "Qwen/Qwen3.5-27B")["KV cache tokens"].predicted
    told = compare(head + lines, "Qwen/Qwen3.5-27B", prefix_caching=False)["KV cache tokens"].predicted
    asked = compare(head + lines, "Qwen/Qwen3.5-27B", prefix_caching=True)["KV cache tokens"].predicted
    assert cut == told != asked
