"""Weights that vLLM leaves in the host's memory, against what its own `UVAOffloader` moved on a machine without a GPU.

vLLM 0.33.0's model classes were built without memory for every pipeline stage, and the bytes are the offloader's own count; sums by
hand stand in the tests.
"""

from __future__ import annotations

import pytest

import hfmem
from hfmem.api.assembly import told_parameters, told_weights
from hfmem.api.configuring import configure
from hfmem.api.estimates import read_model
from hfmem.errors import UsageError
from hfmem.hub import FetchOptions
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights, rank_weights
from hfmem.plan.devices import find_device
from hfmem.plan.roofline import roofline
from hfmem.report import Report
from hfmem.units import GIB

OFFLINE = FetchOptions(offline=True, no_cache=True)
LLAMA = "meta-llama/Meta-Llama-3-8B"
#: a layer of Llama 3 8B in bf16: queries, keys and values; output; gate and up; down; two norms
QKV, OUT, GATE_UP, DOWN, NORM = (
    (4096 + 2 * 1024) * 4096 * 2,
    4096 * 4096 * 2,
    2 * 14336 * 4096 * 2,
    14336 * 4096 * 2,
    4096 * 2,
)
LAYER = QKV + OUT + GATE_UP + DOWN + 2 * NORM


def weights(name: str, gib: float, tp: int = 1, pp: int = 1) -> RankWeights:
    read = read_model(name, fetch=OFFLINE)
    serving = Serving(4096, tp=tp, pp=pp, cpu_offload_bytes=int(gib * GIB))
    return rank_weights(read.architecture, read.parameters.groups, serving)


@pytest.mark.parametrize(
    ("gib", "tp", "pp", "of_stages"),
    [
        (0.5, 1, 1, [843_579_904]),
        (10, 2, 2, [11_019_633_664, 11_019_633_664]),
        (100, 1, 2, [29_909_790_720, 29_909_790_720]),
    ],
)
def test_what_vllm_moves_of_qwen3_30b(gib: float, tp: int, pp: int, of_stages: list[int]) -> None:
    whole, found = weights("Qwen/Qwen3-30B-A3B", 0, tp, pp), weights("Qwen/Qwen3-30B-A3B", gib, tp, pp)
    assert [a - b for a, b in zip(whole.stage_bytes, found.stage_bytes, strict=True)] == of_stages
    assert (found.offloaded_bytes, found.host_bytes) == (sum(of_stages), tp * sum(of_stages))
    assert found.all_ranks_bytes == whole.all_ranks_bytes


def test_the_parameter_that_reaches_the_budget_moves_whole() -> None:
    # 12 layers are 4.875 GiB and norms; queries, keys, values and the output of the next leave 0.05 GiB to gate and up
    assert 12 * LAYER + QKV + OUT < 5 * GIB < 12 * LAYER + QKV + OUT + GATE_UP
    found = weights(LLAMA, 5)
    assert found.host_bytes == 12 * LAYER + QKV + OUT + GATE_UP
    # a budget that is met exactly ends there
    assert weights(LLAMA, (LAYER + QKV) / GIB).host_bytes == LAYER + QKV
    assert weights(LLAMA, (LAYER + QKV + 1) / GIB).host_bytes == LAYER + QKV + OUT


def test_embeddings_head_and_last_norm_stay() -> None:
    assert weights(LLAMA, 1000).bytes == 2 * 128_256 * 4096 * 2 + NORM
    assert weights(LLAMA, 1000).host_bytes == 32 * LAYER


def test_classes_that_move_nothing() -> None:
    assert weights("google-bert/bert-base-uncased", 1).host_bytes == 0


def test_report_and_fit_on_a_small_device() -> None:
    # 14.96 GiB of weights and one sequence do not fit 16 GiB; without 8 GiB of them they do
    def report(gib: float) -> Report:
        return hfmem.estimate(LLAMA, context=8192, device="16GiB", cpu_offload_gb=gib, fetch=OFFLINE)

    whole, less = report(0), report(8)
    assert whole.fit is not None and less.fit is not None and less.host is not None
    assert (whole.fit.verdict, less.fit.verdict) == ("does-not-fit", "fits")
    moved = 19 * LAYER + QKV + OUT + GATE_UP  # 19 layers are 7.72 GiB, and gate and up of the next pass 8 GiB
    assert 19 * LAYER + QKV + OUT < 8 * GIB <= moved
    assert (less.host.weights_bytes, less.host.cpu_offload_bytes) == (moved, 8 * GIB)
    assert whole.per_rank.weights_bytes - less.per_rank.weights_bytes == moved
    assert less.total_bytes - whole.total_bytes < 0.01 * GIB  # what is moved is still held, only elsewhere
    assert (less.fit.max_num_seqs or 0) > 1


def test_a_device_that_shares_the_hosts_memory_wins_nothing() -> None:
    found = [
        hfmem.estimate(LLAMA, context=8192, device="dgx-spark", utilization=0.8, cpu_offload_gb=gib, fetch=OFFLINE)
        for gib in (0, 8)
    ]
    assert found[0].fit is not None and found[1].fit is not None
    assert found[0].fit.max_num_seqs == found[1].fit.max_num_seqs
    assert any("lie in the same memory" in warning.message for warning in found[1].warnings)


def test_drafts_stay_on_the_device() -> None:
    # another copy of the model drafts: all of the target's layers move, none of the copy's
    plain, moved = (
        configure(LLAMA, context=4096, draft=LLAMA, draft_tokens=2, cpu_offload_gb=gib, fetch=OFFLINE).report()
        for gib in (0, 1000)
    )
    assert plain.per_rank.weights_bytes - moved.per_rank.weights_bytes == 32 * LAYER


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="only vLLM"):
        Serving(1, engine="sglang", cpu_offload_bytes=GIB)
    with pytest.raises(UsageError, match="at least 0"):
        Serving(1, cpu_offload_bytes=-1)
    with pytest.raises(UsageError, match="cpu_offload_gb must be a number"):
        hfmem.estimate(LLAMA, cpu_offload_gb="10", fetch=OFFLINE)  # type: ignore[arg-type]


def test_no_bound_of_speed_where_weights_are_read_over_the_hosts_link() -> None:
    read, serving = read_model(LLAMA, fetch=OFFLINE), Serving(8192)
    device = find_device("h100").device
    bounds = [
        roofline(read.architecture, told_parameters(read), told_weights(read), serving, weights(LLAMA, gib), device)
        for gib in (0, 4)
    ]
    assert bounds[0] is not None and bounds[1] is None
