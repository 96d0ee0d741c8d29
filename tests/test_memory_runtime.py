"""Estimates against numbers that real servers logged: inside the band they state."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from example_architectures import build, deepseek_v3, llama_3_8b, one

from hfmem.memory.runtime import default_max_num_seqs, estimate_runtime, flat_overhead
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import FullAttention
from hfmem.units import GIB, MIB


def qwen3_4b() -> Architecture:
    layers = one(FullAttention(32, 8, 128, 128), 36)
    arch = build("qwen3", layers, heads=32, kv_heads=8, head_dim=128, hidden_size=2560, vocab_size=151_936)
    return replace(arch, intermediate_size=9728)


def test_a_logged_activation_peak() -> None:
    # vLLM of September 2026 on a 48 GB card: "activation 0.57 GiB", CUDA graphs 0.22 GiB
    items = estimate_runtime(
        qwen3_4b(), Serving(2048, max_num_batched_tokens=2048), device_memory_bytes=48 * GIB, device="NVIDIA L40"
    )
    activation, graphs = items["activations_bytes"], items["cuda_graph_bytes"]
    assert activation.low <= 0.57 * GIB <= activation.high
    assert abs(activation.bytes - 0.57 * GIB) < 0.05 * GIB
    assert graphs.low <= 0.22 * GIB <= graphs.high


@pytest.mark.parametrize(("tp", "logged"), [(1, 0.13), (1, 0.14), (2, 0.54), (2, 0.55)])
def test_logged_memory_outside_pytorch(tp: int, logged: float) -> None:
    item = estimate_runtime(llama_3_8b(), Serving(16000, tp=tp))["engine_bytes"]
    assert item.low <= logged * GIB <= item.high


def test_a_logged_compute_buffer() -> None:
    # llama.cpp: "CUDA0 compute buffer size = 300.75 MiB", Qwen2.5-3B
    arch = build("qwen2", one(FullAttention(16, 2, 128, 128), 36), hidden_size=2048, vocab_size=151_936)
    assert estimate_runtime(arch, Serving(4096, engine="llama.cpp"))["activations_bytes"].bytes == 300.75 * MIB


def test_items_and_bands() -> None:
    for engine in ("vllm", "sglang", "transformers", "llama.cpp"):
        items = estimate_runtime(deepseek_v3(), Serving(4096, engine=engine))
        assert items
        for item in items.values():
            assert 0 < item.low <= item.bytes <= item.high
            assert item.grade == "estimated"
            assert item.source
    assert estimate_runtime(deepseek_v3(), Serving(4096, engine="ideal")) == {}


def test_more_tokens_and_sequences_need_no_less() -> None:
    def activation(tokens: int, seqs: int) -> int:
        serving = Serving(4096, max_num_batched_tokens=tokens)
        return estimate_runtime(qwen3_4b(), serving, max_num_seqs=seqs)["activations_bytes"].bytes

    assert activation(2048, 8) <= activation(8192, 8) <= activation(16384, 8)
    assert activation(8192, 8) <= activation(8192, 1024)


def test_default_sequences() -> None:
    assert default_max_num_seqs(80 * GIB, "NVIDIA H100") == 1024
    assert default_max_num_seqs(80 * GIB, "NVIDIA A100-SXM4-80GB") == 256
    assert default_max_num_seqs(24 * GIB) == 256


def test_flat_rule_of_the_articles() -> None:
    # LLaMA-2-13B: 26 GB of weights, 66 GB of cache, 10 % of both
    assert flat_overhead(26 * 10**9, 66 * 10**9, Fraction(1, 10)).bytes == 9_200_000_000
    assert flat_overhead(1, 0, Fraction(1, 10)).bytes == 1
