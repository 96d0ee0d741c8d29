"""Experts in MXFP4 as each engine's kernel holds them: by hand from gpt-oss's sizes, and against what servers logged.

gpt-oss-20b: 24 layers of 32 experts, hidden and intermediate size 2880; 120b: 36 of 128. Stored for an expert: 3 × 2880 × 2880
values of half a byte, a byte for 32 of them, 3 × 2880 biases of two bytes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hfmem.api.assembly import runtime_estimates
from hfmem.api.reading import Model, read_model
from hfmem.hub import FetchOptions
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.rotary import rotary_table_bytes
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.plan.devices import find_device
from hfmem.units import GIB

OFFLINE = FetchOptions(offline=True, no_cache=True)
#: published: the sum of the files' tensors
STORED = 13_761_264_768
EXPERTS, SIDE = 24 * 32, 2880


@pytest.fixture(scope="module")
def small() -> Model:
    return read_model("openai/gpt-oss-20b", fetch=OFFLINE)


@pytest.fixture(scope="module")
def large(small: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """gpt-oss-120b, whose published config differs from the 20b's in layers and experts."""
    folder: Path = tmp_path_factory.mktemp("gpt-oss-120b")
    kinds = ["sliding_attention", "full_attention"] * 18
    told = {**small.facts.config, "num_hidden_layers": 36, "num_local_experts": 128, "layer_types": kinds}
    (folder / "config.json").write_text(json.dumps(told))
    return read_model(str(folder), fetch=OFFLINE)


def rank_bytes(read: Model, serving: Serving, minor: int = 33) -> int:
    return rank_weights(read.architecture, read.parameters.groups, serving, Release(minor)).bytes


def expert(up: tuple[int, int], down: tuple[int, int], scales: int, bias: int) -> int:
    """One expert's bytes: values of gate and up and of down `(rows, columns)`, bytes of scales, bytes a bias."""
    return (up[0] * up[1] + down[0] * down[1]) // 2 + scales + bias * (up[0] + down[0])


