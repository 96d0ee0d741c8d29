"""Runtime estimates that a log's release or settings change, and the rotary table that counts as weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from example_architectures import build, one

from hfmem.hub import FetchOptions
from hfmem.memory.runtime import estimate_runtime, rotary_table_bytes
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.layers import FullAttention
from hfmem.reading import Model, read_model
from hfmem.units import GIB, MIB


def catalogue(name: str) -> Model:
    return read_model(name, fetch=FetchOptions(offline=True, no_cache=True))


def llama_like() -> Architecture:
    arch = build("llama", one(FullAttention(32, 8, 128, 128), 32), hidden_size=4096, vocab_size=128_256)
    return replace(arch, intermediate_size=14_336, max_position_embeddings=131_072)


@pytest.mark.parametrize(
    ("name", "tp", "logged"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 14.9889),
        ("Qwen/Qwen3-0.6B", 1, 1.12),
        ("Qwen/Qwen3-32B", 1, 61.03),
        ("Qwen/Qwen3-32B", 2, 30.59),
        ("Qwen/Qwen2.5-7B", 1, 14.2717),
    ],
)
def test_loaded_weights(name: str, tp: int, logged: float) -> None:
    """ "Model loading took … GiB" of vLLM 0.8 to 0.11: the rank's tensors and one rotary table."""
    read = catalogue(name)
    ranks = rank_weights(read.architecture, read.parameters.groups, Serving(4096, tp=tp))
    loaded = ranks.bytes + rotary_table_bytes(read.facts.config, read.architecture)
    assert abs(loaded - logged * GIB) < 0.01 * logged * GIB


def test_rotary_table() -> None:
    """131,072 positions × 128 × 2 B; half of it where half of a head is rotated; none without a rotary embedding."""
    arch = llama_like()
    assert rotary_table_bytes({"rope_theta": 500000.0}, arch) == 32 * MIB
    assert rotary_table_bytes({"rope_theta": 1e4, "partial_rotary_factor": 0.5}, arch) == 16 * MIB
    assert rotary_table_bytes({"text_config": {"rope_theta": 1e4}}, arch) == 32 * MIB
    assert rotary_table_bytes({"vocab_size": 128_256}, arch) == 0


@pytest.mark.parametrize(("name", "logged"), [("Qwen/Qwen3-0.6B", 5.56), ("Qwen/Qwen3-32B", 5.64)])
def test_sampling_while_logits_were_sorted(name: str, logged: float) -> None:
    """vLLM 0.11 on H100s, 1024 sequences and 8,192 batched tokens."""
    serving = Serving(16_000, max_num_batched_tokens=8192)
    arch = catalogue(name).architecture
    old = estimate_runtime(arch, serving, max_num_seqs=1024, vllm_minor=11)["activations_bytes"]
    new = estimate_runtime(arch, serving, max_num_seqs=1024)["activations_bytes"]
    assert abs(old.bytes - logged * GIB) < 0.03 * logged * GIB
    assert new.bytes < old.bytes


@pytest.mark.parametrize(("layers", "logged"), [(36, 0.22), (40, 0.64), (28, 1.44)])
def test_logged_graphs(layers: int, logged: float) -> None:
    arch = build("llama", one(FullAttention(32, 8, 128, 128), layers), hidden_size=4096, vocab_size=128_256)
    item = estimate_runtime(arch, Serving(4096))["cuda_graph_bytes"]
    assert item.low <= logged * GIB <= item.high


def test_micro_batch() -> None:
    """llama.cpp on Qwen3 235B with `-ub 4096`: 2.443 GiB = 8 × the 0.305 of 512."""
    arch = catalogue("Qwen/Qwen3-235B-A22B").architecture
    serving = Serving(32_768, engine="llama.cpp")
    for ubatch, logged in ((512, 0.305), (4096, 2.443)):
        item = estimate_runtime(arch, serving, ubatch=ubatch)["activations_bytes"]
        assert item.low <= logged * GIB <= item.high


def test_a_vision_encoder_widens_the_band() -> None:
    plain = catalogue("Qwen/Qwen3-4B").architecture
    seeing = catalogue("Qwen/Qwen3-VL-4B-Instruct").architecture
    bands = [estimate_runtime(arch, Serving(8192))["activations_bytes"] for arch in (plain, seeing)]
    assert bands[1].high / bands[1].bytes > bands[0].high / bands[0].bytes
    assert "vision encoder" in bands[1].source and "vision encoder" not in bands[0].source
