"""What the context takes by the number of ranks, the release and the engine: each choice by itself."""

from __future__ import annotations

import pytest
from example_architectures import llama_3_8b

from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.runtime import estimate_runtime
from hfmem.memory.serving import LlamaCpp, Serving


@pytest.mark.parametrize(
    ("tp", "pp", "minor", "with_nccl"),
    [(1, 1, 33, False), (2, 1, 33, True), (1, 2, 33, True), (2, 1, 11, True), (2, 1, 10, False), (2, 1, 8, False)],
)
def test_nccl_is_in_the_context_once_the_snapshot_comes_after_it(tp: int, pp: int, minor: int, with_nccl: bool) -> None:
    """vLLM until 0.10 looked at the device before NCCL was set up: what that takes grew inside the share."""
    found = estimate_runtime(llama_3_8b(), Serving(4096, tp=tp, pp=pp), release=Release(minor))["context_bytes"]
    alone = estimate_runtime(llama_3_8b(), Serving(4096))["context_bytes"]
    assert ("NCCL" in found.source) is with_nccl
    assert (found.bytes > alone.bytes) is with_nccl


def test_the_compute_buffer_is_less_sure_where_weights_are_copied() -> None:
    def high(**told: int) -> float:
        serving = Serving(4096, engine="llama.cpp", llama_cpp=LlamaCpp(**told))
        item = estimate_runtime(llama_3_8b(), serving)["activations_bytes"]
        return round(item.high / item.bytes, 2)

    assert (high(), high(gpu_layers=10), high(cpu_moe_layers=1)) == (1.5, 3.5, 3.5)
    split = estimate_runtime(llama_3_8b(), Serving(4096, engine="llama.cpp", pp=2))["activations_bytes"]
    assert round(split.high / split.bytes, 2) == 2.0


def test_transformers_runs_all_prompts_at_once() -> None:
    one, four, two_of_four = (
        estimate_runtime(llama_3_8b(), Serving(4096, seqs, engine="transformers", dp=dp))["activations_bytes"].bytes
        for seqs, dp in ((1, 1), (4, 1), (4, 2))
    )
    assert (four, two_of_four) == (4 * one, 2 * one)