PLAIN = expert((2 * SIDE, SIDE), (SIDE, SIDE), 3 * SIDE * SIDE // 32, 0) + 2 * 3 * SIDE


@pytest.mark.parametrize(
    ("engine", "capability", "minor", "one"),
    [
        # Marlin: 2880 up to 2944 inside, to 3072 outside
        ("vllm", 80, 33, expert((5888, 3072), (3072, 2944), 3 * 2944 * 3072 // 32, 0) + 2 * (5888 + 3072)),
        ("vllm", 121, 33, expert((5888, 3072), (3072, 2944), 3 * 2944 * 3072 // 32, 0) + 2 * (5888 + 3072)),
        ("vllm", 90, 10, expert((5888, 3072), (3072, 2944), 3 * 2944 * 3072 // 32, 0) + 2 * (5888 + 3072)),
        # Hopper's Triton kernels: 90 columns of scales are 92, 5760 and 2880 rows 5888 and 3072; the file's are freed
        ("vllm", 90, 33, expert((5760, 2880), (2880, 2880), (5888 + 3072) * 92, 4)),
        # … not padded to 4 in 0.25, and not freed in 0.16
        ("vllm", 90, 25, expert((5760, 2880), (2880, 2880), (5888 + 3072) * 90, 4)),
        ("vllm", 90, 16, expert((5760, 2880), (2880, 2880), (5888 + 3072 + 5760 + 2880) * 90, 4)),
        # … and in 0.19 rows of 1440 bytes of values become 1472
        ("vllm", 90, 19, expert((5760, 2944), (2880, 2944), (5888 + 3072 + 5760 + 2880) * 90, 4)),
        # TensorRT-LLM's: 2944 inside since 0.28, 3072 before
        ("vllm", 100, 33, expert((5888, 3072), (3072, 2944), 3 * 2944 * 3072 // 32, 4)),
        ("vllm", 103, 27, expert((6144, 3072), (3072, 3072), 3 * 3072 * 3072 // 32, 4)),
        ("sglang", 90, 33, expert((5760, 2880), (2880, 2880), (5888 + 3072) * 92 + (5760 + 2880) * 90, 4)),
        ("sglang", 80, 33, expert((5760, 2880), (2880, 2880), 3 * SIDE * SIDE // 32, 4)),
        ("transformers", 90, 33, PLAIN),
    ],
)
def test_experts_of_the_20b(small: Model, engine: str, capability: int, minor: int, one: int) -> None:
    serving = Serving(4096, engine=engine, compute_capability=capability)
    assert rank_bytes(small, serving, minor) == STORED + EXPERTS * (one - PLAIN)


def test_experts_cut_between_ranks_or_dealt_out(small: Model) -> None:
    """Half of 2880 is 1440, which Hopper's kernel has as 1472: 46 columns of scales, 48 ordered; dealt out, an expert is whole."""
    cut = expert((2944, 2880), (2880, 1472), 3072 * 92 + 3072 * 48, 4)
    whole = expert((5760, 2880), (2880, 2880), (5888 + 3072) * 92, 4)
    split, dealt = (rank_bytes(small, Serving(4096, tp=2, ep=ep)) for ep in (False, True))
    assert dealt - split == EXPERTS // 2 * whole - EXPERTS * cut


@pytest.mark.parametrize(
    ("size", "tp", "capability", "minor", "logged"),
    [
        ("small", 1, 121, 13, 13.7193),
        ("small", 1, 90, 19, 13.64),
        ("small", 2, 90, 19, 7.01),
        ("large", 2, 90, 15, 32.98),
        ("large", 4, 80, 10, 17.2217),
    ],
)
def test_what_servers_logged(
    request: pytest.FixtureRequest, size: str, tp: int, capability: int, minor: int, logged: float
) -> None:
    """The line of loaded weights, to 0.25 %: what PyTorch's blocks take while the kernel's copies are made is not followed."""
    read: Model = request.getfixturevalue(size)
    serving = Serving(4096, tp=tp, compute_capability=capability)
    ranks = rank_weights(read.architecture, read.parameters.groups, serving, Release(minor))
    found = ranks.bytes + ranks.rounding.block_bytes + rotary_table_bytes(read.architecture)
    assert abs(found / GIB - logged) <= 0.0025 * logged


@pytest.mark.parametrize("tp", [1, 2])
def test_no_workspaces_stay_beside_the_sampler(small: Model, tp: int) -> None:
    """An H100's log of vLLM 0.19 at either size: a peak of 2.87 GiB. 1024 sequences × 201088 logits × 14 bytes, 132 rows of masks,
    hidden states of 8192 tokens and twice of 1024, 32 MiB of cuBLAS."""
    serving = Serving(8192, tp=tp, max_num_batched_tokens=8192, max_num_seqs=1024)
    ranks = rank_weights(small.architecture, small.parameters.groups, serving, Release(19))
    found = runtime_estimates(small, serving, ranks, find_device("h100").device, Release(19))["activations_bytes"].bytes
    assert found == 1024 * 201088 * 14 + 132 * 201088 * 4 + (8192 + 2 * 1024) * 2880 * 2 + 32 * 1024**2
    assert abs(found / GIB - 2.87) < 0.005


def test_graphs_of_larger_batches(small: Model) -> None:
    """vLLM captures gpt-oss up to 1024 tokens (`GptOssForCausalLMConfig`): 83 sizes in pieces, and 83 whole with 1024
    sequences; with 16, five."""
    serving = Serving(8192, max_num_batched_tokens=8192, max_num_seqs=1024)
    ranks = rank_weights(small.architecture, small.parameters.groups, serving)
    found = runtime_estimates(small, serving, ranks, find_device("h100").device)["cuda_graph_bytes"]
    assert "166 captured batches" in found.source
    fewer = runtime_estimates(small, replace(serving, max_num_seqs=16), ranks, find_device("h100").device)
    assert "88 captured batches" in fewer["cuda_graph_bytes"].source
